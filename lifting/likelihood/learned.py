"""Likelihoods whose shape a flow learns: RLE, and the densities it is compared with."""

import math
from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor, nn

from lifting.chunks import rows_at_once
from lifting.likelihood.flow import ROWS, Bijection, Density, RealNVP, by_rows, checked
from lifting.likelihood.scalar_flow import ScalarFlow
from lifting.likelihood.scale import Likelihood, check
from lifting.likelihood.shared_flow import choose, log_g_of_all
from lifting.likelihood.unit_densities import fixed_draws
from lifting.prediction import Prediction

# The scale c of the Laplace density in public RLE losses, and the logarithm of what they normalise it by.
FORMS = {"authors": (math.sqrt(2), math.log(2 * math.pi) / 2), "mmpose": (1.0, math.log(2))}


class Kept:
    """A cache of constants that depend on a module's weights, recomputed when the weights have changed.

    It compares the weights themselves, because torch's version counters miss the steps of its fused Adam.
    """

    def __init__(self) -> None:
        self.weights: list[Tensor] = []
        self.constants: dict[object, Tensor] = {}

    def get(self, module: nn.Module, name: object, compute: Callable[[], Tensor]) -> Tensor:
        """The result of ``compute`` under this name for the current weights."""
        weights = [*module.parameters(), *module.buffers()]
        if len(weights) != len(self.weights) or not all(map(_same, weights, self.weights)):
            self.weights, self.constants = [x.detach().clone() for x in weights], {}
        if name not in self.constants:
            with torch.autocast(weights[0].device.type, enabled=False):  # it serves later calls of any precision
                self.constants[name] = compute()
        return self.constants[name]


def _same(x: Tensor, y: Tensor) -> bool:
    return x.dtype == y.dtype and x.device == y.device and torch.equal(x, y)


class Learned(Likelihood):
    """A likelihood whose unit density contains a flow."""

    def __init__(self, dim: int, base: str, beta: float, flow: Density | None) -> None:
        super().__init__(dim, base, beta)
        if flow is None:
            self.flow: Density = RealNVP(dim) if dim > 1 else ScalarFlow()
        else:
            self.flow = checked(flow, dim)
        self._kept = Kept()

    def _unit_deviation(self, draws: int, like: Tensor) -> Tensor:
        name = ("deviation", draws, like.dtype, like.device)
        return self._kept.get(self.flow, name, lambda: super(Learned, self)._unit_deviation(draws, like))


