"""Learned densities on R^D with an exact log-likelihood: RealNVP as RLE uses it, and zuko's flows as alternatives."""

import math
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lifting.chunks import in_chunks
from lifting.likelihood import coupling_step
from lifting.likelihood.unit_densities import fixed_draws

# What `flow_kernels` is written for: nets of three layers of one of these widths, and at most so many dimensions.
KERNEL_WIDTHS, KERNEL_DIM = (16, 32, 64), 16


@cache  # looking for it takes a tenth of a millisecond
def _has_triton() -> bool:
    return find_spec("triton") is not None


class Density(nn.Module):
    """The flow that RLE and DLE expect: any module with parameters and these two methods."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density at x: (..., D) -> (...,)."""
        raise NotImplementedError

    def sample(self, shape: tuple[int, ...]) -> Tensor:
        """Draws (*shape, D)."""
        raise NotImplementedError


class Bijection(Density):
    """A density defined by an invertible map f of a standard normal; `BasicFlow` needs one."""

    def forward(self, z: Tensor) -> Tensor:
        """Noise to data: f(z), (..., D)."""
        raise NotImplementedError

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Data to noise: (..., D) -> f^-1(x) (..., D) and log |det df^-1/dx| (...,)."""
        raise NotImplementedError


class RealNVP(Bijection):
    """A stack of affine coupling layers over a standard normal base.

    Layer k keeps the coordinates of its mask m_k and moves the others::

        x' = m x + (1 - m) (x exp(s_k(m x)) + t_k(m x))

    f is the composition from noise to data; ``log_prob(x) = log N(f^-1(x); 0, I) + log |det df^-1/dx|``. The scale
    nets s_k end in a tanh, the shift nets t_k do not. Masks alternate between the last coordinates and the first
    (D = 3: {2}, {0, 1}; D = 2: {1}, {0}). With D = 1 a coupling would have nothing to keep: see `ScalarFlow`.

    Every net has ``layers`` fully connected layers, with D inputs, D outputs and ``width`` hidden units, as in the
    reference code: with D = 2 and six couplings, 3 x 64 gives the 53.8K parameters of the RLE paper's Tab. 6. The last
    layers start at zero, so that an untrained flow is exactly N(0, I).

    `inverse` is the specification of ``log_prob``. On a CPU `coupling_step`, on a GPU `flow_kernels` computes the same
    within rounding, in less time.

    Args:
        dim: D, at least 2.
        couplings: number of coupling layers K.
        layers: fully connected layers in each net, at least 2.
        width: their hidden width.

    Raises:
        ValueError: a size is out of range.
    """

    masks: Tensor

    def __init__(self, dim: int = 3, couplings: int = 6, layers: int = 3, width: int = 64) -> None:
        super().__init__()
        if dim == 1:
            raise ValueError(
                "RealNVP: expected dim >= 2, got 1: without another coordinate every coupling is an affine map, and "
                "the flow a normal density; use ScalarFlow, the default of RLE(dim=1)"
            )
        if dim < 2 or min(couplings, width) < 1 or layers < 2:
            got = f"dim {dim}, couplings {couplings}, layers {layers}, width {width}"
            raise ValueError(f"RealNVP: expected dim and layers >= 2, couplings and width >= 1, got {got}")
        kept = [[(d >= (dim + 1) // 2) == (k % 2 == 0) for d in range(dim)] for k in range(couplings)]
        self.register_buffer("masks", torch.tensor(kept))
        self.dim = dim
        self.sizes = {"couplings": couplings, "layers": layers, "width": width}
        sizes = [dim, *[width] * (layers - 1), dim]
        self.nets = nn.ModuleList(_ScaleAndShift(sizes) for _ in range(couplings))

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_det = x.new_zeros(x.shape[:-1])
        for net, mask in zip(reversed(self.nets), self.masks.flip(0), strict=True):
            scale, shift = net(torch.where(mask, x, 0))
            scale = torch.where(mask, 0, scale)
            x = torch.where(mask, x, (x - shift) * torch.exp(-scale))
            log_det = log_det - scale.sum(-1)
        return x, log_det

    def forward(self, z: Tensor) -> Tensor:
        for net, mask in zip(self.nets, self.masks, strict=True):
            scale, shift = net(torch.where(mask, z, 0))
            z = torch.where(mask, z, z * torch.exp(scale) + shift)
        return z

    def log_prob(self, x: Tensor) -> Tensor:
        nets, rows = cast("list[_ScaleAndShift]", list(self.nets)), x.reshape(-1, self.dim)
        if moved := self._moved_halves(x):
            layers = [torch.stack(parts) for parts in zip(*(net.layers() for net in nets), strict=True)]
            return coupling_step.log_prob(rows, moved, layers).view(x.shape[:-1])
        if self._has_kernels(x):
            from lifting.likelihood import flow_kernels  # with Triton, which a GPU build of torch brings along

            weights = [part for net in nets for pair in zip(net.biases, net.weights, strict=True) for part in pair]
            precision = "tf32" if torch.is_autocast_enabled("cuda") else "tf32x3"
            return flow_kernels.log_prob(rows, self.masks, weights, self._log_prob, precision).view(x.shape[:-1])
        return self._log_prob(x)

    def _log_prob(self, x: Tensor) -> Tensor:
        """`log_prob` by `inverse`."""
        z, log_det = self.inverse(x)
        return log_det - 0.5 * z.square().sum(-1) - 0.5 * self.dim * math.log(2 * math.pi)

    def _has_kernels(self, x: Tensor) -> bool:
        """Whether `flow_kernels` computes `log_prob` of x."""
        return (
            not torch.compiler.is_compiling()
            and x.device.type == "cuda"
            and torch.version.cuda is not None
            and torch.cuda.get_device_capability(x.device) >= (8, 0)  # it has TF32
            and all(part.dtype == torch.float32 for part in (x, *self.parameters()))
            and self.sizes["layers"] == 3
            and self.sizes["width"] in KERNEL_WIDTHS
            and self.dim <= KERNEL_DIM
            and not torch._C._are_functorch_transforms_active()
            and _has_triton()
        )

    def _moved_halves(self, x: Tensor) -> list[int]:
        """The half that each coupling moves, 0 or 1, where `coupling_step` computes `log_prob`; none elsewhere."""
        fits = x.device.type == "cpu" and x.dtype == next(self.parameters()).dtype
        transformed = torch._C._are_functorch_transforms_active()  # by `torch.func`, which needs plain operations
        if not fits or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling() or transformed:
            return []
        first = [i < (self.dim + 1) // 2 for i in range(self.dim)]
        kept = [[not one for one in first], first]
        masks = self.masks.tolist()  # loaded weights may have others than halves
        return [kept.index(mask) for mask in masks] if all(mask in kept for mask in masks) else []

    def sample(self, shape: tuple[int, ...]) -> Tensor:
        like = next(self.parameters())
        drawn: Tensor = self(torch.randn(*shape, self.dim, dtype=like.dtype, device=like.device))
        return drawn


class _ScaleAndShift(nn.Module):
    """The two nets of one coupling, side by side: they share their input, so each layer is one batched product."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        shapes = list(pairwise(sizes))
        self.weights = nn.ParameterList(nn.Parameter(torch.zeros(2, i, o)) for i, o in shapes)
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(2, 1, o)) for _, o in shapes)
        for weight, bias in list(zip(self.weights, self.biases, strict=True))[:-1]:
            bound = weight.shape[1] ** -0.5  # as nn.Linear; the last layer stays at zero
            nn.init.uniform_(weight, -bound, bound)
            nn.init.uniform_(bias, -bound, bound)

    def layers(self) -> list[Tensor]:
        """(bias, weight) of every layer, (2, 1 + inputs, outputs)."""
        return [torch.cat(pair, 1) for pair in zip(self.biases, self.weights, strict=True)]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(..., D) -> scale (..., D) in (-1, 1), shift (..., D)."""
        hidden = x.reshape(1, -1, x.shape[-1]).expand(2, -1, -1)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.baddbmm(bias, F.leaky_relu(hidden, inplace=True) if i else hidden, weight)
        scale, shift = hidden.reshape(2, *x.shape).to(x.dtype)
        return torch.tanh(scale), shift


class ZukoFlow(Bijection):
    """A zuko flow (install the extra ``zuko``) with the interface of `RealNVP`; it shows how to plug in any density.

    Args:
        kind: ``"nsf"``, neural spline flow (Durkan et al. 2019), splines within [-5, 5]; ``"maf"``, masked
            autoregressive flow (Papamakarios et al. 2017).
        dim: D.
        couplings: number of transforms.
        layers, width: as in `RealNVP`.

    Raises:
        ModuleNotFoundError: zuko is not installed.
    """

    def __init__(self, kind: str, dim: int, couplings: int, layers: int, width: int) -> None:
        super().__init__()
        if kind not in ("nsf", "maf"):
            raise ValueError(f"kind: expected nsf or maf, got {kind!r}")
        try:
            import zuko
        except ModuleNotFoundError:
            raise ModuleNotFoundError(f"{kind} needs zuko: pip install 'lifting[zuko]'") from None
        family = {"nsf": zuko.flows.NSF, "maf": zuko.flows.MAF}[kind]
        self.flow = family(dim, transforms=couplings, hidden_features=[width] * (layers - 1))

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z, log_det = self.flow().transform.call_and_ladj(x)
        return z, log_det

    def forward(self, z: Tensor) -> Tensor:
        x: Tensor = self.flow().transform.inv(z)
        return x

    def log_prob(self, x: Tensor) -> Tensor:
        log_density: Tensor = self.flow().log_prob(x)
        return log_density

    def sample(self, shape: tuple[int, ...]) -> Tensor:
        drawn: Tensor = self.flow().sample(shape)
        return drawn


# Rows that a flow processes at a time on a CPU, where there can be millions. A hidden layer of width 64 then takes
# 4 MiB: above about 16 MiB, malloc returns memory to the system after each use, and getting it back costs as much as
# the flow.
ROWS = 2**13


def by_rows(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Applies ``function``, (N, D) -> (N,) or (N, D), to (..., D) in chunks of rows: (...,) or (..., D)."""
    parts = [function(rows) for rows in in_chunks(rearrange(x, "... d -> (...) d"), ROWS)]
    return torch.cat(parts).view((*x.shape[:-1], *parts[0].shape[1:]))


Flow = TypeVar("Flow", bound=Density)


@torch.no_grad()
def checked(flow: Flow, dim: int) -> Flow:
    """Returns the flow after checking that it is a density on R^dim.

    Raises:
        ValueError: the flow has no parameters, lacks `Density.log_prob` or `Density.sample`, or is a density on another
            space.
    """
    name = type(flow).__name__
    missing = [what for what in ("log_prob", "sample", "parameters") if not hasattr(flow, what)]
    like = None if missing else next(iter(flow.parameters()), None)
    if like is None:
        lacks = ", ".join(missing) or "parameters"
        raise ValueError(f"flow: expected a module with log_prob, sample and parameters, got {name} without {lacks}")
    if like.is_meta:  # without values, see `checkpoint.built`
        return flow
    with fixed_draws(like.device):
        drawn = flow.sample((2,))
    found = tuple(drawn.shape), tuple(flow.log_prob(drawn).shape)
    if found != ((2, dim), (2,)):
        raise ValueError(
            f"flow: expected a density on R^{dim}, where sample((2,)) has shape {(2, dim)} and its log_prob (2,); "
            f"got {found[0]} and {found[1]} from {name}"
        )
    return flow
