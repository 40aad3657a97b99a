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

# Bytes of one array, unpacked; a file with at least a twentieth of them may go beyond. The field's largest has 200 MB.
_LARGEST, _PACKED = 1 << 29, 20
_OBJECT = 64  # bytes of one object in a pickle, about
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
            most = max(_LARGEST, _PACKED * info.compress_size)
            if info.file_size > most:
                raise InputError(f"{path}: {key} claims {info.file_size >> 20} MiB, at most {most >> 20} are read")
            with archive.open(info) as stream:
                return _read_npy(stream, most)
    except _RefusedError as error:
        raise InputError(f"{path}: {key} is refused: {error}") from error
    except (InputError, KeyboardInterrupt):
        raise
    except Exception as error:  # broken bytes make zlib, pickle and numpy raise nearly anything
        raise InputError(f"{path}: {key} cannot be read, the file is broken ({error!r})") from error


def read_npy(path: str | Path) -> np.ndarray:
    """The array of an ``.npy`` file; InputError if it is broken or holds objects in place of numbers or texts."""
    path = existing_file(path, "npy file")
    try:
        with path.open("rb") as stream:
            value = _read_npy(stream, 0)
    except Exception as error:  # as in read_npz
        raise InputError(f"{path}: cannot be read, the file is broken or holds no plain array ({error})") from error
    return np.asarray(value)


def _read_npy(stream: IO[bytes], most: int) -> Any:
    """The array in a stream. Of a pickle, ``most`` bytes may come: what is named several times counts every time."""
    version = np.lib.format.read_magic(stream)
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, fortran, dtype = headers[version](stream)
    if dtype.hasobject:
        if not most:
            raise _RefusedError("its values are objects")
        value = _Unpickler(stream, encoding="latin1").load()
        if (size := _size(value, {})) > most:
            raise _RefusedError(f"its pickle unfolds to {size:.2g} bytes, at most {most >> 20} MiB are read")
        return value.item() if isinstance(value, np.ndarray) and value.shape == () else value
    array = np.empty(0).view(_Array)
    array.__setstate__((1, shape, _DType(dtype.str), fortran, stream.read()))
    return np.asarray(array)


def _size(value: Any, known: dict[int, float]) -> float:
    """Bytes of a value and of all that it names, as if nothing were shared."""
    if id(value) not in known:
        known[id(value)] = float("inf")  # for a value that holds itself
        inner: Any = ()
        if isinstance(value, dict):
            inner = [*value, *value.values()]
        elif isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.dtype.hasobject):
            inner = value if isinstance(value, (list, tuple)) else value.ravel().tolist()
        own = value.nbytes if isinstance(value, np.ndarray) else len(value) if isinstance(value, (str, bytes)) else 0
        known[id(value)] = _OBJECT + own + sum(_size(one, known) for one in inner)
    return known[id(value)]


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
        if dtype.kind == "U":
            letters = np.frombuffer(data, np.dtype(np.uint32).newbyteorder(dtype.byteorder))
            if ((letters > 0x10FFFF) | ((letters >= 0xD800) & (letters < 0xE000))).any():
                raise _RefusedError("a text with letters that do not exist")
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
    del dispatch[pickle.BYTEARRAY8[0]]  # takes memory for any size that a file names

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise _RefusedError(f"its pickle asks for {module}.{name}, which is not data")
        return _KNOWN[module, name]

    def load_build(self) -> None:
        if not isinstance(self.stack[-2], (_Array, _DType)):
            raise _RefusedError(f"its pickle sets the state of a {type(self.stack[-2]).__name__}")
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build
