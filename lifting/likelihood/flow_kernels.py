"""`flow.RealNVP.log_prob` and its gradient as two Triton kernels: the fast path on a GPU.

`RealNVP.inverse` is the specification, and the tests hold this file to it. Plain operations write every hidden layer to
memory, launch a thousand kernels a step, and leave the gradient of a 3 x 64 matrix over 18,000 rows to a product that
one multiprocessor computes alone. Here, a program takes a block of rows through all couplings. Of each coupling it
keeps the input, D numbers a row; the gradient computes the hidden layers again. A coupling with mask m is ::

    (u, t) = nets(m x)     s = (1 - m) tanh(u)     x' = m x + (1 - m) (x - t) exp(-s)
    log_prob = -sum s - |z|^2 / 2 - D/2 log 2 pi

Let g be the gradient of log_prob and d that of x', which is -g z behind the last coupling. Then ::

    dL/dt = -(1 - m) d exp(-s)     dL/du = -(1 - m) (g + d x') (1 - s^2)     dL/dx = m d + (1 - m) d exp(-s) + ...

where the dots are what comes back through the nets, at the coordinates that they see. The sum over rows in the gradient
of a weight is formed within each program, then over the programs, in an order that never changes.

Weights lie one behind the other in ``flat``, for each coupling: bias (2, W) and weight (2, D, W) of the first layer,
(2, W) and (2, W, W) of the second, (2, D) and (2, W, D) of the third, where 2 is for scale and shift.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# Rows of a block and warps that work on it, forward and backward. The three products of tf32x3 need more memory of a
# multiprocessor, of which some cards have 99 KiB a block.
_TILES = {"tf32": ((128, 8), (64, 4)), "tf32x3": ((128, 8), (32, 2))}
_SLOPE = tl.constexpr(0.01)  # of leaky_relu
_PADDED = tl.constexpr(16)  # columns of a block of D coordinates, the fewest that a matrix unit takes


def log_prob(
    x: Tensor, masks: Tensor, weights: list[Tensor], readable: Callable[[Tensor], Tensor], precision: str
) -> Tensor:
    """The flow's log-density on a GPU, (N, D) -> (N,).

    Args:
        x: (N, D) float32, D at most 16.
        masks: (K, D) bool, the coordinates that each of K couplings keeps.
        weights: float32 biases and weights of K nets with three layers, in the order of ``flat``.
        readable: the same function of x by plain operations, for second derivatives.
        precision: of the products: ``"tf32"``, or ``"tf32x3"``, which is as good as float32.
    """
    keeps = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *weights))
    with torch.cuda.device_of(x):  # Triton launches on the current device
        values: Tensor = _LogProb.apply(x.contiguous(), masks, readable, precision, keeps, *weights)
    return values


class _LogProb(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        masks: Tensor,
        readable: Callable[[Tensor], Tensor],
        precision: str,
        keeps: bool,
        *weights: Tensor,
    ) -> Tensor:
        flat = torch.cat([weight.flatten() for weight in weights])
        (n, dim), couplings, width = x.shape, len(masks), weights[0].shape[-1]
        states = x.new_empty((n, couplings, dim) if keeps else (0,))
        noise, values = torch.empty_like(x), x.new_empty(n)
        sizes = {"D": dim, "W": width, "PRECISION": precision}
        if n:
            rows, warps = _TILES[precision][0]
            _forward[(triton.cdiv(n, rows),)](
                x, flat, masks, states, noise, values, n, couplings, 0.5 * dim * math.log(2 * math.pi),
                ROWS=rows, KEEPS=keeps, num_warps=warps, num_stages=1, **sizes,
            )  # fmt: skip
        ctx.readable, ctx.sizes = readable, sizes
        ctx.save_for_backward(x, masks, flat, states, noise, *weights)
        return values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, masks, flat, states, noise, *weights = ctx.saved_tensors
        needed = ctx.needs_input_grad
        if torch.is_grad_enabled():  # with create_graph: the gradient itself is to be differentiated
            wanted = needed[0], *needed[5:]
            inputs = [tensor for tensor, want in zip((x, *weights), wanted, strict=True) if want]
            found = iter(torch.autograd.grad(ctx.readable(x), inputs, gradient, create_graph=True))
            of = [next(found) if want else None for want in wanted]
            return of[0], None, None, None, None, *of[1:]
        of_x, of_flat = _gradients(gradient.contiguous(), masks, flat, states, noise, ctx.sizes)
        parts = torch.split(of_flat, [weight.numel() for weight in weights])
        of_weights = [part.view_as(weight) for part, weight in zip(parts, weights, strict=True)]
        return of_x, None, None, None, None, *of_weights


def _gradients(
    gradient: Tensor, masks: Tensor, flat: Tensor, states: Tensor, noise: Tensor, sizes: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """The gradients of x and of ``flat``."""
    n, (rows, warps) = len(gradient), _TILES[sizes["PRECISION"]][1]
    of_x = torch.empty_like(noise)
    if not n:
        return of_x, torch.zeros_like(flat)
    blocks = triton.cdiv(n, rows)
    programs = min(blocks, 2 * _multiprocessors(gradient.device))
    of_flat = flat.new_empty((programs, len(flat)))
    _backward[(programs,)](
        gradient, flat, masks, states, noise, of_x, of_flat, n, len(masks), len(flat), blocks, programs,
        ROWS=rows, num_warps=warps, num_stages=1, **sizes,
    )  # fmt: skip
    return of_x, of_flat.sum(0)


def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2


# -- in the kernels, a block of coordinates is (ROWS, 16), of features (ROWS, W) --------------------------------------


@triton.jit
def _size(D: tl.constexpr, W: tl.constexpr):  # of a coupling's weights
    return 2 * (W + D * W + W + W * W + D + W * D)


@triton.jit
def _places(net, D: tl.constexpr, W: tl.constexpr):
    """Where a net's biases and weights are behind the start of its coupling, and which of them there are."""
    d, w = tl.arange(0, _PADDED), tl.arange(0, W)
    b1 = net * W + w
    w1 = 2 * W + net * D * W + d[:, None] * W + w[None, :]
    b2 = 2 * (W + D * W) + net * W + w
    w2 = 2 * (W + D * W + W) + net * W * W + w[:, None] * W + w[None, :]
    b3 = 2 * (W + D * W + W + W * W) + net * D + d
    w3 = 2 * (W + D * W + W + W * W + D) + net * W * D + w[:, None] * D + d[None, :]
    return b1, w1, b2, w2, b3, w3, d < D


