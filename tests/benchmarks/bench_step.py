"""A training step of 1024 poses, as a ratio to the FC baseline's own matrix products in float32.

What is compared is timed in alternation in one run, so that a busy machine disturbs all alike.
"""

import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from statistics import median
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lifting.config import TrainConfig
from lifting.likelihood import RLE, ConstantVariance, Likelihood
from lifting.models.fc import Dropout, FCBaseline
from lifting.models.srnet import SRNet
from lifting.prediction import Batch
from lifting.training.objective import Objective
from lifting.training.ranks import has_bf16_units
from lifting.training.steps import training_step

Case = TypeVar("Case")

BATCH = 1024
NETWORKS: dict[str, Callable[..., nn.Module]] = {"FC": FCBaseline, "SRNet": SRNet}
LIKELIHOODS: dict[str, Callable[[], Likelihood]] = {
    "L1": lambda: ConstantVariance("l1"),
    "sigma without a flow": lambda: Likelihood(base="radial", beta=1),
    "RLE": RLE,
    "RLE at flow_share 0.25": lambda: RLE(flow_share=0.25),
}
PRECISIONS = ["fp32", *["bf16"] * has_bf16_units(torch.device("cpu"))]
# The ratio of public code, and ours to be: FC with L1, with the best RLE, with it in bfloat16; the authors' SRNet.
CASES: list[tuple[str, str, str, float | None, float | None]] = [
    ("FC", "L1", "fp32", 2.06, 1.12),
    ("FC", "sigma without a flow", "fp32", None, None),
    ("FC", "RLE", "fp32", 2.9, 1.40),
    ("FC", "RLE at flow_share 0.25", "fp32", 2.9, 1.40),
    ("FC", "L1", "bf16", None, 0.42),
    ("FC", "sigma without a flow", "bf16", None, None),
    ("FC", "RLE", "bf16", 2.1, 0.52),
    ("FC", "RLE at flow_share 0.25", "bf16", 2.1, 0.52),
    ("SRNet", "L1", "fp32", 5.5, None),
    ("SRNet", "L1", "bf16", None, None),
    ("SRNet", "RLE", "bf16", None, 0.32),
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


def step(network: str, loss: str, precision: str) -> Callable[[], Tensor]:
    """One step of the optimiser, the engine's own."""
    likelihood = LIKELIHOODS[loss]()
    objective = Objective(NETWORKS[network](with_sigma=likelihood.has_sigma), likelihood)
    optimizer = torch.optim.Adam(objective.parameters(), lr=1e-3, fused=True)
    train = TrainConfig.model_validate({"precision": precision})
    batch = Batch(torch.randn(BATCH, 17, 2), 0.3 * torch.randn(BATCH, 17, 3))

    return lambda: training_step(objective, batch, optimizer, train)


def times(cases: dict[Case, Callable[[], object]], rounds: int = 15, warm: int = 3) -> dict[Case, float]:
    """Median seconds of each case, taken in turn."""
    seen: dict[Case, list[float]] = {name: [] for name in cases}
    for turn in range(rounds + warm):
        for name, run in cases.items():
            start = time.perf_counter()
            run()
            if turn >= warm:
                seen[name].append(time.perf_counter() - start)
    return {name: median(values) for name, values in seen.items()}


def title(network: str, loss: str, precision: str) -> str:
    return f"step of {network} + {loss}, {precision}, to the products alone"


def benchmarks() -> Iterator[dict[str, Any]]:
    cases = [case for case in CASES if case[2] in PRECISIONS]
    steps = {title(*case[:3]): step(*case[:3]) for case in cases}
    taken = times({"products": products(), **steps})
    for *case, public, target in cases:
        ratio = taken[title(*case)] / taken["products"]
        yield {"name": title(*case), "ratio": ratio, "public": public, "target": target}
    for how in PRECISIONS:
        without = taken[title("FC", "sigma without a flow", how)]
        for loss in ("RLE", "RLE at flow_share 0.25"):
            yield {"name": f"the flow's overhead: FC + {loss}, {how}, to FC + sigma without a flow",
                   "ratio": taken[title("FC", loss, how)] / without, "target": 1.2}  # fmt: skip
    ours, theirs = Dropout(0.25), nn.Dropout(0.25)
    features: Tensor = torch.randn(BATCH, 1024)
    drop = times({"ours": lambda: ours(features), "theirs": lambda: theirs(features)})
    yield {"name": "dropout with byte masks, to torch's", "ratio": drop["ours"] / drop["theirs"], "target": 0.5}
