"""Reads CDF and MATLAB files in a process of its own, which has little memory and little time, and may crash.

cdflib believes every size, count and offset in a file: a broken one makes it ask for any amount of memory, or search in
a circle. scipy's reader of MATLAB files crashes on some. Neither can be seen before, and nothing in the process itself
can end either. (Nothing here imports torch, so that such a process starts quickly.)
"""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from lifting.command import InputError

_SECONDS = 8.0  # for one file; a recording of Human3.6M takes a hundredth of a second
_START = 60.0  # seconds
_MEMORY = 2 << 30  # bytes beyond what the process begins with, where the system can limit them

Arrays = dict[str, np.ndarray]


def read_cdf(paths: Iterable[Path], variable: str) -> Iterator[np.ndarray]:
    """The numbers of a variable in each file, in the order of the files.

    Raises:
        InputError: a file is no CDF, is broken, or has no such variable.
    """
    for arrays in _apart(partial(_cdf, variable), paths, f"a CDF file with a variable {variable}"):
        yield arrays[variable]


def read_mat(path: Path, shapes: dict[str, tuple[int, ...]]) -> Arrays:
    """Arrays of numbers, float64, from a MATLAB file before version 7.3.

    Args:
        shapes: what they are called and what shapes they have.

    Raises:
        InputError: the file is no such file, is broken, or an array is missing, of another shape or no numbers.
    """
    return next(_apart(partial(_mat, shapes), [path], f"a MATLAB file with {', '.join(shapes)}"))


def _cdf(variable: str, path: Path) -> Arrays:
    import cdflib

    return {variable: _numbers(cdflib.CDF(path).varget(variable), variable)}


def _mat(shapes: dict[str, tuple[int, ...]], path: Path) -> Arrays:
    from scipy.io import loadmat, whosmat

    try:
        claimed = {name: shape for name, shape, _ in whosmat(path)}  # before anything is unpacked
        for key, shape in shapes.items():
            if claimed[key] != shape:
                raise InputError(f"{path}: {key}: expected {shape}, got {claimed[key]}")
        content = loadmat(path, variable_names=list(shapes))
    except NotImplementedError as error:  # 7.3, which is HDF5
        raise InputError(f"{path}: expected a MATLAB file before version 7.3; save it with -v7") from error
    found = {key: _numbers(content[key], key).astype(np.float64) for key in shapes}
    for key, shape in shapes.items():
        if found[key].shape != shape:
            raise InputError(f"{path}: {key}: expected {shape}, got {found[key].shape}")
    return found


def _numbers(values: Any, name: str) -> np.ndarray:
    found = np.asarray(values)
    if found.dtype.kind not in "fiub":
        raise ValueError(f"{name} has values of type {found.dtype}")
    return found


def _apart(read: Callable[[Path], Arrays], paths: Iterable[Path], expected: str) -> Iterator[Arrays]:
    """What ``read`` makes of each file in the other process; InputError if it raises, crashes or takes too long."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=_serve, args=(theirs, read), daemon=True)
    process.start()
    theirs.close()
    try:
        for path in paths:
            try:
                if not ours.poll(_START) or ours.recv() != "ready":
                    raise EOFError
                ours.send(path)
                if not ours.poll(_SECONDS):
                    raise InputError(f"{path}: expected {expected}, cannot read it within {_SECONDS:g} s: it is broken")
                found, problem = ours.recv()
            except (EOFError, OSError) as error:
                raise InputError(f"{path}: expected {expected}, got a file that crashes its reader") from error
            if found is None:
                own = problem.startswith(str(path))  # an InputError of this module
                raise InputError(problem if own else f"{path}: expected {expected} ({problem})")
            yield found
    finally:
        ours.close()
        process.kill()
        process.join()


def limit_memory(more: int) -> None:
    """Lets this process take so many bytes beyond what it has, and leave no core file.

    Linux counts what a process had mapped when it was forked: with CUDA's libraries, gigabytes.

    Raises:
        ImportError, ValueError, OSError: the system cannot limit it (Windows), or has a lower limit.
    """
    import resource  # which Windows does not have

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    statm = Path("/proc/self/statm")
    held = int(statm.read_text("ascii").split()[5]) * resource.getpagesize() if statm.exists() else 0
    resource.setrlimit(resource.RLIMIT_DATA, (held + more, held + more))


def _serve(connection: Connection, read: Callable[[Path], Arrays]) -> None:
    """Answers each path with arrays, or with what is wrong as a text."""
    with suppress(ImportError, ValueError, OSError):
        limit_memory(_MEMORY)
    while True:
        try:
            connection.send("ready")
            path = connection.recv()
        except (EOFError, OSError):
            return
        answer: tuple[Arrays | None, str]
        try:
            answer = read(path), ""
        except InputError as error:
            answer = None, str(error)
        except Exception as error:  # the readers raise whatever they stumble over
            answer = None, f"{type(error).__name__}: {error}"[:200]
        connection.send(answer)
