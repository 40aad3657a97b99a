"""Keypoints in numpy's files: plain arrays, this project's own ``.npz``, and those of VideoPose3D.

This project's ``.npz`` has plain arrays under these keys; all but the first may be left out:

===============  =====================================================================================================
``keypoints``    (T, J, 2), (T, J, 3), (T, P, J, 2) or (T, P, J, 3): x, y[, score] in pixels, NaN where missing
``scores``       (T, J) or (T, P, J) where ``keypoints`` has none; ``keypoint_scores`` and ``confidence`` mean the same
``size``         (2,) width and height of the picture
``fps``          frames a second
``joint_set``    "coco17", "h36m17", "coco18", "body25" or "halpe26"
``frames``       (T,) names of the frames
``people``       (P,) names of the people
===============  =====================================================================================================
"""

from pathlib import Path
from typing import Any

import numpy as np

from lifting.command import InputError, whole_file
from lifting.keypoints.detections import Keypoints
from lifting.keypoints.joint_sets import DETECTED
from lifting.keypoints.people import Arranged, Found, Reading
from lifting.safe_npz import npz_keys, read_npy, read_npz

_SCORES = ("scores", "keypoint_scores", "confidence")


def write_keypoints(path: Path, keypoints: Keypoints) -> None:
    """Writes ``keypoints`` as this project's ``.npz``, whole or not at all; `read_array_file` reads it back."""
    content: dict[str, Any] = {
        "keypoints": keypoints.points,
        "frames": np.array(keypoints.frames),
        "people": np.array(keypoints.people),
    }
    if keypoints.has_scores:
        content["scores"] = keypoints.confidence
    if keypoints.size is not None:
        content["size"] = np.array(keypoints.size)
    if keypoints.frame_rate is not None:
        content["fps"] = np.array(keypoints.frame_rate)
    with whole_file(path) as temporary, open(temporary, "wb") as stream:
        np.savez_compressed(stream, joint_set=np.array(keypoints.joint_set), **content)


def read_array_file(path: Path) -> Reading:
    """A ``.npy`` or ``.npz`` file, told apart by content.

    Raises:
        InputError: the file is broken, has no keypoints, or an array has another shape.
    """
    with open(path, "rb") as stream:
        is_npy = stream.read(6) == b"\x93NUMPY"
    if is_npy:
        array = read_npy(path)
        return Reading(with_time(array, None, str(path)), f"an array of {array.shape}")
    keys = npz_keys(path)
    if "positions_2d" in keys:
        return _videopose(path)
    if {"keypoints", "boxes", "metadata"} <= set(keys):
        return _detectron(path)
    return _own(path, keys)


def with_time(array: Any, scores: Any, where: str) -> Arranged:
    """(J, C), (T, J, C) or (T, P, J, C) with C = 2 or 3, and scores without the last axis -> people over time."""
    points = _numbers(array, "keypoints", where)
    if points.ndim not in (2, 3, 4) or points.shape[-1] not in (2, 3) or 0 in points.shape:
        advice = "; the axes seem to be swapped" if points.ndim >= 2 and points.shape[-2] in (2, 3) else ""
        raise InputError(
            f"{where}: expected keypoints (frames, joints, 2 or 3) or (frames, people, joints, 2 or 3), "
            f"got {points.shape}{advice}"
        )
    if scores is not None:
        score = _numbers(scores, "scores", where)
        if points.shape[-1] == 3 or score.shape not in (points.shape[:-1], (*points.shape[:-1], 1)):
            raise InputError(
                f"{where}: expected keypoints (..., joints, 2) and scores without the last axis, got "
                f"{points.shape} and {score.shape}"
            )
        points = np.concatenate([points, score.reshape(*points.shape[:-1], 1)], -1)
    if points.shape[-1] == 2:
        points = np.concatenate([points, np.full((*points.shape[:-1], 1), np.nan)], -1)
    if points.ndim < 4:
        points = points.reshape(-1, 1, *points.shape[-2:])
    frames, people = (tuple(map(str, range(count))) for count in points.shape[:2])
    return Arranged(points, frames, people, "")


def _numbers(array: Any, what: str, where: str) -> np.ndarray:
    given = np.asarray(array)
    if given.dtype.kind not in "iuf":
        raise InputError(f"{where}: expected {what} as real numbers, got an array of type {given.dtype}")
    return given.astype(np.float64)


