"""Predictions on pictures: made, taken into space, scored, drawn."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lifting.command import InputError
from lifting.config import SingleStageConfig
from lifting.datasets.augment import ROOT
from lifting.datasets.decode import decode
from lifting.datasets.image_batches import crop_batches
from lifting.datasets.image_index import read_encoded
from lifting.datasets.image_set import ImageSet, evenly, select
from lifting.geometry.crops import DEPTH, Size, camera_points, crop_labels, extent, picture_points
from lifting.geometry.h36m import action_of
from lifting.geometry.joint_maps import h36m18_to_mpii16
from lifting.geometry.skeleton import H36M17, MPII16
from lifting.metrics.bones import bone_report
from lifting.metrics.pckh import pckh_report
from lifting.metrics.pose_errors import joint_errors, pearson, pose_report
from lifting.prediction import Prediction
from lifting.training import ranks
from lifting.training.evaluation import mean_of_mirrored
from lifting.training.objective import ImageObjective
from lifting.training.steps import autocast

BATCH = 64  # pictures at a time
DRAWN = 4  # pictures in a figure


@torch.no_grad()
def predict(
    objective: ImageObjective,
    images: ImageSet,
    config: SingleStageConfig,
    *,
    box: NDArray[np.float32] | None = None,
    paint: Callable[[NDArray[np.uint8], int], None] | None = None,
) -> tuple[Prediction, Tensor]:
    """What is predicted for every picture, in the coordinates of its crop, and the crops' matrices.

    The ranks share the work; each returns the whole, on the CPU.

    Args:
        box: (N, 4) in place of the set's own.
        paint: changes a crop (H, W, 3) of a row before the network sees it.

    Returns:
        the prediction, (N, J, D), and (N, 2, 3).
    """
    objective.eval()
    device, joints = next(objective.parameters()).device, len(objective.joint_set)
    has_depth = torch.full((joints,), images.points is not None, device=device)
    has_depth[ROOT] = False
    none = torch.empty(0, joints, objective.dims, device=device)  # a rank may have no pictures
    found = [
        Prediction(none, none if objective.has_sigma else None, peak=none[..., 0] if objective.has_peaks else None)
    ]
    matrices = [torch.empty(0, 2, 3, dtype=torch.float64)]
    for batch in crop_batches(
        images,
        config.data.size,
        BATCH,
        config.data.workers,
        ranks.rank(),
        ranks.world(),
        box=box,
        paint=paint,
    ):
        found.append(predict_crops(objective, batch.image.to(device, non_blocking=True), has_depth, config))
        matrices.append(batch.matrix)

    def whole(rows: Tensor | None) -> Tensor | None:
        return None if rows is None else ranks.gather_rows(rows.to(device), len(images), BATCH).cpu()

    mine = Prediction.cat(found)
    mu, matrix = whole(mine.mu), whole(torch.cat(matrices))
    assert mu is not None and matrix is not None
    return Prediction(mu, whole(mine.log_sigma), peak=whole(mine.peak)), matrix


@torch.no_grad()
def predict_crops(objective: ImageObjective, crops: Tensor, has_depth: Tensor, config: SingleStageConfig) -> Prediction:
    """The prediction of (B, 3, H, W) uint8 crops, with ``train.flip`` the mean over the mirror image too."""
    if config.train.channels_last:
        crops = crops.contiguous(memory_format=torch.channels_last)
    with autocast(crops.device, config.train.precision):
        straight = objective.predict(crops, has_depth)
        if not config.train.flip:
            return straight
        return mean_of_mirrored(straight, objective.predict(crops.flip(-1), has_depth), objective.joint_set)


@torch.no_grad()
def deep_report(
    objective: ImageObjective, images: ImageSet, prediction: Prediction, matrix: Tensor, config: SingleStageConfig
) -> dict[str, Any]:
    """What `pose_errors.pose_report` and `bones.bone_report` have, on 17 of the 18 joints.

    Box, intrinsics and the depth of the root are given, as the field has it. ``nll`` is the normalised negative
    log-likelihood of a joint in nats, in the coordinates of the crop, ``sigma_error_r`` Pearson's r of a joint's mean
    sigma and its error, both in metres; both leave the root out.
    """
    mu, sigma = in_metres(prediction, matrix, images, config.data.size)
    errors = joint_errors(mu[:, :17], root_relative(images)[:, :17])
    report = report_by_action(images, errors)
    recordings = list(zip(images.part, images.sequence, images.camera, strict=True))
    number = {recording: i for i, recording in enumerate(dict.fromkeys(recordings))}
    report |= bone_report(mu[:, :17], H36M17, torch.tensor([number[recording] for recording in recordings]))
    labels = crop_labels_of(images, matrix, config.data.size)
    free = slice(ROOT + 1, 17)
    log_sigma = None if prediction.log_sigma is None else prediction.log_sigma[:, free]
    device = next(objective.parameters()).device
    likelihood = objective.density
    assert likelihood is not None
    near = Prediction(prediction.mu[:, free].to(device), None if log_sigma is None else log_sigma.to(device))
    report["nll"] = -float(likelihood.log_prob(near, labels[:, free].to(device)).mean())
    if sigma is not None:
        report["sigma_error_r"] = pearson(sigma[:, free].mean(-1), errors["mpjpe"][:, free])
    return report


def report_by_action(images: ImageSet, errors: dict[str, Tensor]) -> dict[str, Any]:
    """`pose_errors.pose_report` of the errors of 17 joints in pictures with 3D labels."""
    actions = [action_of(sequence) for sequence in images.sequence]
    names = sorted(set(actions))
    index = torch.tensor([names.index(action) for action in actions])
    return pose_report(errors, index, names, H36M17.joints)


def in_metres(prediction: Prediction, matrix: Tensor, images: ImageSet, size: Size) -> tuple[Tensor, Tensor | None]:
    """Predictions in the camera frame, relative to the root, and their sigma: (N, 18, 3) float64 metres.

    A sigma of u and v is taken at the depth of the root.
    """
    focal, center, root_depth = _camera(images)
    mu = camera_points(prediction.mu.double(), matrix, size, focal, center, root_depth)
    if prediction.sigma is None:
        return mu - mu[:, ROOT : ROOT + 1], None
    side, _ = extent(size)
    pixels = side / torch.linalg.det(matrix[:, :, :2]).abs().sqrt()  # the crop's side in the picture
    across = pixels[:, None] / focal * root_depth[:, None]
    metres = torch.cat([across, torch.full_like(root_depth, DEPTH)[:, None]], -1)
    return mu - mu[:, ROOT : ROOT + 1], prediction.sigma.double() * metres[:, None]


def root_relative(images: ImageSet) -> Tensor:
    """The 3D labels, (N, 18, 3) float64 metres."""
    points = torch.from_numpy(images.points).double()
    return points - points[:, ROOT : ROOT + 1]


def crop_labels_of(images: ImageSet, matrix: Tensor, size: Size) -> Tensor:
    """The labels of pictures with 3D, (N, 18, 3) float32, in the coordinates of their crops."""
    return crop_labels(torch.from_numpy(images.keypoints).double(), root_relative(images)[..., 2], matrix, size).float()


def _camera(images: ImageSet) -> tuple[Tensor, Tensor, Tensor]:
    focal, center, points = (torch.from_numpy(x).double() for x in (images.focal, images.center, images.points))
    return focal, center, points[:, ROOT, 2]


def mean_pose_error(training: ImageSet, test: ImageSet) -> float:
    """MPJPE in millimetres, mean over the test pictures, of the mean training pose: what to know nothing is worth."""
    mean = root_relative(training)[:, :17].mean(0)
    return 1000 * float((mean - root_relative(test)[:, :17]).norm(dim=-1).mean())


def flat_report(objective: ImageObjective, images: ImageSet, config: SingleStageConfig) -> dict[str, Any]:
    """MPII's measure, `pckh.pckh_report`, on pictures with 2D labels.

    Raises:
        InputError: nobody's head's size is known.
    """
    if not np.isfinite(images.head_size).any():
        raise InputError("PCKh: expected people whose head's size is known (prepare MPII with gt_valid.mat), got none")
    prediction, matrix = predict(objective, images, config)
    return pckh_of(images, picture_points(prediction.mu.double(), matrix, config.data.size))


def pckh_of(images: ImageSet, pixels: Tensor) -> dict[str, Any]:
    """`pckh.pckh_report` of joints in pictures, (N, J, 2) pixels, of Human3.6M's 18 joints or MPII's 16."""
    target, labelled = torch.from_numpy(images.keypoints).double(), torch.from_numpy(images.labelled)
    if images.joint_set != MPII16:
        pixels, target = h36m18_to_mpii16(pixels), h36m18_to_mpii16(target)
        labelled = h36m18_to_mpii16(labelled[..., None])[..., 0]
    head_size = torch.from_numpy(images.head_size).double()
    return pckh_report((pixels - target).norm(dim=-1), labelled, head_size, MPII16.joints)


def draw(
    path: Path,
    objective: ImageObjective,
    images: ImageSet,
    prediction: Prediction,
    matrix: Tensor,
    config: SingleStageConfig,
) -> None:
    """A figure of test pictures, evenly spread over the set, with what is predicted in them and in space."""
    from lifting.drawing.pose_figures import DrawnPose, draw_poses  # Matplotlib takes as long as a small evaluation

    places = evenly(images, DRAWN)
    some, matrix = select(images, places), matrix[places]
    prediction = prediction.rows(torch.from_numpy(places))
    mu, _ = in_metres(prediction, matrix, some, config.data.size)
    deviation = None
    if prediction.log_sigma is not None:
        spread = deviation_of(objective, prediction)
        deviation = in_metres(Prediction(prediction.mu, spread.log()), matrix, some, config.data.size)[1]
    pixels, target = picture_points(prediction.mu, matrix, config.data.size), root_relative(some)
    poses = []
    for row in range(len(some)):
        picture = decode(read_encoded(some, row), str(some.files[row]))
        poses.append(
            DrawnPose(
                title=f"{some.part[row]} {some.sequence[row]}",
                keypoints=pixels[row, :17].numpy(),
                size=(picture.shape[1], picture.shape[0]),
                target=target[row, :17].numpy(),
                mu=mu[row, :17].numpy(),
                sigma=None if deviation is None else deviation[row, :17].numpy(),
                picture=picture,
            )
        )
    draw_poses(path, poses)


def deviation_of(objective: ImageObjective, prediction: Prediction) -> Tensor:
    """The standard deviation of every coordinate that a prediction on the CPU stands for, (N, J, D), on the CPU."""
    device = next(objective.parameters()).device
    log_sigma = None if prediction.log_sigma is None else prediction.log_sigma.to(device)
    assert objective.density is not None
    return objective.density.deviation(Prediction(prediction.mu.to(device), log_sigma)).cpu()
