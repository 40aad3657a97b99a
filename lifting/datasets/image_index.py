"""Index files: an `ImageSet` in HDF5, with pictures that stay where they are or are packed as cut-outs around people.

Layout, with the arrays of `ImageSet` under their names::

    /           attributes format, version, joint_set, source, checksum, and root unless packed
    /files      (N,) str: paths below root, or "picture.jpg#row" of packed pictures
    /box, ...   (N, ...); points, focal and center only with 3D labels, picture, score, area and cut only
                of COCO
    /truth      (bytes,) uint8, JSON: for each part of COCO the annotations that its AP is measured against
    /encoded    (bytes,) uint8, the JPEGs one after the other; only in packed files
    /offsets    (N + 1,) int64, where each JPEG begins in encoded; only in packed files

``root`` is relative to the folder of the index if it is inside that folder, so that both can move together; otherwise
it is absolute.
"""

import atexit
import io
import json
import os
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from lifting import safe_hdf5
from lifting.command import InputError, existing_file, whole_file
from lifting.datasets.decode import read_file
from lifting.datasets.image_set import ImageSet, check_boxes
from lifting.geometry.skeleton import COCO17, H36M18, JOINT_SETS

FORMAT = "lifting-images"
VERSION = 1

_JOINT_SETS = {joint_set.name for joint_set in (H36M18, COCO17)}
_WORDS = ("files", "part", "sequence", "camera")
# Names of the arrays, with the sides that follow N and the type; J stands for the number of joints.
_NUMBERS: dict[str, tuple[tuple[int | str, ...], Any]] = {
    "box": ((4,), np.float32),
    "keypoints": (("J", 2), np.float32),
    "labelled": (("J",), np.bool_),
    "frame": ((), np.int64),
    "head_size": ((), np.float32),
}
_DEEP: dict[str, tuple[tuple[int | str, ...], Any]] = {
    "points": (("J", 3), np.float32),
    "focal": ((2,), np.float32),
    "center": ((2,), np.float32),
}
_COCO: dict[str, tuple[tuple[int | str, ...], Any]] = {
    "picture": ((), np.int64),
    "score": ((), np.float32),
    "area": ((), np.float32),
}
_CUT: dict[str, tuple[tuple[int | str, ...], Any]] = {"cut": ((4,), np.float32)}


def write_index(
    path: Path, image_set: ImageSet, *, source: str, checksum: str, truth: dict[str, Any] | None = None
) -> None:
    """Writes an index, whole or not at all; the pictures stay where they are.

    Args:
        image_set: a set whose pictures are files.
        source: where the labels come from, for human readers.
        checksum: of the source, see `store.checksum_of`.
        truth: what `coco_truth.read_truth` is to return.

    Raises:
        InputError: the set is empty.
        OSError: the file could not be written.
    """
    check_any(path, image_set)
    files = [os.path.abspath(file) for file in image_set.files.tolist()]
    root = os.path.commonpath({os.path.dirname(file) for file in files})
    names = [os.path.relpath(file, root) for file in files]
    home = os.path.abspath(path.parent)
    inside = os.path.commonpath([root, home]) == home
    image = io.BytesIO()  # in memory first, as in store.py
    with h5py.File(image, "w") as file:
        file.attrs["root"] = safe_hdf5.fixed(os.path.relpath(root, home) if inside else root)
        write_contents(file, replace(image_set, files=np.array(names)), source, checksum, truth)
    with whole_file(path) as temporary:
        temporary.write_bytes(image.getbuffer())


def check_any(path: Path, image_set: ImageSet) -> None:
    """Raises `InputError` for an empty set."""
    if not len(image_set):
        raise InputError(f"{path}: expected at least one picture to write, got none")


def write_contents(
    file: h5py.File, image_set: ImageSet, source: str, checksum: str, truth: dict[str, Any] | None
) -> None:
    """Writes all of an index but its pictures into an open file."""
    texts = {"format": FORMAT, "joint_set": image_set.joint_set.name, "source": source, "checksum": checksum}
    file.attrs.update({name: safe_hdf5.fixed(text) for name, text in texts.items()}, version=VERSION)
    for name in _WORDS:
        file[name] = np.char.encode(getattr(image_set, name), "utf-8")
    for name, (_, dtype) in (_NUMBERS | _DEEP | _COCO | _CUT).items():
        if (values := getattr(image_set, name)) is not None:
            file.create_dataset(name, data=values.astype(dtype))
    if truth is not None:
        file["truth"] = np.frombuffer(json.dumps(truth).encode(), np.uint8)


def read_index(path: Path) -> ImageSet:
    """The set in an index file, with paths relative to the working folder or absolute, or with ``packed`` set.

    Raises:
        InputError: the file is absent, empty or broken, is not an index, or has another version.
    """
    with safe_hdf5.open_hdf5(existing_file(path, "image index"), str(path)) as file:
        return _read(file, path)


