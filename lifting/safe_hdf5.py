"""Reads HDF5 files without trusting them: nothing from other files, and no array that the file cannot hold.

HDF5 can lead out of a file by links, virtual datasets and external storage, and a dataset can claim any size without
having a byte. Files of this package have none of that, so such a file is refused. What is read is of the expected kind
and shape, or an `InputError` says what came instead.
"""

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from lifting.command import InputError

# A dataset may unpack to as much as compression can make of its bytes, 1032 for one, but beyond this size only to 20.
_DEFLATED, _LARGEST = 1032, 1 << 29
_TEXT = np.dtype([("length", "<u4"), ("address", "<u8"), ("index", "<u4")])  # how a dataset holds a text
_LONGEST_TEXT = 4096  # bytes
_HEAP = b"GCOL\x01"  # where texts of variable length are
_WINDOW = 1 << 24  # bytes of a file in which heaps are searched at a time


def open_hdf5(source: Path | BinaryIO, where: str) -> h5py.File:
    """Opens a file for reading; the caller closes it.

    Raises:
        InputError: beginning with ``where``: it is no HDF5 file, broken, or has a link that is not a plain one.
    """
    try:
        file = h5py.File(source, "r")
    except (OSError, RuntimeError, ValueError, OverflowError) as error:
        raise InputError(f"{where} is not a readable HDF5 file ({error})") from error
    try:
        with _errors(where):
            link = file.id.links.visit(_other_link, info=True)
        if link is not None:
            name = link.decode(errors="replace")
            raise InputError(f"{where}: expected all of its content inside, got a link at {name}")
    except BaseException:
        file.close()
        raise
    return file


def _other_link(name: bytes, info: Any) -> bytes | None:
    return None if info.type == h5py.h5l.TYPE_HARD else name


@contextmanager
def _errors(where: str) -> Iterator[None]:
    """Around calls of h5py alone: of what HDF5 stumbles over, h5py makes about ten kinds of exceptions."""
    try:
        yield
    except Exception as error:
        raise InputError(f"{where}: cannot be read, the file is broken ({error})") from error


def names(group: h5py.Group, where: str) -> list[str]:
    """The names in a group, in its order."""
    with _errors(f"{where}: {group.name}"):
        return list(group)


def group(parent: h5py.Group, name: str, where: str) -> h5py.Group | None:
    """The group of this name, or None; InputError if something else has the name."""
    return _child(parent, name, h5py.Group, "a group", where)


def dataset(
    parent: h5py.Group, name: str, shape: tuple[int, ...] | None, kinds: str, where: str
) -> h5py.Dataset | None:
    """The dataset of this name, or None.

    Args:
        shape: what it has to be; -1 stands for any length, None for any shape.
        kinds: letters of the numpy kinds that it may have, such as "f", or "T" for texts.

    Raises:
        InputError: it has another shape or kind, its values are in another file, or the file does not hold them.
    """
    found = _child(parent, name, h5py.Dataset, "an array", where)
    if found is None:
        return None
    what = f"{where}: {_below(parent, name)}"
    with _errors(what):
        has = found.shape
        kind = "T" if h5py.check_string_dtype(found.dtype) else found.dtype.kind
        plan = found.id.get_create_plist()
        elsewhere = plan.get_layout() == h5py.h5d.VIRTUAL or plan.get_external_count() > 0
        stored, claimed = found.id.get_storage_size(), found.size or 0
        claimed *= found.dtype.itemsize
    if elsewhere:
        raise InputError(f"{what}: expected its values inside of the file, got some that are in another")
    wanted = has if shape is None else shape
    if has is None or len(has) != len(wanted) or any(a not in (b, -1) for a, b in zip(wanted, has, strict=True)):
        raise InputError(f"{what}: expected {_sides(wanted or ())}, got {_sides(has or ())}")
    if kind not in kinds:
        expected = {"T": "texts", "f": "floats"}.get(kinds, "numbers")
        raise InputError(f"{what}: expected {expected}, got values of type {found.dtype}")
    if claimed > max(20 * stored, min(_DEFLATED * stored, _LARGEST)):
        raise InputError(f"{what}: claims {claimed:,} bytes, of which the file holds {stored:,}")
    return found


def read(data: h5py.Dataset, dtype: Any, where: str) -> np.ndarray:
    """All of a dataset that `dataset` has let through, as an array of this type. For texts see `read_texts`."""
    with _errors(f"{where}: {data.name}"):
        values = data[()]
    with np.errstate(over="ignore", invalid="ignore"):  # too large for the type: infinite, which is then refused
        return np.asarray(values, dtype=dtype)


