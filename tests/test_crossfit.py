"""`crossfit` as a person runs it: what stays, what becomes another, and what reads the new checkpoint."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chi

import run_lifting
from lifting import Lifter, crossfit, lifter
from lifting.config import load_config
from lifting.geometry.cameras import denormalise_screen
from lifting.likelihood import Likelihood
from lifting.likelihood.pose_density import PoseDensity
from tests.conftest import SMALL, Shell, refused

pytestmark = pytest.mark.usefixtures("few_draws")


@pytest.fixture(scope="module")
def trained(small_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that no test changes."""
    folder = tmp_path_factory.mktemp("trained")
    lifter.train(load_config(overrides=[f"data.path={small_store}", *SMALL]), folder)
    return folder / "last.pt"


@pytest.fixture(scope="module")
def fitted(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the command has fitted a density to the errors of `trained`."""
    folder = tmp_path_factory.mktemp("crossfit")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["run_lifting.py", "crossfit", "--checkpoint", str(trained), "--output", str(folder)])
        run_lifting.main()
    return folder


def test_the_density_changes_and_the_predictions_stay(
    shell: Shell, trained: Path, fitted: Path, tmp_path: Path
) -> None:
    folder = fitted
    for person, other in (("S1", "S5"), ("S5", "S1")):
        _, config = lifter.load(folder / f"without_{person}" / "last.pt")
        assert (config.data.train_subjects, config.data.test_subjects) == ((other,), (person,))
    reports = {}
    for name, checkpoint in (("before", trained), ("after", folder / "last.pt")):
        file = tmp_path / f"{name}.json"
        code, out, err = shell(
            "evaluate", "--checkpoint", checkpoint, "--uncertainty", "--camera", "--hypotheses", 5, "--json", file
        )
        assert code == 0, err
        reports[name] = json.loads(file.read_text())
    before, after = reports["before"], reports["after"]
    assert before["mpjpe_mm"] == after["mpjpe_mm"]
    assert before["sigma_error_r"] == after["sigma_error_r"]
    assert after["nll"] < before["nll"]  # two epochs leave much to fit
    assert after["uncertainty"]["nll_pose"] < after["nll"] + 0.05  # so few people may have little in common
    assert "nll_pose" not in before["uncertainty"]
    assert "NLL of whole poses" in out
    assert after["uncertainty"]["nll"] == pytest.approx(after["nll"], abs=1e-4)

    again = shell("crossfit", "--checkpoint", folder / "last.pt", "--output", tmp_path / "again")
    refused(again, "last.pt", "with a density already")
    runs = [(folder / f"without_{person}" / "last.pt") for person in ("S1", "S5")]
    seen = [run.stat().st_mtime_ns for run in runs]
    code, out, err = shell("crossfit", "--checkpoint", trained, "--output", folder)
    assert code == 0, err
    assert str(folder / "last.pt") in out
    assert [run.stat().st_mtime_ns for run in runs] == seen, "it trained again"


def test_runs_of_another_configuration_are_not_taken(shell: Shell, trained: Path, fitted: Path, tmp_path: Path) -> None:
    content = torch.load(trained, weights_only=True)
    content["config"]["seed"] = 7
    torch.save(content, tmp_path / "other.pt")
    before = (fitted / "last.pt").read_bytes()
    command = ["crossfit", "--checkpoint", tmp_path / "other.pt", "--output", fitted]
    refused(shell(*command), "without_S1 holds a run of another configuration or data; name another --output")
    assert (fitted / "last.pt").read_bytes() == before


def test_a_scale_of_other_densities_is_refused(shell: Shell, trained: Path, fitted: Path) -> None:
    """It would be that of the flow's, or of another network's errors."""
    without = fitted / "without_S1" / "last.pt"
    for checkpoint, held_out in ((fitted / "last.pt", without), (trained, fitted / "last.pt")):
        calibrated = ["evaluate", "--checkpoint", checkpoint, "--uncertainty", "--calibrate", held_out]
        refused(shell(*calibrated), "calibrate", "expected lifters as they were trained, got a density of crossfit")


def test_a_training_run_is_not_replaced(shell: Shell, trained: Path, fitted: Path, small: list[str]) -> None:
    before = trained.read_bytes()
    command = ["crossfit", "--checkpoint", trained, "--output", trained.parent]
    refused(shell(*command), "holds a training run, whose last.pt would be lost; name another --output")
    assert trained.read_bytes() == before
    refused(shell("train", "--output", fitted, *small), "already holds a run; choose another --output")


def test_lift_has_the_deviations_of_the_density(shell: Shell, fitted: Path, tmp_path: Path) -> None:
    """From the checkpoint, from its export, and from ONNX: those of `PoseDensity.deviation` for the same keypoints."""
    checkpoint, small_one, graph = fitted / "last.pt", tmp_path / "small.pt", tmp_path / "small.onnx"
    for output in (small_one, graph):
        code, _, err = shell("export", "--checkpoint", checkpoint, "--output", output)
        assert code == 0, err
    objective, config = lifter.load(checkpoint)
    assert isinstance(objective.likelihood, PoseDensity)
    poses = lifter.load_test(config, objective)
    free, _ = objective.free(lifter.evaluate(objective, poses, config)[1], poses.target)
    expected = objective.likelihood.deviation(free)[:20].numpy()
    width, height = poses.scene.views.size[poses.scene.camera[0]].tolist()
    pixels = denormalise_screen(poses.keypoints[:20], (int(width), int(height))).numpy()
    for path in (checkpoint, small_one, graph):
        pose = Lifter.load(path).lift(pixels, (int(width), int(height)))
        np.testing.assert_allclose(pose.deviation[:, 1:], expected, rtol=1e-3)
        assert (pose.deviation[:, 0] == 0).all()


def test_sigma_is_measured_by_what_the_flow_makes_of_it() -> None:
    """The median length of normal deviations in space; any width that a flow learns multiplies it."""
    assert float(crossfit._usual_length(Likelihood(3, "gaussian"))) == pytest.approx(chi.median(3), rel=0.02)
    mixed = PoseDensity(torch.ones(16, 3), torch.ones(1), torch.full((1,), 2.0), torch.eye(48))
    assert float(crossfit._usual_length(mixed)) == pytest.approx(2 * chi.median(3), rel=0.02)


def test_bad_input(shell: Shell, trained: Path, small: list[str], tmp_path: Path) -> None:
    to = ("--output", tmp_path / "crossfit")
    refused(shell("crossfit", "--checkpoint", tmp_path / "none.pt", *to), "none.pt")
    shell("train", "--output", tmp_path / "l1", *small, "loss.name=l1", "train.epochs=1")
    refused(shell("crossfit", "--checkpoint", tmp_path / "l1" / "last.pt", *to), "a lifter with a sigma", "l1")
    shell("train", "--output", tmp_path / "flow", *small, "loss.name=flow", "train.epochs=1")
    flow = tmp_path / "flow" / "last.pt"
    refused(shell("crossfit", "--checkpoint", flow, *to), "a loss whose flow is for training only", "flow")
    shell("train", "--output", tmp_path / "one", *small, "data.train_subjects=[S1]", "train.epochs=1")
    refused(shell("crossfit", "--checkpoint", tmp_path / "one" / "last.pt", *to), "two or more people", "S1")
    shell("train", "--output", tmp_path / "few", *small, "train.epochs=1", "data.test_stride=100000")
    code, _, err = shell("crossfit", "--checkpoint", tmp_path / "few" / "last.pt", "--output", tmp_path / "x")
    assert (code, "expected 48 or more poses to fit to, got" in err) == (2, True)
    content = torch.load(trained, weights_only=True)
    torch.save({**content, "density": {"scale": torch.ones(2, 3)}}, tmp_path / "broken.pt")
    refused(shell("evaluate", "--checkpoint", tmp_path / "broken.pt"), "broken.pt", "the density", "expected scale")
    few = PoseDensity(torch.ones(4, 3), torch.ones(1), torch.ones(1), torch.eye(12)).state_dict()
    torch.save({**content, "density": few}, tmp_path / "few.pt")
    refused(shell("evaluate", "--checkpoint", tmp_path / "few.pt"), "few.pt", "the density", "for 16 joints")
    exact = PoseDensity(torch.ones(16, 3), torch.ones(1), torch.ones(1), torch.eye(48)).double().state_dict()
    torch.save({**content, "density": exact}, tmp_path / "exact.pt")
    assert shell("evaluate", "--checkpoint", tmp_path / "exact.pt", "--hypotheses", 2)[0] == 0
