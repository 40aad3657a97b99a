"""How well a 2D network and a lifter in a row find joints in space, and what handing on the 2D sigma is worth."""

import time
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lifting.command import InputError
from lifting.config import SingleStageConfig
from lifting.datasets.image_set import ImageSet
from lifting.geometry.crops import picture_points
from lifting.geometry.rays import place_people, ray_frame
from lifting.geometry.skeleton import H36M17
from lifting.inference.lifter import Lifter
from lifting.inference.picture_lifter import lift_draws, lifter_keypoints
from lifting.inference.root import PLACE
from lifting.metrics.pose_errors import joint_errors
from lifting.reports.image_evaluation import predict, report_by_action, root_relative
from lifting.reports.keypoint_evaluation import pixel_deviation
from lifting.reports.robustness import cut_box
from lifting.training.objective import ImageObjective

Array = NDArray[np.float64]

LEVELS = (50, 90)  # percent, of central intervals
# What is done with the 2D network's sigma.
VARIANTS = {
    "alone": "the keypoints lifted, sigma ignored",
    "even": "draws, the same noise for every joint",
    "sigma": "draws, each joint's own 2D sigma",
    "rays": "the keypoints lifted, then drawn to rays",
    "sigma_rays": "draws by 2D sigma, then drawn to rays",
}


def picture_report(
    objective: ImageObjective, config: SingleStageConfig, images: ImageSet, lifter: Lifter, *, cut: float = 0.0
) -> dict[str, Any]:
    """Errors in space of joints that a 2D network finds in pictures and a lifter lifts, with the true intrinsics.

    The root's depth is not given. The 2D sigma is handed on by lifting draws of the keypoints
    (`picture_lifter.lift_draws`), or as the noise of the rays that joints are brought to (`geometry.rays`). Who cannot
    be placed in front of the camera keeps the lifter's joints, turned by the ray of the pelvis' keypoint. The
    ``even`` noise is the root mean square of all predicted 2D deviations, so that ``sigma`` differs from it only in
    which joint is trusted more.

    Args:
        images: with 3D labels.
        cut: share of the box's side that leaves the lower part of the person out, see `robustness.cut_box`.

    Returns:
        for each of `VARIANTS` `pose_errors.pose_report` and ``coverage``, percent of the coordinates within central
        intervals of `LEVELS` percent; ``seconds`` a picture; ``cut``; ``not_placed``, how many people one of
        the two variants with rays could not place.

    Raises:
        InputError: pictures without 3D labels; a 2D network without sigma; a lifter that needs the picture's size.
    """
    if images.points is None or images.focal is None or images.center is None:
        raise InputError(f"evaluate: --lifter: expected pictures with 3D labels, got {config.data.path}")
    if not lifter.takes_missing:
        raise InputError(f"evaluate: --lifter: expected one trained with model.input=person, got {lifter.checkpoint}")
    box = cut_box(images.box, cut) if cut else None
    start = time.perf_counter()
    prediction, matrix = predict(objective, images, config, box=box)
    spread = pixel_deviation(objective, prediction, matrix, config)
    if spread is None:
        raise InputError("evaluate: --lifter: expected a 2D network with sigma, got one without")
    found = picture_points(prediction.mu.double(), matrix, config.data.size).numpy()
    pixels, deviation = lifter_keypoints(found, spread, images.joint_set)
    assert deviation is not None
    size = 2 * images.center.astype(np.float64)  # any will do: the lifter sees people relative to themselves
    focal, center = (x[:, None].astype(np.float64) for x in (images.focal, images.center))
    rays = np.concatenate([(pixels - center) / focal, np.ones((*pixels.shape[:-1], 1))], -1)
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    of_focal = np.sqrt(images.focal.astype(np.float64).prod(1))[:, None]
    even = np.full_like(deviation, np.sqrt(np.square(deviation).mean()))
    lifted = {"alone": lifter.lift(pixels, size), "even": lift_draws(lifter, pixels, even, size)}
    lifted["sigma"] = lift_draws(lifter, pixels, deviation, size)
    report: dict[str, Any] = {"cut": cut, "even_px": float(even[0, 0]), "not_placed": 0}
    turn = np.swapaxes(ray_frame(rays[:, H36M17.root]), -1, -2)  # from the axes about the pelvis' ray to the camera's
    if lifter.axes != "ray":
        turn = np.broadcast_to(np.eye(3), turn.shape)
    in_camera = {}
    for name, pose in lifted.items():
        turned = np.sqrt(np.einsum("nab,njb->nja", np.square(turn), np.square(pose.deviation)))
        in_camera[name] = np.einsum("nab,njb->nja", turn, pose.joints), turned
        report[name] = _scores(images, *in_camera[name])
    for name, first in (("rays", "alone"), ("sigma_rays", "sigma")):
        joints, spread_3d = (x.astype(np.float64) for x in (lifted[first].joints, lifted[first].deviation))
        angle = deviation / of_focal
        placed = place_people(joints, spread_3d, rays, angle, about_ray=lifter.axes == "ray", place=PLACE)
        shrunk = np.sqrt(np.diagonal(placed.covariance, axis1=-2, axis2=-1))
        has_place: NDArray[np.bool_] = np.isfinite(placed.root[:, :1, None])
        after = (np.where(has_place, *pair) for pair in zip((placed.joints, shrunk), in_camera[first], strict=True))
        report[name] = _scores(images, *after)
        report["not_placed"] = max(report["not_placed"], int((~has_place).sum()))
    report["seconds"] = (time.perf_counter() - start) / len(images)
    return report


def _scores(images: ImageSet, joints: Array, deviation: Array) -> dict[str, Any]:
    """The report of root-relative joints in camera axes, (N, 17, 3) metres."""
    truth = root_relative(images)[:, : len(H36M17)]
    errors = joint_errors(torch.from_numpy(joints), truth)
    off = np.abs(joints - truth.numpy())[:, 1:] / np.maximum(deviation[:, 1:], 1e-9)
    coverage = {str(level): 100 * float((off < NormalDist().inv_cdf(0.5 + level / 200)).mean()) for level in LEVELS}
    return {**report_by_action(images, errors), "coverage": coverage}


def format_picture_report(report: Mapping[str, Any]) -> str:
    """The variants as a table for the screen."""
    head = f"{'millimetres, mean over all frames':<42}{'MPJPE':>8}{'PA-MPJPE':>10}" + "".join(
        f"{f'in {level} %':>10}" for level in LEVELS
    )
    lines = [head]
    for name, text in VARIANTS.items():
        row = report[name]
        shares = "".join(f"{row['coverage'][str(level)]:>10.0f}" for level in LEVELS)
        lines.append(f"{text:<42}{row['mpjpe_frame_mm']:>8.1f}{row['pa_mpjpe_frame_mm']:>10.1f}{shares}")
    lines.append(f"{1000 * report['seconds']:.1f} ms a picture; mean 2D deviation {report['even_px']:.1f} px")
    if report["not_placed"]:
        lines.append(f"{report['not_placed']} people could not be placed in space and keep the lifter's joints")
    return "\n".join(lines)
