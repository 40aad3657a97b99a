"""The folder of a run: one process at a time, what was run where, and its lines of metrics."""

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lifting.command import InputError, whole_file, without_nan, write_json

ROOT = Path(__file__).parents[2]  # of a checkout


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keeps other processes from training in ``folder``, and removes the half-written files of one that was killed.

    The system drops the lock with the process, however that ends. It is not inherited by the processes that read
    pictures, which outlive a killed parent for some seconds.

    Raises:
        InputError: another process is training there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+", encoding="utf-8") as file:
        try:
            _lock(file.fileno())
        except OSError:
            file.seek(0)
            raise InputError(f"train: {folder} is in use by {file.read() or 'another process'}") from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        for name in ("last", "best", "config", "metrics", "run", "report", "poses"):
            for stale in folder.glob(f".{name}-*"):
                stale.unlink()
        yield


if sys.platform == "win32":

    def _lock(handle: int) -> None:
        import msvcrt

        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
else:

    def _lock(handle: int) -> None:
        import fcntl

        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def record_start(path: Path, epoch: int, step: int, world: int, device: torch.device) -> None:
    """Appends to ``run.json``: when, from which epoch and step, by which command, code, versions and machine."""
    try:
        starts = json.loads(path.read_text(encoding="utf-8"))["starts"] if path.exists() else []
    except (ValueError, KeyError, TypeError):
        raise InputError(f"run: {path}: expected the record of this run's starts, as training writes it") from None
    start = {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "epochs_done": epoch,
        "steps_done": step,
        "command": shlex.join([sys.executable, *sys.argv]),
        "commit": _commit(),
        "versions": {
            "lifting": _own_version(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "machine": {
            "name": platform.node(),
            "system": platform.platform(),
            "processors": os.cpu_count(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "threads": torch.get_num_threads(),
            "processes": world,
        },
    }
    write_json(path, {"starts": [*starts, start]})


def _own_version() -> str | None:
    try:
        return version("lifting")
    except PackageNotFoundError:  # a checkout that was not installed
        return None


def _commit() -> str | None:
    """The commit of this code, with ``-dirty`` after it if files differ; None outside a checkout."""
    if not (ROOT / ".git").exists():
        return None
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def keep_lines(path: Path, lines: int) -> None:
    """Drops the lines that a stopped run wrote after its last complete epoch."""
    if path.exists():
        kept = path.read_text(encoding="utf-8").splitlines(keepends=True)[:lines]
        with whole_file(path) as file:
            file.write_text("".join(kept), encoding="utf-8")


def append_line(path: Path, row: dict[str, Any]) -> None:
    """Adds a line of JSON and takes it to the disk; a number that is not finite becomes null."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(without_nan(row), allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
