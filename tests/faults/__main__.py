"""The long form of the faults: python -m tests.faults. It prints a table of the faults that were survived.

After each fault ``last.pt`` has to load, and the resumed run has to end with the bits of a run that nothing hurt.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from lifting.command import InputError
from lifting.training.run_folder import alone_in
from tests.faults import hurts
from tests.faults.runs import Run, assert_same, ranked, tracks

WORKERS = ("data.workers=1",)
Fault = Callable[[Run], None]


def hurting(code: int, hurt: Callable[..., None], *arguments: object, more: tuple[str, ...] = ()) -> Fault:
    """A process hurts itself so, and has to end with this code and, above zero, with one line that says why."""

    def fault(run: Run) -> None:
        run = Run(run.track, run.folder, more)
        ended = run.end(run.start(hurt, *arguments))
        if code > 0:
            ended.one_line(code, "resume with" if code > 128 else "error: ")
        else:
            assert ended.code == code, ended

    return fault


def faults(name: str, seconds: float, kills: int) -> Iterator[tuple[str, Fault]]:
    """Every fault of a track whose run takes so many seconds; a name that comes again is another try."""
    moments = random.Random(name)
    for _ in range(kills):
        yield (
            "SIGKILL at a random moment",
            partial(signalled, number=signal.SIGKILL, moment=moments.uniform(0.1, seconds)),
        )
    for place in ("half", "before", "after"):
        for number in (1, 4, 9):
            yield (
                "SIGKILL while a checkpoint is written: half of it, before and after its rename",
                hurting(-9, hurts.killed_while_writing, number, place),
            )
    yield (
        "SIGKILL between the line of metrics and the checkpoint",
        hurting(-9, hurts.killed_after_its_line, 2),
    )
    for number, code, called in ((signal.SIGTERM, 143, "SIGTERM"), (signal.SIGINT, 130, "Ctrl-C")):
        for step in (1, 2, 7):
            yield (
                f"{called} within a step, exit {code}",
                hurting(code, hurts.signalled_in_step, number, step),
            )
        yield (
            f"{called} within the evaluation, exit {code}",
            hurting(code, hurts.signalled_in_evaluation, number),
        )
        for _ in range(3):
            yield (
                f"{called} at a random moment",
                partial(signalled, number=number, moment=moments.uniform(0.3 * seconds, seconds)),
            )
    yield (
        "full disk: a limit on files",
        lambda run: after_some(run, hurts.files_limited, (20_000,), "File too large"),
    )
    if hurts.may_mount():
        yield (
            "full disk: a small tmpfs",
            lambda run: after_some(run, hurts.disk_full, (run.folder, 20_000), "No space left on device"),
        )
        yield (
            "folder becomes read-only",
            lambda run: after_some(run, hurts.read_only_after, (run.folder, 2), "Read-only file system"),
        )
    yield "clock set back an hour at every look", hurting(0, hurts.clock_set_back)
    yield "second process on the folder, refused", refused
    for restarts in (0, 1):
        yield f"rank killed under torchrun, --max-restarts={restarts}", partial(rank_killed, restarts=restarts)
    if name == "single_stage":
        for workers in (1, 2):
            yield (
                f"none, but pictures are read by {workers} more process{'es' * (workers > 1)}",
                partial(read, workers=workers),
            )
        yield (
            "process that reads pictures killed",
            hurting(1, hurts.worker_killed_in_step, 2, more=WORKERS),
        )
        yield (
            "SIGTERM for every process of the job",
            hurting(143, hurts.signalled_with_workers, signal.SIGTERM, 2, more=WORKERS),
        )


def signalled(run: Run, number: int, moment: float) -> None:
    """The signal comes at this moment, or sooner if the run had ended by then: a run that was not hit is no try."""
    while True:
        process = run.start()
        process.join(moment)
        if process.pid is not None and process.is_alive():
            os.kill(process.pid, number)
        ended = run.end(process)
        if ended.code:
            break
        shutil.rmtree(run.folder)
        moment *= 0.7
    assert ended.code in (-number, 128 + number), ended


def after_some(run: Run, hurt: Callable[..., None], arguments: tuple[object, ...], words: str) -> None:
    hurting(-9, hurts.killed_while_writing, 4, "after")(run)
    run.end(run.start(hurt, *arguments)).one_line(1, f"error: {words}", "last.pt")


def read(run: Run, workers: int) -> None:
    Run(run.track, run.folder, (f"data.workers={workers}",)).finish()


def refused(run: Run) -> None:
    with alone_in(run.folder):
        run.end(run.start()).one_line(2, "is in use by process")


def rank_killed(run: Run, restarts: int) -> None:
    """Two ranks: one is killed in the middle, and the run is compared with one of two ranks that nothing hurt."""
    ranked(run.folder.with_name("ranks"), run, "none", 0)
    done = ranked(run.folder, run, "rank_killed_in_step", restarts)
    assert (done.returncode == 0) == (restarts > 0), done.stderr
    if not restarts:
        done = ranked(run.folder, run, "none", 0)
        assert done.returncode == 0, done.stderr
    assert_same(run.folder.with_name("ranks"), run.folder)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="SIGKILLs at random moments, for each track")
    options = parser.parse_args()
    tries: Counter[tuple[str, str]] = Counter()
    survived: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for track, what in tracks(work / "data").items():
            straight = Run(what, work / track / "straight")
            straight.finish()  # with the imports of the server
            began = time.monotonic()
            Run(what, work / track / "timed").finish()
            seconds = time.monotonic() - began
            for number, (fault, hurt) in enumerate(faults(track, seconds, options.kills)):
                run = Run(what, work / track / str(number) / "run")
                tries[track, fault] += 1
                try:
                    hurt(run)
                    if "torchrun" not in fault:
                        Run(what, run.folder, ("data.workers=0",) * (track == "single_stage")).finish()
                        assert_same(straight.folder, run.folder)
                except (AssertionError, InputError) as error:
                    print(f"{track}: {fault}: {error}", file=sys.stderr)
                    continue
                survived[track, fault] += 1
    print("| track | fault | tried | survived, to the same bits |\n|---|---|---:|---:|")
    for key, count in tries.items():
        print(f"| {key[0]} | {key[1]} | {count} | {survived[key]} |")
    print(f"| both | all | {tries.total()} | {survived.total()} |")
    sys.exit(tries != survived)


if __name__ == "__main__":
    main()
