"""Readers of Human3.6M with its pictures: PoseNet's JSON (Moon et al. 2019) and RLE's (Li et al. 2021).

Both come from the same extraction of the data set: pictures ``s_09_act_02_subact_01_ca_01/..._000001.jpg``, boxes of
1.2 times the extent of the joints, cameras without distortion, joints in world millimetres. A sequence is called by its
action and the number of its sub-action, "Greeting 2"; the numbers in the names of the usual pose files are others.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from lifting.command import InputError
from lifting.datasets.image_set import ImageSet
from lifting.datasets.pose_checks import check_person
from lifting.geometry import h36m
from lifting.geometry.joint_maps import h36m17_to_h36m18
from lifting.safe_json import read_json
from lifting.sources.annotations import Source, clipped, column, images_of, in_folder, lists, sizes, texts

Numbers = NDArray[np.float64]

# The recordings of `h36m.WRONG_S9`: act 5 sub-action 2, act 10 sub-action 2, act 13 sub-action 1.
WRONG_S9 = ("Greeting 2", "SittingDown 2", "Waiting 1")

IN_BOX = 0.5  # share of a camera's joints; the wrong reading of its translation has next to none

_PICTURE = re.compile(r"s_(\d+)_act_(\d+)_subact_(\d+)_ca_(\d+)_(\d+)\.\w+$")
_DATA_FILE = re.compile(r"Human36M_subject(\d+)_data\.json$")


class _Frames(NamedTuple):
    """Columns of N rows, in the units of the files."""

    name: NDArray[np.str_]
    number: NDArray[np.int64]  # (N, 5): subject, action, sub-action, camera, frame
    size: Numbers  # (N, 2)
    box: Numbers  # (N, 4)
    world: Numbers  # (N, 17, 3) millimetres
    R: Numbers  # (N, 3, 3)
    t: Numbers  # (N, 3) millimetres
    f: Numbers  # (N, 2)
    c: Numbers  # (N, 2)


def wrong_s9(images: ImageSet) -> NDArray[np.bool_]:
    """(N,): pictures of the recordings of S9 whose 3D is wrong, `WRONG_S9`."""
    return np.asarray((images.part == "S9") & np.isin(images.sequence, WRONG_S9))


def read_rle(paths: Sequence[Path], images: Path | None, every: tuple[int, int]) -> Source:
    """``Sample_*_Human36M_protocol_2.json``: images and annotations side by side, each with its own camera.

    Args:
        every: takes only frames whose number is a multiple of the first, those of S9 and S11 of the second.
    """
    frames = [_thinned(_rle_frames(path), every) for path in tqdm(paths, "reading", disable=None)]
    return _source(frames, "RLE", list(paths), images)


def read_posenet(paths: Sequence[Path], images: Path | None, every: tuple[int, int]) -> Source:
    """``Human36M_subjectN_data.json``, each with ``_camera.json`` and ``_joint_3d.json`` beside it; see `read_rle`."""
    frames = [_thinned(_posenet_frames(path), every) for path in tqdm(paths, "reading", disable=None)]
    files = [_beside(path, what) for path in paths for what in ("data", "camera", "joint_3d")]
    return _source(frames, "PoseNet", files, images)


def _thinned(frames: _Frames, every: tuple[int, int]) -> _Frames:
    tested = np.isin(frames.number[:, 0], [int(subject[1:]) for subject in h36m.TEST_SUBJECTS])
    keep = frames.number[:, 4] % np.where(tested, every[1], every[0]) == 0
    return _Frames._make(values[keep] for values in frames)


def _rle_frames(path: Path) -> _Frames:
    pictures, labels = lists(read_json(path, "annotations"), path)
    if len(pictures) != len(labels):
        raise InputError(f"{path}: expected an annotation for each image, got {len(labels)} for {len(pictures)}")
    names, where = texts(pictures, "file_name", f"{path}: images"), f"{path}: annotations"
    for row, label in enumerate(labels):
        if not isinstance(label, dict) or not isinstance(label.get("cam_param"), dict):
            raise InputError(f"{where}[{row}]: expected a camera under cam_param, got none")
    return _Frames(
        names,
        np.array([_numbers(name, f"{path}: images[{row}]") for row, name in enumerate(names.tolist())]),
        sizes(pictures, f"{path}: images"),
        column(labels, "bbox", (4,), where),
        column(labels, "keypoints_world", (17, 3), where),
        *_cameras([label["cam_param"] for label in labels], f"{path}: cam_param of annotations"),
    )


def _numbers(name: str, where: str) -> list[int]:
    match = _PICTURE.search(name)
    if not match:
        raise InputError(f"{where}: expected a name like s_09_act_02_subact_01_ca_01_000001.jpg, got {name!r}")
    *numbers, picture = map(int, match.groups())
    return [*numbers, picture - 1]


def _posenet_frames(path: Path) -> _Frames:
    match = _DATA_FILE.search(path.name)
    if not match:
        raise InputError(f"{path}: expected a name like Human36M_subject9_data.json, which tells the subject")
    all_pictures, labels = lists(read_json(path, "annotations"), path)
    pictures, where = images_of(labels, all_pictures, path), f"{path}: image of annotations"
    keys = ("action_idx", "subaction_idx", "cam_idx", "frame_idx")
    numbers = np.stack([column(pictures, key, (), where) for key in keys], 1).astype(np.int64)
    camera_file, joint_file = _beside(path, "camera"), _beside(path, "joint_3d")
    rigs, poses = (read_json(file, "annotations") for file in (camera_file, joint_file))
    cameras = _looked_up(rigs, numbers[:, [2]], "a camera", path, camera_file)
    joints = _looked_up(poses, numbers[:, [0, 1, 3]], "joints of act, sub, frame", path, joint_file)
    return _Frames(
        texts(pictures, "file_name", where),
        np.insert(numbers, 0, int(match[1]), axis=1),
        sizes(pictures, where),
        column(labels, "bbox", (4,), f"{path}: annotations"),
        column([{"joints": entry} for entry in joints], "joints", (17, 3), f"{joint_file}: for annotations"),
        *_cameras(cameras, f"{camera_file}: for annotations"),
    )


def _beside(path: Path, what: str) -> Path:
    return path.with_name(path.name.replace("_data.json", f"_{what}.json"))


def _looked_up(tree: Any, keys: NDArray[np.int64], what: str, asking: Path, asked: Path) -> list[Any]:
    """For each row of keys what is in the tree under the first, in that under the second, and so on."""
    found = []
    for row, names in enumerate(keys.astype(str).tolist()):
        entry = tree
        for name in names:
            entry = entry.get(name) if isinstance(entry, dict) else None
        if entry is None:
            raise InputError(
                f"{asking}: annotations[{row}]: expected {what} {', '.join(names)} in {asked.name}, got none"
            )
        found.append(entry)
    return found


def _cameras(entries: Sequence[Any], where: str) -> list[Numbers]:
    shapes = {"R": (3, 3), "t": (3,), "f": (2,), "c": (2,)}
    return [column(entries, key, shape, where) for key, shape in shapes.items()]


def _source(parts: list[_Frames], layout: str, files: list[Path], images: Path | None) -> Source:
    """Metres in the camera, pixels and names from the columns of the files, after proofs."""
    frames = _Frames._make(np.concatenate(columns) for columns in zip(*parts, strict=True))
    if not len(frames.name):
        raise InputError(
            f"{files[0].parent}: expected pictures, got no frame of the wanted numbers (--train-every, --test-every)"
        )
    box = clipped(frames.box, frames.size)
    there = (box[:, 2:] > 0).all(1)
    if not there.any():
        got = ", ".join(f"{value:g}" for value in frames.box[0])
        raise InputError(f"{frames.name[0]}: expected a box in the picture, got one of x, y, width, height {got}")
    frames, box = _Frames._make(values[there] for values in frames), box[there]
    _check_entries(frames)
    points = np.empty_like(frames.world)
    readings: dict[str, list[str]] = {}
    for subject in np.unique(frames.number[:, 0]).tolist():
        rows = np.flatnonzero(frames.number[:, 0] == subject)
        one = _Frames._make(values[rows] for values in frames)
        points[rows], reading = _camera_points(one, box[rows])
        check_person(points[rows], f"S{subject}")
        readings.setdefault(reading, []).append(f"S{subject}")
    points = h36m17_to_h36m18(torch.from_numpy(points)).numpy()
    subject, action, sub, camera, frame = frames.number.T
    image_set = ImageSet(
        files=in_folder(frames.name, images, files[0].parent),
        box=box.astype(np.float32),
        keypoints=_projected(points, frames).astype(np.float32),
        labelled=np.ones(points.shape[:2], dtype=np.bool_),
        part=np.array([f"S{number}" for number in subject]),
        sequence=np.array([f"{h36m.ACTIONS[a - h36m.FIRST_ACTION]} {s}" for a, s in zip(action, sub, strict=True)]),
        camera=np.array(h36m.CAMERA_NAMES)[camera - 1],
        frame=frame,
        head_size=np.full(len(frame), np.nan, dtype=np.float32),
        points=points.astype(np.float32),
        focal=frames.f.astype(np.float32),
        center=frames.c.astype(np.float32),
    )
    notes = [
        f"{', '.join(who)}: t read as in {how}, which has the joints in the boxes" for how, who in readings.items()
    ]
    if not there.all():
        notes.append(f"{np.sum(~there):,} boxes outside their picture left out")
    return Source(image_set, notes, layout, files)


def _check_entries(frames: _Frames) -> None:
    name, count = Counter(frames.name.tolist()).most_common(1)[0]
    if count > 1:
        raise InputError(f"{name}: expected one annotation, got {count}; if they are in several files, name one file")
    cameras, actions = len(h36m.CAMERA_NAMES), range(h36m.FIRST_ACTION, h36m.FIRST_ACTION + len(h36m.ACTIONS))
    known = {"an action": actions, "a sub-action": range(1, 3), "a camera": range(1, cameras + 1)}
    for at, (what, numbers) in enumerate(known.items(), start=1):
        for row in np.flatnonzero(~np.isin(frames.number[:, at], numbers))[:1]:
            got = frames.number[row, at]
            raise InputError(f"{frames.name[row]}: expected {what} of {numbers[0]} to {numbers[-1]}, got {got}")


def _camera_points(frames: _Frames, box: Numbers) -> tuple[Numbers, str]:
    """One subject's joints in the camera, metres, and how t was to be read for it.

    Files of PoseNet's kind gave the camera's centre at first, and now give what is added after the turn. The right
    reading has the joints in the boxes of every camera.
    """
    turned = np.einsum("nij,nkj->nki", frames.R, frames.world)
    readings = {
        "R (X - t)": (turned - np.einsum("nij,nj->ni", frames.R, frames.t)[:, None]) / 1000,
        "R X + t": (turned + frames.t[:, None]) / 1000,
    }
    camera = frames.number[:, 3]
    worst = {}
    for reading, points in readings.items():
        inside = _in_box(points, frames, box)
        worst[reading] = min((float(inside[camera == number].mean()), number) for number in np.unique(camera))
    best = max(worst, key=lambda reading: worst[reading])
    (share, number), points = worst[best], readings[best]
    if share < IN_BOX:
        who = f"S{frames.number[0, 0]}, camera {number}"
        how = " or ".join(readings)
        raise InputError(f"{who}: only {share:.0%} of the joints are in the boxes, whether t is read as in {how}")
    for row in np.flatnonzero((points[..., 2] <= 0).any(1))[:1]:
        raise InputError(f"{frames.name[row]}: expected a person before the camera, got joints behind it")
    return points, best


def _in_box(points: Numbers, frames: _Frames, box: Numbers) -> NDArray[np.bool_]:
    """(N, 17, 3) metres, (N, 4) -> (N, 17)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        offset = _projected(points, frames) - box[:, None, :2]
    return np.asarray(((offset >= 0) & (offset <= box[:, None, 2:])).all(-1) & (points[..., 2] > 0))


def _projected(points: Numbers, frames: _Frames) -> Numbers:
    """(N, J, 3) -> (N, J, 2) pixels, without distortion."""
    return np.asarray(points[..., :2] / points[..., 2:] * frames.f[:, None] + frames.c[:, None])