@triton.jit
def _leaky(x):
    return tl.where(x > 0, x, _SLOPE * x)


@triton.jit
def _tanh(x):
    return 2 * tl.sigmoid(2 * x) - 1


@triton.jit
def _hidden(seen, weights, net, D: tl.constexpr, W: tl.constexpr, PRECISION: tl.constexpr):
    """The two hidden layers of a net."""
    b1, w1, b2, w2, _, _, there = _places(net, D, W)
    entry = tl.load(weights + w1, there[:, None], 0.0)
    first = _leaky(tl.dot(seen, entry, input_precision=PRECISION) + tl.load(weights + b1)[None, :])
    middle = tl.load(weights + w2)
    second = _leaky(tl.dot(first, middle, input_precision=PRECISION) + tl.load(weights + b2)[None, :])
    return first, second


@triton.jit
def _output(seen, weights, net, D: tl.constexpr, W: tl.constexpr, PRECISION: tl.constexpr):
    _, _, _, _, b3, w3, there = _places(net, D, W)
    _, second = _hidden(seen, weights, net, D, W, PRECISION)
    exit = tl.load(weights + w3, there[None, :], 0.0)
    return tl.dot(second, exit, input_precision=PRECISION) + tl.load(weights + b3, there, 0.0)[None, :]


