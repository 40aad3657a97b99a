"""What is not finite is named with its step and cause, and leaves the last good state as it was."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lifting import lifter
from lifting.checkpoint import load_checkpoint
from lifting.command import InputError, RunError, write_json
from lifting.config import TrainConfig, load_config
from lifting.datasets.pose_batches import PoseBatches
from lifting.datasets.store import Sequence, write_store
from lifting.geometry import h36m
from lifting.likelihood import RLE, Mixed
from lifting.likelihood.flow import Density
from lifting.models.fc import FCBaseline
from lifting.models.regressor import Regressor
from lifting.prediction import Batch, Prediction
from lifting.synthetic.poses import sequences
from lifting.training import health, steps
from lifting.training.objective import AnyObjective, ImageObjective, Objective
from lifting.training.steps import training_step


def pose_batch() -> Batch:
    return Batch(torch.randn(8, 17, 2), 0.3 * torch.randn(8, 17, 3))


def image_batch() -> Batch:
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    return Batch(images, 0.2 * torch.randn(4, 18, 3), torch.ones(4, 18), torch.rand(4, 18) > 0.5)


def objectives() -> list[tuple[AnyObjective, Batch]]:
    torch.manual_seed(0)
    lifter = Objective(FCBaseline(width=16, blocks=1), RLE())
    return [(lifter, pose_batch()), (ImageObjective(Regressor("resnet18", 8), Mixed(RLE(3), RLE(2))), image_batch())]


def hurt_mu(objective: AnyObjective, batch: Batch) -> None:
    objective.network.mu_head.register_forward_hook(lambda *_: _[2] * torch.inf)  # type: ignore[union-attr]


def hurt_sigma(objective: AnyObjective, batch: Batch) -> None:
    objective.network.sigma_head.register_forward_hook(lambda *_: _[2] * torch.nan)  # type: ignore[union-attr]


def hurt_flow(objective: AnyObjective, batch: Batch) -> None:
    """It explodes: weights that are still finite, a density that is not."""
    with torch.no_grad():
        for weight in objective.likelihood.parameters():
            weight.fill_(1e30)


def hurt_gradient(objective: AnyObjective, batch: Batch) -> None:
    objective.network.mu_head.weight.register_hook(lambda gradient: gradient * torch.inf)  # type: ignore[union-attr, operator]


HURTS: dict[str, Callable[[AnyObjective, Batch], None]] = {
    "mu": hurt_mu, "sigma": hurt_sigma, "the flow": hurt_flow, "the gradient of network.mu_head.weight": hurt_gradient,
}  # fmt: skip


@pytest.mark.parametrize("cause", HURTS)
@pytest.mark.parametrize("track", [0, 1])
def test_the_cause_is_named_and_no_weight_changes(cause: str, track: int) -> None:
    objective, batch = objectives()[track]
    optimizer = torch.optim.Adam(objective.parameters(), fused=True)
    training_step(objective, batch, optimizer, TrainConfig())
    assert health.cause_of(objective, batch) == "the loss"  # nothing is wrong
    HURTS[cause](objective, batch)
    before = {name: weight.clone() for name, weight in objective.named_parameters()}
    generators, buffers = torch.get_rng_state(), [buffer.clone() for buffer in objective.buffers()]
    assert health.cause_of(objective, batch).startswith(cause)
    assert torch.equal(generators, torch.get_rng_state())
    assert all(torch.equal(one, other) for one, other in zip(buffers, objective.buffers(), strict=True))
    assert not training_step(objective, batch, optimizer, TrainConfig())[:2].isfinite().all()
    assert health.cause_of(objective, batch).startswith(cause)
    for name, weight in objective.named_parameters():
        assert torch.equal(weight, before[name]), name


@pytest.mark.parametrize("cause", ["mu", "sigma", "the flow"])
def test_the_cause_is_named_in_2d(cause: str) -> None:
    """Labels have three coordinates there too, of which the network predicts two."""
    torch.manual_seed(0)
    objective, batch = ImageObjective(Regressor("resnet18", 8, dims=2), RLE(2)), image_batch()
    assert health.cause_of(objective, batch) == "the loss"  # nothing is wrong
    HURTS[cause](objective, batch)
    assert health.cause_of(objective, batch).startswith(cause)


def test_an_epoch_of_which_every_step_is_skipped_ends_the_run(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "training_step", poisoned(set(range(1000))))
    config = load_config(overrides=[*small, "train.on_nonfinite=skip", "train.bn_batches=0"])
    with pytest.raises(RunError, match="epoch 1: every step was skipped; nothing was saved yet"):
        lifter.train(config, tmp_path)


class Beyond(Density):
    """A density that is not finite where ``is_bad``."""

    def __init__(self, is_bad: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.is_bad = is_bad

    def log_prob(self, x: Tensor) -> Tensor:
        return torch.where(self.is_bad(x).any(-1), torch.inf, 0.0)


def test_the_flow_is_asked_at_the_standardised_deviations_of_what_is_seen() -> None:
    likelihood = nn.Module()
    likelihood.dim = 2  # type: ignore[assignment]
    prediction = Prediction(torch.zeros(4, 17, 3), torch.full((4, 17, 3), 0.1).log())
    target, seen = torch.full((4, 17, 3), 0.5), torch.rand(4, 17, 3) > 0.5
    for is_bad, expected in (
        (lambda x: x > 4.9, "the flow"),  # 0.5 / 0.1
        (lambda x: x > 5.1, ""),
        (lambda x: (x != 0) & ((x - 5).abs() > 1e-4), ""),  # what is not seen counts as zero
    ):
        likelihood.flow = Beyond(is_bad)
        assert health._flow_at(likelihood, prediction, target, seen) == expected


def test_labels_and_input_are_named() -> None:
    objective, batch = objectives()[0]
    batch.target[3, 5, 1] = torch.nan
    assert health.cause_of(objective, batch) == "the labels"
    batch.input[0, 0, 0] = torch.inf
    assert health.cause_of(objective, batch) == "the input"


def poisoned(at: set[int]) -> Callable[..., Tensor]:
    """`training_step` with an input that is not finite in these steps."""
    count = -1

    def step(model: AnyObjective, batch: Batch, *rest: object) -> Tensor:
        nonlocal count
        count += 1
        if count in at:
            batch.input[0] = torch.nan
        return training_step(model, batch, *rest)  # type: ignore[arg-type]

    return step


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_steps_are_skipped_and_counted(
    small: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "training_step", poisoned({3, 4, 10}))
    config = load_config(overrides=[*small, "train.on_nonfinite=skip", "train.bn_batches=0"])
    lifter.train(config, tmp_path)
    assert [line["skipped_steps"] for line in lines(tmp_path)] == [3, 0]
    assert all(math.isfinite(line["loss"]) and math.isfinite(line["mpjpe_mm"]) for line in lines(tmp_path))
    assert "step skipped: loss nan, gradient norm nan at step 10, from the input" in caplog.text
    for name, weight in load_checkpoint(tmp_path / "last.pt")["network"].items():
        assert weight.isfinite().all(), name


def test_a_batch_that_the_likelihood_refuses_counts_as_a_step_that_is_not_finite(
    small: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, real = 0, steps.training_step

    def refusing(*arguments: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise ValueError("target: expected finite values")
        return real(*arguments)

    monkeypatch.setattr(steps, "training_step", refusing)
    with pytest.raises(RunError, match="target: expected finite values at step 2"):
        lifter.train(load_config(overrides=[*small, "loss.name=l1"]), tmp_path / "stopped")
    calls = 0
    config = load_config(overrides=[*small, "loss.name=l1", "train.epochs=1", "train.on_nonfinite=skip"])
    lifter.train(config, tmp_path / "skipped")
    assert [line["skipped_steps"] for line in lines(tmp_path / "skipped")] == [1]
    assert "step 2 was skipped: target: expected finite values" in caplog.text


def test_a_stopped_run_goes_on_from_the_last_good_state(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(overrides=[*small, "train.save_minutes=1e-9"])
    lifter.train(config, tmp_path / "straight")
    with monkeypatch.context() as patch:
        patch.setattr(steps, "training_step", poisoned({7}))
        with pytest.raises(RunError, match=r"at step 7, from the input; .*last\.pt is from before"):
            lifter.train(config, tmp_path / "run")
    assert load_checkpoint(tmp_path / "run" / "last.pt")["unfinished"]["step"] == 7
    lifter.train(config, tmp_path / "run")
    one, two = (load_checkpoint(tmp_path / name / "last.pt")["network"] for name in ("straight", "run"))
    assert all(torch.equal(weight, two[name]) for name, weight in one.items())


def test_a_dead_sigma_is_named(
    small: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = lifter.build_objective

    def saturated(*arguments: object) -> Objective:
        made = build(*arguments)  # type: ignore[arg-type]
        torch.nn.init.constant_(made.network.sigma_head.bias, 30.0)  # type: ignore[union-attr, arg-type]
        return made

    monkeypatch.setattr(lifter, "build_objective", saturated)
    lifter.train(load_config(overrides=[*small, "train.epochs=1"]), tmp_path)
    assert "epoch 1: sigma is dead: at least half of all sigmas are at their ceiling of 1" in caplog.text
    assert health.sigma_warning(1e-9) and not health.sigma_warning(0.1) and not health.sigma_warning(math.nan)


def test_a_metric_that_is_not_finite_is_null(small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = lifter.evaluate

    def without_r(*arguments: object) -> object:
        report, prediction = evaluate(*arguments)  # type: ignore[arg-type]
        return report | {"sigma_error_r": math.nan, "mpjpe_mm": math.nan}, prediction

    monkeypatch.setattr(lifter, "evaluate", without_r)
    lifter.train(load_config(overrides=small), tmp_path)
    assert [(line["sigma_error_r"], line["mpjpe_mm"]) for line in lines(tmp_path)] == [(None, None)] * 2
    write_json(tmp_path / "a.json", {"a": [math.inf, (1, math.nan)], "b": np.float64(np.nan)})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [None, [1, None]], "b": None}


@pytest.mark.parametrize("poison", [math.nan, math.inf, 1e30, -1e6])
@pytest.mark.parametrize("where", ["positions", "keypoints"])
def test_a_poisoned_label_is_found_at_preparation(poison: float, where: str, tmp_path: Path) -> None:
    one = next(s for s in sequences(seed=0) if s.subject == "S1")
    cameras = {"S1": h36m.cameras("S1")}
    name, camera = next(iter(cameras["S1"].items()))
    points = camera.project(camera.world_to_camera(torch.from_numpy(one.positions).double())).float().numpy()
    positions = one.positions.copy()
    hurt = positions if where == "positions" else points
    hurt[len(hurt) // 2 + 1, 7, 1] = poison
    sequence = Sequence("S1", one.name, positions, {"cpn": {name: points}})
    with pytest.raises(InputError, match=rf"S1 {one.name}: {where}"):
        write_store(tmp_path / "a.h5", [sequence], cameras, frame_rate=50.0, source="t", checksum="t")
    assert not list(tmp_path.iterdir())


def test_batches_from_the_middle_of_an_epoch(small_store: Path) -> None:
    config = load_config(overrides=[f"data.path={small_store}", "data.train_subjects=[S1]", "data.stride=20"])
    batches = PoseBatches(lifter.load_poses(config, train=True), 16, flip=True)
    whole, rest = list(batches.epoch(3)), list(batches.epoch(3, 2))
    assert len(rest) == len(whole) - 2 > 0
    assert all(torch.equal(one.input, other.input) for one, other in zip(whole[2:], rest, strict=True))


def test_what_is_not_labelled_may_be_anything() -> None:
    """A joint without a label, and the depth of a joint that has none."""
    objective, batch = objectives()[1]
    assert batch.weight is not None and batch.has_depth is not None
    batch.weight[0, 2], batch.target[0, 2] = 0, torch.nan
    flat = (~batch.has_depth.expand_as(batch.weight)).nonzero()[0].tolist()
    batch.target[flat[0], flat[1], 2] = torch.nan
    assert health.cause_of(objective, batch) == "the loss"  # nothing is wrong
    deep = (batch.has_depth.expand_as(batch.weight) & (batch.weight > 0)).nonzero()[0].tolist()
    batch.target[deep[0], deep[1], 2] = torch.nan
    assert health.cause_of(objective, batch) == "the labels"


def test_a_weight_that_is_not_finite_is_named_first() -> None:
    objective, batch = objectives()[0]
    batch.input[0] = torch.nan
    with torch.no_grad():
        objective.network.mu_head.bias[3] = torch.nan  # type: ignore[union-attr, operator]
    assert health.cause_of(objective, batch) == "the weight network.mu_head.bias"


@pytest.mark.parametrize(("sigma", "is_dead"), [(1.0, True), (0.999, False), (0.5, False), (1e-6, False), (1e-8, True)])
def test_when_sigma_is_dead(sigma: float, is_dead: bool) -> None:
    assert bool(health.sigma_warning(sigma)) == is_dead


@pytest.mark.parametrize("spoiled", ["running_mean", "running_var"])
def test_statistics_start_again_if_one_of_them_is_spoiled(spoiled: str) -> None:
    norm = nn.BatchNorm1d(4)
    norm(torch.randn(8, 4))
    before = norm.running_mean.clone()  # type: ignore[union-attr]
    health.mend_statistics(norm)
    assert torch.equal(norm.running_mean, before)  # type: ignore[arg-type]
    getattr(norm, spoiled)[2] = torch.inf
    health.mend_statistics(norm)
    assert norm.running_mean.eq(0).all() and norm.running_var.eq(1).all()  # type: ignore[union-attr]
