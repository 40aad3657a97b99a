"""What a process holds, and work in a process of its own. Linux only."""

import ctypes
import gc
import platform
import threading
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from traceback import format_exc
from typing import Any, NamedTuple, TypeVar

Result = TypeVar("Result")

# The children of this process have torch and the rest imported already; none inherits what another one has done.
FORKING = get_context("forkserver")
PATIENCE = 3600.0  # seconds after which a process counts as hung
SELF = Path("/proc/self")


class Held(NamedTuple):
    """What this process holds: bytes of memory, and numbers of open files, threads and objects that Python tracks.

    Freed pages that malloc keeps for later do not count: how many these are depends on which threads met.
    """

    memory: int
    files: int
    threads: int
    objects: int

    @classmethod
    def now(cls) -> "Held":
        gc.collect()
        if platform.libc_ver()[0] == "glibc":
            ctypes.CDLL(None).malloc_trim(0)
        files = len(list((SELF / "fd").iterdir()))
        return cls(_kilobytes("VmRSS") << 10, files, threading.active_count(), len(gc.get_objects()))


def peak_of(work: Callable[[], Result]) -> tuple[Result, int]:
    """The result of ``work``, and by how many bytes the memory of this process rose at most meanwhile."""
    gc.collect()
    (SELF / "clear_refs").write_text("5")  # the peak is counted from now on
    before = _kilobytes("VmRSS")
    result = work()
    return result, (_kilobytes("VmHWM") - before) << 10


def _kilobytes(name: str) -> int:
    lines = (SELF / "status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def alone(work: Callable[..., Result], *arguments: Any) -> Result:
    """The result of ``work`` in a process of its own."""
    return together([(work, arguments)])[0]


def together(tasks: list[tuple[Callable[..., Result], tuple[Any, ...]]]) -> list[Result]:
    """The results of all tasks, each in a process of its own, all at once.

    Raises:
        AssertionError: one of them failed, with its traceback, or hung.
    """
    FORKING.set_forkserver_preload(["tests.load.loads", "torch._dynamo"])
    running = []
    for work, arguments in tasks:
        ours, theirs = FORKING.Pipe(duplex=False)
        process = FORKING.Process(target=_answer, args=(theirs, work, arguments))
        process.start()
        theirs.close()
        running.append((process, ours))
    results = []
    try:
        for process, ours in running:
            assert ours.poll(PATIENCE), f"{process.name} hung"
            result, failure = ours.recv()
            assert failure is None, failure
            results.append(result)
    finally:
        for process, _ in running:
            process.join(5)
            if process.exitcode is None:
                process.kill()
    return results


def _answer(pipe: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        pipe.send((work(*arguments), None))
    except BaseException:
        pipe.send((None, format_exc()))
