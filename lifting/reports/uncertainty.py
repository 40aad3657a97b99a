"""What the density that a lifter predicts is worth on test poses: calibration, sparsification, hypotheses."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from lifting import lifter
from lifting.command import InputError
from lifting.config import Config
from lifting.datasets.poses import PoseSet, load_split
from lifting.datasets.store import PoseStore
from lifting.drawing.diagrams import draw_uncertainty
from lifting.likelihood.unit_densities import fixed_draws
from lifting.metrics.calibration import (
    LEVELS,
    Deviations,
    calibration_error,
    centrality,
    coverage,
    fit_scale,
    sparsify,
    tails,
)
from lifting.metrics.pose_errors import pearson
from lifting.prediction import Prediction
from lifting.training.engine import predict
from lifting.training.objective import Objective

AXES = ("x", "y", "z")
_DRAWS = 2**16  # of a unit density, for its quantiles
_AT_ONCE = 2**22  # coordinates of hypotheses drawn at a time
_FEWEST = 100  # poses that shares in per cent can be told of
_BINS = 10  # of joints, by the spread of their hypotheses


@torch.no_grad()
def deviations(objective: Objective, poses: PoseSet, prediction: Prediction) -> Deviations:
    """Standardised deviations of the joints whose place is not known, and draws of the unit density."""
    free, target = objective.free(prediction, poses.target)
    likelihood = objective.likelihood
    with fixed_draws(target.device):
        draws = likelihood.draw_unit((_DRAWS,), target)
    return Deviations(likelihood.standardise(free, target), draws)


def held_out_deviations(checkpoints: Sequence[Path], config: Config) -> dict[str, Deviations]:
    """Those of networks on subjects that they were not trained on and ``config`` is not tested on, by their names.

    Raises:
        InputError: a checkpoint that was trained on all subjects but those of the test.
    """
    with PoseStore(lifter.data_path(config)) as store:
        subjects = store.subjects
    found = {}
    for path in checkpoints:
        objective, trained = lifter.load(path)
        for what in ("loss", "model"):
            if getattr(trained, what) != getattr(config, what):
                raise InputError(f"calibrate: {path}: expected the {what} of the evaluated checkpoint, got another")
        data, other = config.data, trained.data
        if (other.keypoints, other.noise_px) != (data.keypoints, data.noise_px):
            wanted, got = (f"keypoints {d.keypoints} with {d.noise_px:g} px of noise" for d in (data, other))
            raise InputError(f"calibrate: {path}: expected {wanted}, got {got}")
        left = [s for s in subjects if s not in (*trained.data.train_subjects, *config.data.test_subjects)]
        if not left:
            raise InputError(
                f"calibrate: {path} was trained on {', '.join(trained.data.train_subjects)}; expected one that leaves "
                f"out some of {', '.join(s for s in subjects if s not in config.data.test_subjects)}"
            )
        for subject in left:
            data = config.data.model_copy(update={"test_subjects": (subject,)})
            poses = load_split(data, lifter.data_path(config), train=False).to(next(objective.parameters()).device)
            found[f"{subject}, {path}"] = deviations(
                objective, poses, predict(objective, poses, flip_test=config.train.flip)
            )
    return found


@torch.no_grad()
def uncertainty_report(
    objective: Objective, poses: PoseSet, prediction: Prediction, held_out: Mapping[str, Deviations] | None = None
) -> dict[str, Any]:
    """NLL in nats a joint; coverage in per cent overall, by axis and by joint; AUSE and r over joints and over poses.

    ``tail`` is `calibration.tails`. ``calibration_error`` is in points, the mean over all levels. With ``held_out``,
    whose keys say where it comes from, ``calibrated`` has the same after one scale for sigma that is fitted on it.
    Without a sigma there is no ``ranking``. Tab. 4 of the paper has Pearson's r of the confidence 1 - sigma (Eq. 9) and
    the error, which is -r.
    """
    if len(poses.target) < _FEWEST:
        raise InputError(f"evaluate: uncertainty: expected {_FEWEST} test poses or more, got {len(poses.target)}")
    found = deviations(objective, poses, prediction)
    free, target = objective.free(prediction, poses.target)
    joints = [name for j, name in enumerate(poses.joint_set.joints) if j not in objective.known]
    nll = -float(objective.likelihood.log_prob(free, target).mean())
    report = {"nll": nll, "tail": tails(found), **_coverage_report(centrality(found), joints), "ranking": {}}
    for what, (doubt, error) in doubts(objective, poses, prediction).items():
        curves, r = sparsify(doubt, error), pearson(doubt, error)
        report["ranking"][what] = {"ause": curves.ause, "ause_by_chance": curves.chance, "sigma_error_r": r}
    if held_out:
        scale = fit_scale(list(held_out.values()))
        log_unit = objective.likelihood.log_unit
        gain = float(log_unit(found.x_bar / scale).mean() - log_unit(found.x_bar).mean())
        report["calibrated"] = {
            "on": list(held_out),
            "scale": scale,
            "nll": nll - gain + found.x_bar.shape[2] * math.log(scale),
            **_coverage_report(centrality(found, scale), joints),
        }
    return report


def _coverage_report(central: Tensor, joints: Sequence[str]) -> dict[str, Any]:
    shares = 100 * coverage(central).cpu()

    def by_level(values: Tensor) -> dict[str, float]:
        return {f"{100 * level:g}": float(value) for level, value in zip(LEVELS, values, strict=True)}

    return {
        "coverage": by_level(shares.mean((1, 2))),
        "coverage_per_axis": {axis: by_level(shares[:, :, d].mean(1)) for d, axis in enumerate(AXES)},
        "coverage_per_joint": {joint: by_level(shares[:, j].mean(1)) for j, joint in enumerate(joints)},
        "calibration_error": 100 * calibration_error(central),
    }


def doubts(objective: Objective, poses: PoseSet, prediction: Prediction) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean sigma and error in metres, of each joint (N, J) and of each pose (N,); nothing where there is no sigma."""
    free, target = objective.free(prediction, poses.target)
    if free.sigma is None:
        return {}
    doubt, error = free.sigma.mean(-1), (free.mu - target).norm(dim=-1)
    return {"joint": (doubt, error), "pose": (doubt.mean(1), error.mean(1))}


