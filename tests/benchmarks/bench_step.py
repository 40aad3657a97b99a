"""A training step of 1024 poses, as a ratio to the FC baseline's own matrix products in float32.

What is compared is timed in alternation in one run, so that a busy machine disturbs all alike.
"""

import time
from collections.abc import Callable
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from lifting.datasets.poses import Batch
from lifting.engine import Objective
from lifting.likelihood import RLE, ConstantVariance, Likelihood
from lifting.models.fc import Dropout, FCBaseline

BATCH = 1024
# Peers' ratios on a two-core CPU: 2.06 for FC + L1 in float32, 2.9 for the best RLE in float32, 2.1 in bfloat16.
CASES: list[tuple[str, Callable[[], Likelihood], str, float | None]] = [
    ("step of FC + L1, fp32, to the products alone", lambda: ConstantVariance("l1"), "fp32", 2.06),
    ("step of FC + RLE, fp32, to the products alone", lambda: RLE(base="radial", beta=2), "fp32", 2.9),
    ("step of FC + L1, bf16, to the products alone", lambda: ConstantVariance("l1"), "bf16", None),
    ("step of FC + RLE, bf16, to the products alone", lambda: RLE(base="radial", beta=2), "bf16", 2.1),
]


def products() -> Callable[[], None]:
    """Forward and backward of the network's five linear layers, nothing else."""
    sizes = [34, 1024, 1024, 1024, 1024, 1024, 51]
    weights = [torch.randn(o, i) for i, o in pairwise(sizes)]
    inputs = [torch.randn(BATCH, i) for i in sizes[:-1]]
    gradients = [torch.randn(BATCH, o) for o in sizes[1:]]

    def run() -> None:
        for weight, x, gradient in zip(weights, inputs, gradients, strict=True):
            _ = x @ weight.T, gradient @ weight, gradient.T @ x

    return run


def step(likelihood: Likelihood, precision: str) -> Callable[[], None]:
    """One optimiser step, as `lifting.engine` takes it."""
    objective = Objective(FCBaseline(with_sigma=likelihood.has_sigma), likelihood, known=(0,))
    parameters = list(objective.parameters())
    optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=True)
    batch = Batch(torch.randn(BATCH, 17, 2), 0.3 * torch.randn(BATCH, 17, 3))

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss, _ = objective(batch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    return run


def times(cases: dict[str, Callable[[], object]], rounds: int = 15) -> dict[str, float]:
    """Median seconds of each case, taken in turn."""
    seen: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(rounds + 3):
        for name, run in cases.items():
            start = time.perf_counter()
            run()
            if turn >= 3:
                seen[name].append(time.perf_counter() - start)
    return {name: median(values) for name, values in seen.items()}


def benchmarks() -> list[dict[str, Any]]:
    taken = times({"products": products(), **{name: step(make(), how) for name, make, how, _ in CASES}})
    results = [
        {"name": name, "ratio": taken[name] / taken["products"], "target": target} for name, _, _, target in CASES
    ]
    ours, theirs = Dropout(0.25), nn.Dropout(0.25)
    features: Tensor = torch.randn(BATCH, 1024)
    drop = times({"ours": lambda: ours(features), "theirs": lambda: theirs(features)})
    name = "dropout with byte masks, to torch's"
    return [*results, {"name": name, "ratio": drop["ours"] / drop["theirs"], "target": 0.5}]
