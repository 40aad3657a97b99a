"""Lifting as a user does it, against what was promised: a pose at a time, and the command on 10,000 frames."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from lifting import Lifter, lifter
from lifting.checkpoint import save_checkpoint
from lifting.config import load_config
from lifting.geometry.skeleton import H36M17
from lifting.inference.export import export_lifter

ROOT = Path(__file__).parents[2]
POSES, SIZE = 300, (1280, 720)
LIMITS = {"onnx": 1.0, "pt": 3.0}  # milliseconds for one pose on one core
COMMAND = 5.0  # seconds for 10,000 frames on two cores, from start to file


def benchmarks() -> list[dict[str, Any]]:
    """Times as ratios to their limits, for an SRNet of the default size with random weights."""
    threads = torch.get_num_threads()
    try:
        with tempfile.TemporaryDirectory() as folder:
            return _measure(Path(folder))
    finally:
        torch.set_num_threads(threads)


def _measure(folder: Path) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    config = load_config(overrides=["model.name=srnet", "model.input=person"])
    objective = lifter.build_objective(config, H36M17)
    states = {"network": objective.network.state_dict(), "likelihood": objective.likelihood.state_dict()}
    save_checkpoint(folder / "srnet.pt", {"config": config.model_dump(mode="json"), "joint_set": H36M17.name, **states})
    export_lifter(folder / "srnet.pt", folder / "srnet.onnx")
    rng = np.random.default_rng(0)
    poses = rng.uniform((300, 200), (900, 500), (POSES, 1, 2)) + rng.normal(0, 60, (POSES, 17, 2))
    results = []
    for ending, limit in LIMITS.items():
        one = Lifter.load(folder / f"srnet.{ending}", threads=1)
        seconds = [_seconds(lambda pose=pose, one=one: one.lift(pose, SIZE)) for pose in poses]  # type: ignore[misc]
        by = {"onnx": "ONNX Runtime", "pt": "torch"}[ending]
        ratio = 1000 * median(seconds[10:]) / limit
        results.append({"name": f"a pose by {by}, SRNet, one core / {limit:g} ms", "ratio": ratio, "target": 1.0})
    np.save(folder / "keypoints.npy", np.resize(poses, (10_000, 17, 2)))
    command = [sys.executable, str(ROOT / "run_lifting.py"), "lift", "--checkpoint", str(folder / "srnet.onnx")]
    command += ["--input", str(folder / "keypoints.npy"), "--joints", "h36m17", "--size", *map(str, SIZE)]
    command += ["--output", str(folder / "lifted.npz")]

    def lift() -> None:
        subprocess.run(command, check=True, capture_output=True, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "2"})

    ratio = min(_seconds(lift) for _ in range(3)) / COMMAND
    results.append({"name": f"lift on 10,000 frames, start included / {COMMAND:g} s", "ratio": ratio, "target": 1.0})
    return results


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
