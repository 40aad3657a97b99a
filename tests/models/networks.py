"""What tests of several networks share: lists of names, networks unlike new ones, the reference's flow restated."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def listed_shapes(listed: Mapping[str, list[int]]) -> dict[str, tuple[int, ...]]:
    """The shapes of a state dict, from convolutions and batch norms by name with the shape of their weight."""
    shapes: dict[str, tuple[int, ...]] = {}
    for module, shape in listed.items():
        shapes[f"{module}.weight"] = tuple(shape)
        if len(shape) == 1:
            shapes |= {f"{module}.{part}": tuple(shape) for part in ("bias", "running_mean", "running_var")}
            shapes[f"{module}.num_batches_tracked"] = ()
    return shapes


def unlike_new(network: nn.Module) -> nn.Module:
    """Gives a network random batch norms and heads, and puts it in evaluation mode."""
    torch.manual_seed(1)
    for name, tensor in network.state_dict().items():
        if not tensor.is_floating_point():
            continue
        if name.endswith("running_var") or (tensor.dim() == 1 and name.endswith("weight")):
            tensor.uniform_(0.5, 1.5)
        elif tensor.dim() == 1 or "head" in name or "final" in name:
            tensor.normal_(std=0.3)
    return network.eval()


def slow_flow(state: dict[str, Tensor], prefix: str, x: Tensor) -> Tensor:
    """log_prob of the reference's flow, whose weights begin with ``prefix``, written from its equations."""

    def net(letter: str, k: int, x: Tensor) -> Tensor:
        for place in (0, 2, 4):
            x = x @ state[f"{prefix}{letter}.{k}.{place}.weight"].T + state[f"{prefix}{letter}.{k}.{place}.bias"]
            x = torch.where(x > 0, x, 0.01 * x) if place < 4 else x
        return x.tanh() if letter == "s" else x

    log_det = torch.zeros(len(x))
    for k in reversed(range(6)):
        mask = state[f"{prefix}mask"][k]
        kept = mask * x
        scale, shift = net("s", k, kept) * (1 - mask), net("t", k, kept) * (1 - mask)
        x = (1 - mask) * (x - shift) * torch.exp(-scale) + kept
        log_det = log_det - scale.sum(1)
    return log_det - 0.5 * (x**2).sum(1) - x.shape[1] / 2 * math.log(2 * math.pi)
