"""The numbers of a predicted density on test poses, and of a constant sigma to compare it with."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from lifting.likelihood import Likelihood
from lifting.likelihood.unit_densities import fixed_draws
from lifting.metrics.calibration import LEVELS, Deviations, calibration_error, centrality, coverage
from lifting.metrics.scores import ECE_LEVELS, crps, energy_score, expected_calibration_error, within_quantiles
from lifting.prediction import Prediction

AXES = ("x", "y", "z")
_UNIT_DRAWS = 2**18  # of a unit density: coverage is then good to about 0.1 %
_DRAWS = 200  # of each joint, as cGNF has them
_AT_ONCE = 2**22  # coordinates drawn at a time

# The columns of `format_scores`: heading, unit, digits.
_COLUMNS = {
    "nll": ("NLL", "nats", 3),
    "ece": ("ECE", "0 to 1", 3),
    "energy_score_mm": ("energy score", "mm", 2),
    "crps_mm": ("CRPS", "mm", 2),
    "sharpness_mm": ("sharpness", "mm", 1),
    "calibration_error": ("cal. error", "points", 2),
}
_LEGEND = """\
Sharpness is the mean predicted standard deviation of a coordinate; in all other columns lower is better.
NLL: negative log-likelihood of a joint. ECE: as cGNF defines it, about 0.005 for a density that is right.
Energy score: of a joint in space; CRPS: of a coordinate. Both reward a density that is sharp and right at once.
Cal. error: mean gap between coverage and level of the central intervals of 1, 2, ..., 99 %.
Constant sigma: a Laplace density around the same mu, one scale for each joint and coordinate, the likeliest for the
errors on these very test poses. A sigma that ignores its input can win ECE and the calibration error: they do not ask
whether sigma knows which error is large. NLL, energy score and CRPS do."""


@torch.no_grad()
def deviations(likelihood: Likelihood, prediction: Prediction, target: Tensor) -> Deviations:
    """Standardised deviations of the joints, and draws of the unit density that they should follow."""
    with fixed_draws(target.device):
        draws = likelihood.draw_unit((_UNIT_DRAWS,), target)
    return Deviations(likelihood.standardise(prediction, target), draws)


def constant_sigma(prediction: Prediction, target: Tensor) -> tuple[Likelihood, Prediction]:
    """A Laplace density around mu with one scale for each joint and coordinate: the mean absolute error.

    Of the Laplace densities whose scale ignores the input, this one has the highest likelihood on these poses. It is
    fitted to their truth, so no such scale that is fitted without it can reach that.

    Args:
        prediction, target: (N, J, D), all joints except the root; sigma is ignored.
    """
    scale = (target - prediction.mu).double().abs().mean(0).to(target)
    return Likelihood(target.shape[-1], "laplace"), Prediction(prediction.mu, scale.log().expand_as(prediction.mu))


@torch.no_grad()
def density_scores(
    likelihood: Likelihood, prediction: Prediction, target: Tensor, found: Deviations, joints: Sequence[str]
) -> dict[str, Any]:
    """The numbers of one density, those of `drawn_scores` and `coverage_report` among them.

    ``nll`` is the mean negative log-likelihood of a joint in nats (metres). ``sharpness_mm`` is the mean over poses,
    joints and coordinates of the predicted standard deviation, taken around mu.

    Args:
        prediction, target: (N, J, D) metres, all joints except the root.
        found: what `deviations` returned for them.
        joints: their J names.
    """
    return {
        "nll": -float(likelihood.log_prob(prediction, target).mean(dtype=torch.float64)),
        **drawn_scores(likelihood, prediction, target, found.draws),
        "sharpness_mm": 1000 * float(likelihood.deviation(prediction).mean(dtype=torch.float64)),
        **coverage_report(centrality(found), joints),
    }


@torch.no_grad()
def drawn_scores(likelihood: Likelihood, prediction: Prediction, target: Tensor, unit: Tensor) -> dict[str, float]:
    """``ece``, ``energy_score_mm`` and ``crps_mm`` (means over joints and poses, see `metrics.scores`).

    Every joint of every pose has 200 draws of its own. Because all joints share one unit density, these are independent
    picks from the same large number of draws of it, and the flow is not run anew for each pose.

    Args:
        prediction, target: (N, J, D) metres, all joints except the root.
        unit: (M, D) draws of the unit density, many more than 200.
    """
    poses, joints, dim = target.shape
    rows = max(1, _AT_ONCE // (_DRAWS * joints * dim))
    within, energy, ranked = target.new_zeros(len(ECE_LEVELS), joints), 0.0, 0.0
    with (
        fixed_draws(target.device),
        tqdm(total=poses, unit="pose", desc="scores", leave=False, disable=None) as bar,
    ):
        for start in range(0, poses, rows):
            part = slice(start, start + rows)
            one, truth = prediction.rows(part), target[part]
            picks = torch.randint(len(unit), (_DRAWS * len(truth) * joints,), device=unit.device)
            draws = likelihood.unstandardise(one, unit.index_select(0, picks).view(_DRAWS, *truth.shape))
            within += within_quantiles(draws, truth).sum(1)
            energy += float(energy_score(draws, truth).sum(dtype=torch.float64))
            ranked += float(crps(draws, truth).sum(dtype=torch.float64))
            bar.update(len(truth))
    return {
        "ece": expected_calibration_error(within / poses),
        "energy_score_mm": 1000 * energy / (poses * joints),
        "crps_mm": 1000 * ranked / (poses * joints * dim),
    }


def coverage_report(central: Tensor, joints: Sequence[str]) -> dict[str, Any]:
    """Per cent of the coordinates in the central intervals; ``calibration_error`` in points, the mean of all levels.

    Args:
        central: (N, J, D), what `calibration.centrality` returned.
        joints: J names.
    """
    shares = 100 * coverage(central).cpu()
    return {
        "coverage": by_level(shares.mean((1, 2))),
        "coverage_per_axis": {axis: by_level(shares[:, :, d].mean(1)) for d, axis in enumerate(AXES)},
        "coverage_per_joint": {joint: by_level(shares[:, j].mean(1)) for j, joint in enumerate(joints)},
        "calibration_error": 100 * calibration_error(central),
    }


def by_level(values: Tensor) -> dict[str, float]:
    """One value for each of `calibration.LEVELS`, by the level in per cent."""
    return {f"{100 * level:g}": float(value) for level, value in zip(LEVELS, values, strict=True)}


def format_scores(rows: Mapping[str, Mapping[str, float]]) -> str:
    """`density_scores` side by side, by their names, and what each number is."""
    head = f"{'density':<24}" + "".join(f"{heading:>14}" for heading, _, _ in _COLUMNS.values())
    units = " " * 24 + "".join(f"{unit:>14}" for _, unit, _ in _COLUMNS.values())
    lines = [head, units, "-" * len(head)]
    for name, row in rows.items():
        lines.append(f"{name:<24}" + "".join(f"{row[key]:>14.{digits}f}" for key, (_, _, digits) in _COLUMNS.items()))
    return "\n".join([*lines, "", _LEGEND])
