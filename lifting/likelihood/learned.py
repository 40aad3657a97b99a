"""Likelihoods whose shape a flow learns: RLE, and what it is compared with."""

import math

import torch
from torch import Tensor

from lifting.likelihood.flow import Bijection, Density, RealNVP, checked
from lifting.likelihood.scale import Likelihood, check
from lifting.likelihood.unit_densities import fixed_draws
from lifting.prediction import Prediction


class WithFlow(Likelihood):
    """A unit density that a flow takes part in: U = shape / integral of shape, ``log_shape`` given by the subclass.

    The integral depends on the flow alone. It is taken by a Riemann sum (App. E).
    """

    rows = 2**17  # that the flow is given at a time where there can be millions
    q_scale, g_sign = 1.0, 1.0  # in the shape Q is stretched by the one, and G mirrored by the other

    def __init__(self, dim: int, base: str, beta: float, flow: Density | None) -> None:
        super().__init__(dim, base, beta)
        self.flow = RealNVP(dim) if flow is None else checked(flow, dim)

    def log_shape(self, x_bar: Tensor) -> Tensor:
        """log U up to a constant: (..., D) -> (...,)."""
        raise NotImplementedError

    def draw_near(self, n: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """n draws of a density that covers U, (n, D), and its logarithm at them, (n,).

        Half from Q and half from G: their product over their mean is bounded, whichever of the two is the narrower.
        """
        x = torch.cat(
            [self.q_scale * self.draw_q((n // 2, self.dim), like), self.g_sign * self.flow.sample((n - n // 2,))]
        )
        log_q = self.log_q(x / self.q_scale) - self.dim * math.log(self.q_scale)
        return x, torch.logaddexp(log_q, self.flow.log_prob(self.g_sign * x)) - math.log(2)

    def log_unit(self, x_bar: Tensor) -> Tensor:
        rows = torch.split(x_bar.reshape(-1, self.dim), self.rows)
        return torch.cat([self.log_shape(row) for row in rows]).view(x_bar.shape[:-1]) + self.log_norm()

    @torch.no_grad()
    def log_norm(self, reach: float = 5.0, cells: int | None = None) -> Tensor:
        """-log of the integral of the shape (log s, for RLE) by the midpoint rule over [-reach, reach]^D.

        The grid is held against an estimate by importance sampling, which knows no grid. Without ``cells`` it is made
        finer and wider once where it fails; if it fails again, the flow being very narrow, the estimate is returned.

        Args:
            reach: half the width of the grid, above zero.
            cells: cells along each axis; even, so that the kink of a Laplace base at 0 falls between two.

        Raises:
            ValueError: a grid of the given ``cells`` is too coarse or too narrow: the estimate is 1.5 % away from it.
        """
        if reach <= 0 or (cells is not None and cells < 1):
            raise ValueError(f"log_norm: expected a reach above 0 and 1 cell or more, got {reach:g}, {cells}")
        estimate = self._estimate()
        coarse = {1: 4096, 2: 512}.get(self.dim, 64)
        for count, width in [(cells, reach)] if cells else [(coarse, reach), (3 * coarse // 2, 1.2 * reach)]:
            total = self._riemann_sum(width, count)
            if (estimate / total - 1).abs() < 0.015:
                return -torch.log(total)
        if cells:
            grid = f"{cells} cells over [-{reach:g}, {reach:g}]^{self.dim}"
            ratio = float(estimate / total)
            raise ValueError(f"log_norm: {grid} are too coarse or too narrow: draws give {ratio:.3g} times their sum")
        return -torch.log(estimate)

    def _riemann_sum(self, reach: float, cells: int) -> Tensor:
        like = next(self.flow.parameters())
        axis = (torch.arange(cells, dtype=like.dtype, device=like.device) + 0.5) * (2 * reach / cells) - reach
        total = like.new_zeros(())
        for slab in torch.split(axis, max(1, self.rows // cells ** (self.dim - 1))):
            x = torch.stack(torch.meshgrid(slab, *[axis] * (self.dim - 1), indexing="ij"), -1)
            total += torch.exp(self.log_shape(x)).sum() * (2 * reach / cells) ** self.dim
        return total

    def _estimate(self, draws: int = 2**16) -> Tensor:
        """The integral of the shape as a mean over draws that are always the same, within about half a percent."""
        like = next(self.flow.parameters())
        with fixed_draws(like.device):
            x, log_density = self.draw_near(draws, like)
        return torch.exp(self.log_shape(x) - log_density).mean()

    @torch.no_grad()
    def draw_unit(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Draws of U: a pool of candidates, drawn from again in proportion to U over their own density."""
        weights_of = next(self.flow.parameters())
        n = math.prod(shape)
        pools = []
        for size in [2**18] * (n // 2**18) + [n % 2**18] * (n % 2**18 > 0):
            pool, log_density = self.draw_near(2**18, weights_of)
            odds = torch.softmax(torch.cat([self.log_shape(x) for x in torch.split(pool, self.rows)]) - log_density, 0)
            pools.append(pool[torch.multinomial(odds, size, replacement=True)])
        return torch.cat(pools).view(*shape, self.dim).to(like)


class RLE(WithFlow):
    """Residual log-likelihood estimation: U(x_bar) = s Q(x_bar) G(x_bar), Q fixed and G a normalizing flow.

    ``nll = sum_d log sigma_d - log Q(x_bar) - log G(x_bar) [- log s]``   (Eq. 8)

    The flow learns how the true density differs from Q. s, which makes U integrate to one, depends on the flow alone.
    The paper leaves it out of the training loss (Tab. 7). Then the loss gains by making every x_bar small, where Q is
    at its peak, and the flow narrow: sigma climbs to its ceiling and stops telling anything. With ``normalise`` the
    training loss has log s too, at the cost of a few rows of the flow: 1 / s = E[G(x)] for x drawn from Q.
    `log_prob` always has it, but no gradient of it: to train, call the likelihood.

    Args:
        dim, base, beta: see `Likelihood`.
        flow: a `Density`; RealNVP by default.
        normalise: whether the training loss has log s.
        flow_steers_mu: whether the flow's gradient reaches mu. The flow learns tails that are heavier than Q's, and
            likelihood then gives hard samples up, which the mean error does not forgive. Without it mu follows Q
            alone; sigma and the flow follow the whole density either way.
    """

    draws = 2048  # from Q, for the estimate of s in training

    def __init__(
        self,
        dim: int = 3,
        base: str = "laplace",
        beta: float = 0.0,
        flow: Density | None = None,
        normalise: bool = True,
        flow_steers_mu: bool = True,
    ) -> None:
        super().__init__(dim, base, beta, flow)
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

    def log_shape(self, x_bar: Tensor) -> Tensor:
        return self.log_q(x_bar) + self.flow.log_prob(x_bar)


class ReferenceRLE(WithFlow):
    """The loss of the authors' public code, which is not Eq. 8, so that its results and weights can be compared.

    ``loss = sum_d (2 log sigma_d + |x_d - mu_d| / (sqrt(2) sigma_d) - log G(-x_bar)) + D log sqrt(2 pi)``

    (`rlepose/models/losses.py` and `regression_nf_3d.py` of res-loglikelihood-regression.) Three differences: log sigma
    counts twice, log G counts once a coordinate by a broadcast, and its Laplace integrates to 2 / sqrt(pi). As a
    density over x it has a mass that depends on sigma; `log_prob` is that of its shape, normalised as a unit density.
    """

    q_scale, g_sign = math.sqrt(2), -1.0

    def __init__(self, dim: int = 3, flow: Density | None = None) -> None:
        super().__init__(dim, "laplace", 0.0, flow)

    def _loss(self, mu_ND: Tensor, log_sigma_ND: Tensor, target_ND: Tensor) -> Tensor:
        x_bar = (target_ND - mu_ND) * torch.exp(-log_sigma_ND)
        return 2 * log_sigma_ND.sum(-1) - self.log_shape(x_bar) + self.dim / 2 * math.log(2 * math.pi)

    def log_shape(self, x_bar: Tensor) -> Tensor:
        return self.dim * self.flow.log_prob(-x_bar) - x_bar.abs().sum(-1) / math.sqrt(2)


class DLE(Likelihood):
    """Direct likelihood estimation: the flow is the unit density, U = G.

    ``nll = sum_d log sigma_d - log G(x_bar)``   (Eq. 5)
    """

    def __init__(self, dim: int = 3, beta: float = 0.0, flow: Density | None = None) -> None:
        super().__init__(dim, beta=beta)
        self.flow = RealNVP(dim) if flow is None else checked(flow, dim)

    def log_unit(self, x_bar: Tensor) -> Tensor:
        return self.flow.log_prob(x_bar)

    def draw_unit(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        return self.flow.sample(shape).to(like)


class BasicFlow(Likelihood):
    """The basic design: the flow f carries a normal density at mu with scale sigma to that of the joint.

    ``nll = -log N(f^-1(x); mu, sigma) - log |det df^-1/dx|``   (Eq. 4)

    mu lives before the flow, so the place that is predicted is f(mu) (`point`) and the flow stays at test time. With
    the shape of the density tied to where the joint is, the flow learns where joints are, not how predictions err.
    `log_prob` and `sample` take predictions as `point` returns them.
    """

    def __init__(self, dim: int = 3, beta: float = 0.0, flow: Bijection | None = None) -> None:
        super().__init__(dim, "gaussian", beta)
        self.flow = RealNVP(dim) if flow is None else checked(flow, dim)

    def _loss(self, mu_ND: Tensor, log_sigma_ND: Tensor, target_ND: Tensor) -> Tensor:
        z, log_det = self.flow.inverse(target_ND)
        return super()._loss(mu_ND, log_sigma_ND, z) - log_det

    def point(self, prediction: Prediction) -> Prediction:
        return Prediction(self.flow(prediction.mu), prediction.log_sigma)

    def log_prob(self, prediction: Prediction, x: Tensor) -> Tensor:
        return super().log_prob(prediction, x) + self.flow.inverse(x)[1]

    def standardise(self, prediction: Prediction, x: Tensor) -> Tensor:
        check(self.dim, mu=self._scaled(prediction)[0], x=x)
        return super().standardise(self._before(prediction), self.flow.inverse(x)[0])

    def sample(self, prediction: Prediction, n: int) -> Tensor:
        drawn: Tensor = self.flow(super().sample(self._before(prediction), n))
        return drawn

    @torch.no_grad()
    def deviation(self, prediction: Prediction, draws: int = 2**8) -> Tensor:
        """As of any likelihood; each joint has a shape of its own, so the draws are of each."""
        parts = zip(*(torch.split(x, 512) for x in self._scaled(prediction)), strict=True)
        errors = (self.sample(Prediction(mu, log_sigma), draws) - mu for mu, log_sigma in parts)
        with fixed_draws(prediction.mu.device):
            return torch.cat([error.square().mean(0).sqrt() for error in errors])

    def _before(self, prediction: Prediction) -> Prediction:
        mu, log_sigma = self._scaled(prediction)
        return Prediction(self.flow.inverse(mu)[0], log_sigma)
