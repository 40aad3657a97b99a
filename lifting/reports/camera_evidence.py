"""What the camera knows beyond the lifter: test poses brought towards the rays of their own keypoints."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from lifting import lifter
from lifting.config import Config
from lifting.datasets.poses import PoseSet
from lifting.geometry.cameras import denormalise_screens
from lifting.geometry.rays import Placed, place_people
from lifting.metrics.pose_errors import CHUNK, joint_errors, pose_report
from lifting.prediction import Prediction
from lifting.training.evaluation import predict
from lifting.training.objective import Objective

NOISES = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)  # pixels, of which `Sight.best_noise` chooses one
THINNING = 25  # of the training poses that it is fitted to, over data.stride
_INSIDE = 1.645  # standard deviations from the middle of a 90 % interval


@dataclass(frozen=True)
class Sight:
    """Poses, what a lifter predicts for them, and what their cameras see; all tensors are in float64.

    Attributes:
        poses: N poses.
        mu, deviation: (N, J, 3) metres, in the axes of the prediction; the deviation is 0 for joints that are known.
        rays: (N, J, 3) unit vectors, camera frame; NaN for a missing keypoint.
        focal: (N,) pixels.
        predicted, target: (N, J, 3) metres, camera frame, relative to the root.
    """

    poses: PoseSet
    mu: Tensor
    deviation: Tensor
    rays: Tensor
    focal: Tensor
    predicted: Tensor
    target: Tensor

    @staticmethod
    def of(objective: Objective, poses: PoseSet, prediction: Prediction) -> "Sight":
        return Sight(
            poses,
            prediction.mu.double(),
            joint_deviations(objective, prediction).double(),
            *_seen(poses),
            poses.in_camera_frame(prediction.mu).double(),
            poses.in_camera_frame(poses.target).double(),
        )

    def place(self, pixel_noise: float, *, uniform: bool) -> tuple[Tensor, Placed]:
        """The poses in the camera frame given their rays, (N, J, 3); where none was found, as they were predicted.

        With ``uniform``, all joints that are not known have one deviation: the root mean square of theirs.
        """
        deviation, known = self.deviation, self.deviation == 0
        if uniform:
            deviation = torch.where(known, 0, deviation[~known].square().mean().sqrt())
        return self._given_rays(self.mu, deviation, slice(None), pixel_noise)

    def errors_of(self, drawn: Tensor, part: slice, pixel_noise: float) -> Tensor:
        """Errors of poses that were drawn for some of the N, (n, B, J) metres, each brought to the rays on its own.

        Args:
            drawn: (n, B, J, 3) metres, in the axes of the prediction.
        """
        n, deviation = len(drawn), self.deviation[part].repeat(len(drawn), 1, 1)
        found, _ = self._given_rays(drawn.double().flatten(0, 1), deviation, part, pixel_noise, n)
        errors: Tensor = (rearrange(found, "(n b) j d -> n b j d", n=n) - self.target[part]).norm(dim=-1)
        return errors

    def _given_rays(
        self, mu: Tensor, deviation: Tensor, part: slice, pixel_noise: float, times: int = 1
    ) -> tuple[Tensor, Placed]:
        """See `place`; of poses that belong to these of the N, all of them ``times`` times."""
        rays, angle = self.rays[part].repeat(times, 1, 1), (pixel_noise / self.focal[part]).repeat(times)
        arrays = [x.cpu().numpy() for x in (mu, deviation, rays, angle)]
        starts = range(CHUNK, len(mu), CHUNK)
        parts = [
            place_people(*some, about_ray=self.poses.has_mask)
            for some in zip(*(np.split(x, starts) for x in arrays), strict=True)
        ]
        placed = Placed(**{name: np.concatenate([vars(part)[name] for part in parts]) for name in vars(parts[0])})
        found, predicted = torch.from_numpy(placed.joints).to(self.predicted), self.predicted[part].repeat(times, 1, 1)
        return torch.where(found.isfinite().all(-1, keepdim=True), found, predicted), placed

    def best_noise(self, *, uniform: bool) -> float:
        """The one of `NOISES` that gives the lowest error.

        It is larger than the noise of the keypoints alone: the lifter saw the same keypoints, so its errors go with
        theirs.
        """

        def error(noise: float) -> float:
            return float((self.place(noise, uniform=uniform)[0] - self.target).norm(dim=-1).mean())

        return min(NOISES, key=error)


@torch.no_grad()
def camera_report(
    objective: Objective, config: Config, poses: PoseSet, prediction: Prediction, pixel_noise: float | None
) -> dict[str, Any]:
    """The errors of `pose_errors.pose_report` after `rays.place_people`, which is given the intrinsics and no truth.

    ``uniform`` has the same numbers with one deviation for all joints, the root mean square of the predicted ones: what
    the camera gives without a sigma. A lifter without sigma has the first numbers only, and ``by_sigma`` says so.

    - ``pixel_noise``: of the keypoints, as given, or the best one on `training_sight`, for each of the two its own.
    - ``coverage_90``: per cent of the coordinates in the 90 % intervals that are left, by axis of the camera.
    - ``root_mm``: the median distance of the pelvis from where it was found.
    - ``unplaced``: poses for which no place was found; they count as they were predicted.
    """
    sight, free = Sight.of(objective, poses, prediction), objective.free_joints.cpu().numpy()
    training = training_sight(objective, config) if pixel_noise is None else None

    def scores(*, uniform: bool) -> dict[str, Any]:
        noise = pixel_noise if training is None else training.best_noise(uniform=uniform)
        assert noise is not None
        return _scores(sight, noise, free, uniform=uniform)

    by_sigma = prediction.log_sigma is not None
    report = {**scores(uniform=False), "by_sigma": by_sigma}
    return {**report, "uniform": scores(uniform=True)} if by_sigma else report


def training_sight(objective: Objective, config: Config) -> Sight:
    """Some of the training poses, with the noise and the missing joints of the test."""
    data = config.data
    alone = lifter.tested_on_training_file(config, data.train_subjects, test_stride=THINNING * data.stride)
    poses = lifter.load_poses(alone, train=False).to(next(objective.parameters()).device)
    return Sight.of(objective, poses, predict(objective, poses, flip_test=config.train.flip))


def joint_deviations(objective: Objective, prediction: Prediction) -> Tensor:
    """(N, J, 3) standard deviations, metres, in the axes of the prediction; 0 for joints that are known."""
    free, _ = objective.free(prediction, prediction.mu)
    return torch.zeros_like(prediction.mu).index_copy(1, objective.free_joints, objective.likelihood.deviation(free))


def _seen(poses: PoseSet) -> tuple[Tensor, Tensor]:
    """The rays of all keypoints and the focal lengths of their cameras, see `Sight`."""
    scene, rays, focal = poses.scene, [], []
    for keypoints, camera in zip(torch.split(poses.keypoints, CHUNK), torch.split(scene.camera, CHUNK), strict=True):
        views = scene.views[camera]
        rays.append(views.rays(denormalise_screens(keypoints[..., :2].double(), views.size)))
        focal.append(views.focal.double().mean(1))
    all_rays = torch.cat(rays)
    if poses.has_mask:
        all_rays = all_rays.masked_fill(poses.keypoints[..., 2:] == 0, torch.nan)
    return all_rays, torch.cat(focal)


def _scores(sight: Sight, noise: float, free: np.ndarray, *, uniform: bool) -> dict[str, Any]:
    found, placed = sight.place(noise, uniform=uniform)
    poses = sight.poses
    spread = np.sqrt(np.diagonal(placed.covariance, axis1=-2, axis2=-1))[:, free]
    off = np.abs((found - sight.target).cpu().numpy())[:, free]
    seen = np.isfinite(placed.root).all(-1)
    away = np.linalg.norm(placed.root - poses.scene.root.cpu().numpy(), axis=-1)[seen]
    shares = 100 * (off < _INSIDE * spread)[seen].mean((0, 1)) if len(away) else ()
    return {
        **pose_report(joint_errors(found, sight.target), poses.action, poses.actions, poses.joint_set.joints),
        "pixel_noise": noise,
        "coverage_90": {axis: float(share) for axis, share in zip("xyz", shares, strict=False)},
        "root_mm": 1000 * float(np.median(away)) if len(away) else None,
        "unplaced": int((~seen).sum()),
    }


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
