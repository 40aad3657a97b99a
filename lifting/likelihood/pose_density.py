"""The density of whole poses, fitted to the errors that a lifter makes on people whom it was not trained on."""

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor

from lifting.command import InputError
from lifting.geometry.views import rotation_to_ray
from lifting.likelihood.radial_mixture import fit_mixture, length_table, log_parts, with_length
from lifting.likelihood.scale import Likelihood, check
from lifting.prediction import Prediction

_KEPT = (0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)  # shares of a correlation, see `_common`
_STATURES = (0.0, 0.01, 0.02, 0.03, 0.04, 0.06)  # see `_common`


class PoseDensity(Likelihood):
    """A scale for each joint and axis along the viewing ray, one radial shape, a correlation of all coordinates, and a
    stature that a picture does not show.

    With the predicted sigma_j and the rotation R that takes the viewing ray of the root to the third axis::

        x_j = mu_j + sigma_j R^T (a_j * x_bar_j)
        U(x_bar) = sum_k w_k N(x_bar; 0, s_k^2 I)                      radial, with heavy tails
        g(x_bar) = x_bar / |x_bar| * F_chi^-1(F_U(|x_bar|))            standard normal if x_bar is distributed as U
        log p(pose) = sum_j log p_j(x_j) + log N(g; 0, C') - log N(g; 0, I)
        C' = A^-1/2 (C + v v^T) A^-1/2,   v_j = t R mu_j / (s sigma_j a_j),   A_j = I + v_j v_j^T

    F_U and F_chi are the distribution functions of |x_bar| under U and under N(0, I). The third line is a Gaussian
    copula: as long as the D x D diagonal blocks of C' are identities, every joint keeps its density p_j exactly, and p
    integrates to one. v is the error of a person who is taller than predicted, by t of his size; s is the root mean
    square of the widths. A is block-diagonal and makes the blocks identities again.

    It is for testing and has no flow: what a flow finds is mostly the scale of each axis, and here that is a parameter.
    `fit` makes it from errors on people whom the network was not trained on, because a network errs on new people in
    another way than on those whom it knows.

    Args:
        scale: a, (J, D).
        weights: w, (K,), with a sum of one.
        widths: s, (K,).
        correlation: C, (J D, J D); the coordinates of a joint are neighbours.
        focal: of the cameras, in normalised screen coordinates, see `axes`; None for a lifter that predicts along the
            viewing ray already.
        stature: t, the standard deviation of a person's size over the predicted one, (); None for 0.
    """

    scale: Tensor
    weights: Tensor
    widths: Tensor
    correlation: Tensor
    focal: Tensor | None
    stature: Tensor
    lengths: Tensor
    normal_lengths: Tensor

    def __init__(
        self,
        scale: Tensor,
        weights: Tensor,
        widths: Tensor,
        correlation: Tensor,
        focal: Tensor | None = None,
        stature: Tensor | None = None,
    ) -> None:
        super().__init__(scale.shape[-1], "gaussian")
        self.register_buffer("scale", scale)
        self.register_buffer("weights", weights)
        self.register_buffer("widths", widths)
        self.register_buffer("correlation", correlation)
        self.register_buffer("focal", focal)
        self.register_buffer("stature", scale.new_zeros(()) if stature is None else stature)
        table = length_table(weights, widths, self.dim)
        self.register_buffer("lengths", table[0].to(scale), persistent=False)
        self.register_buffer("normal_lengths", table[1].to(scale), persistent=False)

    @classmethod
    @torch.no_grad()
    def fit(cls, prediction: Prediction, target: Tensor, person: Tensor, focal: Tensor | None = None) -> "PoseDensity":
        """The likeliest scales and mixture, and the correlation of the deviations that these leave.

        Every person counts alike, however many poses there are, because the poses of one person resemble each other.

        Args:
            prediction, target: (N, J, D), with ``axes`` as this density needs them (`Prediction.turn`).
            person: (N,) int from 0, who it is.
            focal: see the class.

        Raises:
            ValueError: a prediction without sigma.
        """
        if prediction.log_sigma is None:
            raise ValueError("PoseDensity.fit: expected a prediction with sigma, got one without")
        z = (_turned(target - prediction.mu, prediction.turn) * torch.exp(-prediction.log_sigma)).double()
        share = (1 / torch.bincount(person).double())[person]
        scale, weights, widths = fit_mixture(z, share / share.sum())
        unrelated = torch.eye(z[0].numel(), dtype=z.dtype, device=z.device)
        alone = cls(scale, weights, widths, unrelated, stature=z.new_ones(()))
        g, v = alone.to_normal(z / scale), alone._taller(prediction).double()
        people = [(g[person == who], v[person == who]) for who in range(int(person.max()) + 1)]
        fitted = (scale, weights, widths, *_common(people))
        scale, weights, widths, correlation, stature = (x.to(target) for x in fitted)
        return cls(scale, weights, widths, correlation, focal, stature)

    @classmethod
    def load(cls, state: dict[str, Tensor], joints: int, where: str) -> "PoseDensity":
        """A lifter's density, D = 3, with this ``state_dict``.

        Raises:
            InputError: beginning with ``where``: it is no density of so many joints in 3D.
        """
        try:
            (components,) = state["weights"].shape
            shapes = {
                "scale": (joints, 3),
                "weights": (components,),
                "widths": (components,),
                "correlation": (3 * joints, 3 * joints),
                "focal": (),
                "stature": (),
            }
            fits = all(tuple(x.shape) == shapes[name] and x.isfinite().all() for name, x in state.items())
            in_range = all(
                (x >= 0 if name == "stature" else x > 0).all() for name, x in state.items() if name != "correlation"
            )
            if not fits or not in_range or torch.linalg.cholesky_ex(state["correlation"]).info:
                raise KeyError
            return cls(**state)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError):
            expected = f"scale, weights, widths and correlation for {joints} joints"
            raise InputError(f"{where}: expected {expected}, got others") from None

    def axes(self, keypoints: Tensor) -> Tensor | None:
        """The rotation (B, 3, 3) from the camera frame to the viewing ray of the root, which is joint 0.

        Without intrinsics: all cameras count as one with ``focal``.

        Args:
            keypoints: (B, J, 2 or more), normalised screen coordinates.
        """
        return None if self.focal is None else viewing_turn(keypoints, self.focal)

    def _scaled(self, prediction: Prediction) -> tuple[Tensor, Tensor]:
        mu, log_sigma = super()._scaled(prediction)
        return mu, log_sigma + self.scale.log()

    def standardise(self, prediction: Prediction, x: Tensor) -> Tensor:
        mu, log_sigma = self._scaled(prediction)
        check(self.dim, mu=mu, x=x)
        return _turned(x - mu, prediction.turn) * torch.exp(-log_sigma)

    def unstandardise(self, prediction: Prediction, x_bar: Tensor) -> Tensor:
        mu, log_sigma = self._scaled(prediction)
        return mu + _turned(log_sigma.exp() * x_bar, None if prediction.turn is None else prediction.turn.mT)

    @torch.no_grad()
    def deviation(self, prediction: Prediction, draws: int = 0) -> Tensor:
        """Root mean square error in each coordinate, (B, J, D), in closed form; ``draws`` is not needed."""
        _, log_sigma = self._scaled(prediction)
        variance = self._mean_square() * torch.exp(2 * log_sigma)
        return (variance if prediction.turn is None else variance @ prediction.turn.square()).sqrt()

    def _mean_square(self) -> Tensor:
        """s^2, of a coordinate of x_bar under U: ()."""
        return (self.weights * self.widths.square()).sum()

    def log_unit(self, x_bar: Tensor) -> Tensor:
        parts = log_parts(x_bar.norm(dim=-1), self.weights, self.widths, self.dim)
        return torch.logsumexp(parts, -1) - self.dim / 2 * math.log(2 * math.pi)

    def draw_unit(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        chosen = torch.multinomial(self.weights, math.prod(shape), replacement=True)
        return self.widths[chosen].view(*shape, 1).to(like) * super().draw_unit(shape, like)

    def to_normal(self, x_bar: Tensor) -> Tensor:
        """g: unit deviations (..., D) -> standard normal ones, (..., D)."""
        return with_length(x_bar, self.lengths, self.normal_lengths)

    def from_normal(self, g: Tensor) -> Tensor:
        """The inverse of `to_normal`."""
        return with_length(g, self.normal_lengths, self.lengths)

    def log_prob_pose(self, prediction: Prediction, x: Tensor) -> Tensor:
        """Log-density of whole poses at x (B, J, D), in nats: (B,)."""
        g = self.to_normal(self.standardise(prediction, x))
        return self.log_prob(prediction, x).sum(1) + _dependence(g, self.correlation, self._taller(prediction))

    def sample(self, prediction: Prediction, n: int) -> Tensor:
        """n draws of every pose, (n, B, J, D), whose joints depend on each other."""
        v = self._taller(prediction)
        noise = torch.randn(n, len(v), len(self.correlation) + 1, dtype=v.dtype, device=v.device)
        common = noise[..., 1:] @ torch.linalg.cholesky(self.correlation).mT
        h = rearrange(common, "n b (j d) -> n b j d", d=self.dim) + noise[..., :1, None] * v
        return self.unstandardise(prediction, self.from_normal(_along(v, h, -0.5)))

    def _taller(self, prediction: Prediction) -> Tensor:
        """v, (B, J, D)."""
        mu, log_sigma = self._scaled(prediction)
        return self.stature / self._mean_square().sqrt() * _turned(mu, prediction.turn) * torch.exp(-log_sigma)


def viewing_turn(keypoints: Tensor, focal: Tensor) -> Tensor:
    """The rotations (B, 3, 3) from the camera frame to the viewing ray of joint 0.

    Args:
        keypoints: (B, J, 2 or more), normalised screen coordinates.
        focal: (), the focal length in the same units.
    """
    return rotation_to_ray(torch.cat([keypoints[:, 0, :2], focal * torch.ones_like(keypoints[:, 0, :1])], -1))


def _turned(x: Tensor, turn: Tensor | None) -> Tensor:
    """R x of every joint: x (..., B, J, D), R (B, D, D), or None for x as it is."""
    return x if turn is None else x @ turn.mT


def _common(people: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """C, (J D, J D), and t, () that people have in common.

    C is the mean of their correlations, with all that is off the diagonal blocks times the one of `_KEPT` at which, on
    average, the correlation of the other people gives a person the highest likelihood. t is the one of `_STATURES` that
    does so, given C. With one person, they have no judge: C is as it is, and t is 0.

    Args:
        people: of each, the normal deviations g and, for t = 1, the errors v of a taller person, (N, J, D).
    """
    dim = people[0][0].shape[-1]
    rows = [rearrange(g, "n j d -> n (j d)") for g, _ in people]
    each = [g.mT @ g / len(g) for g in rows]
    total = torch.stack(each).sum(0)
    if len(people) == 1:
        return _shrunk(total, _KEPT[-1], dim), total.new_zeros(())

    def gain_of(kept: float) -> float:
        """The mean of `_dependence` with t = 0, for which a person's covariance is enough."""
        others = [_shrunk(total - own, kept, dim) for own in each]
        return -sum(
            float(torch.logdet(c) + (torch.linalg.inv(c) * own).sum()) for c, own in zip(others, each, strict=True)
        )

    kept = max(_KEPT, key=gain_of)
    others = [_shrunk(total - own, kept, dim) for own in each]

    def gain_by(stature: float) -> float:
        return sum(float(_dependence(g, c, stature * v).mean()) for (g, v), c in zip(people, others, strict=True))

    return _shrunk(total, kept, dim), total.new_tensor(max(_STATURES, key=gain_by))


def _shrunk(covariance: Tensor, kept: float, dim: int) -> Tensor:
    """The correlation of `_with_identity_blocks`, with all that is off these blocks times ``kept``."""
    correlation = _with_identity_blocks(covariance, dim)
    return kept * correlation + (1 - kept) * torch.eye(len(correlation)).to(correlation)


def _dependence(g: Tensor, correlation: Tensor, v: Tensor) -> Tensor:
    """log N(g; 0, C') - log N(g; 0, I) of (B, J, D): (B,); see `PoseDensity`."""
    factor = torch.linalg.cholesky(correlation)

    def white(x: Tensor) -> Tensor:
        found: Tensor = torch.linalg.solve_triangular(factor, rearrange(x, "b j d -> (j d) b"), upper=False)
        return found

    h, taller = white(_along(v, g, 0.5)), white(v)
    longer: Tensor = 1 + taller.square().sum(0)  # the determinant of I + taller taller^T
    square = h.square().sum(0) - (h * taller).sum(0).square() / longer
    log_det = 2 * factor.diagonal().log().sum() + longer.log() - v.square().sum(-1).log1p().sum(-1)
    found: Tensor = 0.5 * (g.square().sum((1, 2)) - square - log_det)
    return found


def _along(v: Tensor, x: Tensor, power: float) -> Tensor:
    """(I + v v^T)^power x of each joint, (..., J, D): it stretches x along v."""
    square = v.square().sum(-1, keepdim=True)
    stretch = torch.expm1(power * square.log1p()) / square.clamp(min=torch.finfo(v.dtype).tiny)
    found: Tensor = x + stretch * (v * x).sum(-1, keepdim=True) * v
    return found


def _with_identity_blocks(covariance: Tensor, dim: int) -> Tensor:
    """The correlation L S L^T, with L block-diagonal such that its ``dim`` x ``dim`` diagonal blocks are identities."""
    blocks = rearrange(covariance, "(i a) (j b) -> i j a b", a=dim, b=dim).diagonal().permute(2, 0, 1)
    values, vectors = torch.linalg.eigh(blocks)
    halves = (vectors * values.rsqrt()[:, None]) @ vectors.mT
    joints = len(halves)
    rows = rearrange(halves @ rearrange(covariance, "(i a) m -> i a m", i=joints), "i a m -> (i a) m")
    both = rearrange(halves @ rearrange(rows.mT, "(i a) m -> i a m", i=joints), "i a m -> (i a) m")
    symmetric: Tensor = (both + both.mT) / 2
    return symmetric
