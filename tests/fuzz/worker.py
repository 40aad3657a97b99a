"""Feeds damaged files to readers, in a process that has little memory and little time, and says what came of each.

    worker.py SEED READER@FIRST-STOP [READER@FIRST-STOP ...]

Writes a line of JSON before each input and another after it, so that whoever reads them knows which input a crash, a
hang or the end of memory was.
"""

import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import Any

from lifting.command import InputError, one_line
from lifting.sources.apart import limit_memory
from tests.fuzz.damage import damaged, files_of
from tests.fuzz.readers import Reader, readers

MEMORY = 2 << 30  # bytes beyond what the process had after it imported everything
SECONDS = 10  # of processor time for one input, or FUZZ_SECONDS of the environment


def main() -> None:
    seed = int(sys.argv[1])
    table = {reader.name: reader for reader in readers()}
    report = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # converters print a table
    limit_memory(MEMORY)
    for argument in sys.argv[2:]:
        name, _, numbers = argument.partition("@")
        first, stop = map(int, numbers.split("-"))
        with tempfile.TemporaryDirectory() as folder:
            feed(table[name], Path(folder), seed, range(first, stop), report)


def feed(reader: Reader, folder: Path, seed: int, inputs: range, report: Any) -> None:
    """Input 0 is the valid one; each other is a function of the seed, the reader's name and its number."""
    (folder / "input").mkdir()
    source = reader.make(folder / "input")
    for number in inputs:
        rng = random.Random(f"{seed} {reader.name} {number}")
        file = rng.choice(files_of(source))
        content = file.read_bytes()
        print(json.dumps([reader.name, number, "begun", ""]), file=report)
        if number:
            file.write_bytes(damaged(content, file.suffix, rng))
        print(json.dumps([reader.name, number, *outcome(reader, source)]), file=report)
        file.write_bytes(content)


def outcome(reader: Reader, source: Path) -> tuple[str, str]:
    """ "accepted", "refused" or "failed", and the message."""
    # Without handlers, both signals end the process, also in the middle of a library's C code.
    seconds = int(os.environ.get("FUZZ_SECONDS", SECONDS))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, 60 * seconds)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a warning would be a second line, or a sign of a wrong result
            warnings.simplefilter("ignore", ResourceWarning)
            with contextlib.redirect_stdout(sys.stderr):
                reader.read(source)
        return "accepted", ""
    except InputError as error:
        line = one_line(str(error))
        if not line:
            return "failed", "refused without a message"
        if (memory := out_of_memory(error)) is not None:
            return "failed", f"took too much memory, then refused: {place(memory)}"
        return "refused", line
    except BaseException as error:
        return "failed", place(error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


def out_of_memory(error: BaseException) -> BaseException | None:
    """What in the causes of an error was the end of memory."""
    cause: BaseException | None = error
    while cause is not None:
        # Not what HDF5 was refused: it asks for the size that a broken file names, and mostly does not use it.
        if isinstance(cause, MemoryError) or "can't allocate memory" in str(cause):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


def place(error: BaseException) -> str:
    """The error and the innermost line of this repository that it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames if "site-packages" not in frame.filename]
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]} at {' < '.join(reversed(own[-3:]))}"
