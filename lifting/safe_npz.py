"""Reads ``.npz`` files of pickled objects without trusting them.

A pickle is a program: `numpy.load(allow_pickle=True)` runs whatever a downloaded file says. Here the same bytes can
only build dicts, lists, tuples, strings, numbers and plain arrays of those; any other name in a pickle is refused
before it is looked up. Sizes that a file claims are compared with the bytes that are there before memory is taken.
"""

import math
import pickle
import zipfile
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np

from lifting.command import InputError, existing_file

_LARGEST = 4 << 30  # bytes of one array, unpacked; the largest file of the field has a tenth of it
_KINDS = "?biufSUO"


def npz_keys(path: str | Path) -> list[str]:
    """Names of the arrays in an ``.npz`` file, none of them read; InputError if the file is not one."""
    path = existing_file(path, "npz file")
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise InputError(f"{path} is no npz file, or only a part of one ({error})") from error
    return [name.removesuffix(".npy") for name in names if name.endswith(".npy")]


def read_npz(path: str | Path, key: str) -> Any:
    """One array of an ``.npz`` file; where it is the usual wrapper around one object, that object.

    Arrays within the object are ndarrays of a subclass: pass them through `np.asarray`.

    Raises:
        InputError: no such key; the file is broken; its pickle names something that is not data.
    """
    keys = npz_keys(path)
    if key not in keys:
        raise InputError(f"{path}: no array {key!r}; there are {', '.join(keys) or 'none'}")
    try:
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo(f"{key}.npy")
            if info.file_size > _LARGEST:
                raise InputError(f"{path}: {key} claims {info.file_size >> 20} MiB, at most {_LARGEST >> 20} are read")
            with archive.open(info) as stream:
                return _read_npy(stream)
    except _RefusedError as error:
        raise InputError(f"{path}: {key} is refused: {error}") from error
    except (InputError, KeyboardInterrupt):
        raise
    except Exception as error:  # broken bytes make zlib, pickle and numpy raise nearly anything
        raise InputError(f"{path}: {key} cannot be read, the file is broken ({error!r})") from error


def _read_npy(stream: IO[bytes]) -> Any:
    version = np.lib.format.read_magic(stream)
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, fortran, dtype = headers[version](stream)
    if dtype.hasobject:
        value = _Unpickler(stream, encoding="latin1").load()
        return value.item() if isinstance(value, np.ndarray) and value.shape == () else value
    array = np.empty(0).view(_Array)
    array.__setstate__((1, shape, _DType(dtype.str), fortran, stream.read()))
    return np.asarray(array)


class _RefusedError(Exception):
    pass


class _DType:
    """A plain dtype in the making: a type code and a byte order, nothing that could have fields."""

    def __init__(self, code: str, order: str = "") -> None:
        self.code, self.order = code, order

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]
        if any(part is not None for part in state[2:5]):
            raise _RefusedError("an array with fields")

    def dtype(self) -> np.dtype[Any]:
        dtype = np.dtype(self.order + self.code)
        if dtype.kind not in _KINDS or dtype.fields is not None or dtype.subdtype is not None or not dtype.itemsize:
            raise _RefusedError(f"an array of type {self.code!r}")
        return dtype


class _Array(np.ndarray[Any, Any]):
    """An array that takes its state only if the claimed shape is what the data fill."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, made, fortran, data = state
        dtype = made.dtype()
        if isinstance(data, str):  # bytes, as Python 2 wrote them
            data = data.encode("latin1")
        size = len(data) if dtype.hasobject else len(data) / dtype.itemsize
        if any(side < 0 for side in shape) or math.prod(shape) != size:
            raise _RefusedError(f"an array of shape {shape} with data for {size:g} values")
        super().__setstate__((1, shape, dtype, fortran, data))


def _empty_array(*_: Any) -> _Array:
    return np.empty(0).view(_Array)


def _dtype(code: str, *_: Any) -> _DType:
    return _DType(code)


def _scalar(made: _DType, data: bytes | str) -> Any:
    return np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, made.dtype())[0]


# What numpy's own pickles name, numpy 1.x and 2.x, and what answers here in its place. The class of an array stands
# only as an argument of _reconstruct, so it is a word that nobody can call.
_KNOWN: dict[tuple[str, str], Any] = {("numpy", "ndarray"): "ndarray", ("numpy", "dtype"): _dtype}
for _core in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _KNOWN |= {(_core, "_reconstruct"): _empty_array, (_core, "scalar"): _scalar}


# Python's own unpickler in its Python form: the C form takes memory for any memo index that a file names.
_PythonUnpickler: Any = pickle._Unpickler


class _Unpickler(_PythonUnpickler):  # type: ignore[misc]  # typeshed knows the C form alone
    """Builds data and nothing else."""

    dispatch: ClassVar = dict(_PythonUnpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise _RefusedError(f"its pickle asks for {module}.{name}, which is not data")
        return _KNOWN[module, name]

    def load_build(self) -> None:
        if not isinstance(self.stack[-2], (_Array, _DType)):
            raise _RefusedError(f"its pickle sets the state of a {type(self.stack[-2]).__name__}")
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build
