"""Training: one loop for every network, likelihood and data set of this package."""

import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from lifting.checkpoint import expect_joints, load_checkpoint, load_weights, save_checkpoint
from lifting.command import RunError, whole_file
from lifting.config import RunConfig, TrainConfig, dump_config
from lifting.prediction import Batch
from lifting.training import ranks
from lifting.training.objective import AnyObjective

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger(__name__)

CHECK_EVERY = 20  # steps between two checks of the loss, each of which waits for the device


class Batches(Protocol):
    """What `fit` trains on."""

    def __len__(self) -> int: ...

    def epoch(self, seed: int) -> Iterator[Batch]: ...


def fit(
    objective: AnyObjective,
    batches: Batches,
    evaluate: Callable[[], dict[str, Any]],
    config: RunConfig,
    folder: Path,
) -> None:
    """Trains up to ``train.epochs``, resuming from ``folder / "last.pt"`` if that file exists.

    Every epoch ends by writing a line of ``metrics.jsonl``, TensorBoard scalars, ``best.pt`` if the MPJPE of
    ``evaluate`` is the lowest so far, and ``last.pt``. The randomness of an epoch depends only on seed, epoch and rank.

    Raises:
        RunError: a loss or gradient is not finite; the checkpoints are those of the last complete epoch.
        InputError: ``last.pt`` is of another model or joint set.
    """
    train, device = config.train, next(objective.parameters()).device
    optimizer = torch.optim.Adam(objective.parameters(), lr=train.lr, fused=device.type in ("cuda", "cpu"))
    done, best = resume(objective, optimizer, folder)
    first_rank = ranks.rank() == 0
    if first_rank:
        _keep_lines(folder / "metrics.jsonl", done)
        with whole_file(folder / "config.yaml") as file:
            file.write_text(dump_config(config))
    from torch.utils.tensorboard import SummaryWriter  # here, because only training needs it

    board = SummaryWriter(str(folder), purge_step=done) if first_rank else None
    model = _wrapped(objective, train.compile)
    total = (train.epochs - done) * len(batches)
    with tqdm(total=total, unit="step", disable=None if first_rank else True, leave=False) as bar:
        for epoch in range(done, train.epochs):
            ranks.seed_everything(config.seed, epoch)
            started = time.perf_counter()
            means = _epoch(model, objective, batches, optimizer, config, epoch, bar, report_start=epoch == done)
            row = {"epoch": epoch + 1, **means}
            take_statistics(objective, batches, config, epoch)
            row["seconds"] = time.perf_counter() - started
            row |= evaluate()
            if first_rank:
                best = min(best, row["mpjpe_mm"])
                _report(row, train.epochs, folder / "metrics.jsonl", board)
                state = _state(objective, optimizer, config, epoch + 1, best)
                if row["mpjpe_mm"] == best:
                    save_checkpoint(folder / "best.pt", state)
                # Last, because resuming trusts last.pt: a run stopped before this line repeats the whole epoch.
                save_checkpoint(folder / "last.pt", state)
    if board is not None:
        board.close()


def _epoch(
    model: nn.Module,
    objective: AnyObjective,
    batches: Batches,
    optimizer: torch.optim.Optimizer,
    config: RunConfig,
    epoch: int,
    bar: "tqdm[NoReturn]",
    report_start: bool,
) -> dict[str, float]:
    """Trains for one epoch; returns the means of loss, gradient norm and sigma, and the last learning rate."""
    train = config.train
    objective.train()
    seen: list[Tensor] = []
    for index, batch in enumerate(batches.epoch(config.seed * 100_003 + epoch)):
        step = epoch * len(batches) + index
        lr = learning_rate(train, epoch, step)
        for group in optimizer.param_groups:
            group["lr"] = lr
        seen.append(training_step(model, batch, optimizer, train))
        bar.update()
        if report_start and index == 0:
            _report_start(seen[0])
        if len(seen) % CHECK_EVERY == 0 or index + 1 == len(batches):
            _check_finite(seen, step)
            bar.set_postfix(epoch=epoch + 1, loss=f"{seen[-1][0]:.3f}")
    loss_mean, norm_mean, sigma_mean = torch.stack(seen).mean(0).tolist()
    row = {"loss": loss_mean, "lr": lr, "gradient_norm": norm_mean, "sigma_median": sigma_mean}
    return {name: value for name, value in row.items() if not math.isnan(value)}