@triton.jit
def _forward(
    x_at, flat, masks, states, noise, values, n, couplings, constant,
    D: tl.constexpr, W: tl.constexpr, ROWS: tl.constexpr, KEEPS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    d, rows = tl.arange(0, _PADDED), tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    at, there = rows[:, None] * D + d[None, :], (rows < n)[:, None] & (d < D)[None, :]
    x = tl.load(x_at + at, there, 0.0)
    log_det = tl.zeros((ROWS,), tl.float32)
    for i in range(couplings):  # from data to noise, the last coupling comes first
        k = couplings - 1 - i
        if KEEPS:
            tl.store(states + rows[:, None] * couplings * D + k * D + d[None, :], x, there)
        kept = (tl.load(masks + k * D + d, d < D, 1) != 0)[None, :]
        weights, seen = flat + k * _size(D, W), tl.where(kept, x, 0.0)
        scale = tl.where(kept, 0.0, _tanh(_output(seen, weights, 0, D, W, PRECISION)))
        shift = _output(seen, weights, 1, D, W, PRECISION)
        x = tl.where(kept, x, (x - shift) * tl.exp(-scale))
        log_det -= tl.sum(scale, 1)
    tl.store(noise + at, x, there)
    tl.store(values + rows, log_det - 0.5 * tl.sum(x * x, 1) - constant, rows < n)


@triton.jit
def _add(place, value, there, again):
    """Writes a program's sum for its first block of rows, adds to it after that."""
    tl.store(place, value + tl.where(again, tl.load(place, there, 0.0), 0.0), there)


@triton.jit
def _backward(
    gradient, flat, masks, states, noise, of_x, of_flat, n, couplings, size, blocks, programs,
    D: tl.constexpr, W: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    d, every = tl.arange(0, _PADDED), tl.arange(0, W) >= 0
    mine = of_flat + tl.program_id(0).to(tl.int64) * size
    for block in range(tl.program_id(0), blocks, programs):
        again = tl.program_id(0) < block  # this program has had a block before
        rows = block * ROWS + tl.arange(0, ROWS).to(tl.int64)
        at, there = rows[:, None] * D + d[None, :], (rows < n)[:, None] & (d < D)[None, :]
        g = tl.load(gradient + rows, rows < n, 0.0)[:, None]
        delta = -g * tl.load(noise + at, there, 0.0)
        for k in range(couplings):
            weights, sums = flat + k * _size(D, W), mine + k * _size(D, W)
            kept = (tl.load(masks + k * D + d, d < D, 1) != 0)[None, :]
            x = tl.load(states + rows[:, None] * couplings * D + k * D + d[None, :], there, 0.0)
            seen = tl.where(kept, x, 0.0)
            scale = tl.where(kept, 0.0, _tanh(_output(seen, weights, 0, D, W, PRECISION)))
            shrink = tl.exp(-scale)
            after = (x - _output(seen, weights, 1, D, W, PRECISION)) * shrink
            of_shift = tl.where(kept, 0.0, -delta * shrink)
            of_raw_scale = tl.where(kept, 0.0, -(g + delta * after) * (1 - scale * scale))
            delta = tl.where(kept, delta, delta * shrink)
            for net in range(2):
                b1, w1, b2, w2, b3, w3, real = _places(net, D, W)
                first, second = _hidden(seen, weights, net, D, W, PRECISION)
                of_output = tl.where(net == 0, of_raw_scale, of_shift)
                exit = tl.load(weights + w3, real[None, :], 0.0)
                middle = tl.load(weights + w2)
                entry = tl.load(weights + w1, real[:, None], 0.0)
                of_exit = tl.dot(tl.trans(second), of_output, input_precision=PRECISION)
                of_second = tl.dot(of_output, tl.trans(exit), input_precision=PRECISION)
                of_second = tl.where(second > 0, of_second, _SLOPE * of_second)
                of_middle = tl.dot(tl.trans(first), of_second, input_precision=PRECISION)
                of_first = tl.dot(of_second, tl.trans(middle), input_precision=PRECISION)
                of_first = tl.where(first > 0, of_first, _SLOPE * of_first)
                of_entry = tl.dot(tl.trans(seen), of_first, input_precision=PRECISION)
                through = tl.dot(of_first, tl.trans(entry), input_precision=PRECISION)
                delta += tl.where(kept, through, 0.0)
                _add(sums + b3, tl.sum(of_output, 0), real, again)
                _add(sums + w3, of_exit, every[:, None] & real[None, :], again)
                _add(sums + b2, tl.sum(of_second, 0), every, again)
                _add(sums + w2, of_middle, every[:, None] & every[None, :], again)
                _add(sums + b1, tl.sum(of_first, 0), every, again)
                _add(sums + w1, of_entry, real[:, None] & every[None, :], again)
        tl.store(of_x + at, delta, there)
