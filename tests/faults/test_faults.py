"""Training survives: whatever ends its process, `last.pt` loads, and the resumed run ends with the same bits.

`make faults` does more of the same.
"""

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lifting.training.run_folder import alone_in
from tests.faults import hurts
from tests.faults.runs import Run, Track, assert_same, tracks

NAMES = ["lifting", "single_stage"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Track]:
    return tracks(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def straight(made: dict[str, Track], tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Run, float]]:
    """For each track a run that nothing hurt, and how long it took."""
    found = {}
    for name, track in made.items():
        run = Run(track, tmp_path_factory.mktemp("straight") / name)
        began = time.monotonic()
        run.finish()
        found[name] = run, time.monotonic() - began
    return found


@pytest.fixture
def runs(made: dict[str, Track], straight: dict[str, tuple[Run, float]], tmp_path: Path) -> Iterator[dict[str, Run]]:
    """For each track a run to hurt, which is then finished and compared with the one that nothing hurt."""
    there = {name: Run(track, tmp_path / name) for name, track in made.items()}
    there["single_stage"].more = ("data.workers=0",)  # also to resume a run with workers
    yield there
    for name, run in there.items():
        if run.folder.exists():
            run.finish()
            assert_same(straight[name][0].folder, run.folder)


@pytest.mark.parametrize("name", NAMES)
def test_killed_at_random_moments(runs: dict[str, Run], straight: dict[str, tuple[Run, float]], name: str) -> None:
    moments = random.Random(0)
    for _ in range(2):
        process = runs[name].start()
        process.join(moments.uniform(0.3, 1) * straight[name][1])
        process.kill()
        assert runs[name].end(process).code in (0, -signal.SIGKILL)


@pytest.mark.parametrize(("name", "number", "place"), [("lifting", 5, "half"), ("single_stage", 3, "before")])
def test_killed_while_a_checkpoint_is_written(runs: dict[str, Run], name: str, number: int, place: str) -> None:
    process = runs[name].start(hurts.killed_while_writing, number, place)
    assert runs[name].end(process).code == -signal.SIGKILL
    assert list(runs[name].folder.glob(".last-*"))


def test_killed_between_its_line_and_its_checkpoint(runs: dict[str, Run]) -> None:
    process = runs["lifting"].start(hurts.killed_after_its_line, 2)
    assert runs["lifting"].end(process).code == -signal.SIGKILL


@pytest.mark.parametrize(
    ("name", "number", "code"), [("lifting", signal.SIGINT, 130), ("single_stage", signal.SIGTERM, 143)]
)
def test_a_signal_finishes_the_step_and_saves(
    runs: dict[str, Run], name: str, number: signal.Signals, code: int
) -> None:
    run = Run(runs[name].track, runs[name].folder, ("train.save_minutes=0",))
    process = run.start(hurts.signalled_in_step, number, 2)
    run.end(process).one_line(code, f"resume with: python {run.track.script} train --resume {run.folder}")
    assert load_step(run) == 2


def test_a_signal_during_the_evaluation(runs: dict[str, Run]) -> None:
    run = Run(runs["lifting"].track, runs["lifting"].folder, ("train.save_minutes=0",))
    run.end(run.start(hurts.signalled_in_evaluation, signal.SIGTERM)).one_line(143, "resume with")


def test_a_full_disk(runs: dict[str, Run]) -> None:
    run = runs["lifting"]
    run.end(run.start(hurts.killed_while_writing, 3, "after"))
    size = (run.folder / "last.pt").stat().st_size
    run.end(run.start(hurts.files_limited, size // 2)).one_line(1, "error: File too large", "last.pt")


@pytest.mark.skipif(not hurts.may_mount(), reason="mounts the folder anew")
def test_a_folder_that_becomes_read_only(runs: dict[str, Run]) -> None:
    run = runs["lifting"]
    run.end(run.start(hurts.killed_while_writing, 3, "after"))
    run.end(run.start(hurts.read_only_after, run.folder, 2)).one_line(1, "error: Read-only file system", "last.pt")


def test_a_data_worker_killed(runs: dict[str, Run]) -> None:
    run = Run(runs["single_stage"].track, runs["single_stage"].folder, ("data.workers=1",))
    run.end(run.start(hurts.worker_killed_in_step, 2)).one_line(1, "error: a process that reads pictures died")


def test_workers_leave_a_signal_to_the_trainer(runs: dict[str, Run]) -> None:
    """Slurm and a terminal send it to every process of the job."""
    run = Run(runs["single_stage"].track, runs["single_stage"].folder, ("data.workers=1",))
    run.end(run.start(hurts.signalled_with_workers, signal.SIGTERM, 2)).one_line(143, "resume with")
    assert load_step(run) == 2


def test_the_clock_set_back(runs: dict[str, Run]) -> None:
    run = runs["lifting"]
    assert run.end(run.start(hurts.clock_set_back)).code == 0


def test_two_processes_on_one_folder(runs: dict[str, Run]) -> None:
    run = runs["lifting"]
    with alone_in(run.folder):
        run.end(run.start()).one_line(2, f"error: train: {run.folder} is in use by process")
    assert not (run.folder / "last.pt").exists()


def load_step(run: Run) -> int:
    from lifting.checkpoint import load_checkpoint

    return int(load_checkpoint(run.folder / "last.pt")["unfinished"]["step"])