def _own(path: Path, keys: list[str]) -> Reading:
    where = str(path)
    key = "keypoints" if "keypoints" in keys else keys[0] if len(keys) == 1 else ""
    if not key:
        raise InputError(f"{where}: expected an array called keypoints, got {', '.join(keys) or 'no arrays'}")
    scores = next((name for name in _SCORES if name in keys), None)
    arranged = with_time(read_npz(path, key), None if scores is None else read_npz(path, scores), where)
    extra = {name: np.asarray(read_npz(path, name)) for name in ("size", "fps", "joint_set") if name in keys}
    names = [_names(path, keys, name, count) for name, count in zip(("frames", "people"), arranged.values.shape[:2],
                                                                    strict=True)]  # fmt: skip
    arranged = Arranged(arranged.values, names[0] or arranged.frames, names[1] or arranged.people, "")
    named = extra.get("joint_set")
    joint_set = None if named is None else str(_text(named).item() if named.size == 1 else named.tolist())
    if joint_set is not None and joint_set not in DETECTED:
        raise InputError(f"{where}: expected joint_set to be one of {', '.join(DETECTED)}, got {joint_set!r}")
    size = extra.get("size")
    if size is not None and (size.shape != (2,) or size.dtype.kind not in "iuf" or not np.isfinite(size).all()):
        raise InputError(f"{where}: expected size as (width, height) in pixels, got {size.tolist()}")
    rate = extra.get("fps")
    if rate is not None and not (rate.size == 1 and rate.dtype.kind in "iuf" and 0 < rate.item() < np.inf):
        raise InputError(f"{where}: expected fps as one positive number, got {rate.tolist()}")
    return Reading(
        arranged,
        f"an npz with {key} of {arranged.values.shape}",
        joint_set,
        None if size is None else (round(float(size[0])), round(float(size[1]))),
        None if rate is None else float(rate.item()),
    )


def _names(path: Path, keys: list[str], key: str, count: int) -> tuple[str, ...] | None:
    if key not in keys:
        return None
    names = np.asarray(read_npz(path, key))
    if names.shape != (count,):
        raise InputError(f"{path}: expected {count} names in {key}, got an array of shape {names.shape}")
    return tuple(str(name) for name in _text(names).tolist())


def _text(names: np.ndarray) -> np.ndarray:
    """Names that were written as bytes, as text."""
    return np.char.decode(names, "utf-8", "replace") if names.dtype.kind == "S" else names


def _videopose(path: Path) -> Reading:
    """VideoPose3D's ``data_2d_*.npz``: ``positions_2d[video][action]`` is a list with the (T, J, 2) of each camera."""
    clips, metadata = read_npz(path, "positions_2d"), read_npz(path, "metadata") if "metadata" in npz_keys(path) else {}
    try:
        named = [(f"{video}, {action}", video, array) for video, actions in clips.items()
                 for action, arrays in actions.items() for array in arrays]  # fmt: skip
        layout = {"coco": "coco17", "h36m": "h36m17"}.get(str(metadata.get("layout_name", "")))
        sizes = metadata.get("video_metadata", {})
        size = _size(sizes.get(named[0][1])) if len(named) == 1 else None
    except (AttributeError, TypeError) as error:
        raise InputError(f"{path}: expected VideoPose3D's positions_2d[video][action], got something else") from error
    if len(named) != 1:
        some = "; ".join(name for name, _, _ in named[:3])
        raise InputError(
            f"{path}: expected the keypoints of one video, got {len(named)} clips ({some}, ...); write one "
            "of them with numpy.save"
        )
    name, _, array = named[0]
    return Reading(with_time(array, None, str(path)), f"VideoPose3D's keypoints of {name}", layout, size)


def _detectron(path: Path) -> Reading:
    """What VideoPose3D's ``infer_video`` writes: ``keypoints[frame][class]`` is (people, 4, 17): x, y, logit, score."""
    found = Found()
    try:
        for number, classes in enumerate(np.asarray(read_npz(path, "keypoints"))):
            frame = found.frame(str(number))
            for person in np.asarray(classes[1], dtype=np.float64).reshape(-1, 4, len(DETECTED["coco17"])):
                found.add(frame, person[[0, 1, 3]].T, None)
        metadata = read_npz(path, "metadata")
    except (TypeError, ValueError, IndexError) as error:
        raise InputError(f"{path}: expected Detectron's keypoints[frame][class] of (people, 4, 17), got something "
                         f"else ({error})") from error  # fmt: skip
    return Reading(found, f"Detectron's results of {len(found.frames)} frames", "coco17", _size(metadata))


def _size(metadata: Any) -> tuple[int, int] | None:
    """Width and height of VideoPose3D's {"w": ..., "h": ...}."""
    try:
        return round(float(metadata["w"])), round(float(metadata["h"]))
    except (TypeError, KeyError, ValueError, OverflowError, IndexError):
        return None