class WithFlow(Learned):
    """A unit density with a flow as a factor: U = shape / integral of shape. Subclasses define ``log_shape``.

    The integral depends on the flow alone. It is computed by a Riemann sum (App. E), once for each state of the flow.
    """

    pools = 8  # largest number of candidate pools that `draw_unit` makes
    q_scale, g_sign = 1.0, 1.0  # the shape contains Q stretched by q_scale, and G at g_sign * x_bar

    def log_shape(self, x_bar: Tensor) -> Tensor:
        """log U up to a constant: (..., D) -> (...,)."""
        raise NotImplementedError

    def draw_near(self, n: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """n draws from a proposal density that covers U, (n, D), and its log-density at them, (n,).

        The proposal is the even mixture of Q and G. The importance weight, Q G / ((Q + G) / 2), is bounded whichever of
        the two is narrower.
        """
        x = torch.cat(
            [self.q_scale * self.draw_q((n // 2, self.dim), like), self.g_sign * self.flow.sample((n - n // 2,))]
        )
        log_q = self.log_q(x / self.q_scale) - self.dim * math.log(self.q_scale)
        return x, torch.logaddexp(log_q, self.flow.log_prob(self.g_sign * x)) - math.log(2)

    def log_unit(self, x_bar: Tensor) -> Tensor:
        return by_rows(self.log_shape, x_bar) + self.log_norm()

    def log_norm(self, reach: float = 5.0, cells: int | None = None) -> Tensor:
        """-log of the integral of the shape (log s for RLE) by the midpoint rule over [-reach, reach]^D; no gradient.

        The sum is checked against an importance-sampling estimate, which needs no grid. If the two differ and ``cells``
        is None, the grid is made finer and wider once. If they still differ, which happens with a very narrow flow, the
        estimate is returned, and so it is with D > 3, where a grid takes too long. With D = 1 and ``cells`` None, the
        grid is four times as wide.

        Args:
            reach: half the width of the grid, above zero.
            cells: cells along each axis; even, so that the kink of a Laplace base at 0 falls between two cells.

        Raises:
            ValueError: ``reach`` or ``cells`` is out of range, or the grid of the given ``cells`` is too coarse or too
                narrow: its sum and the estimate differ by 1.5 % or more.
        """
        if reach <= 0 or (cells is not None and cells < 1):
            raise ValueError(f"log_norm: expected reach > 0 and cells >= 1, got reach {reach:g}, cells {cells}")
        return self._kept.get(self.flow, ("log_norm", reach, cells), lambda: self._log_norm(reach, cells))

    @torch.no_grad()
    def _log_norm(self, reach: float, cells: int | None) -> Tensor:
        estimate = self._estimate()
        if self.dim > 3 and cells is None:
            return -torch.log(estimate)
        coarse = {2: 512}.get(self.dim, 64)
        grids = [(coarse, reach), (3 * coarse // 2, 1.2 * reach)]
        if self.dim == 1:  # where a grid of any width and finesse costs little
            grids = [(2**14, 4 * reach), (2**17, 4 * reach)]
        for count, width in [(cells, reach)] if cells else grids:
            total = self._riemann_sum(width, count)
            if (estimate / total - 1).abs() < 0.015:
                return -torch.log(total)
        if cells:
            grid = f"{cells} cells over [-{reach:g}, {reach:g}]^{self.dim}"
            ratio = float(estimate / total)
            raise ValueError(
                f"log_norm: {grid} are too coarse or too narrow: an estimate from draws is {ratio:.3g} times their sum"
            )
        return -torch.log(estimate)

    def _riemann_sum(self, reach: float, cells: int) -> Tensor:
        like = next(self.flow.parameters())
        axis = (torch.arange(cells, dtype=like.dtype, device=like.device) + 0.5) * (2 * reach / cells) - reach
        total = like.new_zeros(())
        for slab in torch.split(axis, max(1, rows_at_once(ROWS, axis.device) // cells ** (self.dim - 1))):
            x = torch.stack(torch.meshgrid(slab, *[axis] * (self.dim - 1), indexing="ij"), -1)
            total += torch.exp(self.log_shape(x)).sum() * (2 * reach / cells) ** self.dim
        return total

    def _estimate(self, draws: int = 2**16) -> Tensor:
        """The integral of the shape by importance sampling with fixed draws, accurate to about half a percent."""
        like = next(self.flow.parameters())
        with fixed_draws(like.device):
            x, log_density = self.draw_near(draws, like)
        return torch.exp(self.log_shape(x) - log_density).mean()

    @torch.no_grad()
    def draw_unit(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Draws from U by importance resampling: picks candidates in proportion to U over the proposal density.

        A pool has 64 candidates for each draw, between 2^14 and 2^18 of them, and at most `pools` pools are made: up to
        2^12 draws hardly ever repeat a candidate, of 2^18 draws every second one does.
        """
        weights_of = next(self.flow.parameters())
        n = math.prod(shape)
        if n == 0:
            return like.new_zeros(*shape, self.dim)
        candidates = min(2**18, max(2**14, 64 * n))
        pools = min(self.pools, -(-n // 2**18))
        drawn = []
        for pool in range(pools):
            x, log_density = self.draw_near(candidates, weights_of)
            odds = torch.softmax(by_rows(self.log_shape, x) - log_density, 0)
            size = n * (pool + 1) // pools - n * pool // pools
            drawn.append(x[torch.multinomial(odds, size, replacement=True)])
        return torch.cat(drawn).view(*shape, self.dim).to(like)


class RLE(WithFlow):
    """Residual log-likelihood estimation: U(x_bar) = s Q(x_bar) G(x_bar), Q fixed and G a normalizing flow.

    ``nll = sum_d log sigma_d - log Q(x_bar) - log G(x_bar) [- log s]``   (Eq. 8)

    The flow learns how the true density differs from Q. s makes U integrate to one and depends on the flow alone. The
    paper leaves it out of the training loss (Tab. 7). The loss can then be lowered by making every x_bar small, where Q
    is at its peak, and the flow narrow: sigma climbs to its ceiling and no longer depends on the pose. With
    ``normalise`` the training loss includes log s, at the cost of a few more rows through the flow: 1 / s = E[G(x)] for
    x drawn from Q. `log_prob` always includes it, but without its gradient: to train, call the likelihood.

    The defaults are the form that this repository recommends (RESULTS.md); `RLE.paper` is the paper's.

    Args:
        dim, base, beta: see `Likelihood`.
        flow: a `Density`; by default RealNVP, and `ScalarFlow` where D = 1.
        normalise: whether the training loss includes log s.
        flow_steers_mu: whether the flow's gradient reaches mu. The flow learns heavier tails than Q's, and with these
            the likelihood gives up on hard samples, which raises the mean error; AP, which counts joints that are
            close, was higher with it (docs/results/keypoints_2d.md). If False, mu follows Q alone. Sigma and the flow
            follow the whole density either way.
        flow_share: the share of the joints whose log G each training step computes. They are chosen at random, and loss
            and gradient stay right on average (`shared_flow`). The flow is most of what RLE costs over a sigma without
            one. A quarter of the joints trains FC as well as all, and SRNet 0.4 mm worse (docs/results/speed.md).
    """

    draws = 2048  # from Q, for the estimate of s in training

    def __init__(
        self,
        dim: int = 3,
        base: str = "radial",
        beta: float = 1.0,
        flow: Density | None = None,
        normalise: bool = True,
        flow_steers_mu: bool = False,
        flow_share: float = 1.0,
    ) -> None:
        super().__init__(dim, base, beta, flow)
        if not 0 < flow_share <= 1:
            raise ValueError(f"flow_share: expected more than 0 and at most 1, got {flow_share:g}")
        self.normalise = normalise
        self.flow_steers_mu = flow_steers_mu
        self.flow_share = flow_share

    @classmethod
    def paper(cls, dim: int = 3, flow: Density | None = None) -> "RLE":
        """The paper's form: a Laplace Q, no log s in training, and the gradient of the whole loss on mu."""
        return cls(dim, "laplace", 0.0, flow, normalise=False, flow_steers_mu=True)

    def _log_unit(self, x_bar: Tensor, x_bar_still: Tensor) -> Tensor:
        log_q = self.log_q(x_bar)
        residual = x_bar if self.flow_steers_mu else x_bar_still
        everyone = rearrange(residual, "... d -> (...) d")
        shared = self.training and self.flow_share < 1
        chosen = choose(len(everyone), self.flow_share, x_bar.device) if shared else None
        rows = everyone if chosen is None else everyone.index_select(0, chosen)
        draws = self.draw_q((self.draws if self.normalise else 0, self.dim), x_bar)
        log_g, log_g_of_draws = torch.split(self.flow.log_prob(torch.cat([rows, draws])), [len(rows), len(draws)])
        if chosen is not None:
            log_g = log_g_of_all(log_g, chosen, everyone)
        log_u: Tensor = log_q + log_g.view(log_q.shape)
        if not self.normalise:
            return log_u
        return log_u + math.log(self.draws) - torch.logsumexp(log_g_of_draws, 0)

    def log_shape(self, x_bar: Tensor) -> Tensor:
        return self.log_q(x_bar) + self.flow.log_prob(x_bar)


class ReferenceRLE(WithFlow):
    """The losses of public code, which are not Eq. 8: for comparing results and for the weights trained by them.

    ``loss = sum_d (2 log sigma_d + |x_d - mu_d| / (c sigma_d) + log z - log G(-x_bar))``

    They differ from Eq. 8 in that log sigma counts twice, and a broadcast counts log G once per coordinate. The form
    ``"authors"`` has c = sqrt(2) and z = sqrt(2 pi), a Laplace density that integrates to 2 / sqrt(pi)
    (`rlepose/models/criterion.py` and `regression_nf_3d.py` of res-loglikelihood-regression). The form ``"mmpose"`` has
    c = 1 and z = 2, where it integrates to one; mmpose (`RLELoss`) and YOLO26 (docs/yolo26_rle.md) have it. As a
    density over x the mass depends on sigma; `log_prob` normalises the shape as a unit density.

    Args:
        dim: D.
        flow: a `Density`; RealNVP by default.
        form: a key of `FORMS`.
    """

    g_sign = -1.0

    def __init__(self, dim: int = 3, flow: Density | None = None, form: str = "authors") -> None:
        super().__init__(dim, "laplace", 0.0, flow)
        if form not in FORMS:
            raise ValueError(f"form: expected one of {', '.join(FORMS)}, got {form!r}")
        self.form = form
        self.q_scale, self.log_z = FORMS[form]

    def _loss(self, mu: Tensor, log_sigma: Tensor, target: Tensor, visible: Tensor | None = None) -> Tensor:
        x_bar = (target - mu) * torch.exp(-log_sigma)
        return 2 * log_sigma.sum(-1) - self.log_shape(x_bar) + self.dim * self.log_z

    def log_shape(self, x_bar: Tensor) -> Tensor:
        return self.dim * self.flow.log_prob(-x_bar) - x_bar.abs().sum(-1) / self.q_scale


class DLE(Learned):
    """Direct likelihood estimation: the flow is the unit density, U = G.

    ``nll = sum_d log sigma_d - log G(x_bar)``   (Eq. 5)
    """

    def __init__(self, dim: int = 3, beta: float = 1.0, flow: Density | None = None) -> None:
        super().__init__(dim, "gaussian", beta, flow)

    def log_unit(self, x_bar: Tensor) -> Tensor:
        return by_rows(self.flow.log_prob, x_bar)

    def draw_unit(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        return self.flow.sample(shape).to(like)


class BasicFlow(Learned):
    """The basic design: the flow f maps a normal density at mu with scale sigma to that of the joint.

    ``nll = -log N(f^-1(x); mu, sigma) - log |det df^-1/dx|``   (Eq. 4)

    mu is the flow's input, so the predicted position is f(mu) (`point`) and the flow is needed at test time. Because
    the shape of the density depends on the position of the joint, the flow learns where joints are, not how predictions
    err. `log_prob` and `sample` take predictions as `point` returns them.
    """

    flow: Bijection

    def __init__(self, dim: int = 3, beta: float = 1.0, flow: Bijection | None = None) -> None:
        super().__init__(dim, "gaussian", beta, flow)

    def _loss(self, mu: Tensor, log_sigma: Tensor, target: Tensor, visible: Tensor | None = None) -> Tensor:
        z, log_det = self.flow.inverse(target)
        return super()._loss(mu, log_sigma, z, visible) - log_det

    def point(self, prediction: Prediction) -> Prediction:
        return Prediction(by_rows(self.flow, prediction.mu), prediction.log_sigma)

    def log_prob(self, prediction: Prediction, x: Tensor) -> Tensor:
        return super().log_prob(prediction, x) + by_rows(lambda rows: self.flow.inverse(rows)[1], x)

    def standardise(self, prediction: Prediction, x: Tensor) -> Tensor:
        check(self.dim, mu=self._scaled(prediction)[0], x=x)
        return super().standardise(self._before(prediction), self._to_noise(x))

    def unstandardise(self, prediction: Prediction, x_bar: Tensor) -> Tensor:
        return by_rows(self.flow, super().unstandardise(self._before(prediction), x_bar))

    @torch.no_grad()
    def deviation(self, prediction: Prediction, draws: int = 2**8) -> Tensor:
        """As in `Likelihood`, but with separate draws for each joint, because each joint has its own density."""
        parts = zip(*(torch.split(x, 512) for x in self._scaled(prediction)), strict=True)
        errors = (self.sample(Prediction(mu, log_sigma), draws) - mu for mu, log_sigma in parts)
        with fixed_draws(prediction.mu.device):
            return torch.cat([error.square().mean(0).sqrt() for error in errors])

    def _before(self, prediction: Prediction) -> Prediction:
        mu, log_sigma = self._scaled(prediction)
        return Prediction(self._to_noise(mu), log_sigma)

    def _to_noise(self, x: Tensor) -> Tensor:
        return by_rows(lambda rows: self.flow.inverse(rows)[0], x)
