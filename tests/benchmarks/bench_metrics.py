"""Metrics against the decomposition that alignment is usually done by, timed in alternation in one run."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from lifting.geometry.alignment import align
from lifting.metrics.pose_errors import joint_errors

POSES, ROUNDS = 50_000, 9


def benchmarks() -> list[dict[str, Any]]:
    """Times of 50,000 poses in float32 as ratios to torch's batched SVD of as many 3x3 matrices.

    In one thread: on a CPU torch decomposes a batch in one, and threads that wait for each other on a busy machine
    would measure that machine.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measure()
    finally:
        torch.set_num_threads(threads)


def _measure() -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    target = 0.4 * torch.randn(POSES, 17, 3, generator=generator)
    prediction = target + 0.05 * torch.randn(POSES, 17, 3, generator=generator)
    covariance = target.mT @ prediction
    # Both take less than one decomposition, since alignment needs none (see `alignment._best_rotation`).
    measured: dict[str, tuple[Callable[[], object], float]] = {
        "PA alignment of 50,000 poses / batched SVD": (lambda: align(prediction, target), 1.0),
        "MPJPE, PA-MPJPE, N-MPJPE of 50,000 poses / batched SVD": (lambda: joint_errors(prediction, target), 0.7),
    }
    ratios: dict[str, list[float]] = {name: [] for name in measured}
    for _ in range(ROUNDS + 1):
        for name, (work, _) in measured.items():
            ratios[name].append(_seconds(work) / _seconds(lambda: torch.linalg.svd(covariance)))
    return [
        {"name": name, "ratio": statistics.median(ratios[name][1:]), "target": limit}  # the first round warms up
        for name, (_, limit) in measured.items()
    ]


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
