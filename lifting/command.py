"""What every command does alike: one-line errors with their exit codes, and files that are whole or absent."""

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
    """Something that the user gave cannot be used: what was expected, what came, where. Exit code 2."""


class RunError(Exception):
    """Something broke while running, with all that was given in order. Exit code 1."""


class Parser(argparse.ArgumentParser):
    """One line for a wrong argument, as for every other mistake."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see {self.prog} --help)")


def run_command(main: Callable[[], None]) -> None:
    """Calls ``main`` and leaves with 0; or prints one line on stderr and leaves with 2, 1, or 130 for Ctrl-C."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        main()
    except InputError as error:
        _leave(2, f"error: {error}")
    except RunError as error:
        _leave(1, f"error: {error}")
    except KeyboardInterrupt as stop:
        _leave(130, str(stop) or "stopped")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # a full disk, a folder that may not be written
        where = f" ({error.filename})" if error.filename else ""
        _leave(1, f"error: {error.strerror or error}{where}")


def _leave(code: int, line: str) -> None:
    print(" ".join(line.split()), file=sys.stderr)
    sys.exit(code)


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its name when the block ends well and is removed when it does not.

    Nobody sees a half-written file under the final name, and a file that was there before stays until then.
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
        if error.filename is None:  # a write that failed does not say where
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def existing_file(path: str | Path, what: str) -> Path:
    """``path`` if it names a file that is not empty; an `InputError` that calls it ``what`` if not."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{what}: expected a file, found {'a folder' if path.is_dir() else 'nothing'} at {path}")
    if path.stat().st_size == 0:
        raise InputError(f"{what}: {path} is empty")
    return path


def write_json(path: Path, content: Any) -> None:
    """Writes ``content`` as JSON, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
