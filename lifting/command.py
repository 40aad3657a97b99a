"""What all commands share: one-line errors with exit codes, and files that are written whole or not at all."""

import argparse
import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn


class InputError(Exception):
    """The user's input cannot be used; the message says what was expected, what came, and where. Exit code 2."""


class RunError(Exception):
    """Something failed while running, although the input was valid. Exit code 1."""


class Parser(argparse.ArgumentParser):
    """An argument parser that reports a wrong argument in one line, like every other mistake of the user."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see {self.prog} --help)")


def run_command(main: Callable[[], None]) -> None:
    """Calls ``main`` and exits with 0, or prints one line on stderr and exits with 2, 1, or 130 for Ctrl-C."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    with errors_in_one_line():
        main()


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
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # such as a full disk or a read-only folder
        where = f" ({error.filename})" if error.filename else ""
        _leave(1, f"error: {error.strerror or error}{where}")


def _leave(code: int, line: str) -> None:
    print(" ".join(line.split()), file=sys.stderr)
    sys.exit(code)


# What the extras of pyproject.toml install, by the name under which it is imported.
EXTRAS = {"torch": "torch", "tensorboard": "torch", "onnxruntime": "onnx", "onnx": "export", "onnxscript": "export"}


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

    No half-written file ever has the final name, and an existing file stays until the new one is complete.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except OSError as error:
        if error.filename is None:  # the error of a failed write names no file
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def existing_file(path: str | Path, what: str) -> Path:
    """Returns ``path`` if it is a file that is not empty; otherwise raises an `InputError` that calls it ``what``."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{what}: expected a file, found {'a folder' if path.is_dir() else 'nothing'} at {path}")
    if path.stat().st_size == 0:
        raise InputError(f"{what}: {path} is empty")
    return path


def write_json(path: Path, content: Any) -> None:
    """Writes ``content`` as JSON, whole or not at all (see `whole_file`)."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
