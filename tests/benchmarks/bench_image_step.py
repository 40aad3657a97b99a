"""A training step of ResNet-50 with RLE at 256 x 256, batch 32: bfloat16 and channels_last against plain float32."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from lifting.config import SingleStageConfig, read_config
from lifting.prediction import Batch
from lifting.single_stage import build_objective
from lifting.training.steps import autocast, training_step
from tests.benchmarks.bench_step import PRECISIONS, times

BATCH, SIZE = 32, 256
CASES = {
    "fp32": ["train.precision=fp32", "train.channels_last=false"],
    "fp32, channels_last": ["train.precision=fp32"],
    "bf16": ["train.precision=bf16", "train.channels_last=false"],
    "bf16, channels_last": ["train.precision=bf16"],
}
BEST = "bf16, channels_last"


def step(overrides: list[str]) -> tuple[Callable[[], Tensor], Callable[[], float]]:
    """One step of the optimiser, the engine's own, half of the batch with depth; and the loss before any step."""
    config = read_config(SingleStageConfig, overrides=["loss.normalise=false", *overrides])
    torch.manual_seed(0)
    objective = build_objective(config)
    optimizer = torch.optim.Adam(objective.parameters(), lr=1e-3, fused=True)
    images = torch.randint(0, 256, (BATCH, 3, SIZE, SIZE), dtype=torch.uint8)
    if config.train.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    has_depth = (torch.arange(BATCH) < BATCH // 2)[:, None].expand(BATCH, 18)
    batch = Batch(images, 0.3 * torch.randn(BATCH, 18, 3), torch.ones(BATCH, 18), has_depth)

    def loss() -> float:
        with autocast(torch.device("cpu"), config.train.precision):
            first: Tensor = objective(batch)[0]
        return first.item()

    return lambda: training_step(objective, batch, optimizer, config.train), loss


def benchmarks() -> Iterator[dict[str, Any]]:
    steps = {name: step(overrides) for name, overrides in CASES.items() if name[:4] in PRECISIONS}
    losses = {name: loss() for name, (_, loss) in steps.items()}
    taken = times({name: run for name, (run, _) in steps.items()}, rounds=3, warm=1)
    for name in list(steps)[1:]:
        yield {"name": f"step of ResNet-50 + RLE, batch {BATCH}: fp32 to {name}, times as fast",
               "ratio": taken["fp32"] / taken[name], "target": 6.0 if name == BEST else None,
               "better": "higher"}  # fmt: skip
    if BEST in steps:
        difference = abs(losses[BEST] - losses["fp32"]) / abs(losses["fp32"])
        yield {"name": "its first loss in bf16, relative to fp32", "ratio": difference, "target": 0.01}
