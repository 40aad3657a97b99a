"""Predicted joints in pictures, scored by the measures of 2D pose and drawn."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lifting.command import InputError, needing
from lifting.config import SingleStageConfig
from lifting.datasets.decode import decode
from lifting.datasets.image_index import read_encoded
from lifting.datasets.image_set import ImageSet, evenly, in_own_picture, select
from lifting.geometry.crops import crop_labels, extent, picture_points
from lifting.metrics.oks import average_precision, oks, results
from lifting.metrics.pckh import format_pckh
from lifting.metrics.pose_errors import pearson
from lifting.prediction import Prediction
from lifting.reports.image_evaluation import deviation_of, pckh_of
from lifting.training.objective import ImageObjective

DRAWN = 8  # people in a figure


@torch.no_grad()
def keypoint_report(
    objective: ImageObjective,
    images: ImageSet,
    prediction: Prediction,
    matrix: Tensor,
    config: SingleStageConfig,
    truth: dict[str, Any] | None,
) -> dict[str, Any]:
    """The numbers of predicted joints in pictures.

    ``nme_percent`` is the mean error of labelled joints over the square root of the box's area (the normalised mean
    error), ``nll`` the normalised negative log-likelihood of a joint in nats, in the coordinates of the crop,
    ``sigma_error_r`` Pearson's r of a joint's mean sigma and its error, both in units of the crop. On COCO also
    `oks.average_precision`, ``oks`` (the mean, in percent) and ``confidence_oks_r``, Pearson's r of a person's
    confidence and OKS (Tab. 4 of the RLE paper); on MPII `pckh.pckh_report`. What needs labels is left out for
    detected boxes.

    Args:
        truth: of pictures of COCO, what `truth_of` found for them.

    Raises:
        InputError: pycocotools is not installed.
    """
    size = config.data.size
    pixels = picture_points(prediction.mu.double(), matrix, size)
    labelled = torch.from_numpy(images.labelled)
    report: dict[str, Any] = {"n_people": len(images)}
    error = (pixels - torch.from_numpy(images.keypoints).double()).norm(dim=-1)
    if labelled.any():
        side = torch.from_numpy(images.box[:, 2:]).double().prod(1).sqrt()
        report["nme_percent"] = 100 * float((error / side[:, None])[labelled].mean())
        report |= _density_numbers(objective, images, prediction, matrix, config)
    if np.isfinite(images.head_size).any():
        report |= pckh_of(images, pixels)
    if truth is None:
        return report
    confidence = prediction.confidence.double()
    if images.area is not None and labelled.any():
        with_labels = labelled.any(1)
        similarity = oks(error, labelled, torch.from_numpy(images.area).double())[with_labels]
        report["oks"] = 100 * float(similarity.mean())
        report["confidence_oks_r"] = pearson(confidence.mean(1)[with_labels], similarity)
    found = coco_results(images, prediction, matrix, config)
    return report | average_precision(truth, found)


def _density_numbers(
    objective: ImageObjective, images: ImageSet, prediction: Prediction, matrix: Tensor, config: SingleStageConfig
) -> dict[str, float]:
    """``nll`` and ``sigma_error_r`` of the labelled joints; nothing for a network without a density."""
    if objective.density is None:
        return {}
    labelled = torch.from_numpy(images.labelled)
    keypoints = torch.from_numpy(images.keypoints).double()
    uv = crop_labels(keypoints, torch.zeros(labelled.shape, dtype=torch.float64), matrix, config.data.size)
    target = uv[..., :2].float()[labelled][None]
    device = next(objective.parameters()).device
    mu, log_sigma = prediction.mu[labelled][None], None
    if prediction.log_sigma is not None:
        log_sigma = prediction.log_sigma[labelled][None].to(device)
    log_prob = objective.density.log_prob(Prediction(mu.to(device), log_sigma), target.to(device))
    numbers = {"nll": -float(log_prob.mean())}
    if log_sigma is not None:
        numbers["sigma_error_r"] = pearson(log_sigma.exp().mean(-1).cpu(), (mu - target).norm(dim=-1))
    return numbers


def coco_results(
    images: ImageSet, prediction: Prediction, matrix: Tensor, config: SingleStageConfig
) -> list[dict[str, Any]]:
    """`oks.results` of a set of COCO, in pixels of the pictures as COCO has them."""
    assert images.picture is not None and images.score is not None
    pixels = in_own_picture(images, picture_points(prediction.mu.double(), matrix, config.data.size).numpy())
    area = images.box[:, 2:].astype(np.float64).prod(1)
    if images.cut is not None:
        area = area / images.cut[:, 2:].prod(1)
    confidence = prediction.confidence.double().numpy()
    return results(images.picture, pixels, confidence, images.score.astype(np.float64), area)


def truth_of(images: ImageSet, truth: Mapping[str, Any] | None, untested: Collection[int] = ()) -> dict[str, Any]:
    """The annotations that AP of these pictures of COCO is measured against.

    Args:
        truth: what `coco_truth.read_truth` has of the pictures' index.
        untested: ids of pictures of the same part that are left out, whose people are not to be found.

    Raises:
        InputError: there are none, or the pictures are of several parts, which share annotations; pycocotools is not
            installed.
    """
    with needing("COCO's AP"):
        import pycocotools  # noqa: F401 - otherwise a training would miss it only after its first epoch
    parts = [str(part) for part in np.unique(images.part)]
    if truth is None or not set(parts) <= truth.keys():
        there = ", ".join(truth or ()) or "none"
        raise InputError(f"expected annotations to measure AP of {', '.join(parts)} against, got {there}")
    if len(parts) > 1:
        raise InputError(f"data.test_parts: expected one part, because AP is of one set of boxes, got {len(parts)}")
    annotated = dict(truth[parts[0]])
    assert images.picture is not None
    strange = set(images.picture.tolist()) - {int(picture["id"]) for picture in annotated["images"]}
    if strange:
        raise InputError(f"expected annotations of every picture, got none of {len(strange):,}, such as {min(strange)}")
    for what, key in (("images", "id"), ("annotations", "image_id")):
        annotated[what] = [entry for entry in annotated[what] if int(entry[key]) not in untested]
    return annotated


def format_keypoints(report: Mapping[str, Any]) -> str:
    """A `keypoint_report` as lines for the screen."""
    lines = [f"2D, {report['n_people']:,} people"]
    if "nme_percent" in report:
        lines[0] += f": error {report['nme_percent']:.2f} % of the box (NME)"
    if "oks" in report:
        lines.append(f"OKS {report['oks']:.1f} %, r(confidence, OKS) {report['confidence_oks_r']:.2f}")
    if "ap" in report:
        names = {"ap": "AP", "ap_50": "AP50", "ap_75": "AP75", "ap_medium": "AP(M)", "ap_large": "AP(L)", "ar": "AR"}
        known = [f"{name} {report[key]:.1f}" for key, name in names.items() if np.isfinite(report[key])]
        lines.append(f"COCO: {', '.join(known)}")
    if "pckh_50" in report:
        lines.append(format_pckh(report))
    return "\n".join(lines)


def draw_keypoints(
    path: Path,
    objective: ImageObjective,
    images: ImageSet,
    prediction: Prediction,
    matrix: Tensor,
    config: SingleStageConfig,
) -> None:
    """A figure of test pictures, evenly spread over the set, with what is predicted in them."""
    from lifting.drawing.keypoint_figures import DrawnKeypoints, draw_keypoint_figures  # with Matplotlib

    places = evenly(images, DRAWN)
    some = select(images, places)
    chosen = prediction.rows(torch.from_numpy(places))
    pixels = picture_points(chosen.mu.double(), matrix[places], config.data.size).numpy()
    deviation = pixel_deviation(objective, chosen, matrix[places], config)
    people = []
    for row in range(len(some)):
        labels = np.where(some.labelled[row, :, None], some.keypoints[row], np.nan)
        people.append(
            DrawnKeypoints(
                title=Path(str(some.files[row])).name,
                picture=decode(read_encoded(some, row), str(some.files[row])),
                box=some.box[row].astype(np.float64),
                keypoints=pixels[row],
                deviation=None if deviation is None else deviation[row],
                labels=labels.astype(np.float64),
            )
        )
    draw_keypoint_figures(path, people, images.joint_set)


def pixel_deviation(
    objective: ImageObjective, prediction: Prediction, matrix: Tensor, config: SingleStageConfig
) -> NDArray[np.float64] | None:
    """The standard deviation of u and v in pixels of the picture, (N, J, 2); None from a network without sigma."""
    if prediction.log_sigma is None:
        return None
    zoom = torch.linalg.det(matrix[:, :, :2]).abs().sqrt()
    whole = torch.tensor(extent(config.data.size), dtype=torch.float64)
    spread: Tensor = deviation_of(objective, prediction)[..., :2].double() * whole / zoom[:, None, None]
    return spread.numpy()
