"""The canonical store: one HDF5 file that holds a whole set of poses, whatever files they came from.

Layout, lengths in metres and image points in pixels::

    /                                   attributes format, version, joint_set, units, frame_rate, source, checksum
    /poses/{subject}/{sequence}/positions                        (T, J, 3) float32, world
    /poses/{subject}/{sequence}/keypoints/{detector}/{camera}    (T, J, 2) float32, where the source has detections
    /cameras/{subject}/{camera}                                  attributes, one for each field of `cameras.Camera`

The file never holds keypoints of the detector ``gt``: whoever reads it projects the positions instead.
Nothing is compressed: compression would save a seventh of the file and make reading three times slower.
"""

import hashlib
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
import torch

from lifting import safe_hdf5
from lifting.command import InputError, existing_file, whole_file
from lifting.datasets.pose_checks import check_array, check_bent_sides, check_recording, left_of_body, sampled
from lifting.geometry.cameras import Camera
from lifting.geometry.skeleton import H36M17, JOINT_SETS, JointSet

FORMAT = "lifting-poses"
VERSION = 1
GROUND_TRUTH = "gt"  # the detector name that stands for projected positions

_CAMERA_SHAPES = {"focal": (2,), "center": (2,), "radial": (3,), "tangential": (2,), "R": (3, 3), "t": (3,)}


@dataclass(frozen=True)
class Sequence:
    """One recording of one person.

    Attributes:
        subject: such as "S1".
        name: such as "Walking 1"; unique within the subject.
        positions: (T, J, 3) float32, world, metres.
        keypoints: detector name -> camera name -> (T, J, 2) float32, pixels.
    """

    subject: str
    name: str
    positions: np.ndarray
    keypoints: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)


def write_store(
    path: str | Path,
    sequences: Iterable[Sequence],
    cameras: dict[str, dict[str, Camera]],
    *,
    frame_rate: float,
    source: str,
    checksum: str,
    joint_set: JointSet = H36M17,
) -> None:
    """Writes a store, whole or not at all; ``sequences`` may be a generator.

    Args:
        cameras: subject -> camera name -> camera; readers get them in this order.
        frame_rate: frames per second, above zero.
        source: describes, for a human reader, what the poses were read from.
        checksum: of the source, see `checksum_of`.

    Raises:
        InputError: there is nothing to write; a subject has no cameras; a shape is wrong or a value is not finite;
            positions are not those of people in metres, keypoints are not pixels, or cameras do not see the people
            (see `pose_checks.check_recording`); the left and right of a person are clearly exchanged.
        OSError: the file could not be written.
    """
    if not (np.isfinite(frame_rate) and frame_rate > 0):
        raise InputError(f"frame rate: expected a number above 0, got {frame_rate}")
    # In memory first: on a full disk, HDF5 crashes the whole process instead of raising an error.
    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        texts = {"format": FORMAT, "joint_set": joint_set.name, "units": "m", "source": source, "checksum": checksum}
        file.attrs.update({name: safe_hdf5.fixed(text) for name, text in texts.items()})
        file.attrs.update(version=VERSION, frame_rate=float(frame_rate))
        for subject, named in cameras.items():
            group = file.create_group(f"cameras/{_name(subject)}", track_order=True)
            for name, camera in named.items():
                _write_camera(group.create_group(_name(name)), camera)
        poses, sides = file.create_group("poses"), dict[str, list[np.ndarray]]()
        for sequence in sequences:
            _write_sequence(poses, sequence, cameras, len(joint_set))
            sides.setdefault(sequence.subject, []).append(left_of_body(sampled(sequence.positions), joint_set))
        for subject, parts in sides.items():
            check_bent_sides(np.concatenate(parts), subject)
        if not len(poses):
            raise InputError(f"nothing to write to {path}: no sequence was given")
    with whole_file(path) as temporary:
        temporary.write_bytes(image.getbuffer())


def _write_camera(group: h5py.Group, camera: Camera) -> None:
    for name, shape in _CAMERA_SHAPES.items():
        value = np.asarray(getattr(camera, name), dtype=np.float64)
        check_array(value, shape, f"camera {group.name}: {name}")
        group.attrs[name] = value
    check_camera(np.asarray(camera.R, dtype=np.float64), np.asarray(camera.size), f"camera {group.name}")
    group.attrs["size"] = np.asarray(camera.size, dtype=np.int64)
    group.attrs["tangential_factor"] = float(camera.tangential_factor)


