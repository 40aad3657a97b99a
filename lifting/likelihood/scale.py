"""Likelihoods of a fixed shape, with a learned scale or one for all, and what every likelihood is called with."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lifting.likelihood.unit_densities import BASES, fixed_draws
from lifting.prediction import Prediction


class Likelihood(nn.Module):
    """Densities with a learned scale: the error x - mu is sigma times a draw of a fixed or learned unit density U.

    ``nll = sum_d log sigma_d - log U(x_bar)``   (Eq. 2), here with U = Q.

    Args:
        dim: D.
        base: Q, ``"laplace"`` or ``"gaussian"``, products over the coordinates, or ``"radial"``.
        beta: in training the gradient that reaches mu is multiplied by sigma^beta over its mean (sigma itself and the
            flow always follow the plain likelihood). 0 is the paper's form: the gradient on mu goes with 1 / sigma, so
            that what the network is sure of dominates (Seitzer et al., "On the Pitfalls of Heteroscedastic Uncertainty
            Estimation", ICLR 2022, who weight the whole term). 1 gives every coordinate its say; 2 is the natural
            gradient, for the Fisher information about mu goes with 1 / sigma^2.

    Raises:
        ValueError: when called with shapes or dtypes that do not fit, with a label that is not finite where its weight
            is above zero, or with a weight outside [0, 1].
    """

    has_sigma = True

    def __init__(self, dim: int = 3, base: str = "laplace", beta: float = 0.0) -> None:
        super().__init__()
        if base not in BASES:
            raise ValueError(f"base: expected one of {', '.join(BASES)}, got {base!r}")
        self.dim = dim
        self.base = base
        self.log_q, self.draw_q = BASES[base]
        self.beta = beta

    def forward(self, prediction: Prediction, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Training loss of each joint, (B, J)."""
        log_sigma = prediction.log_sigma
        if log_sigma is None:
            raise ValueError(f"{type(self).__name__}: expected a prediction with sigma, got one without")
        return weigh(self._loss, weight, mu=prediction.mu, log_sigma=log_sigma, target=target, dim=self.dim)

    def _loss(self, mu_ND: Tensor, log_sigma_ND: Tensor, target_ND: Tensor) -> Tensor:
        mu_ND = self._paced(mu_ND, log_sigma_ND)
        x_bar = (target_ND - mu_ND) * torch.exp(-log_sigma_ND)
        x_bar_still = (target_ND - mu_ND.detach()) * torch.exp(-log_sigma_ND)
        return log_sigma_ND.sum(-1) - self._log_unit(x_bar, x_bar_still)

    def _paced(self, mu_ND: Tensor, log_sigma_ND: Tensor) -> Tensor:
        """The value of mu; its gradient times sigma^beta over the mean of that."""
        if not self.beta:
            return mu_ND
        share = torch.exp(self.beta * log_sigma_ND.detach())
        return mu_ND.detach() + share / share.mean() * (mu_ND - mu_ND.detach())

    def _log_unit(self, x_bar: Tensor, x_bar_still: Tensor) -> Tensor:
        """log U as training uses it: (..., D) twice, the second without a gradient to mu, -> (...,)."""
        return self.log_unit(x_bar)

    def point(self, prediction: Prediction) -> Prediction:
        """What stands for the density where one place is asked for: the prediction as it is."""
        return prediction

    def log_prob(self, prediction: Prediction, x: Tensor) -> Tensor:
        """Log-density of each joint at x (B, J, D), normalised: (B, J). A joint known exactly (sigma = 0) gives NaN.

        Raises:
            ValueError: shapes or dtypes that do not fit.
        """
        return self.log_unit(self.standardise(prediction, x)) - self._scaled(prediction)[1].sum(-1)

    def standardise(self, prediction: Prediction, x: Tensor) -> Tensor:
        """x_bar of x, (B, J, D): a draw of U, were the prediction's density that of x."""
        mu, log_sigma = self._scaled(prediction)
        check(self.dim, mu=mu, x=x)
        return (x - mu) * torch.exp(-log_sigma)

    def log_unit(self, x_bar: Tensor) -> Tensor:
        """log U, normalised: (..., D) -> (...,)."""
        return self.log_q(x_bar)

    def sample(self, prediction: Prediction, n: int) -> Tensor:
        """n draws of every joint, (n, B, J, D)."""
        mu, log_sigma = self._scaled(prediction)
        return mu + log_sigma.exp() * self.draw_unit((n, *mu.shape[:-1]), mu)

    def _scaled(self, prediction: Prediction) -> tuple[Tensor, Tensor]:
        """mu and the log of the scale that U is stretched by."""
        if prediction.log_sigma is None:
            raise ValueError(f"{type(self).__name__}: expected a prediction with sigma, got one without")
        check(self.dim, mu=prediction.mu, log_sigma=prediction.log_sigma)
        return prediction.mu, prediction.log_sigma

    @torch.no_grad()
    def deviation(self, prediction: Prediction, draws: int = 2**15) -> Tensor:
        """Root mean square distance from mu in each coordinate, (B, J, D): sigma times that of U, from draws of it."""
        mu, log_sigma = self._scaled(prediction)
        with fixed_draws(mu.device):
            return log_sigma.exp() * self.draw_unit((draws,), mu).square().mean(0).sqrt()

    def draw_unit(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Draws of U, (*shape, D), with the dtype and device of ``like``."""
        return self.draw_q((*shape, self.dim), like)


class ConstantVariance(Likelihood):
    """Losses whose scale is the same for every pose (section 3.1): a distance between mu and the target.

    ``l1``: sum_d |x_d - mu_d|, a Laplace density; ``l2``: sum_d (x_d - mu_d)^2, a Gaussian; ``mpjpe``: the Euclidean
    distance, a radial Laplace density. Constant factors and terms do not move the optimum and are left out of the
    loss; `log_prob` and `sample` have them, at the scale of highest likelihood (a running mean over training batches).
    """

    has_sigma = False
    scale: Tensor

    def __init__(self, kind: str, dim: int = 3) -> None:
        bases = {"l1": "laplace", "l2": "gaussian", "mpjpe": "radial"}
        if kind not in bases:
            raise ValueError(f"kind: expected one of {', '.join(bases)}, got {kind!r}")
        super().__init__(dim, bases[kind])
        self.kind = kind
        self.register_buffer("scale", torch.zeros(()))

    def forward(self, prediction: Prediction, target: Tensor, weight: Tensor | None = None) -> Tensor:
        return weigh(self._distance, weight, mu=prediction.mu, target=target, dim=self.dim)

    def _distance(self, mu_ND: Tensor, target_ND: Tensor) -> Tensor:
        error = target_ND - mu_ND
        if self.kind == "l1":
            distance = error.abs().sum(-1)
        elif self.kind == "l2":
            distance = error.square().sum(-1)
        else:
            distance = torch.linalg.vector_norm(error, dim=-1)
        if self.training and distance.numel():
            with torch.no_grad():
                best = distance.mean() / self.dim
                best = best.sqrt() if self.kind == "l2" else best
                self.scale.copy_(torch.where(self.scale > 0, self.scale.lerp(best.to(self.scale), 0.02), best))
        return distance

    def _scaled(self, prediction: Prediction) -> tuple[Tensor, Tensor]:
        check(self.dim, mu=prediction.mu)
        if not self.scale > 0:
            raise ValueError(f"{self.kind}: expected a loss that was trained, which sets the density's scale")
        return prediction.mu, self.scale.log().to(prediction.mu).expand_as(prediction.mu)


def weigh(loss: Callable[..., Tensor], weight: Tensor | None, *, dim: int, **tensors_BJD: Tensor) -> Tensor:
    """``loss`` of the joints (rows of D) that ``weight`` lets in, times their weight, zero elsewhere: (B, J)."""
    check(dim, **tensors_BJD)
    target = tensors_BJD["target"]
    if weight is None:
        _check_finite(target)
        return loss(*tensors_BJD.values())
    shape = target.shape[:-1]
    try:
        weight = weight.expand(shape)
    except RuntimeError:
        raise ValueError(
            f"weight: expected a shape that broadcasts to {tuple(shape)}, got {tuple(weight.shape)}"
        ) from None
    if weight.dtype != torch.bool and not weight.is_floating_point():
        raise ValueError(f"weight: expected a floating dtype or bool, got {weight.dtype}")
    if not ((weight >= 0) & (weight <= 1)).all():
        raise ValueError(f"weight: expected values in [0, 1], got {weight.min():g} to {weight.max():g}")
    visible = weight > 0
    seen = [x[visible] for x in tensors_BJD.values()]
    _check_finite(target, visible)
    values = loss(*seen)
    return torch.zeros(shape, dtype=values.dtype, device=values.device).masked_scatter(
        visible, values * weight[visible].to(values.dtype)
    )


def check(dim: int, **tensors_BJD: Tensor) -> None:
    """ValueError unless all are of the shape of the first, D wide, and of one floating dtype."""
    (first, like), *_ = tensors_BJD.items()
    shape = (*like.shape[:-1], dim)
    for name, x in tensors_BJD.items():
        if x.shape != shape:
            raise ValueError(f"{name}: expected {shape}, got {tuple(x.shape)}")
        if not x.is_floating_point():
            raise ValueError(f"{name}: expected a floating dtype, got {x.dtype}")
        if x.dtype != like.dtype:
            raise ValueError(f"{name}: expected {like.dtype}, that of {first}, got {x.dtype}")


def _check_finite(target: Tensor, visible: Tensor | None = None) -> None:
    if torch.compiler.is_compiling():
        return
    bad = ~target.isfinite().all(-1)
    bad = bad if visible is None else bad & visible
    if bad.any():
        first = bad.nonzero()[0].tolist()
        raise ValueError(
            f"target: expected finite labels where the weight is not zero, got {target[tuple(first)].tolist()} at "
            f"[{', '.join(map(str, first))}], one of {int(bad.sum())}"
        )
