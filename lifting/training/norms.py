"""Batch norm over the whole batch of all ranks, so that their number does not change what is trained."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lifting.training import ranks

_BatchNorm = nn.modules.batchnorm._BatchNorm


class _Sum(torch.autograd.Function):
    """The sum over the ranks; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return _summed(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _summed(gradient)


def _summed(values: Tensor) -> Tensor:
    values = values.clone()
    dist.all_reduce(values)
    return values


class RankNorm(_BatchNorm):
    """Batch norm whose statistics in training are those of all ranks; `nn.SyncBatchNorm` exists for GPUs only."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, ...) -> the same shape."""
        if not self.training or ranks.world() == 1:
            return super().forward(input)
        axes, shape = [0, *range(2, input.ndim)], [1, -1, *[1] * (input.ndim - 2)]
        x = input.float()
        count = x.new_full((1,), x.numel() / x.shape[1])
        sums: Tensor = _Sum.apply(torch.cat([x.sum(axes), count]))  # type: ignore[no-untyped-call]
        mean, count = sums[:-1] / sums[-1], sums[-1].detach()
        centred = x - mean.view(shape)
        variance: Tensor = _Sum.apply(centred.square().sum(axes)) / count  # type: ignore[no-untyped-call]
        self._take(mean.detach(), (variance * count / (count - 1)).detach())
        made = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
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
