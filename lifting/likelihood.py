"""Residual log-likelihood estimation and the losses it is compared with, under one interface.

A likelihood is called with a `Prediction` (mu, log_sigma of shape (B, J, D)) and a target (B, J, D) and returns the
negative log-likelihood of each joint (B, J), to be averaged by the caller. ``weight`` (B, J) or (J,) in [0, 1] scales
the joints; a weight of zero takes a joint out before anything is computed, so that a missing label, whatever it holds,
gives neither a value nor a gradient.

x_bar = (x - mu) / sigma is the standardised deviation. Equations are numbered as in Li et al., "Human Pose Regression
with Residual Log-likelihood Estimation", ICCV 2021.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lifting.config import LossConfig
from lifting.flow import RealNVP
from lifting.prediction import Prediction


def log_laplace(x: Tensor) -> Tensor:
    """sum_d (-|x_d| - log 2), a Laplace density of unit scale in each coordinate: (..., D) -> (...,)."""
    return -x.abs().sum(-1) - x.shape[-1] * math.log(2)


def log_gaussian(x: Tensor) -> Tensor:
    """-|x|^2 / 2 - D log(2 pi) / 2, the standard normal density: (..., D) -> (...,)."""
    return -0.5 * (x.square().sum(-1) + x.shape[-1] * math.log(2 * math.pi))


def log_radial(x: Tensor) -> Tensor:
    """-|x| - log Z, the Laplace density whose level sets are spheres: (..., D) -> (...,).

    Z = 2 pi^(D/2) Gamma(D) / Gamma(D/2): the area of the unit sphere times the integral of r^(D-1) e^-r.
    """
    dim = x.shape[-1]
    log_z = math.log(2) + dim / 2 * math.log(math.pi) + math.lgamma(dim) - math.lgamma(dim / 2)
    length: Tensor = torch.linalg.vector_norm(x, dim=-1)
    return -length - log_z


def draw_laplace(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Draws of `log_laplace`, with the dtype and device of ``like``."""
    u = torch.rand(shape, dtype=like.dtype, device=like.device) * 2 - 1
    return -u.sign() * torch.log1p(-u.abs())