def _write_sequence(poses: h5py.Group, sequence: Sequence, cameras: dict[str, dict[str, Camera]], joints: int) -> None:
    where = f"{sequence.subject} {sequence.name}"
    known = cameras.get(sequence.subject)
    if not known:
        raise InputError(f"{where}: no cameras for {sequence.subject}; there are cameras for {_listed(cameras)}")
    if sequence.name in poses.require_group(_name(sequence.subject)):
        raise InputError(f"{where}: given twice")
    group = poses[sequence.subject].create_group(_name(sequence.name))
    check_array(sequence.positions, (-1, joints, 3), f"{where}: positions")
    frames = len(sequence.positions)
    group.create_dataset("positions", data=sequence.positions.astype(np.float32))
    for detector, views in sequence.keypoints.items():
        if detector == GROUND_TRUTH:
            raise InputError(f"{where}: keypoints named {detector!r} are made from the positions and not stored")
        for camera, points in views.items():
            if camera not in known:
                raise InputError(f"{where}: keypoints for camera {camera}; {sequence.subject} has {_listed(known)}")
            check_array(points, (frames, joints, 2), f"{where}: keypoints {detector}, {camera}")
            name = f"keypoints/{_name(detector)}/{camera}"
            group.create_dataset(name, data=points.astype(np.float32))
    check_recording(sequence.positions, sequence.keypoints, known, where)


