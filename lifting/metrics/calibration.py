"""Calibration of a predicted sigma: coverage of central intervals, a scale fitted after training, sparsification.

A likelihood claims that the standardised deviations x_bar of all joints are draws of one unit density U on R^D. Here U
is known by draws, and each coordinate is looked at alone: F_d is the distribution function of the draws in coordinate
d, and the central interval of level p lies between the quantiles (1 - p) / 2 and (1 + p) / 2 of F_d.

Shape letters: N poses, J joints, D coordinates, M draws, L levels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

LEVELS = (0.5, 0.8, 0.9, 0.95)


@dataclass(frozen=True)
class Deviations:
    """Deviations of the truth from the prediction, and draws of the density that they should follow.

    Attributes:
        x_bar: (N, J, D) standardised deviations.
        draws: (M, D) draws of U.

    Raises:
        ValueError: other shapes, empty tensors, or values that are not finite.
    """

    x_bar: Tensor
    draws: Tensor

    def __post_init__(self) -> None:
        x, u = self.x_bar.shape, self.draws.shape
        if len(x) != 3 or len(u) != 2 or x[2] != u[1] or not self.x_bar.numel() or not self.draws.numel():
            raise ValueError(f"x_bar, draws: expected (N, J, D), (M, D), got {tuple(x)}, {tuple(u)}")
        if not (self.x_bar.isfinite().all() and self.draws.isfinite().all()):
            raise ValueError("x_bar, draws: expected finite values")

    @cached_property
    def sorted_draws(self) -> Tensor:
        """(D, M): the draws of each coordinate, from the smallest on."""
        return self.draws.T.sort(1).values.contiguous()


def centrality(deviations: Deviations, scale: float = 1.0) -> Tensor:
    """|2 F_d(x_bar / scale) - 1|: the level of the smallest central interval that holds a deviation, (N, J, D).

    Uniform on [0, 1] where U, stretched by ``scale``, is the density of the deviations.
    """
    x = deviations.x_bar / scale
    ranks = torch.searchsorted(deviations.sorted_draws, x.flatten(0, 1).T.to(deviations.draws).contiguous())
    return (2 * ranks.T.reshape(x.shape).double() / len(deviations.draws) - 1).abs()


def coverage(central: Tensor, levels: Sequence[float] = LEVELS) -> Tensor:
    """Shares of the deviations that lie in their central intervals, (L, J, D), from `centrality` (N, J, D)."""
    return torch.stack([(central <= level).double().mean(0) for level in levels])


def calibration_error(central: Tensor) -> float:
    """Mean of |coverage - level| over the levels 1 %, 2 %, ..., 99 %, all joints and coordinates as one."""
    levels = [percent / 100 for percent in range(1, 100)]
    return float((coverage(central, levels).mean((1, 2)) - central.new_tensor(levels)).abs().mean())


def tails(found: Deviations) -> list[dict[str, float]]:
    """How heavy the tails of the ``errors`` and of the learned ``density`` are, for each coordinate.

    The measure is the 99th percentile of |x_bar| over its median: 3.8 for a Gaussian, 6.6 for a Laplace density.
    """

    def of(x: Tensor) -> float:
        median, end = np.percentile(x.abs().flatten().cpu().numpy(), (50, 99))
        return float(end / median)

    axes = range(found.draws.shape[-1])
    return [{"errors": of(found.x_bar[..., d]), "density": of(found.draws[..., d])} for d in axes]


def fit_scale(held_out: Sequence[Deviations]) -> float:
    """The factor for sigma with which the mean coverage over `LEVELS` is right on people outside the training set.

    Every element of ``held_out`` counts alike, however long it is, because the poses of one person resemble each other.
    The factor is found by bisection between 1/8 and 8: a larger one covers more.

    Args:
        held_out: deviations on people whom a network was not trained on, each with the U of its own network.
    """
    low, high = -3.0, 3.0
    for _ in range(16):
        middle = (low + high) / 2
        found = [float(coverage(centrality(one, 2**middle)).mean()) for one in held_out]
        if sum(found) / len(found) < sum(LEVELS) / len(LEVELS):
            low = middle
        else:
            high = middle
    return 2**high


def _area(y: np.ndarray, x: np.ndarray) -> float:
    """The integral of y over x by the trapezoidal rule; numpy has it under one name before 2.0 and another since."""
    return float(torch.trapezoid(torch.from_numpy(y), torch.from_numpy(x)))


@dataclass(frozen=True)
class Sparsification:
    """Mean error of the remaining samples when those of the largest doubt are removed (Ilg et al., ECCV 2018).

    In units of the mean error of all samples. An oracle removes the samples of the largest error. The area between the
    two curves is AUSE: 0 if doubt orders the samples as the error does, ``chance`` if doubt and error are unrelated.

    Attributes:
        removed: (K,) share of the samples that is removed, from 0.
        by_doubt, by_error: (K,) mean error of the rest.
    """

    removed: np.ndarray
    by_doubt: np.ndarray
    by_error: np.ndarray

    @property
    def ause(self) -> float:
        return _area(self.by_doubt - self.by_error, self.removed)

    @property
    def chance(self) -> float:
        return _area(1 - self.by_error, self.removed)


def sparsify(doubt: Tensor, error: Tensor, steps: int = 100) -> Sparsification:
    """Curves at 0, 1 / steps, ..., 1 - 1 / steps of the samples removed.

    Args:
        doubt, error: of equal shape, one value a sample; errors are not negative.

    Raises:
        ValueError: the shapes differ, or there are fewer samples than steps.
    """
    if doubt.shape != error.shape or doubt.numel() < steps:
        raise ValueError(
            f"doubt, error: expected one shape of {steps} samples or more, got {tuple(doubt.shape)}, "
            f"{tuple(error.shape)}"
        )
    errors = error.flatten().double()
    removed = torch.arange(steps, dtype=torch.float64) / steps
    left = len(errors) - (removed * len(errors)).long().to(errors.device)

    def curve(by: Tensor) -> np.ndarray:
        means = errors[by.flatten().argsort()].cumsum(0)[left - 1] / left
        return (means / errors.mean()).cpu().numpy()

    return Sparsification(removed.numpy(), curve(doubt), curve(error))
