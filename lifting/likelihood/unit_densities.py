"""Fixed unit densities on R^D: their log-densities, (..., D) -> (...,), and draws from them."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def log_laplace(x: Tensor) -> Tensor:
    """sum_d (-|x_d| - log 2), a Laplace density of unit scale in each coordinate: (..., D) -> (...,)."""
    return -x.abs().sum(-1) - x.shape[-1] * math.log(2)


def log_gaussian(x: Tensor) -> Tensor:
    """-|x|^2 / 2 - D log(2 pi) / 2, the standard normal density: (..., D) -> (...,)."""
    return -0.5 * (x.square().sum(-1) + x.shape[-1] * math.log(2 * math.pi))


def log_radial(x: Tensor) -> Tensor:
    """-|x| - log Z, the Laplace density whose level sets are spheres: (..., D) -> (...,).

    Z = 2 pi^(D/2) Gamma(D) / Gamma(D/2): the area of the unit sphere times the integral of r^(D-1) e^-r.
    """
    dim = x.shape[-1]
    log_z = math.log(2) + dim / 2 * math.log(math.pi) + math.lgamma(dim) - math.lgamma(dim / 2)
    length: Tensor = torch.linalg.vector_norm(x, dim=-1)
    return -length - log_z


def draw_laplace(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Draws from the density of `log_laplace`, with the dtype and device of ``like``."""
    # rand may be 0 but never 1, so no length is infinite.
    length = -torch.log1p(-torch.rand(shape, dtype=like.dtype, device=like.device))
    return torch.copysign(length, draw_gaussian(shape, like))


def draw_gaussian(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Draws from the density of `log_gaussian`."""
    return torch.randn(shape, dtype=like.dtype, device=like.device)


def draw_radial(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Draws from the density of `log_radial`: a random direction times the sum of D exponential variables."""
    direction = torch.nn.functional.normalize(draw_gaussian(shape, like), dim=-1)
    length = -torch.log1p(-torch.rand(shape, dtype=like.dtype, device=like.device)).sum(-1, keepdim=True)
    return direction * length


@contextmanager
def fixed_draws(device: torch.device) -> Iterator[None]:
    """Makes draws on the CPU and on this device the same every time, and restores the generators afterwards."""
    generators = [torch.default_generator]
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        generators.append(torch.cuda.default_generators[index])
    states = [generator.get_state() for generator in generators]
    try:
        for generator in generators:
            generator.manual_seed(0)
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


BASES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[tuple[int, ...], Tensor], Tensor]]] = {
    "laplace": (log_laplace, draw_laplace),
    "gaussian": (log_gaussian, draw_gaussian),
    "radial": (log_radial, draw_radial),
}