class PoseStore:
    """A store that is open for reading. Use it in a ``with`` block, or call `close`.

    Attributes:
        path: the file.
        joint_set: the joints of every array in it.
        frame_rate: frames per second.
        source, checksum: what it was made from.

    Raises:
        InputError: the file is absent, empty, broken, not a store, or a store of another version. All methods raise it
            for a subject, sequence, camera or detector that is not in the store.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = existing_file(path, "pose store")
        self._where = str(self.path)
        self._file = safe_hdf5.open_hdf5(self.path, self._where)
        try:
            self._read_header()
        except BaseException:
            self.close()
            raise

    def _read_header(self) -> None:
        found, version, joint_set, source, checksum = (
            safe_hdf5.attribute(self._file, name, self._where)
            for name in ("format", "version", "joint_set", "source", "checksum")
        )
        if not isinstance(found, str) or found != FORMAT:
            raise InputError(f"{self.path}: expected a file of format {FORMAT!r}, got {found!r}; see data/README.md")
        if not isinstance(version, int) or version != VERSION:
            raise InputError(f"{self.path}: expected version {VERSION} of {FORMAT}, got {version}; prepare it again")
        if not isinstance(joint_set, str) or joint_set not in JOINT_SETS:
            raise InputError(f"{self.path}: expected one of the joint sets {_listed(JOINT_SETS)}, got {joint_set!r}")
        groups = {name: safe_hdf5.group(self._file, name, self._where) for name in ("poses", "cameras")}
        missing = {name for name, text in (("source", source), ("checksum", checksum)) if not isinstance(text, str)}
        missing |= {name for name, group in groups.items() if group is None}
        if missing:
            raise InputError(f"{self.path}: broken store, {_listed(sorted(missing))} missing")
        self._groups: dict[str, h5py.Group] = groups
        self.joint_set = JOINT_SETS[joint_set]
        self.frame_rate = float(safe_hdf5.numbers(self._file, "frame_rate", (), self._where))
        if not self.frame_rate > 0:
            raise InputError(f"{self.path}: frame_rate: expected a number above 0, got {self.frame_rate}")
        self.source, self.checksum = source, checksum

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "PoseStore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def subjects(self) -> list[str]:
        """Names in natural order: S1, S5, ..., S11."""
        return self._names(self._groups["poses"])

    def sequences(self, subject: str) -> list[str]:
        """Names of one subject's sequences in natural order."""
        return self._names(self._group(self._groups["poses"], subject, "subject"))

    def cameras(self, subject: str) -> dict[str, Camera]:
        """One subject's cameras by name, in the order they were written, tensors in float64."""
        group = self._group(self._groups["cameras"], subject, "subject with cameras")
        names = safe_hdf5.names(group, self._where)
        return {name: self._camera(self._group(group, name, "camera")) for name in names}

    def frames(self, subject: str, sequence: str) -> int:
        """T, without reading the frames."""
        return len(self._positions(subject, sequence))

    def positions(self, subject: str, sequence: str) -> np.ndarray:
        """(T, J, 3) float32, world, metres."""
        return safe_hdf5.read(self._positions(subject, sequence), np.float32, self._where)

    @property
    def detectors(self) -> list[str]:
        """Every detector with keypoints anywhere in the store, except ``gt``."""
        found = {name for s in self.subjects for q in self.sequences(s) for name in self._names(self._keypoints(s, q))}
        return sorted(found, key=_natural)

    def keypoints(self, subject: str, sequence: str, camera: str, detector: str) -> np.ndarray:
        """(T, J, 2) float32, pixels."""
        found = self._keypoints(subject, sequence)
        if detector not in self._names(found):
            raise InputError(
                f"{self.path}: {subject} {sequence} has no keypoints of detector {detector!r}; "
                f"there are {_listed(self._names(found))}; {GROUND_TRUTH!r} is computed by projecting the positions"
            )
        shape = (self.frames(subject, sequence), len(self.joint_set), 2)
        views = self._group(found, detector, "detector")
        return safe_hdf5.read(self._dataset(views, camera, "camera", shape), np.float32, self._where)

    def _positions(self, subject: str, sequence: str) -> h5py.Dataset:
        group = self._sequence(subject, sequence)
        return self._dataset(group, "positions", "array", (-1, len(self.joint_set), 3))

    def _sequence(self, subject: str, sequence: str) -> h5py.Group:
        return self._group(self._group(self._groups["poses"], subject, "subject"), sequence, "sequence")

    def _keypoints(self, subject: str, sequence: str) -> h5py.Group | None:
        return safe_hdf5.group(self._sequence(subject, sequence), "keypoints", self._where)

    def _names(self, group: h5py.Group | None) -> list[str]:
        return [] if group is None else sorted(safe_hdf5.names(group, self._where), key=_natural)

    def _group(self, parent: h5py.Group, name: str, what: str) -> h5py.Group:
        found = safe_hdf5.group(parent, name, self._where) if _is_name(name) else None
        return self._there(found, parent, name, what)

    def _dataset(self, parent: h5py.Group, name: str, what: str, shape: tuple[int, int, int]) -> h5py.Dataset:
        """A dataset of this shape; -1 stands for any length."""
        found = safe_hdf5.dataset(parent, name, shape, "f", self._where) if _is_name(name) else None
        return self._there(found, parent, name, what)

    def _there(self, found: Any, parent: h5py.Group, name: str, what: str) -> Any:
        if found is None:
            there = _listed(self._names(parent))
            raise InputError(f"{self.path}: no {what} {name!r} in {parent.name}; there are {there}")
        return found

    def _camera(self, group: h5py.Group) -> Camera:
        size, factor = (safe_hdf5.numbers(group, name, shape, self._where)
                        for name, shape in (("size", (2,)), ("tangential_factor", ())))  # fmt: skip
        tensors = {
            name: torch.from_numpy(safe_hdf5.numbers(group, name, shape, self._where))
            for name, shape in _CAMERA_SHAPES.items()
        }
        check_camera(tensors["R"].numpy(), size, f"{self.path}: {group.name}")
        return Camera(size=(int(size[0]), int(size[1])), tangential_factor=float(factor), **tensors)


def check_camera(R: np.ndarray, size: np.ndarray, where: str) -> None:
    """InputError, beginning with ``where``, unless R is a rotation and (width, height) are those of a picture."""
    if not (np.allclose(R @ R.T, np.eye(3), atol=1e-3) and np.linalg.det(R) > 0):
        raise InputError(f"{where}: R: expected a rotation, got {R.tolist()}")
    if not ((size >= 1) & (size <= 1_000_000)).all():
        raise InputError(f"{where}: size: expected width and height in pixels, got {size.tolist()}")


def checksum_of(files: Iterable[Path]) -> str:
    """SHA-256 of the contents of the files, in the given order."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return f"sha256:{digest.hexdigest()}"


def _name(name: str) -> str:
    """Returns the name if it can be one level of an HDF5 path; raises `InputError` otherwise."""
    if not _is_name(name):
        raise InputError(f"a subject, sequence, detector or camera cannot be called {name!r}")
    return name


def _is_name(name: str) -> bool:
    return bool(name) and "/" not in name and name != "."


def _natural(name: str) -> list[str | int]:
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(str, names)) or "none"
