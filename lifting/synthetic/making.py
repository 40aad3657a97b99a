"""What makes a rendered set: people in poses from a seed, processes that render, a folder that is whole or absent."""

import json
import logging
import multiprocessing
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np

from lifting.command import InputError
from lifting.datasets.store import checksum_of
from lifting.synthetic import action_scripts, body_shape, motion, poses, rendering, scenery
from lifting.synthetic.poses import Plan
from lifting.synthetic.rendering import Array

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Made = TypeVar("Made")


class Pose(NamedTuple):
    """One frame of one sequence."""

    subject: str
    sequence: str
    frame: int
    joints: Array  # (17, 3) metres


def recipe(maker: str, seed: int, counts: dict[str, int]) -> dict[str, Any]:
    """What decides the content of a set that the file ``maker`` makes."""
    modules = (rendering, body_shape, scenery, poses, action_scripts, motion)
    files = (Path(maker), Path(__file__), *(Path(str(module.__file__)) for module in modules))
    return {"checksum": checksum_of(files), "seed": seed, **counts}


def recipe_of(folder: Path) -> Any:
    """The recipe that a folder records; None if it records none."""
    try:
        return json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def check_replaceable(folder: Path) -> None:
    """Raises `InputError` unless the folder is new, empty, or a rendered set."""
    if folder.exists() and recipe_of(folder) is None and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: expected a new or empty folder or a rendered set to replace, got something else")


def cached(folder: Path, maker: str, counts: dict[str, int], make: Callable[..., None], takes: str) -> Path:
    """The folder of a set, which ``make`` writes if it is missing or from another recipe.

    Args:
        maker: the file of ``make``.
        counts: its keyword arguments.
        takes: how long it takes, for the log.
    """
    if recipe_of(folder) != recipe(maker, 0, counts):
        log.info("making the rendered set %s (%s, once)", folder, takes)
        make(folder, **counts)
    return folder


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that replaces ``folder`` if the block succeeds, as `command.whole_file` does for a file."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    room = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        made = room / "new"
        made.mkdir()
        yield made
        if folder.exists():
            folder.rename(room / "old")
        made.rename(folder)
    finally:
        shutil.rmtree(room, ignore_errors=True)


Spread = Callable[[Callable[..., Any], Iterable[Any], int], Iterable[Any]]


@contextmanager
def processes(workers: int) -> Iterator[Spread]:
    """A map over processes, called with a function, its arguments, and how many of these a process gets at once."""
    if workers == 1:
        yield lambda function, tasks, _: map(function, tasks)
        return
    with ProcessPoolExecutor(workers, _context(), initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        try:
            yield lambda function, tasks, chunk: pool.map(function, tasks, chunksize=chunk)
        except BaseException:  # such as Ctrl-C: leaving the pool would wait for everything that it was given
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _context() -> BaseContext:
    """Where new processes come from: a server without threads that has imported everything, if the system allows one.

    They are not forked from this process: it may have threads of torch or OpenCV, whose locks a fork would copy and
    never release. A terminal sends Ctrl-C to all processes. Those of the server do not hear it; this one says a line
    and ends, and they end when they have no more to do. A server that runs already is used as it is.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    resource_tracker.ensure_running()  # to start it later, with the server, would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # the server inherits it
    try:
        first = context.Process(target=int)
        first.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    first.join()  # until the server is ready: a pool that ends while it starts leaves processes with errors to print
    return context


def counted(spread: Spread, bar: Any, task: Callable[[Item], Made], items: Iterable[Item]) -> list[Made]:
    """What a task makes of many items, with a progress bar."""
    done = []
    for made in spread(task, items, 16):
        done.append(made)
        bar.update()
    return done


def some_poses(cast: tuple[int, list[tuple[tuple[str, ...], int]]]) -> list[list[Pose]]:
    """For each group of a seed's subjects, the given number of frames, evenly spaced over all their sequences."""
    seed, wanted = cast
    plans = list(poses.plans(seed))
    return [_frames([plan for plan in plans if plan.subject in subjects], count) for subjects, count in wanted]


def _frames(plans: list[Plan], count: int) -> list[Pose]:
    lengths = np.array([plan.frames for plan in plans])
    ends = np.cumsum(lengths)
    if count > ends[-1]:
        raise InputError(f"rendered set: expected at most {ends[-1]} pictures of these people, got {count}")
    found, s, positions = [], -1, np.empty(0)
    for place in ((np.arange(count) + 0.5) * ends[-1] / count).astype(int):  # in the order of the sequences
        if s < 0 or place >= ends[s]:
            s = int(np.searchsorted(ends, place, side="right"))
            positions = plans[s].performed().positions
        frame = int(place - ends[s] + lengths[s])
        found.append(Pose(plans[s].subject, plans[s].name, frame, positions[frame].astype(np.float64)))
    return found