def draw_gaussian(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Draws of `log_gaussian`."""
    return torch.randn(shape, dtype=like.dtype, device=like.device)


def draw_radial(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Draws of `log_radial`: a direction, and a length that is a sum of D exponential variables."""
    direction = torch.nn.functional.normalize(draw_gaussian(shape, like), dim=-1)
    length = -torch.log1p(-torch.rand(shape, dtype=like.dtype, device=like.device)).sum(-1, keepdim=True)
    return direction * length


BASES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[tuple[int, ...], Tensor], Tensor]]] = {
    "laplace": (log_laplace, draw_laplace),
    "gaussian": (log_gaussian, draw_gaussian),
    "radial": (log_radial, draw_radial),
}


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
    """

    has_sigma = True

    def __init__(self, dim: int = 3, base: str = "laplace", beta: float = 0.0) -> None:
        super().__init__()
        self.dim = dim
        self.base = base
        self.log_q, self.draw_q = BASES[base]
        self.beta = beta

    def forward(self, prediction: Prediction, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Training loss of each joint, (B, J)."""
        log_sigma = prediction.log_sigma
        if log_sigma is None:
            raise ValueError(f"{type(self).__name__}: expected a prediction with sigma, got one without")
        return weigh(self._loss, weight, prediction.mu, log_sigma, target)

    def _loss(self, mu_ND: Tensor, log_sigma_ND: Tensor, target_ND: Tensor) -> Tensor:
        if self.beta:
            share = torch.exp(self.beta * log_sigma_ND.detach())
            share = share / share.mean()
            mu_ND = mu_ND.detach() + share * (mu_ND - mu_ND.detach())  # the value of mu, its gradient times share
        x_bar = (target_ND - mu_ND) * torch.exp(-log_sigma_ND)
        x_bar_still = (target_ND - mu_ND.detach()) * torch.exp(-log_sigma_ND)
        return log_sigma_ND.sum(-1) - self._log_unit(x_bar, x_bar_still)

    def _log_unit(self, x_bar: Tensor, x_bar_still: Tensor) -> Tensor:
        """log U as training uses it: (..., D) twice, the second without a gradient to mu, -> (...,)."""
        return self.log_q(x_bar)

    def log_prob(self, prediction: Prediction, x: Tensor) -> Tensor:
        """Log-density of each joint at x (B, J, D), normalised: (B, J). A joint known exactly (sigma = 0) gives NaN."""
        assert prediction.log_sigma is not None
        x_bar = (x - prediction.mu) * torch.exp(-prediction.log_sigma)
        return self.log_unit(x_bar) - prediction.log_sigma.sum(-1)

    def log_unit(self, x_bar: Tensor) -> Tensor:
        """log U, normalised: (..., D) -> (...,)."""
        return self.log_q(x_bar)

    def sample(self, prediction: Prediction, n: int) -> Tensor:
        """n draws of every joint, (n, B, J, D)."""
        assert prediction.sigma is not None
        unit = self._draw((n, *prediction.mu.shape[:-1]), prediction.mu)
        return prediction.mu + prediction.sigma * unit

    @torch.no_grad()
    def unit_deviation(self, like: Tensor, draws: int = 2**15) -> Tensor:
        """Root mean square of U in each coordinate, (D,): what makes a standard deviation out of a sigma."""
        return self._draw((draws,), like).square().mean(0).sqrt()

    def _draw(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Draws of U, (*shape, D), with the dtype and device of ``like``."""
        return self.draw_q((*shape, self.dim), like)


class RLE(Likelihood):
    """Residual log-likelihood estimation: U(x_bar) = s Q(x_bar) G(x_bar), Q fixed and G a normalizing flow.

    ``nll = sum_d log sigma_d - log Q(x_bar) - log G(x_bar) [- log s]``   (Eq. 8)

    The flow learns how the true density differs from Q. s, which makes U integrate to one, depends on the flow alone.
    The paper leaves it out of the training loss (Tab. 7). Then the loss gains by making every x_bar small, where Q is
    at its peak, and the flow narrow: sigma climbs to its ceiling and stops telling anything. With ``normalise`` the
    training loss has log s too, at the cost of a few rows of the flow: 1 / s = E[G(x)] for x drawn from Q.
    `log_prob` always has it.

    Args:
        dim, base, beta: see `Likelihood`.
        flow: any module with ``log_prob((..., D)) -> (...,)`` and ``sample(shape)``; RealNVP by default.
        normalise: whether the training loss has log s.
        flow_steers_mu: whether the flow's gradient reaches mu. The flow learns tails that are heavier than Q's, and
            likelihood then gives hard samples up, which the mean error does not forgive. Without it mu follows Q
            alone; sigma and the flow follow the whole density either way.
    """

    draws = 2048  # from Q, for the estimate of s in training
    rows = 2**17  # that the flow is given at a time where there can be millions

    def __init__(
        self,
        dim: int = 3,
        base: str = "laplace",
        beta: float = 0.0,
        flow: RealNVP | None = None,
        normalise: bool = True,
        flow_steers_mu: bool = True,
    ) -> None:
        super().__init__(dim, base, beta)
        self.flow = RealNVP(dim) if flow is None else flow
        self.normalise = normalise
        self.flow_steers_mu = flow_steers_mu

    def _log_unit(self, x_bar: Tensor, x_bar_still: Tensor) -> Tensor:
        log_q = self.log_q(x_bar)
        residual = x_bar if self.flow_steers_mu else x_bar_still
        if not self.normalise:
            return log_q + self.flow.log_prob(residual)
        rows = residual.reshape(-1, self.dim)
        log_g = self.flow.log_prob(torch.cat([rows, self.draw_q((self.draws, self.dim), x_bar)]))
        log_s = math.log(self.draws) - torch.logsumexp(log_g[len(rows) :], 0)
        return log_q + log_g[: len(rows)].view(log_q.shape) + log_s

    def log_unit(self, x_bar: Tensor) -> Tensor:
        rows = torch.split(x_bar.reshape(-1, self.dim), self.rows)
        log_g = torch.cat([self.flow.log_prob(row) for row in rows]).view(x_bar.shape[:-1])
        return self.log_q(x_bar) + log_g + self.log_norm()

    @torch.no_grad()
    def log_norm(self, reach: float = 5.0, cells: int | None = None) -> Tensor:
        """log s = -log of the integral of Q G, by the midpoint rule over [-reach, reach]^D (paper, App. E).

        Args:
            reach: half the width of the grid; Q alone holds all but e^-5 of each tail within 5.
            cells: cells along each axis; even, so that the kink of the Laplace base at 0 falls between two.
        """
        cells = cells or {1: 4096, 2: 512}.get(self.dim, 40)
        like = next(self.flow.parameters())
        axis = (torch.arange(cells, dtype=like.dtype, device=like.device) + 0.5) * (2 * reach / cells) - reach
        volume = (2 * reach / cells) ** self.dim
        total = like.new_zeros(())
        for slab in torch.split(axis, max(1, self.rows // cells ** (self.dim - 1))):
            x = torch.stack(torch.meshgrid(slab, *[axis] * (self.dim - 1), indexing="ij"), -1)
            total = total + torch.exp(self.log_q(x) + self.flow.log_prob(x)).sum()
        return -torch.log(total * volume)

    def _draw(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Draws of s Q G: candidates from G, one kept of sixteen with odds Q (importance resampling)."""
        candidates = self.flow.sample((*shape, 16))
        odds = self.log_q(candidates).exp()
        pick = torch.multinomial(odds.reshape(-1, 16), 1).reshape(*shape, 1, 1)
        return torch.take_along_dim(candidates, pick, -2)[..., 0, :].to(like)


class Distance(nn.Module):
    """Losses with a constant variance (section 3.1): a distance between mu and the target, and no sigma.

    ``l1``: sum_d |x_d - mu_d|; ``l2``: sum_d (x_d - mu_d)^2; ``mpjpe``: the Euclidean distance.
    """

    has_sigma = False

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.distance = DISTANCES[kind]

    def forward(self, prediction: Prediction, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Training loss of each joint, (B, J)."""
        return weigh(lambda mu, x: self.distance(x - mu), weight, prediction.mu, target)


DISTANCES: dict[str, Callable[[Tensor], Tensor]] = {
    "l1": lambda error: error.abs().sum(-1),
    "l2": lambda error: error.square().sum(-1),
    "mpjpe": lambda error: torch.linalg.vector_norm(error, dim=-1),
}


def weigh(loss: Callable[..., Tensor], weight: Tensor | None, *tensors_BJD: Tensor) -> Tensor:
    """``loss`` of the joints (rows of D) that ``weight`` lets in, times their weight, zero elsewhere: (B, J)."""
    shape = tensors_BJD[0].shape[:-1]
    for x in tensors_BJD[1:]:
        if x.shape != tensors_BJD[0].shape:
            raise ValueError(f"target: expected {tuple(tensors_BJD[0].shape)}, got {tuple(x.shape)}")
    if weight is None:
        return loss(*tensors_BJD)
    weight = weight.expand(shape)
    visible = weight > 0
    values = loss(*(x[visible] for x in tensors_BJD))
    return torch.zeros(shape, dtype=values.dtype, device=values.device).masked_scatter(
        visible, values * weight[visible]
    )


def build_likelihood(config: LossConfig, dim: int = 3) -> Likelihood | Distance:
    """The likelihood that a configuration names."""
    if config.name in DISTANCES:
        return Distance(config.name)
    if config.name == "rle":
        flow = RealNVP(dim, **config.flow.model_dump())
        return RLE(dim, config.base, config.beta, flow, config.normalise, config.flow_steers_mu)
    return Likelihood(dim, config.name, config.beta)