def draw(path: Path, objective: Objective, poses: PoseSet, prediction: Prediction, report: Mapping[str, Any]) -> None:
    """The diagrams of an `uncertainty_report`."""
    found, pairs = deviations(objective, poses, prediction), doubts(objective, poses, prediction)
    draw_uncertainty(path, objective.likelihood, found, pairs, report.get("calibrated", {}).get("scale"))


@torch.no_grad()
def hypotheses_report(objective: Objective, poses: PoseSet, prediction: Prediction, n: int) -> dict[str, Any]:
    """Errors of n poses drawn from the learned density, and from a Gaussian of the same mean square in each coordinate.

    Joints are drawn independently, as the likelihood has them. ``min_mpjpe_mm`` is the mean over test poses of the
    lowest MPJPE among the n; ``min_joint_mm`` takes each joint's nearest draw; ``mean_mpjpe_mm`` is a draw's own. The
    ``bins`` are tenths of all joints by the spread of their draws: root mean square spread and error, in millimetres.
    Of few draws the spread is itself uncertain, and the outer tenths are apart for that reason alone (a quarter at 20).
    """
    free, target = objective.free(prediction, poses.target)
    share = free.mu.shape[1] / prediction.mu.shape[1]  # known joints have no error, and count
    rows = max(1, _AT_ONCE // (n * free.mu[0].numel()))
    spreads, errors = [], []
    sums: dict[str, dict[str, float]] = {"learned": {}, "gaussian": {}}
    with (
        fixed_draws(target.device),
        tqdm(total=len(target), unit="pose", desc="hypotheses", leave=False, disable=None) as bar,
    ):
        deviation = objective.likelihood.deviation(free)
        for start in range(0, len(target), rows):
            part = slice(start, start + rows)
            log_sigma = None if free.log_sigma is None else free.log_sigma[part]
            one = Prediction(free.mu[part], log_sigma)
            normal = torch.randn(n, *one.mu.shape, dtype=one.mu.dtype, device=one.mu.device)
            drawn = {"learned": objective.likelihood.sample(one, n), "gaussian": one.mu + deviation[part] * normal}
            for name, draws in drawn.items():
                found = 1000 * (draws - target[part]).norm(dim=-1)
                means = {
                    "min_mpjpe_mm": share * found.mean(-1).amin(0).sum(),
                    "min_joint_mm": share * found.amin(0).mean(-1).sum(),
                    "mean_mpjpe_mm": share * found.mean((0, -1)).sum(),
                }
                for key, value in means.items():
                    sums[name][key] = sums[name].get(key, 0.0) + float(value) / len(target)
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


def format_uncertainty(report: Mapping[str, Any]) -> str:
    """An `uncertainty_report` as text."""
    levels = list(report["coverage"])

    def row(name: str, values: dict[str, float]) -> str:
        return f"{name:<24}" + "".join(f"{values[level]:>8.1f}" for level in levels)

    lines = [f"{'% in central intervals':<24}" + "".join(f"{level:>7}%" for level in levels)]
    lines.append("-" * len(lines[0]))
    lines.append(row("overall", report["coverage"]))
    if "calibrated" in report:
        lines.append(row(f"  sigma x {report['calibrated']['scale']:.3f}", report["calibrated"]["coverage"]))
    for group in ("coverage_per_axis", "coverage_per_joint"):
        lines += [row(name, values) for name, values in report[group].items()]
    lines.append("")
    for what in ("errors", "density"):
        of = ", ".join(f"{axis} {row[what]:.1f}" for axis, row in zip(AXES, report["tail"], strict=False))
        lines.append(f"99th percentile over the median of |deviation|, of the {what}: {of}")
    for name, values in (("", report), (" after the scale", report.get("calibrated"))):
        if values:
            error = f"calibration error {values['calibration_error']:.2f} points"
            lines.append(f"NLL{name} {values['nll']:.3f} nats a joint; {error}")
    for what, values in report["ranking"].items():
        lines.append(
            f"AUSE by {what} {values['ause']:.3f} ({values['ause_by_chance']:.3f} by chance), "
            f"r(sigma, error) {values['sigma_error_r']:.3f}"
        )
    return "\n".join(lines)


def format_hypotheses(report: Mapping[str, Any]) -> str:
    """A `hypotheses_report` as text."""
    n = report["n"]
    head = f"{'millimetres':<24}{f'best of {n}':>14}{'best joints':>14}{'mean':>14}"
    lines = [head, "-" * len(head)]
    for name in ("learned", "gaussian"):
        cells = "".join(f"{report[name][key]:>14.1f}" for key in ("min_mpjpe_mm", "min_joint_mm", "mean_mpjpe_mm"))
        lines.append(f"{'hypotheses, ' + name:<24}{cells}")
    lines.append(f"{'the prediction itself':<24}{report['mpjpe_frame_mm']:>14.1f}")
    lines += ["", f"tenths of the joints by the spread of their hypotheses, r {report['spread_error_r']:.3f}:"]
    for name in ("spread", "error"):
        lines.append(f"  {name:<8}" + "".join(f"{values[f'{name}_mm']:>7.1f}" for values in report["bins"]))
    return "\n".join(lines)
