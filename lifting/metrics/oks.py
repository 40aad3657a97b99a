"""Object keypoint similarity (OKS), COCO's measure of joints in pictures, and the average precision built on it.

For a person of area s^2, pixels, whose labelled joints are off by d_j, and COCO's constants k_j (the spread of its
annotators, times two)::

    OKS = mean over labelled j of exp(-d_j^2 / (2 s^2 k_j^2))
"""

import contextlib
import io
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lifting.command import needing

# k_j / 2, in the order of `skeleton.COCO17`.
SIGMAS = (
    0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089,
    0.089,
)  # fmt: skip
SAME = 0.9  # OKS from which two detections are of one person, as in SimplePose, HRNet and RLE
AP_NAMES = ("ap", "ap_50", "ap_75", "ap_medium", "ap_large", "ar", "ar_50", "ar_75", "ar_medium", "ar_large")


def oks(error: Tensor, labelled: Tensor, area: Tensor) -> Tensor:
    """(N,) OKS of each person, in [0, 1]; NaN without a labelled joint.

    Args:
        error: (N, 17) pixels, of `skeleton.COCO17`; anything where a joint is not labelled.
        labelled: (N, 17) bool.
        area: (N,) square pixels.

    Raises:
        ValueError: shapes that do not fit.
    """
    if error.shape != labelled.shape or error.shape != (len(area), len(SIGMAS)):
        got = f"{tuple(error.shape)}, {tuple(labelled.shape)}, {tuple(area.shape)}"
        raise ValueError(f"error, labelled, area: expected (N, {len(SIGMAS)}), the same, (N,), got {got}")
    spread = 2 * torch.tensor(SIGMAS, dtype=error.dtype, device=error.device)
    near = torch.exp(-error.square() / (2 * area[:, None] * spread.square()))
    return torch.where(labelled, near, 0).sum(1) / labelled.sum(1)


def keep_best(pixels: NDArray[np.float64], score: NDArray[np.float64], area: NDArray[np.float64]) -> NDArray[np.int64]:
    """The rows of one picture's detections that stay when each person has only one: OKS-NMS.

    From the highest score on, every detection whose OKS with a kept one is above `SAME` goes. Each pair's area is the
    mean of both.

    Args:
        pixels: (N, 17, 2).
        score: (N,).
        area: (N,) square pixels, of the boxes.

    Returns:
        row numbers, by falling score.
    """
    left = np.argsort(-score, kind="stable")
    kept = []
    all_joints = torch.ones(1, len(SIGMAS), dtype=torch.bool)
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        error = torch.from_numpy(np.linalg.norm(pixels[left] - pixels[best], axis=-1))
        pair = torch.from_numpy((area[left] + area[best]) / 2)
        left = left[(oks(error, all_joints.expand(len(left), -1), pair) <= SAME).numpy()]
    return np.array(kept, dtype=np.int64)


def results(
    picture: NDArray[np.int64],
    pixels: NDArray[np.float64],
    confidence: NDArray[np.float64],
    box_score: NDArray[np.float64],
    area: NDArray[np.float64],
) -> list[dict[str, Any]]:
    """Detections in the layout that COCO's server takes, one of each person (`keep_best`).

    A detection's score is its box's times its joints' mean confidence (Eq. 9 of the RLE paper). In place of COCO's flag
    of visibility stands each joint's confidence.

    Args:
        picture: (N,) COCO's ids of the pictures.
        pixels: (N, 17, 2) in those pictures.
        confidence: (N, 17) in [0, 1].
        box_score: (N,).
        area: (N,) square pixels, of the boxes.
    """
    score = box_score * confidence.mean(1)
    made = []
    order = np.argsort(picture, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(picture[order])) + 1):
        for row in rows[keep_best(pixels[rows], score[rows], area[rows])].tolist():
            joints = np.concatenate([pixels[row], confidence[row, :, None]], 1)
            made.append({
                "image_id": int(picture[row]), "category_id": 1,
                "keypoints": joints.ravel().tolist(), "score": float(score[row]),
            })  # fmt: skip
    return made


def average_precision(truth: dict[str, Any], found: list[dict[str, Any]]) -> dict[str, float]:
    """COCO's AP and AR of keypoints, in percent, by pycocotools.

    Args:
        truth: annotations in COCO's layout.
        found: of `results`.

    Returns:
        `AP_NAMES`: AP and AR over OKS of 0.5 to 0.95, at 0.5 and 0.75, of people of medium and large area; NaN where
        there are no such people.

    Raises:
        InputError: pycocotools is not installed.
    """
    with needing("COCO's AP"):
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    with contextlib.redirect_stdout(io.StringIO()):
        annotated = COCO()
        annotated.dataset = truth  # type: ignore[assignment]
        annotated.createIndex()
        evaluation = COCOeval(annotated, annotated.loadRes(found), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    stats = np.where(evaluation.stats < 0, np.nan, evaluation.stats)
    return dict(zip(AP_NAMES, (100 * stats).tolist(), strict=True))
