"""Batch norm over the whole batch of all ranks, so that their number does not change what is trained."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lifting.training import ranks

_BatchNorm = nn.modules.batchnorm._BatchNorm


class _Normalised(torch.autograd.Function):
    """x' = (x - m) / sqrt(v + eps), whose mean m and variance v of a channel are over the batches of all ranks.

    Every message between ranks has to wait for the slowest of them, so there is one in each direction. Forward, ranks
    exchange the counts, means and variances of their own batches; with n = sum_r n_r

        m = sum_r n_r m_r / n,    v = sum_r n_r (v_r + (m_r - m)^2) / n.

    Backward, they sum g and g x' over all their n values of a channel, where g is the gradient of the loss with
    respect to x' (Ioffe and Szegedy 2015, section 3):

        dL/dx = (g - sum(g) / n - x' sum(g x') / n) / sqrt(v + eps).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, ...) -> the same shape, m (C,), and the unbiased variance n v / (n - 1) (C,)."""
        ctx.axes, ctx.shape = _axes_and_shape(x)
        count = x.new_tensor([x.numel() / x.shape[1]])
        ours = torch.cat([count, x.mean(ctx.axes), x.var(ctx.axes, correction=0)])
        parts = [torch.empty_like(ours) for _ in range(ranks.world())]
        dist.all_gather(parts, ours)
        counts, means, variances = torch.stack(parts).tensor_split([1, 1 + x.shape[1]], dim=1)
        n = counts.sum()
        mean = (counts * means).sum(0) / n
        variance = (counts * (variances + (means - mean).square())).sum(0) / n
        scale = (variance + eps).rsqrt().view(ctx.shape)
        made = (x - mean.view(ctx.shape)) * scale
        unbiased = variance * n / (n - 1)
        ctx.save_for_backward(made, scale, n)
        ctx.mark_non_differentiable(mean, unbiased)
        return made, mean, unbiased

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, None]:
        made, scale, n = ctx.saved_tensors
        sums = torch.cat([gradient.sum(ctx.axes), (gradient * made).sum(ctx.axes)])
        dist.all_reduce(sums)
        along, across = (part.view(ctx.shape) for part in (sums / n).chunk(2))
        return (gradient - along - made * across) * scale, None


def _axes_and_shape(x: Tensor) -> tuple[list[int], list[int]]:
    """All axes but that of the channels, and the shape in which a value per channel is broadcast."""
    return [0, *range(2, x.ndim)], [1, -1, *[1] * (x.ndim - 2)]


class RankNorm(_BatchNorm):
    """Batch norm whose statistics in training are those of all ranks; `nn.SyncBatchNorm` exists for GPUs only."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, ...) -> the same shape."""
        if not self.training or ranks.world() == 1:
            return super().forward(input)
        made: Tensor
        made, mean, variance = _Normalised.apply(input.float(), self.eps)  # type: ignore[no-untyped-call]
        self._take(mean, variance)
        if self.affine:
            shape = _axes_and_shape(input)[1]
            made = made * self.weight.view(shape) + self.bias.view(shape)
        return made.to(input.dtype)

    @torch.no_grad()
    def _take(self, mean: Tensor, variance: Tensor) -> None:
        """Moves the running statistics."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / self.num_batches_tracked.float() if self.momentum is None else self.momentum
        for running, new in ((self.running_mean, mean), (self.running_var, variance)):
            running.add_((new - running) * share)


def over_all_ranks(module: nn.Module) -> None:
    """Replaces every batch norm within ``module`` by one over all ranks, with the same weights and statistics."""
    if any(p.is_cuda for p in module.parameters()):
        nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        return
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm) and not isinstance(child, RankNorm):
            norm = RankNorm(child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats)
            norm.weight, norm.bias = child.weight, child.bias
            norm.running_mean, norm.running_var = child.running_mean, child.running_var
            norm.num_batches_tracked = child.num_batches_tracked
            setattr(module, name, norm)
        else:
            over_all_ranks(child)
