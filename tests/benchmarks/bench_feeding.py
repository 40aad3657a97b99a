"""What it costs to load a set as large as Human3.6M and to draw batches from it, as ratios to what cannot be saved.

The set is the embedded one, read ten times over: 1.5 million training poses.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import torch

from lifting.datasets.pose_batches import PoseBatches
from lifting.datasets.poses import PoseSet, load_poses
from lifting.datasets.store import PoseStore
from lifting.geometry.h36m import TRAIN_SUBJECTS
from lifting.prediction import Batch
from lifting.synthetic.poses import synthetic_store
from lifting.training.steps import Batches
from tests.benchmarks.bench_step import PRECISIONS, step, times

COPIES, ROUNDS = 10, 9
BATCH = 1024
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def benchmarks() -> list[dict[str, Any]]:
    """The time of loading over that of projecting the same poses, its memory over that of the set, and the share of a
    training step that batches take."""
    path = synthetic_store()
    before = memory_mb()
    poses = loaded([path] * COPIES)
    peak = memory_mb(peak=True) - before
    with PoseStore(path) as store:
        taken = times({"loading": lambda: loaded([path]), "projecting": projecting(store)}, ROUNDS)
    return [
        {"name": "loading poses / projecting them", "ratio": taken["loading"] / taken["projecting"], "target": 2.0},
        {"name": f"most memory in loading {len(poses):,} poses / the set's own", "ratio": peak / size_mb(poses),
         "target": 1.2},
        {"name": f"shuffling and gathering / a step of FC + RLE, {PRECISIONS[-1]}",
         "ratio": feeding(poses)["batch"] / times({"step": step("FC", "RLE", PRECISIONS[-1])}, ROUNDS)["step"],
         "target": 0.03},
    ]  # fmt: skip


def loaded(paths: list[Path], stride: int = 1) -> PoseSet:
    """The training poses of these stores."""
    with ExitStack() as stack:
        return load_poses([stack.enter_context(PoseStore(path)) for path in paths], TRAIN_SUBJECTS, stride)


def projecting(store: PoseStore) -> Callable[[], None]:
    """Moves every training pose into the frame of each camera and projects it, in float64, and nothing else."""
    clips = [
        (camera, torch.from_numpy(store.positions(subject, sequence)).double())
        for subject in TRAIN_SUBJECTS
        for sequence in store.sequences(subject)
        for camera in store.cameras(subject).values()
    ]

    def run() -> None:
        for camera, world in clips:
            camera.project(camera.world_to_camera(world))

    return run


def feeding(poses: PoseSet) -> dict[str, float]:
    """Seconds of a permutation, of gathering a batch, and of both for each batch of an epoch.

    Between two batches, a product of large matrices clears the caches as a training step does.
    """
    batches = PoseBatches(poses, BATCH, flip=True)
    feed, weights = endless(batches), torch.randn(2048, 2048)
    order = torch.Generator()
    taken = times(
        {
            "shuffle": lambda: torch.randperm(len(poses), generator=order),
            "product": lambda: weights @ weights,
            "gather": lambda: next(feed),
        },
        ROUNDS,
    )
    return taken | {"batch": taken["gather"] + taken["shuffle"] / len(batches)}


def endless(batches: Batches) -> Iterator[Batch]:
    """The batches of one epoch after the other."""
    return (batch for seed in count() for batch in batches.epoch(seed))


def memory_mb(*, peak: bool = False) -> float:
    """Resident memory of this process; ``peak``: the most since the last call without it. Linux alone can tell."""
    if not peak:
        RESET.write_text("5")
    name = "VmHWM:" if peak else "VmRSS:"
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024 / 1e6


def size_mb(poses: PoseSet) -> float:
    """Of the tensors that have a row for each pose."""
    tensors = (poses.keypoints, poses.target, poses.pixel, poses.action, poses.scene.root, poses.scene.camera)
    return sum(x.numel() * x.element_size() for x in tensors) / 1e6
