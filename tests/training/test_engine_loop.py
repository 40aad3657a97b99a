"""The loop itself, on a network of a few weights: when it looks, saves, stops and reports."""

import itertools
import logging
import math
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from tqdm import tqdm

from lifting.checkpoint import load_checkpoint, save_checkpoint
from lifting.command import RunError, Terminated
from lifting.config import Config, load_config
from lifting.likelihood import ConstantVariance
from lifting.models.fc import FCBaseline
from lifting.prediction import Batch
from lifting.training import engine, health, ranks, steps
from lifting.training.objective import Objective
from lifting.training.progress import Progress
from lifting.training.stops import Stops
from tests.training.test_engine import rows

Scores = Callable[[], dict[str, Any]]


class Few:
    """So many batches of four made-up poses."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def epoch(self, seed: int, start: int = 0) -> Iterator[Batch]:
        drawn = torch.Generator().manual_seed(seed)
        for number in range(self.count):
            batch = Batch(torch.randn(4, 17, 2, generator=drawn), torch.randn(4, 17, 3, generator=drawn))
            if number >= start:
                yield batch


class Bar:
    """In the place of tqdm's: what it was asked to show."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}
        self.done = 0
        self.beside: list[dict[str, Any]] = []

    def __call__(self, **asked: Any) -> "Bar":
        self.asked = asked
        return self

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self) -> None:
        self.done += 1

    def set_postfix(self, **shown: Any) -> None:
        self.beside.append({"step": self.done, **shown})

    external_write_mode = staticmethod(tqdm.external_write_mode)


