"""Training steps on a GPU as one recorded CUDA graph: a replay takes one call where a step takes a thousand."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lifting.command import RunError
from lifting.config import TrainConfig
from lifting.prediction import Batch
from lifting.training.steps import training_step

log = logging.getLogger(__name__)

WARM_UP = 3  # steps before the recording, in which compiler, cuBLAS and optimiser make what they keep


class _Recording(NamedTuple):
    """A recorded step.

    Attributes:
        graph: its operations.
        batch, rates: what they read: a batch, and the learning rate of each group of parameters.
        found: what `training_step` returned; every replay writes it anew.
    """

    graph: torch.cuda.CUDAGraph
    batch: Batch
    rates: list[Tensor]
    found: Tensor


class RecordedStep:
    """`steps.training_step` of one model, recorded after a few steps and replayed from then on.

    Launching the operations of a small network takes the CPU longer than running them takes the GPU. A replay launches
    all of them at once. It computes what a step computes, to the bit, and draws the same random numbers. A batch of
    other shapes than the recorded one is trained on by a plain step, and so is every batch if a step waits for the GPU
    somewhere, which no recording can.

    Args:
        model: on one CUDA device; it may be compiled.
        optimizer: torch's fused Adam. The learning rate of a step is the one that its groups then have.
        train: see `training_step`.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, train: TrainConfig) -> None:
        self.model, self.optimizer, self.train = model, optimizer, train
        self._stream = torch.cuda.Stream(next(model.parameters()).device)  # type: ignore[no-untyped-call]
        self._warm = 0
        self._shapes: dict[str, tuple[torch.Size, torch.dtype]] = {}  # of the batches whose steps are replayed
        self._recording: _Recording | None = None

    def __call__(self, batch: Batch) -> Tensor:
        """One step; returns what `training_step` does.

        Raises:
            RunError: the step cannot be recorded, and torch had not seen it wait.
        """
        if self._warm < WARM_UP:
            self._warm += 1
            return self._plain(batch) if self._warm < WARM_UP else self._watched(batch)
        if _shapes(batch) != self._shapes:
            return self._plain(batch)
        if self._recording is None:
            self._recording = self._record(batch)
        held = self._recording
        for name, x in _tensors(held.batch).items():
            x.copy_(getattr(batch, name))
        for rate, group in zip(held.rates, self.optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])
        held.graph.replay()
        return held.found.clone()

    def _plain(self, batch: Batch) -> Tensor:
        """A step as it is, on the stream that will record: what cuBLAS and the optimiser keep belongs to a stream."""
        usual = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(usual)
        rounded = [float(torch.tensor(group["lr"])) for group in self.optimizer.param_groups]  # as a recording has them
        with torch.cuda.stream(self._stream), self._learning_at(rounded, capturable=False):
            found = training_step(self.model, batch, self.optimizer, self.train)
        usual.wait_stream(self._stream)
        return found

    def _watched(self, batch: Batch) -> Tensor:
        """A plain step that looks whether it waits."""
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                found = self._plain(batch)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        if any("called a synchronizing CUDA operation" in str(warning.message) for warning in seen):
            log.info("a training step waits for the GPU somewhere, so it is not recorded as a CUDA graph")
        else:
            self._shapes = _shapes(batch)
        return found

    def _record(self, batch: Batch) -> _Recording:
        """Records a step without taking it."""
        batch = replace(batch, **{name: x.clone() for name, x in _tensors(batch).items()})
        rates = [torch.full((), group["lr"], device=self._stream.device) for group in self.optimizer.param_groups]
        graph = torch.cuda.CUDAGraph()
        self.optimizer.zero_grad()  # the recording has gradients of its own
        # Only this thread records; another one, which pins the memory of pictures, may go on.
        recording = torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local")
        try:
            with self._learning_at(rates, capturable=True), recording:
                found = training_step(self.model, batch, self.optimizer, self.train)
        except RuntimeError as error:
            why = str(error).splitlines()[0]
            hint = "train.cuda_graph=false trains without a recording"
            raise RunError(f"a training step could not be recorded as a CUDA graph ({why}); {hint}") from error
        return _Recording(graph, batch, rates, found)

    @contextmanager
    def _learning_at(self, rates: Sequence[float | Tensor], *, capturable: bool) -> Iterator[None]:
        """Within, the optimiser has these learning rates, as tensors if it is recorded."""
        groups = self.optimizer.param_groups
        usual = [(group["lr"], group["capturable"]) for group in groups]
        try:
            for group, rate in zip(groups, rates, strict=True):
                group["lr"], group["capturable"] = rate, capturable
            yield
        finally:
            for group, (rate, before) in zip(groups, usual, strict=True):
                group["lr"], group["capturable"] = rate, before


def _tensors(batch: Batch) -> dict[str, Tensor]:
    parts = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return {name: x for name, x in parts.items() if x is not None}


def _shapes(batch: Batch) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (x.shape, x.dtype) for name, x in _tensors(batch).items()}
