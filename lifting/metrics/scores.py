"""Scores of a predicted density that is given by draws: energy score, CRPS, and ECE as cGNF measures it.

Shape letters: S draws, D coordinates, J joints, L levels; ``...`` is any shape, usually poses and joints.
"""

import torch
from torch import Tensor

# Nominal levels of `within_quantiles` and `expected_calibration_error`: 0, 0.05, ..., 1.
ECE_LEVELS = tuple(step / 20 for step in range(21))


def energy_score(draws: Tensor, target: Tensor) -> Tensor:
    """ES = E|X - y| - E|X - X'| / 2 for X, X' drawn independently and the truth y, with Euclidean distances.

    A strictly proper score: its expectation is lowest for the density that y is drawn from (Gneiting and Raftery 2007,
    "Strictly Proper Scoring Rules, Prediction, and Estimation", section 4.3, there with the opposite sign). It is in
    the units of y. For a density at a single point it is the distance from y; with D = 1 it is the CRPS.

    E|X - X'| is the mean over each draw and the next, the last and the first, which is unbiased.

    Args:
        draws: (S, ..., D), independent, S >= 2.
        target: (..., D).

    Returns:
        (...,).

    Raises:
        ValueError: fewer than two draws, or shapes that do not fit.
    """
    _check(draws, target)
    spread = _distance(draws, draws.roll(1, 0)).mean(0)
    return _distance(draws, target).mean(0) - spread / 2


def crps(draws: Tensor, target: Tensor) -> Tensor:
    """Continuous ranked probability score of each coordinate, the `energy_score` in one dimension.

    It equals the integral over z of (F(z) - [z >= y])^2, F the distribution function (section 4.2 of the same paper).

    Args:
        draws: (S, ..., D), independent, S >= 2.
        target: (..., D).

    Returns:
        (..., D), in the units of the target.
    """
    return energy_score(draws[..., None], target[..., None])


def within_quantiles(draws: Tensor, target: Tensor) -> Tensor:
    """Whether the truth is closer to the middle of the draws than each quantile of the draws' own distances from it.

    The middle is the median of each coordinate; of an even number of draws, the lower one of the two in the middle. The
    quantiles are at `ECE_LEVELS`, linear between draws: level 0 is the nearest draw, level 1 the farthest. All this is
    as cGNF has it (Pierzchlewicz et al. 2022, "Multi-hypothesis 3D human pose estimation metrics favor miscalibrated
    distributions"; `scripts/eval/human36m/calibration.py` of its repository, sinzlab/cGNF).

    Args:
        draws: (S, ..., D).
        target: (..., D).

    Returns:
        (L, ...) bool.
    """
    _check(draws, target)
    middle = draws.median(0).values
    distances = _distance(draws, middle)
    return _distance(target, middle) < torch.quantile(distances, distances.new_tensor(ECE_LEVELS), dim=0)


def expected_calibration_error(coverage: Tensor) -> float:
    """cGNF's ECE: the mean over `ECE_LEVELS` of |median over the joints of the coverage - level|, in [0, 1].

    A density that is right has about 0.005 in 200 draws, for their middle and their quantiles are themselves drawn.
    A sigma that ignores its input can have a lower ECE than one that follows the error: never quote it alone.

    Args:
        coverage: (L, J), the share of the poses for which `within_quantiles` is true.
    """
    if coverage.ndim != 2 or len(coverage) != len(ECE_LEVELS):
        raise ValueError(f"coverage: expected ({len(ECE_LEVELS)}, J), got {tuple(coverage.shape)}")
    middle = coverage.double().quantile(0.5, dim=1)
    return float((middle - middle.new_tensor(ECE_LEVELS)).abs().mean())


def _distance(x: Tensor, y: Tensor) -> Tensor:
    distance: Tensor = torch.linalg.vector_norm(x - y, dim=-1)
    return distance


def _check(draws: Tensor, target: Tensor) -> None:
    if draws.shape[1:] != target.shape or len(draws) < 2 or not target.ndim:
        raise ValueError(
            f"draws, target: expected (S, ..., D), (..., D) with S >= 2, got {tuple(draws.shape)}, "
            f"{tuple(target.shape)}"
        )
