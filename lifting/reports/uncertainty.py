"""What the density that a lifter predicts is worth on test poses: scores, calibration, sparsification."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from lifting import lifter
from lifting.command import InputError
from lifting.config import Config
from lifting.datasets.poses import PoseSet
from lifting.datasets.store import PoseStore
from lifting.likelihood import ConstantVariance, Likelihood
from lifting.likelihood.pose_density import PoseDensity
from lifting.metrics.calibration import Deviations, centrality, coverage, fit_scale, sparsify, tails
from lifting.metrics.pose_errors import pearson
from lifting.prediction import Prediction
from lifting.reports.density_scores import AXES, by_level, constant_sigma, density_scores, deviations, format_scores
from lifting.training.evaluation import predict
from lifting.training.objective import Objective

_FEWEST = 100  # poses; shares of fewer in per cent say little
_BINS = 10  # of joints, by their predicted sigma


def held_out_deviations(checkpoints: Sequence[Path], config: Config, likelihood: Likelihood) -> dict[str, Deviations]:
    """Deviations of other checkpoints on people whom they were not trained on, by subject and checkpoint.

    Subjects that ``config`` is tested on are left out.

    Args:
        config, likelihood: of the lifter whose sigma is to be scaled.

    Raises:
        InputError: a checkpoint of another loss, model or kind of keypoints, or one that was trained on all subjects
            but those of the test; a density of `crossfit`, which is that of another network's errors.
    """
    subjects: list[str] = []
    for file in lifter.data_paths(config, train=True):
        with PoseStore(file) as store:
            subjects, joints = list(dict.fromkeys(subjects + store.subjects)), store.joint_set.name
    found = {}
    for path in checkpoints:
        objective, trained = lifter.load(path)
        if any(isinstance(density, PoseDensity) for density in (likelihood, objective.likelihood)):
            raise InputError(f"calibrate: {path}: expected lifters as they were trained, got a density of crossfit")
        if objective.joint_set.name != joints:
            raise InputError(f"calibrate: {path}: expected the joints {joints}, got {objective.joint_set.name}")
        for what in ("loss", "model"):
            if getattr(trained, what) != getattr(config, what):
                raise InputError(f"calibrate: {path}: expected the {what} of the evaluated checkpoint, got another")
        data, other = config.data, trained.data
        wanted, got = (
            f"keypoints {d.keypoints} with {d.noise_px:g} px of noise, {d.missing:.0%} missing" for d in (data, other)
        )
        if wanted != got:
            raise InputError(f"calibrate: {path}: expected {wanted}, got {got}")
        if other.augment != data.augment:
            raise InputError(f"calibrate: {path}: expected the data.augment of the evaluated checkpoint, got another")
        left = [s for s in subjects if s not in (*trained.data.train_subjects, *config.data.test_subjects)]
        if not left:
            raise InputError(
                f"calibrate: {path} was trained on {', '.join(trained.data.train_subjects)}; expected one that leaves "
                f"out some of {', '.join(s for s in subjects if s not in config.data.test_subjects)}"
            )
        for subject in left:
            alone = lifter.tested_on_training_file(config, (subject,))
            poses = lifter.load_poses(alone, train=False).to(next(objective.parameters()).device)
            prediction = predict(objective, poses, flip_test=config.train.flip)
            found[f"{subject}, {path}"] = deviations(objective.likelihood, *objective.free(prediction, poses.target))
    return found


@torch.no_grad()
def uncertainty_report(
    objective: Objective, poses: PoseSet, prediction: Prediction, held_out: Mapping[str, Deviations] | None = None
) -> dict[str, Any]:
    """The `density_scores` of the predicted density, over all joints except the root, and more:

    - ``constant_sigma``: the same scores of `density_scores.constant_sigma`, to compare with.
    - ``calibrated``: with ``held_out`` deviations, by the names of their sources (``on``), the same scores after one
      ``scale`` for sigma that is fitted to them.
    - ``ranking``: AUSE and Pearson's r of sigma and error, by joint and by pose; empty without a sigma. Tab. 4 of the
      RLE paper has r of the confidence 1 - sigma (Eq. 9) and the error, which is this with the opposite sign.
    - ``tenths``: of all joints by predicted sigma, from the smallest; empty without a sigma. The mean sigma and error,
      and the coverage of the central intervals, which shows whether small sigmas promise too much.
    - ``tail``: see `calibration.tails`.
    - ``nll_pose``: of a whole pose over its number of joints, from a density of whole poses.

    Raises:
        InputError: fewer than 100 poses.
    """
    if len(poses.target) < _FEWEST:
        raise InputError(f"evaluate: uncertainty: expected {_FEWEST} test poses or more, got {len(poses.target)}")
    likelihood, (free, target) = objective.likelihood, objective.free(prediction, poses.target)
    joints = [name for j, name in enumerate(poses.joint_set.joints) if j not in objective.known]
    found = deviations(likelihood, free, target)
    report = {**density_scores(likelihood, free, target, found, joints), "tail": tails(found), "ranking": {}}
    if isinstance(likelihood, PoseDensity):
        report["nll_pose"] = -float(likelihood.log_prob_pose(free, target).mean()) / target.shape[1]
    pairs = doubts(objective, poses, prediction)
    for what, (doubt, error) in pairs.items():
        curves, r = sparsify(doubt, error), pearson(doubt, error)
        report["ranking"][what] = {"ause": curves.ause, "ause_by_chance": curves.chance, "sigma_error_r": r}
    report["tenths"] = _tenths(centrality(found), *pairs["joint"]) if pairs else []
    constant, same_mu = constant_sigma(free, target)
    around = deviations(constant, same_mu, target)
    report["constant_sigma"] = density_scores(constant, same_mu, target, around, joints)
    if held_out:
        scale = fit_scale(list(held_out.values()))
        stretched = replace(found, x_bar=found.x_bar / scale)
        scores = density_scores(*_scaled(likelihood, free, scale), target, stretched, joints)
        report["calibrated"] = {"on": list(held_out), "scale": scale, **scores}
    return report


def doubts(objective: Objective, poses: PoseSet, prediction: Prediction) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean sigma and error in metres, of each joint (N, J) and of each pose (N,); nothing where there is no sigma."""
    free, target = objective.free(prediction, poses.target)
    if free.sigma is None:
        return {}
    doubt, error = free.sigma.mean(-1), (free.mu - target).norm(dim=-1)
    return {"joint": (doubt, error), "pose": (doubt.mean(1), error.mean(1))}


