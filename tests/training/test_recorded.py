"""`RecordedStep` without a GPU: its bookkeeping, with CUDA played by a few lines. On a GPU: tests/gpu."""

import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lifting.command import RunError
from lifting.config import TrainConfig
from lifting.prediction import Batch
from lifting.training import engine, ranks, recorded
from lifting.training.objective import Objective
from lifting.training.recorded import WARM_UP, RecordedStep
from tests.training.test_engine_loop import few_weights


class Cuda:
    """Stands in for CUDA: a replay repeats the operations that were recorded, on the tensors of the recording."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.taken: list[str] = []  # how each step was taken
        self.operations: Callable[[], object] = lambda: None
        self.capturing = False
        self.modes: list[str] = []
        self.waits = False
        stream = SimpleNamespace(device="cpu", wait_stream=lambda other: None)
        for name, value in {
            "Stream": lambda device: stream,
            "current_stream": lambda device: stream,
            "stream": lambda stream: nullcontext(),
            "CUDAGraph": lambda: SimpleNamespace(replay=self.replay),
            "graph": self.graph,
            "set_sync_debug_mode": self.set_mode,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(recorded, "training_step", self.step)

    def set_mode(self, mode: str) -> None:
        """As torch does: with a notice at the first call, which is no wait."""
        if not self.modes:
            warnings.warn("the mode does not yet detect all synchronizing operations", stacklevel=1)
        self.modes.append(mode)

    @contextmanager
    def graph(self, graph: Any, stream: Any, capture_error_mode: str) -> Iterator[None]:
        self.capturing = True
        yield
        self.capturing = False

    def replay(self) -> None:
        self.taken.append("replay")
        self.operations()

    def step(self, model: nn.Module, batch: Batch, optimizer: torch.optim.Optimizer, train: TrainConfig) -> Tensor:
        """A step that returns the sum of its batch, the learning rate, and the sum of the weights."""
        found, group = torch.full((3,), math.nan), optimizer.param_groups[0]
        rate = group["lr"]

        def run() -> None:
            weight = 0.0 if batch.weight is None else float(batch.weight.sum())
            found.copy_(torch.tensor([float(batch.input.sum() + batch.target.sum()), float(rate), weight]))

        if self.capturing:
            assert isinstance(rate, Tensor) and group["capturable"]
            self.operations = run
        else:
            assert isinstance(rate, float) and not group["capturable"]
            self.taken.append("plain")
            if self.waits and self.modes[-1:] == ["warn"]:
                warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
            run()
        return found


def recording(monkeypatch: pytest.MonkeyPatch) -> tuple[Cuda, torch.optim.Optimizer, RecordedStep]:
    cuda, model = Cuda(monkeypatch), nn.Linear(1, 1)
    optimizer = torch.optim.Adam(model.parameters())
    return cuda, optimizer, RecordedStep(model, optimizer, TrainConfig())


def batch_of(value: float, rows: int = 2, *, weight: bool = False) -> Batch:
    ones = torch.full((rows, 1), value)
    return Batch(torch.full((rows, 1, 2), value), torch.zeros(rows, 1, 3), ones if weight else None)


def test_steps_are_replayed_with_their_batch_and_their_learning_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, optimizer, step = recording(monkeypatch)
    found = []
    for number in range(6):
        optimizer.param_groups[0]["lr"] = 0.5**number
        found.append(step(batch_of(number)))
        assert optimizer.param_groups[0]["lr"] == 0.5**number and not optimizer.param_groups[0]["capturable"]
    assert torch.stack(found).tolist() == [[4.0 * number, 0.5**number, 0.0] for number in range(6)]
    assert cuda.taken == ["plain"] * WARM_UP + ["replay"] * 3
    given = batch_of(7.0)
    step(given)
    step(batch_of(8.0))
    assert (given.input == 7).all()  # the graph reads a copy


def test_a_batch_of_another_shape_is_a_plain_step(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, optimizer, step = recording(monkeypatch)
    for _ in range(WARM_UP + 1):
        step(batch_of(1.0, weight=True))
    assert cuda.taken[-1] == "replay"
    for other in (batch_of(2.0, 3, weight=True), batch_of(2.0)):
        assert step(other)[0] == other.input.sum()
        assert cuda.taken[-1] == "plain"
    assert step(batch_of(3.0, weight=True)).tolist() == [12.0, pytest.approx(1e-3), 6.0]
    assert optimizer.param_groups[0]["lr"] == 1e-3
    assert cuda.taken[-1] == "replay"


def test_a_recording_that_fails_leaves_the_optimiser_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, optimizer, step = recording(monkeypatch)
    for _ in range(WARM_UP):
        step(batch_of(1.0))

    def fails(*_: object) -> Tensor:
        raise RuntimeError("operation not permitted when stream is capturing\nand more lines")

    monkeypatch.setattr(recorded, "training_step", fails)
    with pytest.raises(RunError, match=r"stream is capturing\); train\.cuda_graph=false"):
        step(batch_of(1.0))
    assert optimizer.param_groups[0]["lr"] == 1e-3 and not optimizer.param_groups[0]["capturable"]
    assert cuda.taken == ["plain"] * WARM_UP


def test_a_step_that_waits_is_never_recorded(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    cuda, _, step = recording(monkeypatch)
    cuda.waits = True
    assert [step(batch_of(number))[0] for number in range(6)] == [4.0 * number for number in range(6)]
    assert cuda.taken == ["plain"] * 6
    assert cuda.modes == ["warn", "default"]
    assert ["not recorded" in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize(
    ("device", "world", "wanted", "recording"),
    [("cuda", 1, True, True), ("cuda", 1, False, False), ("cuda", 2, True, False), ("cpu", 1, True, False)],
)
def test_steps_are_recorded_on_one_gpu_alone(
    device: str, world: int, wanted: bool, recording: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    Cuda(monkeypatch)
    objective: Objective = few_weights()
    optimizer = torch.optim.Adam(objective.parameters())
    monkeypatch.setattr(ranks, "world", lambda: world)
    monkeypatch.setattr(engine, "_wrapped", lambda objective, compiled: objective)
    monkeypatch.setattr(objective, "parameters", lambda: iter([SimpleNamespace(device=torch.device(device))]))
    step = engine.stepping(objective, optimizer, TrainConfig(cuda_graph=wanted))
    assert isinstance(step, RecordedStep) == recording
