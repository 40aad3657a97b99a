"""Entries of detectors' JSON, one person each, as rows of x, y, score: where every detector keeps its numbers."""

from typing import Any

import numpy as np

from lifting.command import InputError

# The key of a person's numbers: OpenPose (today's and the old), AlphaPose's "cmu" form, everybody else.
BODY_KEYS = ("pose_keypoints_2d", "pose_keypoints", "joints", "keypoints")
_SCORE_KEYS = ("keypoint_scores", "keypoints_scores", "scores", "visible", "confidence")


def is_person(node: Any) -> bool:
    """Whether a node of the JSON is one person's entry."""
    return isinstance(node, dict) and any(key in node for key in BODY_KEYS)


def person_rows(entry: dict[str, Any], where: str) -> list[np.ndarray]:
    """The (J, 3) of x, y, score in an entry: none if it is empty, several if it holds several people's arrays.

    Forms: a flat list x, y, score, x, y, score, ... (OpenPose, COCO, AlphaPose); a flat list x, y, x, y, ... with
    scores beside it; a list of [x, y], with scores beside it or without (mmpose); {"x": [...], "y": [...],
    "visible": [...]} (Ultralytics); arrays (P, J, 2) and (P, J) (rtmlib).
    """
    body = entry[next(key for key in BODY_KEYS if key in entry)]
    scores = next((entry[key] for key in _SCORE_KEYS if isinstance(entry.get(key), list)), None)
    if isinstance(body, dict):
        return _columns(body, where)
    if body is None or body == []:
        return []
    points = numbers(body, where)
    if not points.size:
        return []
    if points.ndim == 1:
        width = _width(len(points), None if scores is None else len(scores), where)
        points = points.reshape(1, -1, width)
    points = points.reshape(-1, *points.shape[-2:]) if points.ndim in (2, 3) else points
    if points.ndim != 3 or points.shape[-1] not in (2, 3):
        raise InputError(f"{where}: expected x, y and a score for each joint, got numbers of shape {points.shape}")
    if points.shape[-1] == 2:
        score = np.full((*points.shape[:-1], 1), np.nan)
        if scores is not None:
            given = numbers(scores, where)
            if given.size != score.size:
                raise InputError(f"{where}: expected a score for each of {score.size} joints, got {given.size}")
            score = given.reshape(score.shape)
        points = np.concatenate([points, score], -1)
    return list(points)


def _columns(body: dict[str, Any], where: str) -> list[np.ndarray]:
    """Ultralytics' keypoints."""
    x, y = (numbers(body.get(key, []), where) for key in ("x", "y"))
    score = next(
        (numbers(body[key], where) for key in _SCORE_KEYS if body.get(key) is not None), np.full(x.shape, np.nan)
    )
    if x.ndim != 1 or not x.shape == y.shape == score.shape:
        raise InputError(f"{where}: expected as many x as y and scores, got {x.shape}, {y.shape} and {score.shape}")
    return [np.stack([x, y, score], -1)] if len(x) else []


def _width(count: int, scores: int | None, where: str) -> int:
    """How many of the numbers of a flat list belong to a joint."""
    if scores is not None and count == 2 * scores:
        return 2
    if count % 3:
        raise InputError(f"{where}: expected x, y and a score for each joint, got {count} numbers")
    return 3


def numbers(value: Any, where: str) -> np.ndarray:
    """Nested lists as an array; None is NaN."""
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{where}: expected lists of numbers of one length, got something else ({error})") from error


def track_of(entry: dict[str, Any]) -> str | None:
    """The detector's name for the person over time: Ultralytics, mmpose and PoseTrack, OpenPose, AlphaPose."""
    for key in ("track_id", "person_id", "idx"):
        value = entry.get(key)
        while isinstance(value, list):  # OpenPose and AlphaPose write lists of one
            value = value[0] if value else None
        if isinstance(value, str) and value:
            return value
        if isinstance(value, int | float) and 0 <= value < 1e15:  # OpenPose without tracking: -1
            return str(int(value))
    return None
