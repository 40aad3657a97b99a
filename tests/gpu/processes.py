"""Runs a case in a process of its own, so that one that breaks the device, hangs or dies does not stop the others."""

import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from traceback import extract_tb
from typing import NamedTuple

from tests.gpu.cases import Case
from tests.gpu.setting import ROOT, Row, Setting


class Result(NamedTuple):
    """What became of a case: its cells, or one line that says why there are none."""

    case: Case
    seconds: float
    row: Row
    reason: str


def alone(case: Case, setting: Setting, limit: float) -> Result:
    """Runs a case in a process of its own for at most so many seconds."""
    if limit <= 0:
        return Result(case, 0.0, {}, "not run: the time is over")
    context = get_context("forkserver")  # imports torch once, and no case inherits CUDA
    context.set_forkserver_preload(["tests.gpu.cases", "torch._dynamo"])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, case, setting))
    started = time.monotonic()
    process.start()
    theirs.close()
    row: Row = {}
    try:
        if ours.poll(limit):
            row, reason = ours.recv()
            process.join(5)
        else:
            reason = f"took longer than {limit:.0f} s"
    except EOFError:
        process.join()
        reason = f"its process ended with exit code {process.exitcode}"
    process.kill()
    return Result(case, time.monotonic() - started, row, reason)


def _answer(connection: Connection, case: Case, setting: Setting) -> None:
    try:
        connection.send((case.run(setting), ""))
    except BaseException as error:  # of any kind: it is recorded, and the next case runs
        connection.send(({}, reason_of(error)))


def reason_of(error: BaseException) -> str:
    """An error in one line, with the deepest line of this repository in its traceback."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    places = [frame for frame in extract_tb(error.__traceback__) if Path(frame.filename).is_relative_to(ROOT)]
    inside = [frame for frame in places if ".venv" not in frame.filename] or places
    where = f" ({Path(inside[-1].filename).relative_to(ROOT)}:{inside[-1].lineno})" if inside else ""
    return text[:500] + where