def _read(file: h5py.File, path: Path) -> ImageSet:
    where = str(path)
    for name, expected in {"format": FORMAT, "version": VERSION}.items():
        found = safe_hdf5.attribute(file, name, where)
        if type(found) is not type(expected) or found != expected:
            raise InputError(f"{path}: expected an index of {name} {expected!r}, got {found!r}; prepare it again")
    joints = safe_hdf5.attribute(file, "joint_set", where)
    if not isinstance(joints, str) or joints not in _JOINT_SETS:
        raise InputError(f"{path}: expected an index of joints {' or '.join(sorted(_JOINT_SETS))}, got {joints!r}")
    joint_set = JOINT_SETS[joints]
    there, root = safe_hdf5.names(file, where), safe_hdf5.attribute(file, "root", where)
    packed = "encoded" in there
    numbers = dict(_NUMBERS)
    for optional in (_DEEP, _COCO, _CUT):
        numbers |= optional if not optional.keys().isdisjoint(there) else {}
    missing = [name for name in (*_WORDS, *numbers, *(["offsets"] if packed else [])) if name not in there]
    missing += [] if packed or isinstance(root, str) else ["root"]
    if missing:
        raise InputError(f"{path}: broken index, {', '.join(missing)} missing")
    files = safe_hdf5.dataset(file, "files", (-1,), "T", where)
    assert files is not None
    count = len(files)
    arrays: dict[str, Any] = {name: _column(file, name, (count,), "T", np.str_, where) for name in _WORDS}
    for name, (sides, dtype) in numbers.items():
        shape = (count, *(len(joint_set) if side == "J" else int(side) for side in sides))
        arrays[name] = _column(file, name, shape, "b" if dtype is np.bool_ else "fiu", dtype, where)
    if not packed:
        root = os.path.normpath(os.path.join(path.parent, root))
        arrays["files"] = np.array([os.path.join(root, name) for name in arrays["files"].tolist()], dtype=np.str_)
    image_set = ImageSet(**arrays, joint_set=joint_set, packed=path if packed else None)
    _check_numbers(image_set, where)
    return image_set


def _column(file: h5py.File, name: str, shape: tuple[int, ...], kinds: str, dtype: Any, where: str) -> Any:
    """All of an array with a row for each picture."""
    found = safe_hdf5.dataset(file, name, shape, kinds, where)
    assert found is not None
    return safe_hdf5.read_texts(found, Path(where)) if kinds == "T" else safe_hdf5.read(found, dtype, where)


def _check_numbers(images: ImageSet, where: str) -> None:
    """InputError unless there are pictures, and whatever has to be a number is finite, and boxes have a size."""
    check_any(Path(where), images)
    check_boxes(images, images.box)
    labelled = np.where(images.labelled[..., None], images.keypoints, 0)
    always = ("points", "focal", "center", "score", "cut")
    for name, values in {"keypoints": labelled, **{name: getattr(images, name) for name in always}}.items():
        if values is not None and not np.isfinite(values).all():
            row = int(np.argwhere(~np.isfinite(values))[0][0])
            raise InputError(f"{where}: {name}[{row}]: expected finite numbers, got others")


def read_encoded(image_set: ImageSet, row: int) -> bytes:
    """The encoded picture of a row, from its file or from the packed index. Several processes may call it.

    Raises:
        InputError: the picture cannot be read; the message names it.
    """
    name = str(image_set.files[row])
    if image_set.packed is None:
        return read_file(Path(name))
    encoded, offsets = _packed(image_set.packed, os.getpid())
    number = name.rpartition("#")[2]
    at = int(number) if number.isdecimal() and number.isascii() else -1
    if not 0 <= at < len(offsets) - 1 or not 0 <= offsets[at] <= offsets[at + 1] <= len(encoded):
        raise InputError(f"{image_set.packed}: {name}: the index does not hold this picture")
    try:
        return bytes(encoded[offsets[at] : offsets[at + 1]])
    except OSError as error:
        raise InputError(f"{image_set.packed}: {name} cannot be read, the file is broken ({error})") from error


@lru_cache(maxsize=8)
def _packed(path: Path, process: int) -> tuple[h5py.Dataset, NDArray[np.int64]]:
    """``encoded`` and ``offsets``, opened once in each process.

    HDF5 gets a file object, because by its name it would find the file open in a forked process and share the handle of
    the parent.
    """
    atexit.register(_packed.cache_clear)  # HDF5 would close the file object after Python has ended, and crash
    where = str(path)
    file = safe_hdf5.open_hdf5(existing_file(path, "image index").open("rb"), where)
    encoded = safe_hdf5.dataset(file, "encoded", (-1,), "u", where)
    offsets = safe_hdf5.dataset(file, "offsets", (-1,), "iu", where)
    if encoded is None or offsets is None or encoded.dtype != np.uint8:
        raise InputError(f"{path}: expected an index with packed pictures")
    return encoded, safe_hdf5.read(offsets, np.int64, where)
