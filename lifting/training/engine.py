"""Training: one loop for every network, likelihood and data set of this package."""

import logging
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from lifting.checkpoint import save_checkpoint
from lifting.command import RunError, Terminated, whole_file
from lifting.config import RunConfig, TrainConfig, dump_config
from lifting.prediction import Batch
from lifting.training import health, ranks, steps
from lifting.training.adam import Adam
from lifting.training.allocator import keep_freed_pages
from lifting.training.norms import over_all_ranks
from lifting.training.objective import AnyObjective
from lifting.training.progress import Progress, resume, state_of
from lifting.training.recorded import RecordedStep
from lifting.training.run_folder import alone_in, append_line, keep_lines, record_start
from lifting.training.steps import Batches
from lifting.training.stops import Stops

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger(__name__)

CHECK_EVERY = 20  # steps between two looks at the loss, each of which waits for the device or for the other ranks


def fit(
    objective: AnyObjective,
    batches: Batches,
    evaluate: Callable[[], dict[str, Any]],
    config: RunConfig,
    folder: Path,
) -> None:
    """Trains up to ``train.epochs``, resuming from ``folder / "last.pt"`` if that file exists.

    A run that is done stays as it is. Every epoch ends by writing a line of ``metrics.jsonl``, TensorBoard scalars,
    ``best.pt`` if the error of ``evaluate`` (MPJPE, or NME in 2D) is the lowest so far, and ``last.pt``. Within an
    epoch, ``last.pt`` is written every ``train.save_minutes``, and after the step in which Ctrl-C or SIGTERM comes. The
    randomness of an epoch depends only on seed, epoch and rank, so a run that was stopped, however that happened, ends
    with the weights of one that was not.

    Raises:
        RunError: a loss or gradient, or what ``evaluate`` is to score, is not finite, or another rank failed;
            ``last.pt`` is from before.
        InputError: another process trains in ``folder``; ``last.pt`` does not fit, see `progress.resume`.
        KeyboardInterrupt, Terminated: Ctrl-C or SIGTERM came; ``last.pt`` holds all that was done.
    """
    keep_freed_pages()
    first_rank = ranks.rank() == 0
    with ranks.losses_in_one_line(), alone_in(folder) if first_rank else nullcontext(), Stops() as stops:
        device = next(objective.parameters()).device
        optimizer = Adam(
            objective.parameters(),
            lr=config.train.lr,
            amsgrad=config.train.amsgrad,
            fused=device.type in ("cuda", "cpu"),
        )
        progress = resume(objective, optimizer, folder, config, len(batches))
        if progress.epoch >= config.train.epochs:  # the folder stays as it is, with the configuration of these epochs
            if first_rank:
                log.info(f"{folder}: {progress.epoch} epochs are done, and train.epochs is {config.train.epochs}")
            return
        board = None
        if first_rank:
            keep_lines(folder / "metrics.jsonl", progress.epoch)
            with whole_file(folder / "config.yaml") as file:
                file.write_text(dump_config(config), encoding="utf-8")
            record_start(folder / "run.json", progress.epoch, progress.step, ranks.world(), device)
            from torch.utils.tensorboard import SummaryWriter  # here, because only training needs it

            board = SummaryWriter(str(folder), purge_step=progress.epoch)
        total = (config.train.epochs - progress.epoch) * len(batches)
        with tqdm(
            total=total, initial=progress.step, unit="step", disable=None if first_rank else True, leave=False
        ) as bar:
            step = stepping(objective, optimizer, config.train)
            run = _Run(objective, step, optimizer, batches, config, folder, progress, stops, bar, time.monotonic())
            while run.progress.epoch < config.train.epochs:
                run.train_epoch()
                run.end_epoch(run.evaluated(evaluate), board)
                stops.raise_noted()
        if board is not None:
            board.close()
        ranks.wait()  # for the checkpoint, which the other ranks may want to read


# What the line of an epoch shows of its evaluation.
SHOWN = {
    "mpjpe_mm": "MPJPE {:.1f} mm",
    "pa_mpjpe_mm": "PA-MPJPE {:.1f} mm",
    "nme_percent": "NME {:.2f} %",
    "oks": "OKS {:.1f} %",
    "ap": "AP {:.1f}",
}