def read_texts(data: h5py.Dataset, path: Path) -> np.ndarray:
    """All texts of a dataset that `dataset` has let through, as str; none is longer than a path can be."""
    what = f"{path}: {data.name}"
    with _errors(what):
        is_variable = h5py.check_string_dtype(data.dtype).length is None
        longest = _longest(data, path) if is_variable else data.dtype.itemsize
        if longest > _LONGEST_TEXT:
            raise ValueError(f"a text of {longest:,} bytes")
        if not is_variable:
            return np.char.decode(data[()], "utf-8")
        _check_heaps(path)
        return np.array(data.asstr()[()].tolist(), dtype=np.str_)


def _longest(data: h5py.Dataset, path: Path) -> int:
    """Of texts of variable length; read from the file itself.

    The dataset holds the length of each text, and where it is. Many may be in one place, and HDF5 takes memory for any
    length before it looks there.
    """
    place, stored = data.id.get_offset(), data.id.get_storage_size()
    if place is None or stored != _TEXT.itemsize * data.size:
        raise ValueError("texts in pieces")
    return int(np.fromfile(path, _TEXT, data.size, offset=place)["length"].max(initial=0))


def _check_heaps(path: Path) -> None:
    """ValueError if a place for texts of variable length is such that HDF5 would search in it without an end."""
    state = path.stat()
    _search_heaps(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=16)  # a store has five such texts, and each asks
def _search_heaps(path: Path, changed: int, size: int) -> None:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for window in range(0, len(content), _WINDOW):
            stop = window + _WINDOW + len(_HEAP) - 1
            start = content.find(_HEAP, window, stop)
            while start >= 0:
                _search_heap(content, start)
                start = content.find(_HEAP, start + 1, stop)
            if hasattr(mmap, "MADV_DONTNEED"):  # otherwise the whole file counts as memory of this process
                content.madvise(mmap.MADV_DONTNEED, window, min(_WINDOW, len(content) - window))


def _search_heap(content: mmap.mmap, start: int) -> None:
    at, end = start + 16, start + int.from_bytes(content[start + 8 : start + 16], "little")
    while end <= len(content) and at + 16 <= end:
        index, used = content[at : at + 2], int.from_bytes(content[at + 8 : at + 16], "little")
        if index == b"\0\0" and used < 16:
            raise ValueError("a broken heap")
        at += used if index == b"\0\0" else 16 + (used + 7) // 8 * 8


def attribute(node: h5py.Group | h5py.Dataset, name: str, where: str) -> Any:
    """An attribute: a str, a Python number, or an array; None if there is none or it is empty.

    Those of the file itself may be texts of variable length, as they were written until November 2026.
    """
    with _errors(f"{where}: {node.name}: attribute {name}"):
        if name not in node.attrs:
            return None
        found = h5py.h5a.open(node.id, name.encode())
        if found.get_storage_size() > _LONGEST_TEXT:
            raise ValueError(f"{found.get_storage_size():,} bytes")
        if found.dtype.hasobject and node.name == "/":
            _check_heaps(Path(node.file.filename))
        elif found.dtype.hasobject:
            raise ValueError("a text of variable length")
        value = node.attrs[name]
        if isinstance(value, bytes):
            value = value.decode()
    if isinstance(value, h5py.Empty):
        return None
    return value.item() if isinstance(value, np.generic) else value


def fixed(text: str) -> np.bytes_:
    """A text as an attribute is to be written: of fixed length, which HDF5 reads without searching."""
    return np.bytes_(text.encode())


def numbers(node: h5py.Group | h5py.Dataset, name: str, shape: tuple[int, ...], where: str) -> np.ndarray:
    """An attribute of finite numbers of this shape, float64."""
    found = attribute(node, name, where)
    if found is None:
        raise InputError(f"{where}: {node.name}: no attribute {name}")
    value = np.asarray(found)
    if value.shape != shape or value.dtype.kind not in "fiu" or not np.isfinite(value).all():
        expected = f"{_sides(shape)} finite numbers" if shape else "a finite number"
        raise InputError(f"{where}: {node.name}: attribute {name}: expected {expected}, got {str(value.tolist())[:60]}")
    return value.astype(np.float64)


def _child(parent: h5py.Group, name: str, kind: type, what: str, where: str) -> Any:
    with _errors(f"{where}: {_below(parent, name)}"):
        found = parent[name] if name in parent else None  # noqa: SIM401 - its `get` would hide a broken object
    if found is not None and not isinstance(found, kind):
        raise InputError(f"{where}: {_below(parent, name)}: expected {what}, got another kind of object")
    return found


def _below(parent: h5py.Group, name: str) -> str:
    """The path of a child without the leading slash."""
    return f"{parent.name}/{name}".lstrip("/")


def _sides(shape: tuple[int, ...]) -> str:
    letters = iter("TJ")
    inner = ", ".join(next(letters, "K") if side == -1 else str(side) for side in shape)
    return f"({inner}{',' * (len(shape) == 1)})"
