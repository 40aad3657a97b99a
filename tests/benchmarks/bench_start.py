"""How long a command takes to start, against an import of NumPy, in alternation in one run."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
ROUNDS = 7
HELP = 0.3  # seconds


def benchmarks() -> list[dict[str, Any]]:
    """Times of whole processes as ratios to ``python -c "import numpy"``; ``--help`` as one to its limit too."""
    with tempfile.TemporaryDirectory() as folder:
        return _measure(Path(folder))


def _measure(folder: Path) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    np.save(folder / "pose.npy", rng.uniform((300, 200), (900, 500), (1, 1, 2)) + rng.normal(0, 60, (1, 17, 2)))
    lift = ["run_lifting.py", "lift", "--input", folder / "pose.npy", "--joints", "h36m17", "--size", 1280, 720]
    commands: dict[str, tuple[list[object], float | None]] = {
        "run_lifting.py --help": (["run_lifting.py", "--help"], 1.0),
        "lift, one pose, the released weights": ([*lift, "--output", folder / "lifted.npz"], 5.0),
        "lifting.evaluate --help": (["-m", "lifting.evaluate", "--help"], None),
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    ratios: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(ROUNDS + 1):
        numpy = _seconds(["-c", "import numpy"])
        for name, (command, _) in commands.items():
            times[name].append(_seconds(command))
            ratios[name].append(times[name][-1] / numpy)
    results = [  # the first round reads the files from the disk
        {"name": f"{name} / import numpy", "ratio": median(ratios[name][1:]), "target": limit}
        for name, (_, limit) in commands.items()
    ]
    first = next(iter(commands))
    return [{"name": f"{first} / {HELP:g} s", "ratio": median(times[first][1:]) / HELP, "target": 1.0}, *results]


def _seconds(command: list[object]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *map(str, command)], check=True, capture_output=True, cwd=ROOT)
    return time.perf_counter() - start
