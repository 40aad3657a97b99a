"""Training: resumed bit by bit the same, stopped by a loss that is not finite, the same over several ranks."""

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lifting import lifter
from lifting.checkpoint import load_checkpoint
from lifting.command import InputError, RunError, Terminated
from lifting.config import Config, TrainConfig, load_config
from lifting.datasets.poses import load_split
from lifting.geometry.skeleton import H36M17
from lifting.metrics.pose_errors import joint_errors, pearson
from lifting.prediction import Prediction
from lifting.training import evaluation, objective, ranks
from lifting.training.steps import learning_rate
from tests.conftest import Shell

ROOT = Path(__file__).parents[2]


def trained(small: list[str], folder: Path, *overrides: str) -> dict[str, torch.Tensor]:
    lifter.train(load_config(overrides=[*small, *overrides]), folder)
    content = load_checkpoint(folder / "last.pt")
    return {**content["network"], **{f"likelihood.{k}": v for k, v in content["likelihood"].items()}}


def rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON")) for line in lines]


@pytest.mark.parametrize("loss", ["rle", "l1"])
def test_two_plus_two_epochs_equal_four(small: list[str], tmp_path: Path, loss: str) -> None:
    straight = trained(small, tmp_path / "straight", f"loss.name={loss}", "train.epochs=4", "data.noise_px=3")
    # As with a real Ctrl-C, the stopped run is configured for all four epochs.
    config = load_config(overrides=[*small, f"loss.name={loss}", "train.epochs=4", "data.noise_px=3"])
    folder = tmp_path / "stopped"
    stop_after(2, config, folder)
    assert len(rows(folder)) == 2
    lifter.train(config, folder)
    resumed = load_checkpoint(folder / "last.pt")
    for name, weight in resumed["network"].items():
        assert torch.equal(weight, straight[name]), name
    drop = {"seconds"}
    for one, other in zip(rows(folder), rows(tmp_path / "straight"), strict=True):
        assert {k: v for k, v in one.items() if k not in drop} == {k: v for k, v in other.items() if k not in drop}


def stop_after(epochs: int, config: Config, folder: Path) -> None:
    """Trains until Ctrl-C, which comes in the epoch after this many."""
    seed_everything = ranks.seed_everything

    def interrupted(seed: int, epoch: int) -> None:
        if epoch == epochs:
            raise KeyboardInterrupt
        seed_everything(seed, epoch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "seed_everything", interrupted)
        with pytest.raises(KeyboardInterrupt):
            lifter.train(config, folder)


def test_a_run_learns_and_leaves_its_files(small: list[str], tmp_path: Path) -> None:
    began = time.perf_counter()
    lifter.train(load_config(overrides=[*small, "train.epochs=12", "train.warmup_steps=5", "train.lr=1e-2"]), tmp_path)
    took = time.perf_counter() - began
    names = {p.name.split(".")[0] for p in tmp_path.iterdir()}
    assert names == {"", "config", "last", "best", "metrics", "events", "run"}
    lines = rows(tmp_path)
    assert [line["epoch"] for line in lines] == list(range(1, 13))
    config = load_config(tmp_path / "config.yaml")
    nothing_learned = load_split(config.data, config.data.path, train=False).target.norm(dim=-1).mean().item()
    assert lines[-1]["mpjpe_mm"] < 0.5 * 1000 * nothing_learned
    assert {"loss", "lr", "gradient_norm", "sigma_median", "nll", "pa_mpjpe_mm"} <= set(lines[0])
    optimizer = load_checkpoint(tmp_path / "last.pt")["optimizer"]
    count = int(optimizer["state"][0]["step"]) // 12
    rates = [learning_rate(config.train, epoch, (epoch + 1) * count - 1) for epoch in range(12)]
    assert [line["lr"] for line in lines] == pytest.approx(rates)
    assert optimizer["param_groups"][0]["lr"] == pytest.approx(rates[-1])
    assert 0 < sum(line["seconds"] for line in lines) < took
    best = load_checkpoint(tmp_path / "best.pt")
    assert best["best_error"] == min(line["mpjpe_mm"] for line in lines)
    assert config.train.epochs == 12
    board = EventAccumulator(str(tmp_path))
    board.Reload()
    for name in ("loss", "lr", "mpjpe_mm", "nll"):
        shown = [(event.step, event.value) for event in board.Scalars(name)]
        assert shown == [(line["epoch"], pytest.approx(line[name], rel=1e-6)) for line in lines], name