class Clock:
    """Time that passes by a second at every look."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture
def bar(monkeypatch: pytest.MonkeyPatch) -> Bar:
    shown = Bar()
    monkeypatch.setattr(engine, "tqdm", shown)
    return shown


InSteps = Callable[..., None]


@pytest.fixture
def in_steps(monkeypatch: pytest.MonkeyPatch) -> InSteps:
    """``in_steps(act, 2, 5)`` calls ``act`` in these steps, counted from 1, with what each of them returns."""

    def arrange(act: Callable[[Tensor], object], *numbers: int) -> None:
        before, taken = steps.training_step, itertools.count(1)

        def counted(*arguments: Any) -> Tensor:
            found = before(*arguments)
            if next(taken) in numbers:
                act(found)
            return found

        monkeypatch.setattr(steps, "training_step", counted)

    return arrange


def terminate(_: Tensor) -> None:
    signal.raise_signal(signal.SIGTERM)


def break_gradient(found: Tensor) -> None:
    found[1] = math.inf


def configured(**train: object) -> Config:
    few = {"batch_size": 4, "bn_batches": 0, "precision": "fp32", "device": "cpu", "epochs": 1} | train
    return load_config(overrides=["loss.name=l1", *(f"train.{name}={value}" for name, value in few.items())])


def few_weights() -> Objective:
    torch.manual_seed(0)
    return Objective(FCBaseline(width=4, blocks=1, with_sigma=False), ConstantVariance("l1"))


def fitted(folder: Path, count: int = 3, scores: Scores = lambda: {"mpjpe_mm": 1.0}, **train: object) -> Objective:
    objective = few_weights()
    engine.fit(objective, Few(count), scores, configured(**train), folder)
    return objective


def a_run(folder: Path, count: int = 45, **train: object) -> engine._Run:
    """A run between two steps, not within `fit`."""
    objective, config = few_weights(), configured(**train)
    optimizer = torch.optim.Adam(objective.parameters())
    step = engine.stepping(objective, optimizer, config.train)
    return engine._Run(
        objective, step, optimizer, Few(count), config, folder, Progress(), Stops(), Bar(), 100.0  # type: ignore[arg-type]
    )  # fmt: skip


def test_lines_checkpoints_and_board_of_each_epoch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    errors = iter([3.0, 2.0, 4.0])
    fitted(tmp_path, scores=lambda: {"mpjpe_mm": next(errors), "note": "a word"}, epochs=3, warmup_steps=100)
    found = rows(tmp_path)
    assert [(row["epoch"], row["mpjpe_mm"], row["note"]) for row in found] == [
        (1, 3.0, "a word"), (2, 2.0, "a word"), (3, 4.0, "a word")
    ]  # fmt: skip
    rates = [1e-3 * 0.95**epoch * (3 * epoch + 3) / 100 for epoch in range(3)]
    assert [row["lr"] for row in found] == pytest.approx(rates)
    assert not any("skipped_steps" in row or "sigma_median" in row for row in found)
    best, last = (load_checkpoint(tmp_path / name) for name in ("best.pt", "last.pt"))
    assert (best["epoch"], last["epoch"], last["best_error"], "unfinished" in last) == (2, 3, 2.0, False)
    assert {"config.yaml", "run.json", ".lock"} <= {file.name for file in tmp_path.iterdir()}
    board = EventAccumulator(str(tmp_path))
    board.Reload()
    assert [(event.step, event.value) for event in board.Scalars("mpjpe_mm")] == [(1, 3), (2, 2), (3, 4)]
    assert "epoch" not in board.Tags()["scalars"]
    said = [record.getMessage() for record in caplog.records if record.name.startswith("lifting")]
    assert [text[:9] for text in said] == ["first ste", "epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert "MPJPE 4.0 mm" in said[-1] and "NME" not in said[-1]


def test_a_run_that_is_done_stays_as_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    fitted(tmp_path, epochs=2)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}
    for epochs in (2, 1):
        caplog.clear()
        fitted(tmp_path, epochs=epochs, lr=0.5)
        assert [record.getMessage() for record in caplog.records] == [
            f"{tmp_path}: 2 epochs are done, and train.epochs is {epochs}"
        ]
        assert {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()} == before


def test_the_error_of_a_2d_network_is_nme(tmp_path: Path) -> None:
    fitted(tmp_path, scores=lambda: {"nme_percent": 7.0})
    assert load_checkpoint(tmp_path / "best.pt")["best_error"] == 7.0


def test_another_rank_writes_nothing_and_shows_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, bar: Bar
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(ranks, "rank", lambda: 1)
    fitted(tmp_path / "run", epochs=2)
    assert not (tmp_path / "run").exists() and not caplog.records
    assert (bar.asked["disable"], bar.done) == (True, 6)


def test_the_bar_counts_the_steps_that_are_left(tmp_path: Path, bar: Bar, in_steps: InSteps) -> None:
    in_steps(terminate, 5 + 2)
    with pytest.raises(Terminated):
        fitted(tmp_path, 5, epochs=4)
    fitted(tmp_path, 5, epochs=4)
    assert bar.asked == {"total": 15, "initial": 2, "unit": "step", "disable": None, "leave": False}


@pytest.mark.parametrize("step", [2, 5])  # in the middle of an epoch, and at its end
@pytest.mark.parametrize("amsgrad", [False, True])
def test_a_run_that_is_stopped_and_resumed_is_the_same(
    tmp_path: Path, in_steps: InSteps, step: int, amsgrad: bool
) -> None:
    straight = fitted(tmp_path / "straight", 5, epochs=2, amsgrad=amsgrad)
    assert amsgrad == any(
        "max_exp_avg_sq" in moments
        for moments in load_checkpoint(tmp_path / "straight" / "last.pt")["optimizer"]["state"].values()
    )
    in_steps(terminate, step)
    with pytest.raises(Terminated):
        fitted(tmp_path / "stopped", 5, epochs=2, amsgrad=amsgrad)
    resumed = fitted(tmp_path / "stopped", 5, epochs=2, amsgrad=amsgrad)
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters(), strict=True))
    for one, two in zip(rows(tmp_path / "straight"), rows(tmp_path / "stopped"), strict=True):
        assert one | {"seconds": 0} == two | {"seconds": 0}


def test_seconds_of_an_epoch_count_the_part_before_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_steps: InSteps
) -> None:
    monkeypatch.setattr(engine, "time", SimpleNamespace(perf_counter=Clock(), monotonic=Clock()))
    in_steps(terminate, 2)
    with pytest.raises(Terminated):
        fitted(tmp_path, 5)
    assert load_checkpoint(tmp_path / "last.pt")["unfinished"]["seconds"] == 2
    fitted(tmp_path, 5)
    assert rows(tmp_path)[0]["seconds"] == 2 + 3 + 1  # a second a step, and one for the statistics of batch norm


def test_the_first_step_is_reported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    reported: list[Tensor] = []
    monkeypatch.setattr(engine, "_report_start", reported.append)
    fitted(tmp_path / "one", 1)
    assert len(reported) == 1
    fitted(tmp_path / "three", 3, epochs=2)
    assert len(reported) == 2
    monkeypatch.undo()
    caplog.clear()
    monkeypatch.setattr(logging, "makeLogRecord", lambda _: SimpleNamespace(relativeCreated=500_000))
    engine._report_start(torch.zeros(3))
    assert [record.getMessage() for record in caplog.records] == ["first step 500.0 s after the start of the program"]


@pytest.mark.parametrize(
    ("device", "world", "checked", "shared"),
    [
        ("cpu", 1, range(1, 46), range(1, 46)),
        ("cpu", 2, range(1, 46), [20, 40, 45]),
        ("cuda", 1, [20, 40, 45], range(1, 46)),
        ("cuda", 2, [20, 40, 45], [20, 40, 45]),
    ],
)
def test_a_gpu_and_other_ranks_are_waited_for_every_20_steps_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, world: int, checked: range, shared: range
) -> None:
    run = a_run(tmp_path, 45)
    looks: list[int] = []
    meetings: list[int] = []

    def nothing(values: list[float]) -> list[float]:
        meetings.append(run.progress.step)
        return [0.0 for _ in values]

    monkeypatch.setattr(engine._Run, "device", torch.device(device))
    monkeypatch.setattr(engine._Run, "_check", lambda self, batch: looks.append(self.progress.step))
    monkeypatch.setattr(ranks, "world", lambda: world)
    monkeypatch.setattr(ranks, "largest", nothing)
    for step in range(1, 46):
        run.progress.step = step
        run._after_step(next(Few(1).epoch(0)))
    assert (looks, meetings) == (list(checked), list(shared))


@pytest.mark.parametrize(
    ("minutes", "passed", "saves"),
    [(2, 119.9, False), (2, 120, True), (0.5, 29, False), (0.5, 30, True), (0, 1e6, False)],
)
def test_a_checkpoint_is_written_when_so_many_minutes_have_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minutes: float, passed: float, saves: bool
) -> None:
    run = a_run(tmp_path, save_minutes=minutes)
    monkeypatch.setattr(engine, "time", SimpleNamespace(monotonic=lambda: 100 + passed))
    run.progress.step, run.checked = 7, 0
    run.progress.steps = [torch.zeros(3)] * 7
    run._after_step(next(Few(1).epoch(0)))
    assert (tmp_path / "last.pt").exists() == saves
    assert run.saved == (100 + passed if saves else 100)
    assert bool(run.progress.random) == saves


def test_a_signal_saves_first(tmp_path: Path) -> None:
    run = a_run(tmp_path, save_minutes=0)
    run.progress.step, run.progress.steps = 1, [torch.zeros(3)]
    run.stops.noted = signal.SIGTERM
    with pytest.raises(Terminated):
        run._after_step(next(Few(1).epoch(0)))
    assert load_checkpoint(tmp_path / "last.pt")["unfinished"]["step"] == 1


def test_what_stands_beside_the_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bar: Bar) -> None:
    monkeypatch.setattr(steps, "training_step", lambda *_: torch.tensor([bar.done + 0.5, 9.0, math.nan]))
    fitted(tmp_path, 45, epochs=2)
    assert bar.beside == [
        {"step": step, "epoch": 1 + (step > 45), "loss": f"{step - 0.5:.3f}"} for step in (20, 40, 45, 65, 85, 90)
    ]


def test_a_gpu_shows_the_last_of_the_steps_it_looks_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = a_run(tmp_path)
    monkeypatch.setattr(engine._Run, "device", torch.device("cuda"))
    run.progress.step, run.progress.steps = 20, [torch.tensor([n, 1.0, 1.0]) for n in range(20)]
    run._check(next(Few(1).epoch(0)))
    assert run.bar.beside == [{"step": 0, "epoch": 1, "loss": "19.000"}]  # type: ignore[attr-defined]
    assert run.checked == 20


def test_what_was_looked_at_is_not_looked_at_again(tmp_path: Path) -> None:
    run = a_run(tmp_path, 600)
    run.progress.step, run.checked, run.progress.steps = int("300"), int("300"), [torch.full((3,), math.nan)] * 300
    run._check(next(Few(1).epoch(0)))  # NaN would stop it


@pytest.mark.parametrize("column", [0, 1])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_loss_or_a_gradient_that_is_not_finite_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: int, device: str
) -> None:
    run = a_run(tmp_path)
    run.progress.epoch, run.progress.step, run.checked = 1, 9, 4
    run.progress.steps = [torch.ones(3) for _ in range(9)]
    run.progress.steps[6][column] = math.inf
    monkeypatch.setattr(engine._Run, "device", torch.device(device))
    values = ["1.0", "1.0"]
    values[column] = "inf"
    what = f"loss {values[0]}, gradient norm {values[1]} at step {45 + 6}"
    cause = ", from the loss" if device == "cpu" else ""
    with pytest.raises(RunError, match=rf"^training stopped: {what}{cause}; nothing was saved yet$"):
        run._check(next(Few(1).epoch(0)))
    (tmp_path / "last.pt").touch()
    run.checked = 4
    with pytest.raises(RunError, match=r"last\.pt is from before$"):
        run._check(next(Few(1).epoch(0)))


def test_steps_that_are_skipped_are_counted_and_left_out_of_the_means(
    tmp_path: Path, in_steps: InSteps, caplog: pytest.LogCaptureFixture
) -> None:
    fitted(tmp_path / "all", 3, on_nonfinite="skip")
    assert rows(tmp_path / "all")[0]["skipped_steps"] == 0
    in_steps(break_gradient, 2)
    caplog.clear()
    fitted(tmp_path / "skipped", 3, on_nonfinite="skip")
    (row,) = rows(tmp_path / "skipped")
    assert row["skipped_steps"] == 1 and math.isfinite(row["gradient_norm"])
    assert len([record for record in caplog.records if "step skipped" in record.getMessage()]) == 1


def test_an_epoch_without_a_good_step_stops_the_run(tmp_path: Path, in_steps: InSteps) -> None:
    in_steps(break_gradient, 1, 2, 3)
    with pytest.raises(RunError, match="epoch 1: every step was skipped; nothing was saved yet"):
        fitted(tmp_path, 3, on_nonfinite="skip")


@pytest.mark.parametrize(("what", "world", "goes_on"), [("stop", 1, False), ("skip", 1, True), ("skip", 2, False)])
def test_labels_that_the_likelihood_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, world: int, goes_on: bool
) -> None:
    def refused(*_: object) -> Tensor:
        raise ValueError("labels are not finite")

    run = a_run(tmp_path, on_nonfinite=what)
    run.progress.epoch, run.progress.step = 1, 2
    monkeypatch.setattr(steps, "training_step", refused)
    monkeypatch.setattr(ranks, "world", lambda: world)
    batch = next(Few(1).epoch(0))
    if goes_on:
        found = run._step(batch)
        assert found.shape == (3,) and found.isnan().all()
    else:
        with pytest.raises(RunError, match="labels are not finite at step 47; nothing was saved yet"):
            run._step(batch)


def test_an_evaluation_that_refuses_names_its_epoch(tmp_path: Path) -> None:
    answers = iter([{"mpjpe_mm": 1.0}])

    def scores() -> dict[str, Any]:
        for answer in answers:
            return answer
        raise ValueError("predictions are not finite")

    with pytest.raises(RunError, match=r"the evaluation after epoch 2: predictions are not finite; .*from before"):
        fitted(tmp_path, 2, scores, epochs=3)


def test_a_dead_sigma_names_its_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(health, "sigma_warning", lambda _: "sigma is dead")
    fitted(tmp_path, 2, epochs=2)
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert said == ["epoch 1: sigma is dead", "epoch 2: sigma is dead"]


def test_compiled_and_over_ranks_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    objective = few_weights()
    done: list[str] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: done.append("compiled"))
    monkeypatch.setattr(engine, "over_all_ranks", lambda module: done.append("statistics over ranks"))
    monkeypatch.setattr(engine, "DistributedDataParallel", lambda module: nn.Sequential(module))
    assert engine._wrapped(objective, compiled=False) is objective and not done
    assert engine._wrapped(objective, compiled=True) is objective and done == ["compiled"]
    monkeypatch.setattr(ranks, "world", lambda: 2)
    assert isinstance(engine._wrapped(objective, compiled=False), nn.Sequential)
    assert done == ["compiled", "statistics over ranks"]


def test_a_report_without_a_board(tmp_path: Path) -> None:
    engine._report({"epoch": 1, "loss": 0.5, "seconds": 1.0, "mpjpe_mm": 2.0}, 3, tmp_path / "metrics.jsonl", None)
    assert rows(tmp_path)[0]["mpjpe_mm"] == 2.0


def test_the_fused_optimiser_of_a_device_goes_on_from_one_that_was_not(tmp_path: Path) -> None:
    """A device without a fused Adam, such as Apple's, writes that into its checkpoints."""
    fitted(tmp_path, epochs=1)
    state = load_checkpoint(tmp_path / "last.pt")
    state["optimizer"]["param_groups"][0]["fused"] = False
    save_checkpoint(tmp_path / "last.pt", state)
    fitted(tmp_path, epochs=2)
    assert load_checkpoint(tmp_path / "last.pt")["optimizer"]["param_groups"][0]["fused"] is True
