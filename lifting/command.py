"""What all commands share: one-line errors with exit codes, and files that are written whole or not at all."""

import argparse
import json
import logging
import math
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

_LONGEST_LINE = 1000  # characters of a message


class InputError(Exception):
    """The user's input cannot be used; the message says what was expected, what came, and where. Exit code 2."""


class RunError(Exception):
    """Something failed while running, although the input was valid. Exit code 1."""


class Terminated(BaseException):
    """SIGTERM came, as from a batch system; like Ctrl-C, it is no `Exception`. Exit code 143."""


class Parser(argparse.ArgumentParser):
    """An argument parser that reports a wrong argument in one line, like every other mistake of the user."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see {self.prog} --help)")


def run_command(main: Callable[[], None]) -> None:
    """Calls ``main`` and exits with 0, or prints one line and exits with 2, 1, 130 (Ctrl-C) or 143 (SIGTERM)."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    with errors_in_one_line(), _sigterm_raised():
        main()


@contextmanager
def _sigterm_raised() -> Iterator[None]:
    """SIGTERM raises `Terminated` in this process, so that no half-written file stays; its children just end."""
    parent = os.getpid()

    def stop(number: int, frame: object) -> None:
        if os.getpid() != parent:
            os._exit(128 + number)
        raise Terminated("stopped by SIGTERM")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Ends the program as `run_command` does, if the block fails."""
    try:
        yield
    except InputError as error:
        _leave(2, f"error: {error}")
    except RunError as error:
        _leave(1, f"error: {error}")
    except KeyboardInterrupt as stop:
        _leave(130, str(stop) or "stopped")
    except Terminated as stop:
        _leave(143, str(stop) or "stopped")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # such as a full disk or a read-only folder
        where = f" ({error.filename})" if error.filename else ""
        _leave(1, f"error: {error.strerror or error}{where}")
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):  # torch has no class of its own for a process that died
            raise
        _leave(1, f"error: a process that reads pictures died, often for want of memory: {error}")


def _leave(code: int, line: str) -> None:
    print(one_line(line), file=sys.stderr)
    sys.exit(code)


def one_line(text: str) -> str:
    """The text as one line of at most 1,000 characters: it may quote a file, which may hold anything.

    What a terminal would obey instead of print becomes a question mark, and of a longer text the middle is left out.
    """
    line = "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))
    return line if len(line) <= _LONGEST_LINE else f"{line[: _LONGEST_LINE - 200]} ... {line[-195:]}"


# What the extras of pyproject.toml install, by the name under which it is imported.
EXTRAS = {
    "torch": "torch",
    "tensorboard": "torch",
    "onnxruntime": "onnx",
    "onnx": "export",
    "onnxscript": "export",
    "pycocotools": "coco",
}


@contextmanager
def needing(what: str, extra: str | None = None) -> Iterator[None]:
    """Turns the failed import of an optional package into an `InputError` that names its extra and what needs it.

    Args:
        extra: names this one instead, if it needs more than that package.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        hint = f"pip install '.[{extra or EXTRAS[package]}]' in a clone of the repository"
        raise InputError(f"{what} needs {package}, which is not installed: {hint}") from None


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path``, renamed to ``path`` if the block succeeds and removed if it fails.

    No half-written file ever has the final name, and an existing file stays until the new one is complete. The file is
    on the disk before it gets its name, and the name before this returns: a power cut leaves the old file or the new.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        error.filename = str(path)
        raise
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
        _flush_folder(path.parent)
    except OSError as error:
        if error.filename is None:  # the error of a failed write names no file
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Takes the names in a folder to the disk, where the system can: Windows cannot, nor can some shared folders."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def hdf5_output(path: str) -> Path:
    """A path to write an HDF5 file to: nothing is there yet, or one to be replaced.

    Raises:
        InputError: a folder or another kind of file is there, such as the one that is to be read.
    """
    there = Path(path)
    if there.is_dir():
        raise InputError(f"--output: expected a file to write, found a folder at {path}")
    if there.exists() and there.stat().st_size:
        with there.open("rb") as file:
            if file.read(8) != b"\x89HDF\r\n\x1a\n":
                raise InputError(f"--output: expected no file or an HDF5 file to replace, found another at {path}")
    return there


def existing_file(path: str | Path, what: str) -> Path:
    """Returns ``path`` if it is a file that is not empty; otherwise raises an `InputError` that calls it ``what``."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{what}: expected a file, found {'a folder' if path.is_dir() else 'nothing'} at {path}")
    if path.stat().st_size == 0:
        raise InputError(f"{what}: {path} is empty")
    return path


def write_json(path: Path, content: Any) -> None:
    """Writes ``content`` as JSON, whole or not at all (see `whole_file`); a number that is not finite becomes null."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(without_nan(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def without_nan(content: Any) -> Any:
    """The same dicts, lists and values, with None in place of NaN and infinity, which JSON does not have."""
    if isinstance(content, dict):
        return {key: without_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
