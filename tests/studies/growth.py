"""How time and memory of training grow with batch, width, joints, and rows of the set; FC + RLE in bfloat16, on a CPU.

    OMP_NUM_THREADS=1 python -m tests.studies.growth [--only batch] [--results FILE.json] [--picture FILE.png]

Each part adds its figures to the results, the table and the picture show all that are there. The exponent e of a
quantity fits c * size^e to it, by least squares of the logarithms; that of the work (multiply-adds, forward and
backward) stands beside it. Memory is the most that is resident, above what was resident before.
"""

import argparse
import ctypes
import gc
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from lifting import lifter
from lifting.command import write_json
from lifting.config import TrainConfig
from lifting.datasets.store import PoseStore, Sequence, write_store
from lifting.drawing.pose_figures import LEFT, QUIET, RIGHT, TEXT, new_figure, save_figure
from lifting.geometry import h36m
from lifting.geometry.skeleton import JointSet
from lifting.models.fc import FCBaseline
from lifting.prediction import Batch
from lifting.synthetic.poses import synthetic_store
from lifting.training.objective import Objective
from lifting.training.steps import training_step
from tests.benchmarks.bench_feeding import feeding, loaded, memory_mb
from tests.benchmarks.bench_step import BATCH, LIKELIHOODS

Row = dict[str, float]  # "size", and what was measured there

STEPS = {
    "batch": (256, 512, 1024, 2048, 4096, 8192, 16384),
    "width": (256, 512, 1024, 2048, 4096),
    "joints": (17, 34, 67, 133),
}
USUAL = {"batch": BATCH, "width": 1024, "joints": 17}
# Frames in a store, and how often it is read; each frame is seen by four cameras. The fourth is as large as the
# training set of Human3.6M, of 1,559,752 poses.
SETS = ((2_500, 1), (25_000, 1), (250_000, 1), (389_938, 1), (250_000, 10))
UNITS = {
    "seconds": "step, s",
    "MB": "memory, MB",
    "GMAC": "work, G multiply-adds",
    "loading": "loading, s",
    "set": "the set, MB",
    "shuffle": "shuffling an epoch, s",
    "batch": "a batch of 1024, s",
}
AXES = {"batch": "poses in a batch", "width": "width", "joints": "joints", "rows": "poses in the set"}
SHOWN = (("seconds", "batch", "loading"), ("MB", "set"))  # what the two rows of the picture show


def steps(part: str) -> Iterator[Row]:
    """A training step at every size of one part, the others as usual."""
    a_step(batch=64, width=64, joints=17)  # libraries take their own memory in the first step
    for size in STEPS[part]:
        yield {"size": size, **a_step(**{**USUAL, part: size})}


def a_step(batch: int, width: int, joints: int) -> Row:
    """Median seconds of a step after the first, the most memory since before the network was built, and the work."""
    before = resting_memory_mb()
    names = tuple(f"joint_{j}" for j in range(joints))
    joint_set = JointSet("any", names, (-1, *[0] * (joints - 1)), tuple(range(joints)))
    objective = Objective(FCBaseline(joints, width), LIKELIHOODS["RLE"](), joint_set)
    cost = lifter.cost(objective, joints)
    objective.train()
    optimizer = torch.optim.Adam(objective.parameters(), lr=1e-3, fused=True)
    train = TrainConfig.model_validate({"precision": "bf16"})
    sample = Batch(torch.randn(batch, joints, 2), 0.3 * torch.randn(batch, joints, 3))
    taken: list[float] = []
    while len(taken) < 4 or sum(taken) < 2:
        start = time.perf_counter()
        training_step(objective, sample, optimizer, train)
        taken.append(time.perf_counter() - start)
    work = 3 * batch * (cost["multiply_adds"] + cost["flow_multiply_adds"]) / 1e9  # backward: twice the forward pass
    return {"seconds": median(taken[1:]), "MB": memory_mb(peak=True) - before, "GMAC": work}


def sets() -> Iterator[Row]:
    """Loading sets of every size and drawing batches from them."""
    with tempfile.TemporaryDirectory() as folder:
        for frames, copies in SETS:
            path = Path(folder) / f"{frames}.h5"
            if not path.exists():
                write_tiled(path, frames)
            before, start = resting_memory_mb(), time.perf_counter()
            poses = loaded([path] * copies)
            loading, most = time.perf_counter() - start, memory_mb(peak=True) - before
            fed = feeding(poses)
            yield {"size": len(poses), "loading": loading, "set": most} | {k: fed[k] for k in ("shuffle", "batch")}
            del poses


