"""Likelihoods of a fixed shape with a predicted or a constant scale, and the checks that every likelihood makes."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lifting.likelihood.unit_densities import BASES, fixed_draws
from lifting.prediction import Prediction


class Likelihood(nn.Module):
    """A density with a predicted scale: the error x - mu is sigma times a draw from a unit density U, fixed or learned.

    ``nll = sum_d log sigma_d - log U(x_bar)``   (Eq. 2), here with U = Q.

    Args:
        dim: D.
        base: Q. ``"radial"`` depends on the length of x_bar alone; ``"laplace"`` and ``"gaussian"`` are products over
            the coordinates.
        beta: in training, the gradient that reaches mu is multiplied by sigma^beta over the mean of sigma^beta.
            Sigma and the flow always follow the plain likelihood. 0 is the paper's form: the gradient on mu is
            proportional to 1 / sigma, so joints with a small sigma dominate (Seitzer et al., "On the Pitfalls of
            Heteroscedastic Uncertainty Estimation", ICLR 2022, who weight the whole term). 1 gives all coordinates the
            same influence. 2 is the natural gradient, because the Fisher information about mu is proportional to
            1 / sigma^2.

    Raises:
        ValueError: when called with shapes or dtypes that do not fit, with a weight outside [0, 1] or, where the weight
            is above zero, with a label that is not finite or a log sigma of -inf. Values are checked in every call on a
            CPU, but only in the first call on another device, because each check waits for the device.
    """

    has_sigma = True
    pooled: Callable[[Tensor, Tensor | int], Tensor] | None = None  # of several processes: their mean from one's mean

    def __init__(self, dim: int = 3, base: str = "radial", beta: float = 1.0) -> None:
        super().__init__()
        if base not in BASES:
            raise ValueError(f"base: expected one of {', '.join(BASES)}, got {base!r}")
        self.dim = dim
        self.base = base
        self.log_q, self.draw_q = BASES[base]
        self.beta = beta
        self._has_looked = False

    def forward(self, prediction: Prediction, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Training loss of each joint, (B, J).

        Args:
            prediction: mu and log_sigma, (B, J, D).
            target: (B, J, D), in the units of mu; anything where the weight is zero.
            weight: in [0, 1], a factor for the loss of each joint, of shape (B, J), (B, 1), (1, J) or ().
        """
        log_sigma = prediction.log_sigma
        if log_sigma is None:
            raise ValueError(f"{type(self).__name__}: expected a prediction with sigma, got one without")
        return self._weighted(self._loss, weight, mu=prediction.mu, log_sigma=log_sigma, target=target)

    def _weighted(self, loss: Callable[..., Tensor], weight: Tensor | None, **tensors_BJD: Tensor) -> Tensor:
        """``loss`` of the joints times their weight, (B, J); zero, with no gradient, where the weight is zero.

        Joints of weight zero are masked before the loss, because NaN times 0 is NaN. Masks keep every shape, so that
        nothing waits for the device.
        """
        check(self.dim, **tensors_BJD)
        shape = tensors_BJD["target"].shape[:-1]
        if weight is not None:
            weight = _expanded(weight, shape)
        if not torch.compiler.is_compiling() and self._looks(tensors_BJD["target"]):
            _check_values(weight, **tensors_BJD)
        if weight is None:
            return loss(**tensors_BJD)
        visible = weight > 0
        values = loss(
            visible=visible, **{name: torch.where(visible[..., None], x, 0) for name, x in tensors_BJD.items()}
        )
        return torch.where(visible, values * weight.to(values.dtype), 0)

    def _looks(self, target: Tensor) -> bool:
        """Whether this call checks values."""
        first, self._has_looked = not self._has_looked, True
        return target.device.type == "cpu" or (first and not target.is_meta)

    def _loss(self, mu: Tensor, log_sigma: Tensor, target: Tensor, visible: Tensor | None = None) -> Tensor:
        """The loss of each joint, (B, J), from finite (B, J, D); ``visible``, (B, J) bool, says which joints count."""
        mu = self._paced(mu, log_sigma, visible)
        x_bar = (target - mu) * torch.exp(-log_sigma)
        x_bar_still = (target - mu.detach()) * torch.exp(-log_sigma)
        return log_sigma.sum(-1) - self._log_unit(x_bar, x_bar_still)

    def _paced(self, mu: Tensor, log_sigma: Tensor, visible: Tensor | None) -> Tensor:
        """mu with its gradient multiplied by sigma^beta over the mean of sigma^beta."""
        if not self.beta:
            return mu
        share = torch.exp(self.beta * log_sigma.detach())
        mean = self._mean(share, visible).clamp(min=torch.finfo(share.dtype).tiny)  # 0 in a batch without labels
        return mu.detach() + share / mean * (mu - mu.detach())

    def _mean(self, x: Tensor, visible: Tensor | None) -> Tensor:
        """`_mean`, over the batch of all processes that train together."""
        mean = _mean(x, visible)
        if self.pooled is None:
            return mean
        return self.pooled(mean, x.numel() if visible is None else visible.sum())

    def _log_unit(self, x_bar: Tensor, x_bar_still: Tensor) -> Tensor:
        """log U in the training loss, (...,), from x_bar (..., D) with and without (``x_bar_still``) gradient to mu."""
        return self.log_unit(x_bar)

    def point(self, prediction: Prediction) -> Prediction:
        """The single position that stands for the density: the prediction as it is."""
        return prediction

    def axes(self, keypoints: Tensor) -> Tensor | None:
        """`Prediction.turn` of what a lifter predicts for these keypoints: None, the axes of mu."""
        return None

    def log_prob(self, prediction: Prediction, x: Tensor) -> Tensor:
        """Log-density of each joint at x (B, J, D), normalised: (B, J). A joint that is known (sigma = 0) gives NaN.

        Raises:
            ValueError: shapes or dtypes that do not fit.
        """
        return self.log_unit(self.standardise(prediction, x)) - self._scaled(prediction)[1].sum(-1)

    def standardise(self, prediction: Prediction, x: Tensor) -> Tensor:
        """x_bar = (x - mu) / sigma, (B, J, D). It is distributed as U if x follows the predicted density."""
        mu, log_sigma = self._scaled(prediction)
        check(self.dim, mu=mu, x=x)
        return (x - mu) * torch.exp(-log_sigma)

    def unstandardise(self, prediction: Prediction, x_bar: Tensor) -> Tensor:
        """x = mu + sigma x_bar, the inverse of `standardise`; x_bar and x are (..., B, J, D)."""
        mu, log_sigma = self._scaled(prediction)
        return mu + log_sigma.exp() * x_bar

    def log_unit(self, x_bar: Tensor) -> Tensor:
        """log U, normalised: (..., D) -> (...,)."""
        return self.log_q(x_bar)

    def sample(self, prediction: Prediction, n: int) -> Tensor:
        """n draws of every joint, (n, B, J, D)."""
        mu, _ = self._scaled(prediction)
        return self.unstandardise(prediction, self.draw_unit((n, *mu.shape[:-1]), mu))

    def _scaled(self, prediction: Prediction) -> tuple[Tensor, Tensor]:
        """mu and the log of the scale, both (B, J, D)."""
        if prediction.log_sigma is None:
            raise ValueError(f"{type(self).__name__}: expected a prediction with sigma, got one without")
        check(self.dim, mu=prediction.mu, log_sigma=prediction.log_sigma)
        return prediction.mu, prediction.log_sigma

    @torch.no_grad()
    def deviation(self, prediction: Prediction, draws: int = 2**15) -> Tensor:
        """Root mean square error in each coordinate, (B, J, D): sigma times the root mean square of draws from U."""
        mu, log_sigma = self._scaled(prediction)
        return log_sigma.exp() * self._unit_deviation(draws, mu)

    def _unit_deviation(self, draws: int, like: Tensor) -> Tensor:
        """Root mean square of each coordinate of U, (D,), always from the same draws."""
        with fixed_draws(like.device):
            return self.draw_unit((draws,), like).square().mean(0).sqrt()

    def draw_unit(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Draws of U, (*shape, D), with the dtype and device of ``like``."""
        return self.draw_q((*shape, self.dim), like)


class ConstantVariance(Likelihood):
    """Losses with one scale for all poses (section 3.1): a distance between mu and the target.

    ``l1``: sum_d |x_d - mu_d|, a Laplace density; ``l2``: sum_d (x_d - mu_d)^2, a Gaussian; ``mpjpe``: the Euclidean
    distance, a radial Laplace density. The loss leaves out constant factors and terms, which do not move the optimum.
    `log_prob` and `sample` include them, at the maximum-likelihood scale, a running mean over training batches.
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
        return self._weighted(self._distance, weight, mu=prediction.mu, target=target)

    def _distance(self, mu: Tensor, target: Tensor, visible: Tensor | None = None) -> Tensor:
        error = target - mu
        if self.kind == "l1":
            distance = error.abs().sum(-1)
        elif self.kind == "l2":
            distance = error.square().sum(-1)
        else:
            distance = torch.linalg.vector_norm(error, dim=-1)
        if self.training:
            with torch.no_grad():
                best = self._mean(distance, visible) / self.dim
                best = (best.sqrt() if self.kind == "l2" else best).to(self.scale)
                moved = torch.where(self.scale > 0, self.scale.lerp(best, 0.02), best)
                self.scale.copy_(torch.where(best > 0, moved, self.scale))  # a batch without labels changes nothing
        return distance

    def _scaled(self, prediction: Prediction) -> tuple[Tensor, Tensor]:
        check(self.dim, mu=prediction.mu)
        if not self.scale > 0:
            raise ValueError(f"{self.kind}: expected a trained loss, got a density of scale 0: training sets the scale")
        return prediction.mu, self.scale.log().to(prediction.mu).expand_as(prediction.mu)


def check(dim: int, **tensors_BJD: Tensor) -> None:
    """Raises ValueError unless all have the shape of the first, with D as the last axis, and one floating dtype."""
    (first, like), *_ = tensors_BJD.items()
    shape = (*like.shape[:-1], dim)
    for name, x in tensors_BJD.items():
        if x.shape != shape:
            raise ValueError(f"{name}: expected {shape}, got {tuple(x.shape)}")
        if not x.is_floating_point():
            raise ValueError(f"{name}: expected a floating dtype, got {x.dtype}")
        if x.dtype != like.dtype:
            raise ValueError(f"{name}: expected {like.dtype}, the dtype of {first}, got {x.dtype}")


def _expanded(weight: Tensor, shape: tuple[int, ...]) -> Tensor:
    """``weight`` as (B, J)."""
    if weight.dtype != torch.bool and not weight.is_floating_point():
        raise ValueError(f"weight: expected a floating dtype or bool, got {weight.dtype}")
    # One axis could mean samples or joints: where B = J, broadcasting would silently pick the joints.
    fits = weight.ndim == len(shape) and all(
        side in (1, whole) for side, whole in zip(weight.shape, shape, strict=True)
    )
    if not fits and weight.ndim:
        raise ValueError(f"weight: expected {tuple(shape)}, where any side may be 1, got {tuple(weight.shape)}")
    return weight.expand(shape)


def _check_values(weight: Tensor | None, *, target: Tensor, log_sigma: Tensor | None = None, mu: Tensor) -> None:
    """Raises ValueError unless weights are in [0, 1] and, where above zero, labels and log sigma are finite."""
    if weight is not None and not ((weight >= 0) & (weight <= 1)).all():
        raise ValueError(f"weight: expected values in [0, 1], got {weight.min():g} to {weight.max():g}")
    seen = True if weight is None else weight > 0
    bad = ~target.isfinite().all(-1) & seen
    if bad.any():
        first = bad.nonzero()[0].tolist()
        raise ValueError(
            f"target: expected finite labels where the weight is not zero, got {target[tuple(first)].tolist()} at "
            f"[{', '.join(map(str, first))}], the first of {int(bad.sum())}"
        )
    if log_sigma is not None and (known := (log_sigma.isneginf().any(-1) & seen)).any():
        joint = int(known.nonzero()[0, -1])
        raise ValueError(
            f"log_sigma: expected finite values where the weight is not zero, got -inf at joint {joint}: a root that is"
            " known exactly has no density; give it weight 0, or train with training.objective.Objective, which"
            " excludes it"
        )


def _mean(x: Tensor, visible: Tensor | None) -> Tensor:
    """The mean of (B, J) or (B, J, D) over the joints that count; 0 if none does."""
    if visible is None:
        return x.mean()
    mask = visible if x.ndim == visible.ndim else visible[..., None].expand_as(x)
    return torch.where(mask, x, 0).sum() / mask.sum().clamp(min=1)
