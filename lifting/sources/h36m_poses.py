"""Readers of the files in which people hold Human3.6M. Each returns `Recordings`: 17 joints, world, metres."""

import io
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from tqdm import tqdm

from lifting import safe_hdf5
from lifting.command import InputError, existing_file
from lifting.datasets.pose_checks import check_array, share_in_picture
from lifting.geometry import h36m
from lifting.geometry.cameras import Camera
from lifting.geometry.skeleton import H36M17
from lifting.safe_npz import npz_keys, read_npz
from lifting.sources.apart import read_cdf
from lifting.sources.motion_files import members, zip_member

# Its video is broken; the usual files leave it out, and so every table of the field.
LEFT_OUT = ("S11", "Directions")

_MARTINEZ_FILES = "MyPoses/3D_positions/*.h5"
_OFFICIAL_FILES = "MyPoseFeatures/D3_Positions/*.cdf"
# No dot within the last name: "Walking.54138969.h5" is a 2D file.
_MARTINEZ = re.compile(r"(?:^|/)(S\d+)/MyPoses/3D_positions/([^/.]+)\.h5$")
_OFFICIAL = re.compile(r"(?:^|/)(S\d+)/MyPoseFeatures/D3_Positions/([^/.]+)\.cdf$")
_2D_FILE = re.compile(r"data_2d_h36m_(.+)\.npz$")

Nested = dict[str, dict[str, np.ndarray]]


