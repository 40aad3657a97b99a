"""Loading, a training step and an evaluation of the single-stage track in 2D, over the same pictures in 3D."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from lifting.config import SingleStageConfig, read_config
from lifting.datasets.image_batches import ImageBatches
from lifting.datasets.image_set import ImageSet
from lifting.single_stage import build_objective, evaluate
from lifting.training.steps import training_step
from tests.benchmarks.bench_crops import BATCH, SIDE, image_set, one_core, write_pictures
from tests.benchmarks.bench_step import times

NETWORK = [f"train.batch_size={BATCH}", "data.size=64", "model.backbone=resnet18", "model.width=32"]
ROUNDS = 5


def benchmarks() -> Iterator[dict[str, Any]]:
    with one_core(), TemporaryDirectory() as folder:
        deep = image_set(write_pictures(Path(folder)), SIDE / 2)
        flat = replace(deep, points=None, focal=None, center=None)
        runs = {
            (dims, what): run for images, dims in ((deep, 3), (flat, 2)) for what, run in works(images, dims).items()
        }
        taken = times(runs, ROUNDS, warm=1)
    for what in ("loading", "training step", "evaluation"):
        yield {"name": f"2D over 3D: {what} of a crop", "ratio": taken[2, what] / taken[3, what], "target": 1.0}


def works(images: ImageSet, dims: int) -> dict[str, Callable[[], object]]:
    """What is done with a batch of 32 crops."""
    config = read_config(SingleStageConfig, overrides=[*NETWORK, f"model.dims={dims}"])
    torch.manual_seed(0)
    objective = build_objective(config)
    optimizer = torch.optim.Adam(objective.parameters(), lr=1e-3, fused=True)
    batches, seeds = ImageBatches(images, None, config, torch.device("cpu")), count()
    (batch,) = batches.epoch(next(seeds))
    return {
        "loading": lambda: list(batches.epoch(next(seeds))),
        "training step": lambda: training_step(objective.train(), batch, optimizer, config.train),
        "evaluation": lambda: evaluate(objective.eval(), images, config),
    }
