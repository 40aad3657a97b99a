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
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import TracebackType

import h5py
import numpy as np
import torch

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
        file.attrs.update(format=FORMAT, version=VERSION, joint_set=joint_set.name, units="m")
        file.attrs.update(frame_rate=float(frame_rate), source=source, checksum=checksum)
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
        if name == "R" and not (np.allclose(value @ value.T, np.eye(3), atol=1e-3) and np.linalg.det(value) > 0):
            raise InputError(f"camera {group.name}: R: expected a rotation, got {value.tolist()}")
        group.attrs[name] = value
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
        try:
            self._file = h5py.File(self.path, "r")
        except OSError as error:
            raise InputError(f"{self.path} is not a readable HDF5 file ({error})") from error
        try:
            self._read_header()
        except BaseException:
            self.close()
            raise

    def _read_header(self) -> None:
        found = self._file.attrs.get("format")
        if found != FORMAT:
            raise InputError(f"{self.path}: expected a file of format {FORMAT!r}, got {found!r}; see data/README.md")
        version = self._file.attrs.get("version")
        if version != VERSION:
            raise InputError(f"{self.path}: expected version {VERSION} of {FORMAT}, got {version}; prepare it again")
        joint_set = self._file.attrs.get("joint_set")
        if joint_set not in JOINT_SETS:
            raise InputError(f"{self.path}: expected one of the joint sets {_listed(JOINT_SETS)}, got {joint_set!r}")
        missing = {"frame_rate", "source", "checksum"} - set(self._file.attrs)
        missing |= {"poses", "cameras"} - set(self._file)
        if missing:
            raise InputError(f"{self.path}: broken store, {_listed(missing)} missing")
        self.joint_set = JOINT_SETS[joint_set]
        self.frame_rate = float(self._file.attrs["frame_rate"])
        self.source = str(self._file.attrs["source"])
        self.checksum = str(self._file.attrs["checksum"])

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
        return sorted(self._file["poses"], key=_natural)

    def sequences(self, subject: str) -> list[str]:
        """Names of one subject's sequences in natural order."""
        return sorted(self._at("poses", subject, "subject"), key=_natural)

    def cameras(self, subject: str) -> dict[str, Camera]:
        """One subject's cameras by name, in the order they were written, tensors in float64."""
        group = self._at("cameras", subject, "subject with cameras")
        return {name: self._camera(group[name]) for name in group}

    def frames(self, subject: str, sequence: str) -> int:
        """T, without reading the frames."""
        return len(self._positions(subject, sequence))

    def positions(self, subject: str, sequence: str) -> np.ndarray:
        """(T, J, 3) float32, world, metres."""
        return self._array(self._positions(subject, sequence))

    @property
    def detectors(self) -> list[str]:
        """Every detector with keypoints anywhere in the store, except ``gt``."""
        found = {detector for s in self.subjects for q in self.sequences(s) for detector in self._keypoints(s, q)}
        return sorted(found, key=_natural)

    def keypoints(self, subject: str, sequence: str, camera: str, detector: str) -> np.ndarray:
        """(T, J, 2) float32, pixels."""
        found = self._keypoints(subject, sequence)
        if detector not in found:
            raise InputError(
                f"{self.path}: {subject} {sequence} has no keypoints of detector {detector!r}; "
                f"there are {_listed(found)}; {GROUND_TRUTH!r} is computed by projecting the positions"
            )
        shape = (self.frames(subject, sequence), len(self.joint_set), 2)
        return self._array(self._dataset(found[detector], camera, "camera", shape))

    def _positions(self, subject: str, sequence: str) -> h5py.Dataset:
        group = self._sequence(subject, sequence)
        return self._dataset(group, "positions", "array", (-1, len(self.joint_set), 3))

    def _sequence(self, subject: str, sequence: str) -> h5py.Group:
        return self._member(self._at("poses", subject, "subject"), sequence, "sequence")

    def _keypoints(self, subject: str, sequence: str) -> h5py.Group | dict[str, h5py.Group]:
        return self._sequence(subject, sequence).get("keypoints", {})

    def _at(self, group: str, name: str, what: str) -> h5py.Group:
        return self._member(self._file[group], name, what)

    def _member(self, group: h5py.Group, name: str, what: str) -> h5py.Group | h5py.Dataset:
        try:
            return group[_name(name)]
        except (InputError, KeyError) as error:
            there = sorted(group, key=_natural)
            message = f"{self.path}: no {what} {name!r} in {group.name}; there are {_listed(there)}"
            raise InputError(message) from error

    def _dataset(self, group: h5py.Group, name: str, what: str, shape: tuple[int, int, int]) -> h5py.Dataset:
        """A dataset of this shape; -1 stands for any length."""
        dataset = self._member(group, name, what)
        if dataset.shape[1:] != shape[1:] or shape[0] not in (-1, dataset.shape[0]):
            expected = f"({'T' if shape[0] == -1 else shape[0]}, {shape[1]}, {shape[2]})"
            raise InputError(f"{self.path}: {dataset.name}: expected {expected}, got {dataset.shape}")
        return dataset

    def _array(self, dataset: h5py.Dataset) -> np.ndarray:
        try:
            return np.asarray(dataset[()], dtype=np.float32)
        except OSError as error:
            raise InputError(f"{self.path}: {dataset.name} cannot be read, the file is broken ({error})") from error

    def _camera(self, group: h5py.Group) -> Camera:
        missing = {f.name for f in fields(Camera)} - set(group.attrs)
        if missing:
            raise InputError(f"{self.path}: broken store, camera {group.name} has no {_listed(missing)}")
        width, height = (int(side) for side in group.attrs["size"])
        tensors = {name: torch.tensor(group.attrs[name], dtype=torch.float64) for name in _CAMERA_SHAPES}
        return Camera(size=(width, height), tangential_factor=float(group.attrs["tangential_factor"]), **tensors)


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
    if not name or "/" in name or name == ".":
        raise InputError(f"a subject, sequence, detector or camera cannot be called {name!r}")
    return name


def _natural(name: str) -> list[str | int]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(str, names)) or "none"
