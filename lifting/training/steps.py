"""One step of training, and the statistics that batch norm takes between the epochs."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor, nn

from lifting.config import RunConfig, TrainConfig
from lifting.prediction import Batch
from lifting.training import ranks
from lifting.training.objective import AnyObjective


class Batches(Protocol):
    """What `fit` trains on; an epoch begins with batch ``start``."""

    def __len__(self) -> int: ...

    def epoch(self, seed: int, start: int = 0) -> Iterator[Batch]: ...


def order_seed(config: RunConfig, epoch: int) -> int:
    """The seed of an epoch's order."""
    return config.seed * 100_003 + epoch


def training_step(model: nn.Module, batch: Batch, optimizer: torch.optim.Optimizer, train: TrainConfig) -> Tensor:
    """One optimiser step, which never waits for the device; returns (3,): loss, gradient norm, median sigma.

    Loss and sigma are means over the ranks. If the loss or the norm is not finite, a fused
    optimiser changes nothing.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    with autocast(parameters[0].device, train.precision):
        loss, sigma = model(batch)
    optimizer.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(parameters, train.clip_norm)
    found = torch.stack([loss.detach(), sigma])
    ranks.average(found)
    if optimizer.defaults.get("fused"):
        # What torch's GradScaler sets to have a fused optimiser leave out a step, without asking the device.
        optimizer.found_inf = (~(found[0] + norm).isfinite()).float()  # type: ignore[attr-defined]
    optimizer.step()
    return torch.cat([found[:1], norm[None], found[1:]])


def learning_rate(train: TrainConfig, epoch: int, step: int) -> float:
    """The learning rate of a step: a linear warm-up, then a decay after every epoch or at each of ``lr_steps``.

    Epochs and steps are counted from zero.
    """
    falls = sum(epoch >= at for at in train.lr_steps) if train.lr_steps else epoch
    return train.lr * train.lr_decay**falls * min(1.0, (step + 1) / max(1, train.warmup_steps))


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Matrix products inside are in bfloat16 if ``precision`` is bf16, or auto on a device that has units for it."""
    wanted = precision == "bf16" or (precision == "auto" and ranks.has_bf16_units(device))
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted)


@torch.no_grad()
def take_statistics(objective: AnyObjective, batches: Batches, config: RunConfig, epoch: int) -> None:
    """Recomputes batch norm's statistics for the current weights, as plain means over a few training batches.

    Running means lag behind weights that still move, and the decaying momentum that lifters of this family use makes
    them lag more. For a lifter with 1024 features, this lag alone costs 4 % of the error (RESULTS.md).
    """
    if not config.train.bn_batches:
        return
    norms = [m for m in objective.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative mean
    objective.train()
    device = next(objective.parameters()).device
    with autocast(device, config.train.precision):
        for batch in islice(batches.epoch(order_seed(config, epoch)), config.train.bn_batches):
            objective.outputs(batch.input)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        for statistic in (norm.running_mean, norm.running_var):
            if statistic is not None:
                ranks.average(statistic)
