"""Several poses for each input, drawn from the density that a lifter predicts: the best of them, and their spread."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from lifting import lifter
from lifting.datasets.poses import PoseSet
from lifting.likelihood import Likelihood
from lifting.likelihood.pose_density import PoseDensity
from lifting.likelihood.unit_densities import fixed_draws
from lifting.metrics.pose_errors import pearson
from lifting.prediction import Prediction
from lifting.reports.camera_evidence import Sight
from lifting.training.objective import Objective

_AT_ONCE = 2**22  # coordinates drawn at a time
_PLACES = (0.5, 0.97)  # of the drawn poses among all, by sigma
_BINS = 10  # of joints, by the spread of their hypotheses


@torch.no_grad()
def hypotheses_report(
    objective: Objective, poses: PoseSet, prediction: Prediction, n: int, pixel_noise: float | None = None
) -> dict[str, Any]:
    """Errors of n poses drawn from the learned density, and from a Gaussian of the same mean square in each coordinate.

    With ``pixel_noise``, the standard deviation of the keypoints, also of those from the learned density after each was
    brought to the rays of its keypoints (`rays.place_people`): ``given_rays``. The intrinsics are known to it.

    Joints are drawn independently, unless the density is one of whole poses (`PoseDensity`). All numbers are means over
    the test poses, in millimetres.

    - ``min_mpjpe_mm``: the lowest MPJPE among the n. The truth chooses, so no user of a lifter sees this error.
    - ``min_joint_mm``: the same with each joint's nearest draw (J-Best).
    - ``mean_mpjpe_mm``: the MPJPE of a single draw.
    - ``bins``: tenths of all joints by the spread of their draws, with the root mean square spread and error of each.
      The spread of few draws is itself uncertain: with 20 of them, the outer tenths have a spread that is a quarter too
      small and too large even where the density is right.
    """
    free, target = objective.free(prediction, poses.target)
    share = free.mu.shape[1] / prediction.mu.shape[1]  # known joints have no error, but count
    rows = max(1, _AT_ONCE // (n * free.mu[0].numel()))
    spreads, errors = [], []
    errors_given_rays = None
    if pixel_noise is not None:
        errors_given_rays = partial(Sight.of(objective, poses, prediction).errors_of, pixel_noise=pixel_noise)
    sums: dict[str, dict[str, float]] = {}
    with (
        fixed_draws(target.device),
        tqdm(total=len(target), unit="pose", desc="hypotheses", leave=False, disable=None) as bar,
    ):
        deviation = objective.likelihood.deviation(free)
        for start in range(0, len(target), rows):
            part = slice(start, start + rows)
            one = free.rows(part)
            normal = torch.randn(n, *one.mu.shape, dtype=one.mu.dtype, device=one.mu.device)
            drawn = {"learned": objective.likelihood.sample(one, n), "gaussian": one.mu + deviation[part] * normal}
            found = {name: (draws - target[part]).norm(dim=-1) for name, draws in drawn.items()}
            if errors_given_rays is not None:
                known = prediction.mu[part].expand(n, -1, -1, -1)
                whole = known.index_copy(2, objective.free_joints, drawn["learned"])
                found["given_rays"] = errors_given_rays(whole, part)[..., objective.free_joints]
            for name, metres in found.items():
                means = {
                    "min_mpjpe_mm": share * metres.mean(-1).amin(0).sum(),
                    "min_joint_mm": share * metres.amin(0).mean(-1).sum(),
                    "mean_mpjpe_mm": share * metres.mean((0, -1)).sum(),
                }
                of = sums.setdefault(name, {})
                for key, value in means.items():
                    of[key] = of.get(key, 0.0) + 1000 * float(value) / len(target)
            spreads.append((drawn["learned"] - drawn["learned"].mean(0)).square().sum(-1).mean(0).sqrt())
            errors.append((one.mu - target[part]).norm(dim=-1))
            bar.update(len(one.mu))
    spread, error = torch.cat(spreads).flatten(), torch.cat(errors).flatten()
    bins = [
        {
            f"{name}_mm": 1000 * float(values[rank].square().mean().sqrt())
            for name, values in (("spread", spread), ("error", error))
        }
        for rank in torch.tensor_split(spread.argsort(), _BINS)
    ]
    mpjpe = 1000 * share * float(error.mean())
    return {"n": n, "mpjpe_frame_mm": mpjpe, **sums, "spread_error_r": pearson(spread, error), "bins": bins}


@torch.no_grad()
def draw(path: Path, objective: Objective, poses: PoseSet, prediction: Prediction, n: int = 30) -> None:
    """Draws n hypotheses for a pose of middling and one of large sigma.

    From a density of whole poses also as many with joints drawn independently, which shows the difference.
    """
    from lifting.drawing.hypothesis_figure import DrawnHypotheses, draw_hypotheses

    likelihood = objective.likelihood
    doubt = prediction.mu.new_zeros(len(poses)) if prediction.sigma is None else prediction.sigma.mean((1, 2))
    order, rows = doubt.argsort(), []
    for place in _PLACES:
        row = int(order[int(place * (len(order) - 1))])
        one, _ = objective.free(prediction.rows(slice(row, row + 1)), poses.target[row : row + 1])
        with fixed_draws(one.mu.device):
            drawn = {"hypotheses": likelihood.sample(one, n)}
            if isinstance(likelihood, PoseDensity):
                alone = Likelihood.sample(likelihood, one, n)
                drawn = {f"{n} whole poses": drawn["hypotheses"], f"{n}, each joint drawn alone": alone}
        known = prediction.mu[row].expand(n, -1, -1)
        whole = {
            name: known.index_copy(1, objective.free_joints, joints[:, 0]).cpu().numpy()
            for name, joints in drawn.items()
        }
        rows.append(DrawnHypotheses(lifter.drawn_pose(row, poses, prediction.mu, None), whole))
    draw_hypotheses(path, rows, poses.joint_set)


def format_hypotheses(report: Mapping[str, Any]) -> str:
    """A `hypotheses_report` as text."""
    n = report["n"]
    head = f"{'millimetres':<24}{f'best of {n}':>14}{'best joints':>14}{'mean':>14}"
    lines = [head, "-" * len(head)]
    for name in ("learned", "gaussian", "given_rays"):
        if name in report:
            cells = "".join(f"{report[name][key]:>14.1f}" for key in ("min_mpjpe_mm", "min_joint_mm", "mean_mpjpe_mm"))
            lines.append(f"{'hypotheses, ' + name.replace('_', ' '):<24}{cells}")
    lines.append(f"{'the prediction itself':<24}{report['mpjpe_frame_mm']:>14.1f}")
    lines += ["", f"tenths of the joints by the spread of their hypotheses, r {report['spread_error_r']:.3f}:"]
    for name in ("spread", "error"):
        lines.append(f"  {name:<8}" + "".join(f"{values[f'{name}_mm']:>7.1f}" for values in report["bins"]))
    return "\n".join(lines)