@dataclass(frozen=True)
class Recordings:
    """What a source holds.

    Attributes:
        layout: whose files they are, for people.
        files: everything that was read.
        positions: subject -> sequence -> (T, 17, 3) float32 metres.
        cameras: subject -> camera name -> camera.
        keypoints: detector -> subject -> sequence -> camera name -> (T, 17, 2) float32 pixels; ``gt`` may be among
            the detectors.
        notes: what was left out, a line each.
    """

    layout: str
    files: list[Path]
    positions: dict[str, dict[str, np.ndarray]]
    cameras: dict[str, dict[str, Camera]]
    keypoints: dict[str, dict[str, dict[str, dict[str, np.ndarray]]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_source(source: Path) -> Recordings:
    """Reads a file or folder of any known layout, told apart by what is inside; InputError where it is none."""
    if source.is_dir():
        return _read_folder(source)
    existing_file(source, "source")
    if not zipfile.is_zipfile(source):
        raise InputError(f"{source}: expected an npz or zip file or a folder; it is neither, or only a part of one")
    inside = {info.filename: info for info in members(source)}
    names = list(inside)
    if "positions_3d.npy" in names:
        return _read_videopose3d(source)
    if any(_MARTINEZ.search(name) for name in names):
        contents = {name: partial(zip_member, source, info, f"{source}: {name}") for name, info in inside.items()}
        cameras = next((contents[name]() for name in names if re.search(r"(^|/)cameras\.h5$", name)), None)
        return _read_martinez(contents, cameras, [source])
    found = ", ".join(name.removesuffix(".npy") for name in names[:5])
    raise InputError(f"{source}: expected positions_3d or S*/{_MARTINEZ_FILES} within, found {found or 'nothing'}")


def _read_folder(folder: Path) -> Recordings:
    with_poses = [path for path in sorted(folder.glob("*.npz")) if "positions_3d" in npz_keys(path)]
    if len(with_poses) > 1:
        raise InputError(f"{folder}: {', '.join(p.name for p in with_poses)} all hold positions_3d; name one of them")
    if with_poses:
        return _read_videopose3d(with_poses[0])
    root = folder.resolve()

    def found(pattern: str) -> dict[str, Path]:  # the folder of a subject, of all subjects, or the one above
        paths = [path for prefix in ("", "*/", "*/*/") for path in sorted(root.glob(prefix + pattern))]
        return {path.relative_to(root.parent).as_posix(): path for path in paths}

    if files := found(_MARTINEZ_FILES):
        table = next(iter(found("cameras.h5").values()), None)
        contents = {name: path.read_bytes for name, path in files.items()}
        used = [*files.values(), *([table] if table else [])]
        return _read_martinez(contents, table.read_bytes() if table else None, used)
    if files := found(_OFFICIAL_FILES):
        return _read_official(files)
    raise InputError(
        f"{folder}: expected an npz with positions_3d, S*/{_MARTINEZ_FILES} or S*/{_OFFICIAL_FILES}, found none of them"
    )


def _read_videopose3d(path: Path) -> Recordings:
    """``data_3d_h36m.npz`` (metres) and every ``data_2d_h36m_*.npz`` beside it."""
    positions: Nested = {}
    for subject, sequences in _dict(read_npz(path, "positions_3d"), f"{path}: positions_3d").items():
        positions[subject] = {}
        for name, values in _dict(sequences, f"{path}: {subject}").items():
            where = f"{path}: {subject} {name}"
            _add(positions, subject, _renamed(name), _seventeen(values, where), f"{path}: {subject}")
    if not positions or not all(positions.values()):
        raise InputError(f"{path}: positions_3d: expected subjects with sequences, got none")
    recordings = Recordings("VideoPose3D", [path], positions, _cameras(positions, path))
    for beside in sorted(path.parent.glob("data_2d_h36m_*.npz")):
        if match := _2D_FILE.match(beside.name):
            _read_keypoints(beside, match[1], recordings)
    return recordings


def _read_keypoints(path: Path, detector: str, recordings: Recordings) -> None:
    """Adds one file of keypoints: a list of arrays for each sequence, in the order of the cameras, frames to spare."""
    layout = _dict(read_npz(path, "metadata"), f"{path}: metadata") if "metadata" in npz_keys(path) else {}
    try:
        sides = [set(map(int, side)) for side in layout.get("keypoints_symmetry", (H36M17.left, H36M17.right))]
        joints = int(layout.get("num_joints", 17))
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: metadata: expected a number of joints and which are left and right") from error
    if joints != 17 or sides != [set(H36M17.left), set(H36M17.right)]:
        recordings.notes.append(f"{path.name}: left out, its joints are not the 17 of Human3.6M")
        return
    found = _dict(read_npz(path, "positions_2d"), f"{path}: positions_2d")
    kept: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for subject, sequences in recordings.positions.items():
        named = {_renamed(n): v for n, v in _dict(found.get(subject, {}), f"{path}: {subject}").items()}
        names = list(recordings.cameras[subject])
        for sequence, positions in sequences.items():
            where = f"{path}: {subject} {sequence}"
            views = named.get(sequence, ())
            count = len(views) if isinstance(views, list | tuple | np.ndarray) else 0
            if count != len(names):
                raise InputError(f"{where}: expected keypoints of {len(names)} cameras, got {count}")
            for camera, view in zip(names, views, strict=True):
                points = _array(view, where)
                check_array(points, (-1, 17, 2), f"{where}, {camera}")
                if len(points) < len(positions):
                    raise InputError(f"{where}, {camera}: expected {len(positions)} frames or more, got {len(points)}")
                cropped = points[: len(positions)].astype(np.float32)
                kept.setdefault(subject, {}).setdefault(sequence, {})[camera] = cropped
    recordings.keypoints[detector] = kept
    recordings.files.append(path)
    if without := sorted(set(found) - set(recordings.positions)):
        recordings.notes.append(f"{path.name}: {', '.join(without)} left out, they have no 3D")


def _read_martinez(contents: Mapping[str, Callable[[], bytes]], cameras: bytes | None, files: list[Path]) -> Recordings:
    """Files of ``3D_positions``, (96, T) millimetres, and ``cameras.h5`` if it is there."""
    positions: Nested = {}
    notes: list[str] = []
    for name, subject, sequence in tqdm(_named(contents, _MARTINEZ, notes), "reading", disable=None):
        with safe_hdf5.open_hdf5(io.BytesIO(contents[name]()), name) as file:
            found = safe_hdf5.dataset(file, "3D_positions", (96, -1), "fiu", name)
            if found is None:
                raise InputError(f"{name}: no array '3D_positions'")
            values = safe_hdf5.read(found, np.float64, name)
        check_array(values, (96, -1), name)
        _add(positions, subject, sequence, _seventeen(values.T.reshape(-1, 32, 3) / 1000, name), name)
    table = _martinez_cameras(cameras, positions) if cameras else _cameras(positions, files[0])
    return Recordings("Martinez et al.", files, positions, table, notes=notes)


def _martinez_cameras(content: bytes, positions: Nested) -> dict[str, dict[str, Camera]]:
    """``subjectN/camera{1..4}``. The file holds each R or its transpose: the right reading is that which sees the
    person with all four cameras; in the wrong one two of them may do so as well, the others look away."""
    table = {}
    with safe_hdf5.open_hdf5(io.BytesIO(content), "cameras.h5") as file:
        for subject, sequences in positions.items():
            sample = np.concatenate([values[::50] for values in sequences.values()])
            names = [f"subject{subject[1:]}/camera{number}" for number in (1, 2, 3, 4)]
            groups = [safe_hdf5.group(file, name, "cameras.h5") for name in names]
            if None in groups:
                raise InputError(f"cameras.h5: without {names[groups.index(None)]}, of whom there are poses")
            rigs = [dict(_martinez_camera(group, transpose) for group in groups) for transpose in (True, False)]
            seen = [min(share_in_picture(sample, camera) for camera in rig.values()) for rig in rigs]
            if max(seen) < 0.5:
                raise InputError(f"cameras.h5: {subject} is not in the picture of every camera, however R is read")
            table[subject] = rigs[int(np.argmax(seen))]
    return table


def _martinez_camera(group: h5py.Group, transpose: bool) -> tuple[str, Camera]:
    """Name and camera from R, T (the centre, mm), f, c, k, p (listed p_y, p_x) and Name (letters as numbers)."""
    letters = _camera_values(group, "Name", 8)
    name = "".join(chr(int(letter)) if 32 <= letter < 127 else "?" for letter in letters)
    sizes = {known: camera.size for known, camera in h36m.cameras("S1").items()}
    if name not in sizes:
        raise InputError(f"cameras.h5: {group.name}: expected one of {', '.join(sizes)}, got {name!r}")
    counts = {"R": 9, "T": 3, "f": 2, "c": 2, "k": 3, "p": 2}
    value = {key: torch.from_numpy(_camera_values(group, key, count)) for key, count in counts.items()}
    T, f, c, k, p = (value[key] for key in "Tfckp")
    R = value["R"].reshape(3, 3)
    R = R.T if transpose else R
    return name, Camera(sizes[name], f, c, k, p.flip(0), R, -R @ T / 1000)


def _camera_values(group: h5py.Group, key: str, count: int) -> np.ndarray:
    """So many numbers, in a row or in a column."""
    found = safe_hdf5.dataset(group, key, None, "fiu", "cameras.h5")
    if found is None:
        raise InputError(f"cameras.h5: {group.name}: no {key}")
    values = safe_hdf5.read(found, np.float64, "cameras.h5").ravel()
    check_array(values, (count,), f"cameras.h5: {group.name}: {key}")
    return values


def _read_official(files: dict[str, Path]) -> Recordings:
    """Variable ``Pose`` of ``D3_Positions``, 96 columns, millimetres."""
    try:
        import cdflib  # noqa: F401
    except ImportError as error:
        raise InputError("the official .cdf files need one more package: pip install cdflib") from error
    positions: Nested = {}
    notes: list[str] = []
    named = _named(files, _OFFICIAL, notes)
    contents = read_cdf([files[name] for name, _, _ in named], "Pose")
    for (name, subject, sequence), values in zip(tqdm(named, "reading", disable=None), contents, strict=True):
        if values.ndim == 3 and len(values) == 1:  # one record: (1, T, 96)
            values = values[0]
        check_array(values, (-1, 96), name)
        _add(positions, subject, sequence, _seventeen(values.reshape(-1, 32, 3) / 1000, name), name)
    return Recordings("official", list(files.values()), positions, _cameras(positions, "the folder"), notes=notes)


def _named(names: Iterable[str], pattern: re.Pattern[str], notes: list[str]) -> list[tuple[str, str, str]]:
    """(name, subject, sequence) of the names that the pattern knows."""
    found = [(match.string, match[1], _renamed(match[2])) for match in map(pattern.search, names) if match]
    if any(entry[1:] == LEFT_OUT for entry in found):
        notes.append(f"{' '.join(LEFT_OUT)}: left out, as in the usual files (its video is broken)")
    return [entry for entry in found if entry[1:] != LEFT_OUT]


def _add(positions: Nested, subject: str, sequence: str, values: np.ndarray, where: str) -> None:
    if sequence in positions.setdefault(subject, {}):
        raise InputError(f"{where}: expected each recording once, got {sequence} a second time")
    positions[subject][sequence] = values


def _renamed(sequence: str) -> str:
    """The usual spelling: "TakingPhoto 1" -> "Photo 1"."""
    for official, usual in h36m.RENAMED_ACTIONS.items():
        sequence = sequence.replace(official, usual)
    return sequence


def _seventeen(values: Any, where: str) -> np.ndarray:
    """(T, 32, 3) or (T, 17, 3) of anything -> (T, 17, 3) float32."""
    array = _array(values, where)
    joints = 17 if array.shape[1:2] == (17,) else 32
    check_array(array, (-1, joints, 3), where)
    kept = array if joints == 17 else array[:, list(h36m.KEEP_17_OF_32)]
    return kept.astype(np.float32)


def _array(values: Any, where: str) -> np.ndarray:
    try:
        return np.asarray(values)
    except ValueError as error:
        raise InputError(f"{where}: expected an array ({error})") from error


def _cameras(positions: Nested, where: Path | str) -> dict[str, dict[str, Camera]]:
    if unknown := sorted(set(positions) - set(h36m.SUBJECTS)):
        known = ", ".join(h36m.SUBJECTS)
        raise InputError(f"{where}: no cameras are known of {', '.join(unknown)}; Human3.6M publishes them of {known}")
    return {subject: h36m.cameras(subject) for subject in positions}


def _dict(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected a dict, got {type(value).__name__}")
    return value
