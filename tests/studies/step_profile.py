"""Where a training step's time goes: operations of FC + RLE beside the floor of the same step.

python -m tests.studies.step_profile [--readable]

The floor is the time of the products alone, in the same precision and shapes, plus that of reading and writing every
hidden activation once in the forward pass and its gradient once in the backward pass, at the rate of a plain copy.
"""

import argparse
import math
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from statistics import median

import torch
from torch.profiler import ProfilerActivity, profile

from lifting.likelihood import RLE
from lifting.likelihood.flow import RealNVP
from tests.benchmarks.bench_step import BATCH, step

STEPS = 5
ROWS = BATCH * 16 + RLE.draws  # through the flow
LAYERS, WIDTH = 12, 64  # hidden layers of its six couplings, each of two nets
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")
NETWORK = {
    "batch norm": ("native_batch_norm",),
    "ReLU": ("clamp_min_", "threshold_backward"),
    "dropout": ("random_", "aten::ge", "aten::mul"),
    "copies and sums": ("aten::copy_", "aten::add", "aten::sum"),
}
ADAM = ("adam", "foreach", "linalg_vector_norm")


def group(name: str, shapes: list[list[int]]) -> str:
    """What an operation belongs to. The flow's have thousands of rows, the network's matrices at most 1024."""
    of_flow = "_LogProb" in name or any(3 * BATCH < side <= ROWS for shape in shapes for side in shape)
    if name in PRODUCTS:
        return "products of the flow" if of_flow else "products of the network"
    if of_flow:
        return "leaky ReLU of the flow" if "leaky" in name else "the rest of the flow"
    if any(part in name for part in ADAM):
        return "Adam and the gradient's norm"
    large = any(math.prod(shape) >= BATCH**2 // 4 for shape in shapes)
    return next((title for title, parts in NETWORK.items() if large and any(p in name for p in parts)), "the rest")


def seconds(run: Callable[[], object], repeats: int = 7) -> float:
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return median(taken[1:])


def floor(dtype: torch.dtype) -> tuple[float, float]:
    """Milliseconds of the products and of the activations."""
    total = 0.0
    for inputs, outputs in pairwise([34, *[BATCH] * 5, 68]):
        weight, x, y = (torch.randn(*s).to(dtype) for s in ((outputs, inputs), (BATCH, inputs), (BATCH, outputs)))
        total += seconds(lambda weight=weight, x=x, y=y: (x @ weight.T, y @ weight, y.T @ x))  # type: ignore[misc]
    part = 2048  # stays in cache
    weight, x = torch.randn(2, WIDTH, WIDTH).to(dtype), torch.randn(2, WIDTH, part).to(dtype)
    total += seconds(lambda: (weight @ x, weight.mT @ x, x @ x.mT)) * LAYERS / 2 * ROWS / part
    a, b = torch.ones(2**24), torch.ones(2**24)
    activations = (5 * BATCH * BATCH + LAYERS * ROWS * 2 * WIDTH) * dtype.itemsize
    return 1e3 * total, 1e3 * seconds(lambda: a.copy_(b)) * 2 * activations / (4 * 2**24)


def report(precision: str, threads: int) -> None:
    torch.set_num_threads(threads)
    run = step("FC", "RLE", precision)
    plain = 1e3 * seconds(run)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True, profile_memory=True) as found:
        for _ in range(STEPS):
            run()
    times: dict[str, float] = defaultdict(float)
    allocated: dict[str, float] = defaultdict(float)
    for event in found.key_averages(group_by_input_shape=True):
        title = group(event.key, event.input_shapes)
        times[title] += event.self_cpu_time_total / 1e3 / STEPS
        allocated[title] += max(0, event.self_cpu_memory_usage) / 1e6 / STEPS
    products, activations = floor(torch.bfloat16 if precision == "bf16" else torch.float32)
    total = sum(times.values())
    print(f"\n{precision}, {threads} thread(s): {plain:.0f} ms a step, {total:.0f} under the profiler; ", end="")
    print(f"floor {products + activations:.0f} ms (products {products:.0f}, activations {activations:.0f})\n")
    print("| operations | ms | share | MB allocated |\n|---|---:|---:|---:|")
    for title in sorted(times, key=lambda title: -times[title]):
        print(f"| {title} | {times[title]:.1f} | {times[title] / total:.0%} | {allocated[title]:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--readable", action="store_true", help="the flow as `RealNVP.inverse` computes it")
    options = parser.parse_args()
    if options.readable:
        RealNVP._moved_halves = lambda self, x: []  # type: ignore[method-assign]
    for threads in (1, 2):
        for precision in ("fp32", "bf16"):
            report(precision, threads)


if __name__ == "__main__":
    main()
