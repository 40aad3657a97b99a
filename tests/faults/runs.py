"""Real training processes of both tracks to be hurt, and whether what they leave goes on to the same bits."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from lifting.checkpoint import load_checkpoint
from lifting.datasets.image_index import write_index
from lifting.datasets.store import write_store
from lifting.geometry import h36m
from lifting.sources.image_readers import read_h36m_images, read_mpii
from lifting.synthetic.pictures import make_rendered
from lifting.synthetic.poses import plans
from tests import forked

ROOT = Path(__file__).parents[2]
PATIENCE = 600.0  # seconds after which a process counts as hung


@dataclass(frozen=True)
class Track:
    """One of the two commands, with the settings of a run of about a second that saves after every step."""

    script: str
    overrides: tuple[str, ...]


@dataclass
class Ended:
    """How a process ended: its exit code (below zero: by that signal) and what it wrote to stderr."""

    code: int | None
    err: str

    def one_line(self, code: int, *words: str) -> None:
        """Asserts this exit code, and a last line on stderr with these words and no traceback."""
        assert self.code == code, self
        assert "Traceback" not in self.err, self.err
        last = (self.err.strip().splitlines() or [""])[-1]
        assert all(word in last for word in words), self.err


def tracks(folder: Path) -> dict[str, Track]:
    """Both tracks on small data, which are made in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    chosen = [p.performed() for p in plans(seed=0) if p.subject in ("S1", "S9") and p.name.startswith("Walking")]
    cameras = {subject: h36m.cameras(subject) for subject in ("S1", "S9")}
    write_store(folder / "poses.h5", chosen, cameras, frame_rate=50.0, source="test", checksum="none")
    make_rendered(folder / "set", train=36, test=2, flat_train=12, flat_valid=2, workers=1)
    write_index(folder / "deep.h5", read_h36m_images(folder / "set" / "h36m")[0], source="test", checksum="")
    write_index(folder / "flat.h5", read_mpii(folder / "set" / "mpii")[0], source="test", checksum="")
    both = ("loss.flow.width=8", "loss.flow.couplings=2", "train.bn_batches=2", "train.precision=fp32",
            "train.device=cpu", "train.save_minutes=1e-9", "train.epochs=3")  # fmt: skip
    lifting = (f"data.path={folder / 'poses.h5'}", "data.train_subjects=[S1]", "data.test_subjects=[S9]",
               "data.stride=8", "data.test_stride=20", "data.augment.noise=0.02", "data.augment.bones=0.1",
               "model.width=32", "model.blocks=1", "train.batch_size=24")  # fmt: skip
    pictures = (f"data.path={folder / 'deep.h5'}", f"data.flat_path={folder / 'flat.h5'}", "data.size=32",
                "model.backbone=resnet18", "model.width=8", "train.batch_size=8")  # fmt: skip
    return {"lifting": Track("run_lifting.py", (*both, *lifting)),
            "single_stage": Track("run_single_stage.py", (*both, *pictures))}  # fmt: skip


@dataclass
class Run:
    """A run in ``folder``, whose command is called as often as it takes; ``more`` are further overrides."""

    track: Track
    folder: Path
    more: tuple[str, ...] = ()
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.folder.parent / f"{self.folder.name}.err"

    def arguments(self) -> list[str]:
        """Of the command that begins the run, or resumes it if there is a checkpoint."""
        if (self.folder / "last.pt").exists():
            return ["train", "--resume", str(self.folder), *self.more]
        return ["train", "--output", str(self.folder), *self.track.overrides, *self.more]

    def start(self, hurt: Callable[..., None] | None = None, *arguments: Any) -> BaseProcess:
        """Begins or resumes the run in a new process, which first calls ``hurt`` with these arguments."""
        command = [self.track.script, *self.arguments()]
        return forked.start(command, Path(os.devnull), self.log, hurt, *arguments)

    def end(self, process: BaseProcess) -> Ended:
        """Waits for a process of this run; one that hangs is killed and counts as an error."""
        process.join(PATIENCE)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise AssertionError(f"{self.folder}: hung; {self.log.read_text()}")
        return Ended(process.exitcode, self.log.read_text())

    def finish(self) -> None:
        """Checks that ``last.pt`` loads, if it is there, and takes the run to its end."""
        if (self.folder / "last.pt").exists():
            load_checkpoint(self.folder / "last.pt")
        ended = self.end(self.start())
        assert ended.code == 0, ended

    def wait_for_checkpoint(self, process: BaseProcess) -> None:
        """Returns when ``last.pt`` is there."""
        until = time.monotonic() + PATIENCE
        while not (self.folder / "last.pt").exists():
            assert time.monotonic() < until and process.is_alive(), self.log.read_text()
            time.sleep(0.005)

    def copy(self, folder: Path) -> "Run":
        """The same run in another folder."""
        shutil.copytree(self.folder, folder)
        return Run(self.track, folder, self.more)


def ranked(folder: Path, run: Run, hurt: str, restarts: int) -> "subprocess.CompletedProcess[str]":
    """Begins or resumes a run in ``folder`` under torchrun, whose second rank is hurt so the first time."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [f"--max-restarts={restarts}", "-m", "tests.faults.rank", hurt]
    command += [run.track.script, *Run(run.track, folder).arguments()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def assert_same(one: Path, other: Path) -> None:
    """Asserts that two runs ended with the same bits: weights, optimiser, and every number of ``metrics.jsonl``."""
    left, right = (load_checkpoint(folder / "last.pt") for folder in (one, other))
    for state in (left, right):
        state.pop("config")
    _assert_equal(left, right, str(other))
    lines = [[json.loads(line) for line in (f / "metrics.jsonl").read_text().splitlines()] for f in (one, other)]
    for line in lines[0] + lines[1]:
        line.pop("seconds")
    assert lines[0] == lines[1]
    assert not [path.name for path in other.glob(".*-*")]  # what was half written is gone


def _assert_equal(one: Any, other: Any, where: str) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            _assert_equal(one[key], other[key], f"{where}: {key}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, (left, right) in enumerate(zip(one, other, strict=True)):
            _assert_equal(left, right, f"{where}: {index}")
    else:
        assert one == other, where
