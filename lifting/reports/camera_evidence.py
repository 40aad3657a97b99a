"""What the camera knows beyond the lifter: test poses brought towards the rays of their own keypoints."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lifting import lifter
from lifting.config import Config
from lifting.datasets.poses import PoseSet
from lifting.geometry.cameras import denormalise_screens
from lifting.geometry.rays import Placed, place_people
from lifting.metrics.pose_errors import joint_errors, pose_report
from lifting.prediction import Prediction
from lifting.training.engine import predict
from lifting.training.objective import Objective

Array = NDArray[np.float64]

NOISES = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)  # pixels, of which `fitted_noise` chooses one
THINNING = 25  # of the training poses that it is fitted to, over data.stride
_CHUNK = 4096  # poses at a time
_INSIDE = 1.645  # standard deviations from the middle of a 90 % interval


@torch.no_grad()
def camera_report(
    objective: Objective, config: Config, poses: PoseSet, prediction: Prediction, pixel_noise: float | None
) -> dict[str, Any]:
    """The errors of `pose_errors.pose_report` after `rays.place_people`, which is given the intrinsics and no truth.

    ``uniform`` has the same numbers with one deviation for all joints, the root mean square of the predicted ones: what
    the camera gives without a sigma. A lifter without sigma has the first numbers only, and ``by_sigma`` says so.

    - ``pixel_noise``: of the keypoints, as given or `fitted_noise`, for each of the two its own.
    - ``coverage_90``: per cent of the coordinates in the 90 % intervals that are left, by axis of the camera.
    - ``root_mm``: the median distance of the pelvis from where it was found.
    - ``unplaced``: poses for which no place was found; they count as they were predicted.
    """
    deviation, by_sigma = deviations(objective, prediction), prediction.log_sigma is not None
    report = _scores(objective, config, poses, prediction, deviation, pixel_noise, uniform=False)
    report["by_sigma"] = by_sigma
    if by_sigma:
        report["uniform"] = _scores(objective, config, poses, prediction, deviation, pixel_noise, uniform=True)
    return report


def deviations(objective: Objective, prediction: Prediction) -> Tensor:
    """(N, J, 3) standard deviations, metres, in the axes of the prediction; 0 for joints that are known."""
    free, _ = objective.free(prediction, prediction.mu)
    found = torch.zeros_like(prediction.mu)
    found[:, objective.free_joints] = objective.likelihood.deviation(free)
    return found


def fitted_noise(objective: Objective, config: Config, *, uniform: bool) -> float:
    """The one of `NOISES` that gives the lowest error on some of the training poses, with the noise of the test.

    It is larger than the noise of the keypoints alone: the lifter saw the same keypoints, so its errors go with theirs.
    """
    data = config.data
    changes = {
        "test_path": None,
        "test_subjects": data.train_subjects,
        "test_actions": data.train_actions,
        "test_cameras": data.train_cameras,
        "test_stride": THINNING * data.stride,
    }
    alone = config.model_copy(update={"data": data.model_copy(update=changes)})
    poses = lifter.load_poses(alone, train=False).to(next(objective.parameters()).device)
    prediction = predict(objective, poses, flip_test=config.train.flip)
    deviation = deviations(objective, prediction)

    def error(noise: float) -> float:
        found, _ = place(poses, prediction.mu, _alike(deviation) if uniform else deviation, noise)
        return float((found - truth).norm(dim=-1).mean())

    truth = poses.in_camera_frame(poses.target).double()
    return min(NOISES, key=error)


def place(poses: PoseSet, mu: Tensor, deviation: Tensor, pixel_noise: float) -> tuple[Tensor, Placed]:
    """The poses in the camera frame given their rays, (N, J, 3); where none was found, as they were predicted."""
    scene = poses.scene
    parts = []
    for rows in torch.split(torch.arange(len(mu), device=mu.device), _CHUNK):
        views = scene.views[scene.camera[rows]]
        keypoints = poses.keypoints[rows]
        rays = views.rays(denormalise_screens(keypoints[..., :2].double(), views.size))
        if poses.has_mask:
            rays = rays.masked_fill(keypoints[..., 2:] == 0, torch.nan)
        angle = pixel_noise / views.focal.double().mean(1)
        arrays = (x.double().cpu().numpy() for x in (mu[rows], deviation[rows], rays, angle))
        parts.append(place_people(*arrays, about_ray=poses.has_mask))
    placed = Placed(**{name: np.concatenate([vars(part)[name] for part in parts]) for name in vars(parts[0])})
    predicted = poses.in_camera_frame(mu).double()
    found = torch.from_numpy(placed.joints).to(predicted)
    return torch.where(found.isfinite().all(-1, keepdim=True), found, predicted), placed


def _scores(
    objective: Objective,
    config: Config,
    poses: PoseSet,
    prediction: Prediction,
    deviation: Tensor,
    pixel_noise: float | None,
    *,
    uniform: bool,
) -> dict[str, Any]:
    noise = fitted_noise(objective, config, uniform=uniform) if pixel_noise is None else pixel_noise
    found, placed = place(poses, prediction.mu, _alike(deviation) if uniform else deviation, noise)
    target = poses.in_camera_frame(poses.target).double()
    errors = joint_errors(found, target)
    spread = np.sqrt(np.diagonal(placed.covariance, axis1=-2, axis2=-1))[:, objective.free_joints.cpu()]
    off = np.abs((found - target).cpu().numpy())[:, objective.free_joints.cpu()]
    seen = np.isfinite(placed.root).all(-1)
    away = np.linalg.norm(placed.root - poses.scene.root.cpu().numpy(), axis=-1)[seen]
    shares = 100 * (off < _INSIDE * spread)[seen].mean((0, 1)) if len(away) else ()
    return {
        **pose_report(errors, poses.action, poses.actions, poses.joint_set.joints),
        "pixel_noise": noise,
        "coverage_90": {axis: float(share) for axis, share in zip("xyz", shares, strict=False)},
        "root_mm": 1000 * float(np.median(away)) if len(away) else None,
        "unplaced": int((~seen).sum()),
    }


def _alike(deviation: Tensor) -> Tensor:
    """One deviation for all joints that have one: the root mean square of theirs."""
    known = deviation > 0
    return torch.where(known, deviation[known].square().mean().sqrt(), 0)


def format_camera(report: Mapping[str, Any], predicted: Mapping[str, Any]) -> str:
    """A `camera_report` as text, under the numbers of the prediction alone."""
    rows = {"the prediction alone": predicted}
    rows |= {"given its rays, by sigma" if report["by_sigma"] else "given its rays, equal weights": report}
    if "uniform" in report:
        rows["given its rays, equal weights"] = report["uniform"]
    heads = ("MPJPE", "PA-MPJPE", "MPJPE, frames", "pixel noise", "in 90 %: x", "y", "z")
    lines = [f"{'with intrinsics, mm':<30}" + "".join(f"{head:>15}" for head in heads)]
    lines.append("-" * len(lines[0]))
    for name, row in rows.items():
        cells = [f"{row[key]:.1f}" for key in ("mpjpe_mm", "pa_mpjpe_mm", "mpjpe_frame_mm")]
        if "pixel_noise" in row:
            cells += [f"{row['pixel_noise']:g}", *(f"{share:.1f}" for share in row["coverage_90"].values())]
        lines.append(f"{name:<30}" + "".join(f"{cell:>15}" for cell in cells))
    if not report["by_sigma"]:
        lines += ["", "This lifter predicts no sigma: all joints count alike."]
    if report["unplaced"]:
        lines += ["", f"{report['unplaced']:,} poses could not be placed before their camera and count as predicted."]
    return "\n".join(lines)