@pytest.mark.parametrize("signal", [KeyboardInterrupt, Terminated])
def test_an_evaluation_that_is_interrupted_leaves_the_trained_epoch(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signal: type[BaseException]
) -> None:
    config = load_config(overrides=[*small, "loss.name=l1", "train.epochs=1"])

    def interrupted(*_: object) -> None:
        raise signal

    with monkeypatch.context() as patch:
        patch.setattr(lifter, "evaluate", interrupted)
        with pytest.raises(signal):
            lifter.train(config, tmp_path / "run")
    assert load_checkpoint(tmp_path / "run" / "last.pt")["unfinished"]["step"] > 0
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    lifter.train(config, tmp_path / "run")
    lifter.train(config, tmp_path / "straight")
    one, two = (load_checkpoint(tmp_path / name / "last.pt")["network"] for name in ("run", "straight"))
    assert all(torch.equal(weight, two[name]) for name, weight in one.items())
    starts = json.loads((tmp_path / "run" / "run.json").read_text())["starts"]
    assert len(starts) == 2


def test_errors_on_two_tests_are_not_compared(
    shell: Shell, small: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    run, best = tmp_path / "run", tmp_path / "run" / "best.pt"
    assert shell("train", "--output", run, *small, "loss.name=l1", "train.epochs=1")[0] == 0
    whole = torch.load(run / "last.pt", weights_only=True)
    torch.save(whole | {"best_error": 1.0}, run / "last.pt")  # millimetres, which no epoch comes near
    for epochs, change, best_epoch in ((2, (), 1), (3, ("data.test_stride=30",), 3)):
        assert shell("train", "--resume", run, f"train.epochs={epochs}", *change)[0] == 0
        assert torch.load(best, weights_only=True)["epoch"] == best_epoch
    assert caplog.text.count("another test than before") == 1


def test_resuming_drops_lines_after_the_checkpoint(small: list[str], tmp_path: Path) -> None:
    lifter.train(load_config(overrides=small), tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "half": tru')
    lifter.train(load_config(overrides=[*small, "train.epochs=3"]), tmp_path)
    assert [line["epoch"] for line in rows(tmp_path)] == [1, 2, 3]


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(small: list[str], tmp_path: Path) -> None:
    lifter.train(load_config(overrides=[*small, "train.epochs=1"]), tmp_path)
    before = (tmp_path / "last.pt").read_bytes()
    state = objective.Objective.forward
    calls = 0

    def poisoned(self: objective.Objective, batch: object) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal calls
        calls += 1
        loss, sigma = state(self, batch)  # type: ignore[arg-type]
        return (loss * math.nan if calls == 5 else loss), sigma

    steps = len(load_split(load_config(overrides=small).data, small[0].split("=")[1], train=True)) // 64
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objective.Objective, "forward", poisoned)
        with pytest.raises(RunError, match=f"loss nan, gradient norm nan at step {steps + 4}, from the "):
            lifter.train(load_config(overrides=small), tmp_path)
    assert (tmp_path / "last.pt").read_bytes() == before


def test_a_checkpoint_of_another_model_is_refused(small: list[str], tmp_path: Path) -> None:
    lifter.train(load_config(overrides=small), tmp_path)
    with pytest.raises(InputError, match="belongs to another model"):
        lifter.train(load_config(overrides=[*small, "model.width=32"]), tmp_path)
    for other in ("loss.beta=0", "loss.flow.couplings=4", "loss.name=laplace"):
        with pytest.raises(InputError, match=r"last\.pt: expected to go on with the loss of its training, got another"):
            lifter.train(load_config(overrides=[*small, "train.epochs=3", other]), tmp_path)
    with pytest.raises(InputError, match=r"last\.pt: expected train\.amsgrad=false, as it was trained$"):
        lifter.train(load_config(overrides=[*small, "train.epochs=3", "train.amsgrad=true"]), tmp_path)


@pytest.mark.parametrize("name", ["gpu9", "meta"])
def test_unusable_device(name: str) -> None:
    with pytest.raises(InputError, match=f"device: cannot use '{name}'"):
        ranks.start(name)


def test_mean_of_mirrored_swaps_sigma_without_a_sign() -> None:
    mu, sigma = torch.randn(2, 17, 3), torch.rand(2, 17, 3)
    mirrored_mu = mu[:, list(H36M17.mirror)] * torch.tensor([-1.0, 1, 1])
    mirrored = Prediction(mirrored_mu, sigma[:, list(H36M17.mirror)].log())
    mean = evaluation.mean_of_mirrored(Prediction(mu, sigma.log()), mirrored, H36M17)
    assert mean.sigma is not None
    torch.testing.assert_close(mean.mu, mu)
    torch.testing.assert_close(mean.sigma, sigma)


def test_peaks_of_heatmaps_are_averaged_with_their_mirror_images() -> None:
    mu, peak = torch.randn(2, 17, 2), torch.rand(2, 17)
    other_mu, other_peak = torch.randn(2, 17, 2), torch.rand(2, 17)
    mirror = list(H36M17.mirror)
    mean = evaluation.mean_of_mirrored(Prediction(mu, peak=peak), Prediction(other_mu, peak=other_peak), H36M17)
    assert mean.peak is not None and mean.sigma is None
    torch.testing.assert_close(mean.peak, (peak + other_peak[:, mirror]) / 2)
    torch.testing.assert_close(mean.mu, (mu + other_mu[:, mirror] * torch.tensor([-1.0, 1])) / 2)
    for one, two in ((peak, None), (None, peak), (None, None)):
        assert evaluation.mean_of_mirrored(Prediction(mu, peak=one), Prediction(mu, peak=two), H36M17).peak is None
    sigma = torch.rand(2, 17, 1).log()
    for one, two in ((sigma, None), (None, sigma)):
        assert evaluation.mean_of_mirrored(Prediction(mu, one), Prediction(mu, two), H36M17).sigma is None


def test_the_report_agrees_with_its_parts(small: list[str], small_store: Path) -> None:
    config = load_config(overrides=small)
    objective = lifter.build_objective(config, H36M17).eval()
    poses = load_split(config.data, str(small_store), train=False)
    report, prediction = lifter.evaluate(objective, poses, config)
    errors = joint_errors(prediction.mu, poses.target)["mpjpe"]
    assert report["mpjpe_frame_mm"] == pytest.approx(1000 * errors.mean().item(), rel=1e-5)
    assert prediction.sigma is not None
    assert report["sigma_error_r"] == pytest.approx(pearson(prediction.sigma.mean(-1)[:, 1:], errors[:, 1:]), abs=1e-5)
    assert report["nll"] == pytest.approx(-objective.likelihood.log_prob(
        *objective.free(prediction, poses.target)).mean().item(), rel=1e-5)  # fmt: skip


def test_learning_rate_decays_every_epoch_or_at_steps() -> None:
    train = TrainConfig(lr=0.1, lr_decay=0.5, warmup_steps=4)
    assert [learning_rate(train, 0, step) for step in range(5)] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1])
    assert learning_rate(train, 3, 1000) == pytest.approx(0.1 / 8)
    assert learning_rate(TrainConfig(lr=0.1, warmup_steps=1), 0, 0) == 0.1
    train = TrainConfig(lr=0.1, lr_decay=0.1, lr_steps=(90, 120), warmup_steps=0)
    at = {epoch: learning_rate(train, epoch, 10**6) for epoch in (0, 89, 90, 119, 120, 139)}
    assert at == pytest.approx({0: 0.1, 89: 0.1, 90: 0.01, 119: 0.01, 120: 0.001, 139: 0.001})


def test_weights_alone_cannot_be_resumed(small: list[str], tmp_path: Path, shell: Shell) -> None:
    run = tmp_path / "run"
    assert shell("train", "--output", run, *small, "train.epochs=1")[0] == 0
    assert shell("export", "--checkpoint", run / "last.pt", "--output", tmp_path / "small.pt")[0] == 0
    (tmp_path / "small.pt").rename(run / "last.pt")
    code, _, err = shell("train", "--resume", run, "train.epochs=2")
    assert (code, err.count("\n"), "got weights alone" in err) == (2, 1, True), err


def test_a_broken_record_of_starts_is_one_line(small: list[str], tmp_path: Path, shell: Shell) -> None:
    run = tmp_path / "run"
    assert shell("train", "--output", run, *small, "train.epochs=1")[0] == 0
    (run / "run.json").write_text("{")
    code, _, err = shell("train", "--resume", run, "train.epochs=2")
    assert (code, "run.json: expected the record of this run's starts" in err) == (2, True)