def write_tiled(path: Path, frames: int, subjects: tuple[str, ...] = h36m.TRAIN_SUBJECTS) -> None:
    """A store of this many frames of these subjects: the embedded motion to and fro, shaken by two mm."""
    rng = np.random.default_rng(0)
    with PoseStore(synthetic_store()) as store:
        names = [(s, name) for s in subjects for name in store.sequences(s)]
        ends = np.linspace(0, frames, len(names) + 1).astype(int)

        def tiled() -> Iterator[Sequence]:
            for (subject, name), count in zip(names, np.diff(ends), strict=True):
                motion = store.positions(subject, name)
                motion = np.concatenate([motion, motion[::-1]])
                motion = np.concatenate([motion] * -(-count // len(motion)))[:count]
                shaken = motion + 0.002 * rng.standard_normal(motion.shape, dtype=np.float32)
                yield Sequence(subject, name, shaken)

        cameras = {subject: h36m.cameras(subject) for subject in subjects}
        write_store(path, tiled(), cameras, frame_rate=50.0, source="tests/studies/growth.py", checksum="none")


def resting_memory_mb() -> float:
    """Resident memory after what is free has gone back to the system."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return memory_mb()


def exponent(rows: list[Row], name: str) -> float:
    """e of c * size^e."""
    size, value = (np.log([row[key] for row in rows]) for key in ("size", name))
    return float(np.polyfit(size, value, 1)[0])


def table(part: str, rows: list[Row]) -> list[str]:
    """As Markdown; the last two lines are exponents, over all sizes and from the last but one to the last."""
    names = [name for name in rows[0] if name != "size"]
    lines = [f"| {part} | {' | '.join(UNITS[name] for name in names)} |", f"|---:|{'---:|' * len(names)}"]
    lines += [f"| {row['size']:,} | {' | '.join(f'{row[name]:.3g}' for name in names)} |" for row in rows]
    for title, some in (("exponent, all", rows), ("exponent, last two", rows[-2:])):
        lines.append(f"| {title} | {' | '.join(f'{exponent(some, name):.2f}' for name in names)} |")
    return [*lines, ""]


def draw(path: Path, results: dict[str, list[Row]]) -> None:
    """Time above, memory below, a column for each part; everything on logarithmic axes."""
    figure = new_figure(11, 5.6)
    panels = figure.subplots(2, len(results), sharex="col", squeeze=False)
    for column, (part, rows) in zip(panels.T, results.items(), strict=True):
        for panel, shown in zip(column, SHOWN, strict=True):
            curves(panel, part, rows, [name for name in shown if name in rows[0]])
        column[-1].set_xlabel(AXES[part], color=TEXT)
    panels[0, 0].set_ylabel("seconds", color=TEXT)
    panels[1, 0].set_ylabel("MB", color=TEXT)
    save_figure(figure, path)


def curves(panel: Axes, part: str, rows: list[Row], names: list[str]) -> None:
    size = [row["size"] for row in rows]
    for name, colour in zip(names, (RIGHT, LEFT), strict=False):
        label = f"{UNITS[name].split(',')[0]}, exponent {exponent(rows, name):.2f}"
        panel.loglog(size, [row[name] for row in rows], "o-", color=colour, linewidth=1.8, markersize=4, label=label)
    if "seconds" in names:
        usual = next(row for row in rows if row["size"] == USUAL[part])
        work = [row["GMAC"] / usual["GMAC"] * usual["seconds"] for row in rows]
        label = f"if it grew as the work, {exponent(rows, 'GMAC'):.2f}"
        panel.loglog(size, work, "--", color=QUIET, linewidth=1.2, label=label)
    if part != "rows":  # one scale for all steps
        panel.set_ylim((0.03, 30) if "seconds" in names else (50, 10_000))
        panel.set_xticks(size, [f"{int(s):,}" for s in size], fontsize=7, rotation=30)
        panel.xaxis.set_minor_locator(NullLocator())
    else:
        panel.set_ylim((1e-4, 1e3) if "loading" in names else (1, 100_000))
    panel.yaxis.set_major_formatter("{x:,g}")
    panel.tick_params(labelsize=7, labelcolor=TEXT)
    panel.grid(color="#e6e6e6", linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(fontsize=8, frameon=False, labelcolor=TEXT, loc="upper left", handlelength=1.4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=(*STEPS, "rows"), action="append", help="repeatable; all without")
    parser.add_argument("--results", type=Path, default=Path("checkpoints/growth.json"))
    parser.add_argument("--picture", type=Path, default=Path("docs/results/growth.png"))
    options = parser.parse_args()
    results = json.loads(options.results.read_text()) if options.results.exists() else {}
    for part in options.only or (*STEPS, "rows"):
        results[part] = list(sets() if part == "rows" else steps(part))
        print("\n".join(table(part, results[part])), flush=True)
        options.results.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.results, results)
    draw(options.picture, {part: results[part] for part in (*STEPS, "rows") if part in results})


if __name__ == "__main__":
    main()