def _tenths(central: Tensor, doubt: Tensor, error: Tensor) -> list[dict[str, Any]]:
    """Of (N, J, D) centralities, and of (N, J) sigmas and errors in metres."""
    central = rearrange(central, "n j d -> (n j) 1 d")
    doubt, error = doubt.flatten(), error.flatten()
    return [
        {
            "sigma_mm": 1000 * float(doubt[rank].mean()),
            "error_mm": 1000 * float(error[rank].mean()),
            "coverage": by_level(100 * coverage(central[rank]).mean((1, 2))),
        }
        for rank in torch.tensor_split(doubt.argsort(), _BINS)
    ]


def _scaled(likelihood: Likelihood, prediction: Prediction, scale: float) -> tuple[Likelihood, Prediction]:
    """The same density with sigma times ``scale``; that of a loss without a sigma is written out as one."""
    log_sigma = prediction.log_sigma
    if isinstance(likelihood, ConstantVariance):
        log_sigma = likelihood.scale.log().to(prediction.mu).expand_as(prediction.mu)
        likelihood = Likelihood(likelihood.dim, likelihood.base)
    assert log_sigma is not None
    return likelihood, replace(prediction, log_sigma=log_sigma + math.log(scale))


def draw(path: Path, objective: Objective, poses: PoseSet, prediction: Prediction, report: Mapping[str, Any]) -> None:
    """The diagrams of an `uncertainty_report`."""
    from lifting.drawing.diagrams import draw_uncertainty

    found = deviations(objective.likelihood, *objective.free(prediction, poses.target))
    pairs = doubts(objective, poses, prediction)
    draw_uncertainty(path, objective.likelihood, found, pairs, report.get("calibrated", {}).get("scale"))


def format_uncertainty(report: Mapping[str, Any]) -> str:
    """An `uncertainty_report` as text."""
    rows = {"predicted": report}
    if "calibrated" in report:
        rows[f"  sigma x {report['calibrated']['scale']:.3f}"] = report["calibrated"]
    rows["constant sigma"] = report["constant_sigma"]
    shares = {name: row["coverage"] for name, row in rows.items()}
    parts = [
        format_scores(rows),
        _format_coverage({**shares, **report["coverage_per_axis"], **report["coverage_per_joint"]}),
        _format_tenths(report["tenths"]) if report["tenths"] else "",
        "\n".join(_ranking_and_tails(report)),
    ]
    return "\n\n".join(filter(None, parts))


def _format_coverage(rows: Mapping[str, Mapping[str, float]]) -> str:
    levels = list(next(iter(rows.values())))
    lines = [f"{'% in central intervals':<24}" + "".join(f"{level:>7}%" for level in levels)]
    lines.append("-" * len(lines[0]))
    return "\n".join(lines + [f"{name:<24}{_cells(row)}" for name, row in rows.items()])


def _format_tenths(rows: Sequence[Mapping[str, Any]]) -> str:
    head = f"{'tenth of joints':<16}{'sigma':>10}{'error':>10}" + "".join(f"{x:>7}%" for x in rows[0]["coverage"])
    names = [f"{number}" for number in range(1, len(rows) + 1)]
    names[0], names[-1] = f"{names[0]} (surest)", f"{names[-1]} (least sure)"
    lines = ["% in central intervals, by predicted sigma; mean sigma and error in mm", head, "-" * len(head)]
    for name, row in zip(names, rows, strict=True):
        lines.append(f"{name:<16}{row['sigma_mm']:>10.1f}{row['error_mm']:>10.1f}{_cells(row['coverage'])}")
    return "\n".join(lines)


def _cells(coverage: Mapping[str, float]) -> str:
    return "".join(f"{share:>8.1f}" for share in coverage.values())


def _ranking_and_tails(report: Mapping[str, Any]) -> list[str]:
    lines = []
    if "nll_pose" in report:
        gain = report["nll"] - report["nll_pose"]
        lines.append(f"NLL of whole poses {report['nll_pose']:.3f} nats a joint, {gain:.3f} below independent joints")
    lines += [
        f"AUSE by {what} {values['ause']:.3f} ({values['ause_by_chance']:.3f} by chance), "
        f"r(sigma, error) {values['sigma_error_r']:.3f}"
        for what, values in report["ranking"].items()
    ]
    for what in ("errors", "density"):
        of = ", ".join(f"{axis} {row[what]:.1f}" for axis, row in zip(AXES, report["tail"], strict=False))
        lines.append(f"99th percentile over the median of |deviation|, of the {what}: {of}")
    return lines
