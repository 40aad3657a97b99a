"""How many rows of a large set are worked on at a time."""

import torch
from torch import Tensor


def rows_at_once(on_cpu: int, device: torch.device) -> int:
    """``on_cpu`` rows on a CPU, whose cache they fit; 64 times as many on a GPU, where every call costs time."""
    return on_cpu if device.type == "cpu" else 64 * on_cpu


def in_chunks(x: Tensor, on_cpu: int) -> tuple[Tensor, ...]:
    """The parts of x, (N, ...), with `rows_at_once` rows each."""
    return torch.split(x, rows_at_once(on_cpu, x.device))
