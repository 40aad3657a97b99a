"""What a training process does to itself before it trains: the faults that have to come at a certain place."""

import ctypes
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

import lifting.checkpoint
import lifting.training.engine
import lifting.training.steps

checkpoint: Any = lifting.checkpoint  # whose functions are replaced
engine: Any = lifting.training.engine
steps: Any = lifting.training.steps

_CLONE_NEWNS = 0x20000  # of Linux's sched.h; the others of its mount.h
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 0x20, 0x1000, 0x4000, 0x40000


def killed_while_writing(number: int, place: str) -> None:
    """SIGKILL when a checkpoint is written for the ``number``-th time: at half of it, before or after its rename."""
    whole, count = checkpoint.whole_file, 0

    @contextmanager
    def hurt(path: Path) -> Iterator[Path]:
        nonlocal count
        count += 1
        with whole(path) as temporary:
            yield temporary
            if count == number and place != "after":
                if place == "half":
                    os.truncate(temporary, temporary.stat().st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.whole_file = hurt


def killed_after_its_line(number: int) -> None:
    """SIGKILL between the ``number``-th line of metrics and the checkpoints of that epoch, the line half written."""
    append = engine.append_line

    def hurt(path: Path, row: dict[str, Any]) -> None:
        append(path, row)
        if row["epoch"] == number:
            os.truncate(path, path.stat().st_size - 10)
            os.kill(os.getpid(), signal.SIGKILL)

    engine.append_line = hurt


def files_limited(size: int) -> None:
    """No file can become larger than this many bytes, as on a disk that is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def disk_full(folder: Path, room: int) -> None:
    """The folder of the run lies on a small disk, with room for this many bytes besides the files of the run."""
    there = {path.name: path.read_bytes() for path in folder.iterdir()}
    pages = sum(-(-len(content) // 4096) + 1 for content in there.values()) + room // 4096
    _mount((b"tmpfs", os.fsencode(folder), b"tmpfs", 0, f"size={4096 * pages}".encode()))
    for name, content in there.items():
        (folder / name).write_bytes(content)


def clock_set_back() -> None:
    """The clock of the machine goes back an hour at every look."""
    real, looks = time.time, 0

    def set_back() -> float:
        nonlocal looks
        looks += 1
        return real() - 3600 * looks

    time.time = set_back


def read_only_after(folder: Path, steps: int) -> None:
    """The folder of the run becomes read-only after this many steps: it is mounted anew, for this process alone."""
    _in_step(steps, lambda: _mount_read_only(folder))


def _mount_read_only(folder: Path) -> None:
    path = os.fsencode(folder)
    _mount((path, path, None, _MS_BIND, None), (b"none", path, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY, None))


def _mount(*calls: tuple[object, ...]) -> None:
    """Calls the system's ``mount`` with each of these, in a name space that is this process's own."""
    libc = ctypes.CDLL(None, use_errno=True)
    calls = ((b"none", b"/", None, _MS_REC | _MS_PRIVATE, None), *calls)
    if libc.unshare(_CLONE_NEWNS) or any(libc.mount(*call) for call in calls):
        raise OSError(ctypes.get_errno(), "cannot mount")


def may_mount() -> bool:
    """Whether this user may mount for itself, which root may in most containers."""
    child = os.fork()
    if not child:
        try:
            _mount()
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def signalled_in_step(number: int, step: int) -> None:
    """The signal comes while this step is computed."""
    _in_step(step, lambda: os.kill(os.getpid(), number))


def signalled_with_workers(number: int, step: int) -> None:
    """The same, and it comes to the processes that read pictures, too."""

    def everybody() -> None:
        for child in _children():
            os.kill(child, number)
        time.sleep(0.2)  # for the bad news to arrive, if there is any
        os.kill(os.getpid(), number)

    _in_step(step, everybody)


def worker_killed_in_step(step: int) -> None:
    """SIGKILL for the processes that read pictures, as the system does where memory runs out."""

    def kill() -> None:
        for child in _children():
            os.kill(child, signal.SIGKILL)

    _in_step(step, kill)


def rank_killed_in_step(step: int) -> None:
    """SIGKILL for this process."""
    _in_step(step, lambda: os.kill(os.getpid(), signal.SIGKILL))


def signalled_in_evaluation(number: int) -> None:
    """The signal comes while batch norm's statistics are taken after the first epoch."""
    take = steps.take_statistics

    def hurt(*arguments: Any) -> None:
        take(*arguments)
        os.kill(os.getpid(), number)

    steps.take_statistics = hurt


def _children() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def _in_step(step: int, act: Callable[[], object]) -> None:
    """Calls ``act`` within the ``step``-th training step, before its loss is computed."""
    train, count = steps.training_step, 0

    def hurt(*arguments: Any) -> Tensor:
        nonlocal count
        count += 1
        if count == step:
            act()
        made: Tensor = train(*arguments)
        return made

    steps.training_step = hurt