def training_step(model: nn.Module, batch: Batch, optimizer: torch.optim.Optimizer, train: TrainConfig) -> Tensor:
    """One optimiser step, which never waits for the device; returns (3,): loss, gradient norm, median sigma."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    with autocast(parameters[0].device, train.precision):
        loss, sigma = model(batch)
    optimizer.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(parameters, train.clip_norm)
    optimizer.step()
    return torch.stack([loss.detach(), norm, sigma])


def learning_rate(train: TrainConfig, epoch: int, step: int) -> float:
    """The learning rate of a step: a linear warm-up, then a decay after every epoch or at each of ``lr_steps``.

    Epochs and steps are counted from zero.
    """
    falls = sum(epoch >= at for at in train.lr_steps) if train.lr_steps else epoch
    return train.lr * train.lr_decay**falls * min(1.0, (step + 1) / max(1, train.warmup_steps))


def _check_finite(seen: list[Tensor], step: int) -> None:
    """Raises `RunError` if a loss or gradient norm since the last check is not finite, and names the first."""
    recent = torch.stack(seen[-CHECK_EVERY:])[:, :2]
    bad = (~recent.isfinite()).any(1).nonzero().flatten().tolist()
    if bad:
        loss, norm = recent[bad[0]].tolist()
        raise RunError(
            f"training stopped: loss {loss}, gradient norm {norm} at step {step - len(recent) + 1 + bad[0]}; "
            "last.pt and best.pt are those of the last complete epoch"
        )


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Matrix products inside are in bfloat16 if ``precision`` is bf16, or auto on a device that has units for it."""
    wanted = precision == "bf16" or (precision == "auto" and ranks.has_bf16_units(device))
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted)


def _wrapped(objective: AnyObjective, compiled: bool) -> nn.Module:
    model: nn.Module = objective
    if ranks.world() > 1:
        model = DistributedDataParallel(model)
    if compiled:
        model.compile()
    return model


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
        for batch in islice(batches.epoch(config.seed * 100_003 + epoch), config.train.bn_batches):
            objective.outputs(batch.input)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        for statistic in (norm.running_mean, norm.running_var):
            if statistic is not None:
                ranks.average(statistic)


def _state(
    objective: AnyObjective,
    optimizer: torch.optim.Optimizer,
    config: RunConfig,
    epoch: int,
    best: float,
) -> dict[str, Any]:
    return {
        "config": config.model_dump(mode="json"),
        "joint_set": objective.joint_set.name,
        "network": objective.network.state_dict(),
        "likelihood": objective.likelihood.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": epoch,
        "best_mpjpe_mm": best,
    }


def resume(objective: AnyObjective, optimizer: torch.optim.Optimizer, folder: Path) -> tuple[int, float]:
    """Loads ``last.pt`` of a run, if any; returns the epochs done and the best MPJPE, (0, inf) for a new run.

    Raises:
        InputError: ``last.pt`` cannot be read, or is of another model or joint set.
    """
    path = folder / "last.pt"
    if not path.exists():
        return 0, math.inf
    state = load_checkpoint(path)
    expect_joints(state, objective.joint_set, f"checkpoint: {path}")
    load_weights(objective.network, state["network"], f"checkpoint: {path}: the network")
    load_weights(objective.likelihood, state["likelihood"], f"checkpoint: {path}: the likelihood")
    optimizer.load_state_dict(state["optimizer"])
    return state["epoch"], state["best_mpjpe_mm"]


def _keep_lines(path: Path, lines: int) -> None:
    """Drops the lines that a stopped run wrote after its last checkpoint."""
    if path.exists():
        kept = path.read_text().splitlines(keepends=True)[:lines]
        with whole_file(path) as file:
            file.write_text("".join(kept))


def _report(row: dict[str, Any], epochs: int, metrics: Path, board: "SummaryWriter | None") -> None:
    with metrics.open("a") as file:
        file.write(json.dumps(row) + "\n")
    for name, value in row.items():
        if board is not None and isinstance(value, (int, float)) and name != "epoch":
            board.add_scalar(name, value, row["epoch"])
    line = f"epoch {row['epoch']}/{epochs}  loss {row['loss']:.4f}  MPJPE {row['mpjpe_mm']:.1f} mm"
    line += f"  PA-MPJPE {row['pa_mpjpe_mm']:.1f} mm  {row['seconds']:.1f} s"
    with tqdm.external_write_mode():
        log.info(line)


def _report_start(step: Tensor) -> None:
    """Logs how long the program took to its first step, once the device has finished it."""
    step.tolist()
    # A record knows the time since `logging` was imported, which a command does first.
    seconds = logging.makeLogRecord({}).relativeCreated / 1000
    if ranks.rank() == 0:
        with tqdm.external_write_mode():
            log.info(f"first step {seconds:.1f} s after the start of the program")
