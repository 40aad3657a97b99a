"""`flow.RealNVP.log_prob` and its gradient in few passes over memory: the fast path on a CPU.

`RealNVP.inverse` is the specification, and the tests hold this file to it. A coupling moves one half of the
coordinates, a, and keeps the other, b::

    (u, t) = nets(b)     s = tanh(u)     a' = (a - t) exp(-s)     log_prob = -sum s - |z|^2 / 2 - D/2 log 2 pi

Let g be the gradient of log_prob, and n = -dL/da', which is g a' if the coupling is the last to move this half. Then::

    dL/dt = n exp(-s) = -dL/da     dL/du = (n a' - g) (1 - s^2)

and the chain rule leads on to b and to the weights. Three things save time:

- Rows are taken in chunks, whose intermediate results stay in cache.
- Samples are columns, so that a half is a block of rows. The nets see the kept half and compute the moved one, where
  `RealNVP.inverse` multiplies by masked zeros.
- Every layer is one product, of the matrix (bias, weight) with (1, x); so is the gradient of that matrix.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

CHUNK_BYTES = 2_400_000  # of a hidden layer; in smaller chunks, calling an operation takes longer than running it
_SLOPE = 0.01  # of leaky_relu


def log_prob(x: Tensor, moved: Sequence[int], layers: Sequence[Tensor]) -> Tensor:
    """The flow's log-density on a CPU, (N, D) -> (N,). Second derivatives are those of `_readable`.

    Args:
        x: (N, D).
        moved: the half that each of K couplings moves: 0 for the first ceil(D / 2) coordinates, 1 for the others.
        layers: (bias, weight) of every layer of the nets, in the dtype of x: (K, 2, 1 + inputs, outputs), where 2 is
            for scale and shift.
    """
    if not torch.is_grad_enabled():
        couplings = _couplings(moved, x.shape[1], layers)
        return torch.cat([_forward(couplings, part)[0] for part in _chunks(x, layers)])
    values: Tensor = _LogProb.apply(x, tuple(moved), *layers)  # type: ignore[no-untyped-call]
    return values


def _couplings(moved: Sequence[int], dim: int, layers: Sequence[Tensor]) -> list["_Coupling"]:
    """From data to noise, the last coupling comes first."""
    return [_coupling(k, moved[k], dim, layers) for k in reversed(range(len(moved)))]


def _chunks(x: Tensor, layers: Sequence[Tensor]) -> tuple[Tensor, ...]:
    width = layers[0].shape[-1]
    return x.tensor_split(max(1, -(-len(x) * 2 * width * x.dtype.itemsize // CHUNK_BYTES)))


class _LogProb(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, moved: tuple[int, ...], *layers: Tensor) -> Tensor:
        ctx.couplings = _couplings(moved, x.shape[1], layers)
        ctx.chunks, values = [], []
        for part in _chunks(x, layers):
            kept: list[_Kept] = []
            value, noise = _forward(ctx.couplings, part, kept)
            values.append(value)
            ctx.chunks.append(_Chunk(noise, kept))
        ctx.moved = moved
        ctx.save_for_backward(x, *layers)
        return torch.cat(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, *layers = ctx.saved_tensors
        if torch.is_grad_enabled():  # with create_graph: the gradient itself is to be differentiated
            wanted = [tensor for tensor, needed in zip((x, *layers), _of_tensors(ctx), strict=True) if needed]
            found = iter(torch.autograd.grad(_readable(x, ctx.moved, layers), wanted, gradient, create_graph=True))
            of = [next(found) if needed else None for needed in _of_tensors(ctx)]
            return of[0], None, *of[1:]
        for_x, for_layers = ctx.needs_input_grad[0], any(ctx.needs_input_grad[2:])
        totals = [torch.zeros_like(layer) for layer in layers] if for_layers else []
        parts = gradient.tensor_split(len(ctx.chunks))
        of_x = [
            _backward(ctx.couplings, part, kept, totals, for_x) for part, kept in zip(parts, ctx.chunks, strict=True)
        ]
        of_layers = totals if for_layers else [None] * len(layers)
        return torch.cat(of_x) if for_x else None, None, *of_layers


def _of_tensors(ctx: Any) -> tuple[bool, ...]:
    """Whether x and each layer need a gradient."""
    return ctx.needs_input_grad[0], *ctx.needs_input_grad[2:]


def _readable(x: Tensor, moved: Sequence[int], layers: Sequence[Tensor]) -> Tensor:
    """The same log-density by plain operations, as in `RealNVP.inverse`."""
    dim = x.shape[1]
    first = torch.arange(dim) < (dim + 1) // 2
    log_det = x.new_zeros(len(x))
    for k in reversed(range(len(moved))):
        kept = ~first if moved[k] == 0 else first
        hidden = torch.where(kept, x, 0).expand(2, -1, -1)
        for i, layer in enumerate(layers):
            hidden = torch.baddbmm(layer[k, :, :1], F.leaky_relu(hidden) if i else hidden, layer[k, :, 1:])
        scale = torch.where(kept, 0, torch.tanh(hidden[0]))
        x = torch.where(kept, x, (x - hidden[1]) * torch.exp(-scale))
        log_det = log_det - scale.sum(-1)
    return log_det - 0.5 * x.square().sum(-1) - 0.5 * dim * math.log(2 * math.pi)


class _Coupling(NamedTuple):
    """A coupling of nets with ``width`` hidden units, without its masked halves."""

    k: int  # its place in the flow
    moved: int  # which half
    sees: Tensor  # the rows of the first layer for 1 and the kept half
    makes: slice  # the columns of the last layer for the moved half
    entry: Tensor  # first layer, both nets side by side: (1 + kept, 2, 1 + width)
    hidden: list[Tensor]  # each (2, 1 + width, 1 + width)
    exit: Tensor  # last layer: (2, 1 + width, moved)


class _Kept(NamedTuple):
    """What the gradient of n rows needs of one coupling."""

    inputs: list[Tensor]  # of every layer: (1 + kept, n), then (2, 1 + width, n)
    scale: Tensor  # s, (moved, n)
    shrink: Tensor  # exp(-s), (moved, n)
    after: Tensor  # a', (moved, n)


class _Chunk(NamedTuple):
    """What the gradient of n rows needs."""

    noise: Tensor  # z, (D, n)
    couplings: list[_Kept]


def _coupling(k: int, moved: int, dim: int, layers: Sequence[Tensor]) -> _Coupling:
    first, second = range(dim)[: (dim + 1) // 2], range(dim)[(dim + 1) // 2 :]
    kept, makes = (second, first) if moved == 0 else (first, second)
    sees = torch.tensor([0, *(i + 1 for i in kept)])
    entry, *hidden = (_with_one(layer[k]) for layer in layers[:-1])
    exit = layers[-1][k][..., makes.start : makes.stop].contiguous()
    return _Coupling(
        k, moved, sees, slice(makes.start, makes.stop), entry[:, sees].transpose(0, 1).contiguous(), hidden, exit
    )


def _with_one(layer: Tensor) -> Tensor:
    """The matrix that takes (1, x) to (1, y), from the one that takes it to y: one more column, (1, 0, 0, ...)."""
    one = torch.zeros_like(layer[..., :1])
    one[:, 0] = 1
    return torch.cat([one, layer], -1)


def _forward(couplings: list[_Coupling], x: Tensor, kept: list[_Kept] | None = None) -> tuple[Tensor, Tensor]:
    """The log-density, (n, D) -> (n,), and the noise (D, n); adds to ``kept`` what `_backward` needs."""
    n, dim = x.shape
    halves = [torch.cat([x.new_ones(1, n), half.T]) for half in x.tensor_split([(dim + 1) // 2], 1)]
    log_det = x.new_zeros(n)
    for coupling in couplings:
        before = halves[coupling.moved]
        inputs = _inputs(coupling, halves[1 - coupling.moved])
        raw_scale, shift = torch.bmm(coupling.exit.mT, inputs[-1])
        scale = torch.tanh(raw_scale)
        shrink = torch.exp(-scale)
        after = torch.ones_like(before)
        torch.sub(before[1:], shift, out=after[1:]).mul_(shrink)
        halves[coupling.moved] = after
        log_det -= scale.sum(0)
        if kept is not None:
            kept.append(_Kept(inputs, scale, shrink, after[1:]))
    noise = torch.cat([half[1:] for half in halves])
    return log_det - 0.5 * noise.square().sum(0) - 0.5 * dim * math.log(2 * math.pi), noise


def _inputs(coupling: _Coupling, half: Tensor) -> list[Tensor]:
    """The inputs of every layer, from (1, kept half)."""
    features = F.leaky_relu_(_product(coupling.entry.flatten(1).T, half), _SLOPE).view(*coupling.entry.shape[1:], -1)
    inputs = [half, features]
    for layer in coupling.hidden:
        features = F.leaky_relu_(torch.bmm(layer.mT, features), _SLOPE)
        inputs.append(features)
    return inputs


def _backward(couplings: list[_Coupling], gradient: Tensor, chunk: _Chunk, totals: list[Tensor], for_x: bool) -> Tensor:
    """The gradient of x, (n, D), from that of its log-density, (n,); adds those of the layers to ``totals``, if any."""
    half = (len(chunk.noise) + 1) // 2
    n = [gradient * chunk.noise[:half], gradient * chunk.noise[half:]]
    for coupling, rows in zip(reversed(couplings), reversed(chunk.couplings), strict=True):
        of_shift = n[coupling.moved] * rows.shrink
        of_raw_scale = torch.ops.aten.tanh_backward(n[coupling.moved] * rows.after - gradient, rows.scale)
        n[coupling.moved] = of_shift
        delta = torch.stack([of_raw_scale, of_shift])  # of the outputs of a layer
        layers = [coupling.exit, *reversed(coupling.hidden)]
        for depth, layer in zip(range(len(layers), 0, -1), layers, strict=True):
            inputs = rows.inputs[depth]
            if totals:
                total = totals[depth][coupling.k]
                total[..., coupling.makes if layer is coupling.exit else slice(None)] += torch.bmm(inputs, delta.mT)
            features = layer[:, 1:] if layer is coupling.exit else layer[:, 1:, 1:]
            delta = _product(features, delta)
            # In place, from the activations: they have the sign of what went in.
            torch.ops.aten.leaky_relu_backward(delta, inputs[:, 1:], _SLOPE, True, grad_input=delta)
        delta = delta.flatten(0, 1)  # (2 width, n): the nets share their input
        if totals:
            of_entry = rearrange(rows.inputs[0] @ delta.T, "inputs (net outputs) -> net inputs outputs", net=2)
            totals[0][coupling.k].index_add_(1, coupling.sees, of_entry)
        if for_x or coupling is not couplings[0]:
            n[1 - coupling.moved] = n[1 - coupling.moved] - coupling.entry[1:, :, 1:].flatten(1) @ delta
    return -torch.cat(n).T


def _product(matrix: Tensor, x: Tensor) -> Tensor:
    """matrix @ x, (..., O, I) and (..., I, n). With an I of 2 or 3, float32 is 3 times as fast without MKL."""
    if matrix.shape[-1] > 3:
        return matrix @ x
    result = matrix[..., :1] * x[..., :1, :]
    for i in range(1, matrix.shape[-1]):
        result.addcmul_(matrix[..., i : i + 1], x[..., i : i + 1, :])
    return result
