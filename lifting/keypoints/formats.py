"""Reads 2D keypoints of any detector: what a file is, is seen from its content, and what is wrong with it, is said."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from lifting.command import InputError, existing_file
from lifting.keypoints.array_formats import read_array_file
from lifting.keypoints.checks import (
    check_pixels,
    check_rate,
    check_size,
    check_upright,
    choose_joints,
    mark_missing,
)
from lifting.keypoints.detections import Keypoints
from lifting.keypoints.joint_sets import BEGINS_WITH, DETECTED, to_h36m17
from lifting.keypoints.json_formats import read_json_file, read_json_folder
from lifting.keypoints.people import Arranged, Found, Reading, arrange

# A joint that the detector gives less than this is missing. The value is low on purpose: a joint with a poor score is
# off by more than others, and a lifter with sigma can be told so, while a joint that is missing tells it nothing.
MIN_SCORE = 0.1

_TOOLS = "2D keypoints of a detector (made by rtmlib, mmpose, Ultralytics, OpenPose or AlphaPose)"
_PICTURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*")
_VIDEOS = (b"\x1aE\xdf\xa3", b"FLV", b"\0\0\1\xba", b"\0\0\1\xb3")
_PICTURE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
_VIDEO_ENDINGS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv")


def read_keypoints(
    path: str | Path,
    *,
    joints: str | None = None,
    size: tuple[int, int] | None = None,
    min_score: float = MIN_SCORE,
) -> Keypoints:
    """Reads 2D keypoints; `array_formats` and `json_formats` list the layouts.

    Args:
        path: a file, or a folder with a JSON file for each frame.
        joints: the joint set, a name of `joint_sets.DETECTED`; None takes what the file says, and otherwise tells
            COCO-17 from Human3.6M-17 by what joints 0 to 4 are, a face or pelvis and leg.
        size: width and height of the picture in pixels, where the file does not say it.
        min_score: joints with a lower score are missing (see `checks.mark_missing`).

    Raises:
        InputError: in one line, what was expected and what came: see `checks`, and the tests for the full list.
    """
    path = Path(path)
    if joints is not None and joints not in DETECTED:
        raise InputError(f"joints: expected one of {', '.join(DETECTED)}, got {joints!r}")
    if not 0 <= min_score < 1:
        raise InputError(f"min_score: expected a score from 0 to below 1, got {min_score}")
    return _checked(_read(path), str(path), joints, size, min_score)


def with_size(keypoints: Keypoints, size: tuple[int, int], where: str) -> Keypoints:
    """The same keypoints, of pictures of this size.

    Raises:
        InputError: they do not lie in such pictures.
    """
    check_size(size, where)
    check_pixels(keypoints.points[~np.isnan(keypoints.points[..., 0])][:, None], size, where)
    return replace(keypoints, size=size)


def _read(path: Path) -> Reading:
    if path.is_dir():
        if any(entry.suffix.lower() == ".json" for entry in path.iterdir()):
            return read_json_folder(path)
        if any(entry.suffix.lower() in _PICTURE_ENDINGS + _VIDEO_ENDINGS for entry in path.iterdir()):
            raise InputError(f"{path}: expected {_TOOLS}, got a folder of pictures or videos")
        return read_json_folder(path)
    existing_file(path, "keypoints")
    with open(path, "rb") as stream:
        start = stream.read(4096)
    if start.startswith((b"\x93NUMPY", b"PK\3\4")):
        return read_array_file(path)
    if start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"["):
        return read_json_file(path)
    raise InputError(f"{path}: expected {_TOOLS}, got {_something_else(path, start)}")


def _something_else(path: Path, start: bytes) -> str:
    """What a file is that holds no keypoints."""
    container = start[8:12] if start[:4] == b"RIFF" else b""
    if start.startswith(_PICTURES) or container == b"WEBP":
        return "a picture; run a detector on it first"
    if start.startswith(_VIDEOS) or start[4:8] == b"ftyp" or container == b"AVI ":
        return "a video; run a detector on it first"
    ending = path.suffix.lower()
    if ending in _PICTURE_ENDINGS + _VIDEO_ENDINGS:
        return f"a {'picture' if ending in _PICTURE_ENDINGS else 'video'} by its ending; run a detector on it first"
    if start.startswith(b"\x80") or ending in (".pkl", ".pickle", ".pt", ".pth"):
        return "a pickle, which is a program and is not run; write arrays with numpy.savez"
    if start.startswith(b"\x89HDF"):
        return "an HDF5 file"
    if start.lstrip().startswith(b"HIERARCHY"):
        return "a BVH file, which is 3D motion already"
    return "neither a numpy file nor JSON"


def _checked(
    reading: Reading, where: str, joints: str | None, size: tuple[int, int] | None, min_score: float
) -> Keypoints:
    """Keypoints of what a reader found, or the InputError that says what is wrong with them."""
    found = reading.people
    if isinstance(found, Found) and not found.rows:
        raise InputError(f"{where}: expected people with keypoints, got {reading.what} without any")
    raw = np.stack(found.rows) if isinstance(found, Found) else found.values
    rows, has_scores = mark_missing(raw, min_score, where)
    flat = rows[..., :2].reshape(-1, *rows.shape[-2:-1], 2)
    body = len(BEGINS_WITH.get(flat.shape[1], flat[0]))
    flat = flat[~np.isnan(flat[:, :body, 0]).all(1)]
    if not len(flat):
        raise InputError(
            f"{where}: expected people with keypoints, got {reading.what} with every joint missing or "
            f"under the score of {min_score}"
        )
    joint_set, reason = choose_joints(flat, joints, reading.joint_set, where)
    rows, flat = rows[..., : len(joint_set), :], flat[:, : len(joint_set)]
    size = _size(size, reading.size, where)
    if reading.frame_rate is not None:
        check_rate(reading.frame_rate, where)
    check_pixels(flat, size, where)
    check_upright(to_h36m17(flat, np.ones(flat.shape[:-1]), joint_set.name)[0], where)
    people = arrange(found, rows) if isinstance(found, Found) else Arranged(rows, found.frames, found.people, "")
    absent = np.isnan(people.values[..., 0])
    return Keypoints(
        points=people.values[..., :2],
        confidence=np.where(absent, 0, people.values[..., 2]),
        joint_set=joint_set.name,
        size=size,
        frames=people.frames,
        people=people.people,
        frame_rate=reading.frame_rate,
        has_scores=has_scores,
        source=f"{reading.what}: {reason}{people.remark}",
        sequence=people.sequence and reading.one_size,
        one_size=reading.one_size,
    )


def _size(asked: tuple[int, int] | None, known: tuple[int, int] | None, where: str) -> tuple[int, int] | None:
    """Width and height of the picture, by the user or by the file; InputError if they disagree or are absurd."""
    for size in (asked, known):
        if size is not None:
            check_size(size, where)
    if asked is not None and known is not None and tuple(asked) != known:
        raise InputError(
            f"{where}: expected the size that the file says, {known[0]} x {known[1]}, got {asked[0]} x {asked[1]}"
        )
    size = asked or known
    return None if size is None else (int(size[0]), int(size[1]))
