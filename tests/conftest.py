"""Shared by the tests: a small store from the embedded set, a small model that trains on it, and a shell."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import run_lifting
from lifting.command import run_command
from lifting.datasets.store import write_store
from lifting.geometry import h36m
from lifting.reports import density_scores
from lifting.synthetic.poses import plans
from tests.small_lifters import checkpoints, exported

__all__ = ["checkpoints", "exported"]

if "PYTEST_XDIST_WORKER" in os.environ:  # for this process alone: those that it starts say one line on stderr
    os.environ.pop("PYTHONWARNDEFAULTENCODING", None)

ROOT = Path(__file__).parents[1]
SUBJECTS = ("S1", "S5", "S9")
SMALL = [
    "data.train_subjects=[S1, S5]",
    "data.test_subjects=[S9]",
    "data.stride=8",
    "data.test_stride=20",
    "model.width=64",
    "model.blocks=1",
    "loss.flow.width=8",
    "loss.flow.couplings=2",
    "train.batch_size=64",
    "train.epochs=2",
    "train.precision=fp32",
]

# For each COCO joint, the Human3.6M joint at or near its place.
COCO_OF_H36M = [9, 10, 10, 10, 10, 11, 14, 12, 15, 13, 16, 4, 1, 5, 2, 6, 3]


# Files of few tests that take long: the last ones of a run would be left to a single process.
LONG = ("test_two_ranks.py", "test_faults.py", "test_run_lifting.py", "test_single_stage.py", "test_uncertainty.py")
# Tests that one process runs, because they share what takes seconds: a server that forks commands (`tests.forked`), a
# network as ONNX, torch's compiler. Every other file is a group of its own.
TOGETHER = {
    "commands": ("faults/", "fuzz/", "training/test_two_ranks", "training/test_ranks", "test_run_lifting"),
    "exports": ("inference/", "commands/test_lift", "test_packaging", "test_crossfit", "training/test_objective"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.hookimpl(optionalhook=True)  # without xdist nobody asks
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """``--dist loadfile`` with `TOGETHER`; xdist answers for any other."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    def process_of(nodeid: str) -> str:
        test = nodeid.removeprefix("tests/")
        groups = [name for name, beginnings in TOGETHER.items() if test.startswith(beginnings)]
        return groups[0] if groups else nodeid.split("::")[0]

    scheduler = LoadFileScheduling(config, log)
    scheduler._split_scope = process_of
    return scheduler


@pytest.fixture(scope="session")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three subjects with two sequences each, four cameras."""
    path = tmp_path_factory.mktemp("store") / "small.h5"
    chosen = [p for p in plans(seed=0) if p.subject in SUBJECTS and p.name.startswith(("Walking", "Greeting"))]
    cameras = {subject: h36m.cameras(subject) for subject in SUBJECTS}
    write_store(path, [plan.performed() for plan in chosen], cameras, frame_rate=50.0, source="test", checksum="none")
    return path


@pytest.fixture
def small(small_store: Path) -> list[str]:
    """Overrides for a run of about a second."""
    return [f"data.path={small_store}", *SMALL]


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """``--uncertainty`` with coverage that is good to 0.3 %, in a fraction of its time."""
    monkeypatch.setattr(density_scores, "_UNIT_DRAWS", 2**15)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread, as each process has under torchrun: sums over several threads round differently."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Shell:
    """Calls a command's main in this process, which saves importing torch again; returns exit code, stdout, stderr."""

    def __init__(self, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]) -> None:
        self.patch, self.capture = patch, capture

    def __call__(self, *arguments: object, main: object = run_lifting.main) -> tuple[int, str, str]:
        self.patch.setattr(sys, "argv", ["command", *map(str, arguments)])
        code = 0
        try:
            run_command(main)  # type: ignore[arg-type]
        except SystemExit as leave:
            code = int(leave.code or 0)
        return code, *self.capture.readouterr()


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(monkeypatch, capsys)


def refused(result: tuple[int, str, str], *words: str) -> None:
    """Asserts exit code 2 and a single line on stderr with these words."""
    code, out, err = result
    lines = err.strip().splitlines()
    assert code == 2, err
    assert out == ""
    assert len(lines) == 1, err
    for word in words:
        assert word in lines[0]