@dataclass
class _Run:
    """A call of `fit`.

    Attributes:
        take_step: trains on a batch, see `stepping`.
        saved: when ``last.pt`` was written or the call began, on the clock that nobody sets.
        checked: steps of this epoch whose loss and gradient have been looked at.
        steps: done in this call.
    """

    objective: AnyObjective
    take_step: Callable[[Batch], Tensor]
    optimizer: torch.optim.Optimizer
    batches: Batches
    config: RunConfig
    folder: Path
    progress: Progress
    stops: Stops
    bar: "tqdm[NoReturn]"
    saved: float
    checked: int = 0
    steps: int = 0

    @property
    def device(self) -> torch.device:
        return next(self.objective.parameters()).device

    def train_epoch(self) -> None:
        """Trains to the end of the epoch, and keeps the state of the generators there."""
        progress, train = self.progress, self.config.train
        began = time.perf_counter() - progress.seconds
        if not progress.step:
            ranks.seed_everything(self.config.seed, progress.epoch)
        elif progress.step == len(self.batches):
            return  # stopped while it was evaluated
        self.checked = progress.step
        self.objective.train()
        for batch in self.batches.epoch(steps.order_seed(self.config, progress.epoch), progress.step):
            for group in self.optimizer.param_groups:
                group["lr"] = steps.learning_rate(train, progress.epoch, self._number(progress.step))
            progress.steps.append(self._step(batch))
            progress.step += 1
            progress.seconds = time.perf_counter() - began
            self.bar.update()
            self.steps += 1
            if self.steps == 1:
                _report_start(progress.steps[-1])
            self._after_step(batch)
        progress.random = ranks.generators(self.device)

    def _number(self, step: int) -> int:
        """The number of a step of this epoch in the whole run."""
        return self.progress.epoch * len(self.batches) + step

    def _step(self, batch: Batch) -> Tensor:
        """``take_step``; labels that the likelihood refuses count as a loss that is not finite."""
        try:
            return self.take_step(batch)
        except ValueError as error:
            if self.config.train.on_nonfinite == "stop" or ranks.world() > 1:
                raise RunError(self._stopped(f"{error} at step {self._number(self.progress.step)}")) from None
            log.warning(f"step {self._number(self.progress.step)} was skipped: {error}")
            return torch.full((3,), math.nan, device=self.device)

    def _after_step(self, batch: Batch) -> None:
        """Looks at the loss, and saves the state if it is time to or a signal came."""
        step, minutes = self.progress.step, self.config.train.save_minutes
        regular = step % CHECK_EVERY == 0 or step == len(self.batches)
        if regular or self.device.type == "cpu":
            self._check(batch)
        if not (regular or ranks.world() == 1):
            return
        due = minutes > 0 and time.monotonic() - self.saved >= 60 * minutes
        stop, save = ranks.largest([self.stops.noted, float(due)])  # ranks stop after the same step
        if stop or save:
            self._check(batch)
            self.progress.random = ranks.generators(self.device)
            self.save("last.pt")
        if stop:
            self.stops.noted = int(stop)
            ranks.wait()
            self.stops.raise_noted()

    def _check(self, batch: Batch) -> None:
        """Stops at, or counts, each step since the last check whose loss or gradient was not finite.

        Raises:
            RunError: it names the first, and, on a CPU, where every step is checked, the part that is not finite.
        """
        progress, first = self.progress, self.checked
        if first == progress.step:
            return
        recent = torch.stack(progress.steps[first:])
        self.checked = progress.step
        if progress.step % CHECK_EVERY == 0 or progress.step == len(self.batches):
            self.bar.set_postfix(epoch=progress.epoch + 1, loss=f"{recent[-1, 0]:.3f}")
        for row in (~recent[:, :2].isfinite()).any(1).nonzero().flatten().tolist():
            loss, norm, _ = recent[row].tolist()
            what = f"loss {loss}, gradient norm {norm} at step {self._number(first + row)}"
            if self.device.type == "cpu":
                what += f", from {health.cause_of(self.objective, batch)}"
            if self.config.train.on_nonfinite == "stop":
                raise RunError(self._stopped(what))
            progress.skipped += 1
            health.mend_statistics(self.objective)
            with tqdm.external_write_mode():
                log.warning(f"step skipped: {what}")

    def _stopped(self, why: str) -> str:
        there = self.folder / "last.pt"
        return f"training stopped: {why}; " + (f"{there} is from before" if there.exists() else "nothing was saved yet")

    def evaluated(self, evaluate: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The epoch's line of ``metrics.jsonl``. No weight changes, so Ctrl-C and SIGTERM are obeyed at once."""
        progress, config = self.progress, self.config
        try:
            with self.stops.at_once():
                began = time.perf_counter()
                steps.take_statistics(self.objective, self.batches, config, progress.epoch)
                row = self._means() | {"seconds": progress.seconds + time.perf_counter() - began}
                return row | evaluate()
        except (KeyboardInterrupt, Terminated):
            self.save("last.pt")
            raise
        except ValueError as error:  # of `pose_errors.joint_errors`
            raise RunError(self._stopped(f"the evaluation after epoch {progress.epoch + 1}: {error}")) from error

    def _means(self) -> dict[str, float]:
        progress, train = self.progress, self.config.train
        taken = torch.stack(progress.steps)
        good = taken[taken[:, :2].isfinite().all(1)] if progress.skipped else taken
        if not len(good):
            raise RunError(self._stopped(f"epoch {progress.epoch + 1}: every step was skipped"))
        loss, norm, sigma = good.mean(0).tolist()
        lr = steps.learning_rate(train, progress.epoch, self._number(len(self.batches) - 1))
        row = {"epoch": progress.epoch + 1, "loss": loss, "lr": lr, "gradient_norm": norm, "sigma_median": sigma}
        if warning := health.sigma_warning(sigma):
            log.warning(f"epoch {progress.epoch + 1}: {warning}")
        if train.on_nonfinite == "skip":
            row["skipped_steps"] = progress.skipped
        return {name: value for name, value in row.items() if not math.isnan(value)}

    def end_epoch(self, row: dict[str, Any], board: "SummaryWriter | None") -> None:
        """Reports and saves a complete epoch."""
        error = row["mpjpe_mm"] if "mpjpe_mm" in row else row["nme_percent"]
        best = min(self.progress.best_error, error)
        self.progress = Progress(self.progress.epoch + 1, best)
        if ranks.rank() == 0:
            _report(row, self.config.train.epochs, self.folder / "metrics.jsonl", board)
        # last.pt last, because resuming trusts it: a run stopped before it was written repeats the end of the epoch.
        self.save(*["best.pt"] * (error == best), "last.pt")

    def save(self, *names: str) -> None:
        """Writes these checkpoints, of the state that `Progress` describes, on the first rank."""
        if ranks.rank() == 0:
            state = state_of(self.objective, self.optimizer, self.config, self.progress, len(self.batches))
            for name in names:
                save_checkpoint(self.folder / name, state)
        self.saved = time.monotonic()


def stepping(
    objective: AnyObjective, optimizer: torch.optim.Optimizer, train: TrainConfig
) -> Callable[[Batch], Tensor]:
    """What trains on a batch, and returns what `steps.training_step` does: that, or on one GPU its recording."""
    model = _wrapped(objective, train.compile)
    if train.cuda_graph and ranks.world() == 1 and next(objective.parameters()).device.type == "cuda":
        return RecordedStep(model, optimizer, train)
    return lambda batch: steps.training_step(model, batch, optimizer, train)


def _wrapped(objective: AnyObjective, compiled: bool) -> nn.Module:
    model: nn.Module = objective
    if ranks.world() > 1:
        over_all_ranks(objective)
        model = DistributedDataParallel(model)
    if compiled:
        model.compile()
    return model


def _report(row: dict[str, Any], epochs: int, metrics: Path, board: "SummaryWriter | None") -> None:
    append_line(metrics, row)
    for name, value in row.items():
        if board is not None and isinstance(value, (int, float)) and name != "epoch":
            board.add_scalar(name, value, row["epoch"])
    shown = [text.format(row[name]) for name, text in SHOWN.items() if name in row]
    line = "  ".join([f"epoch {row['epoch']}/{epochs}", f"loss {row['loss']:.4f}", *shown, f"{row['seconds']:.1f} s"])
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
