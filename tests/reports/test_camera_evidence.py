"""Test poses given the rays of their keypoints: less error, more by sigma than without, and right intervals."""

import json
from pathlib import Path

import pytest
import torch

from lifting import lifter
from lifting.config import Config, load_config
from lifting.datasets.poses import PoseSet
from lifting.geometry import rays
from lifting.geometry.skeleton import H36M17
from lifting.prediction import Prediction
from lifting.reports.camera_evidence import NOISES, Sight, camera_report, joint_deviations, training_sight
from lifting.reports.hypotheses import hypotheses_report
from lifting.training.objective import Objective
from tests.conftest import Shell, refused


def planted(small: list[str], *more: str) -> tuple[Objective, Config, PoseSet, Prediction]:
    """Test poses, and predictions of them with Gaussian errors whose sigma is known and differs from joint to joint."""
    config = load_config(overrides=[*small, "loss.name=gaussian", "data.test_stride=5", *more])
    objective = lifter.build_objective(config, H36M17)
    poses = lifter.load_test(config, objective)
    torch.manual_seed(0)
    sigma = 0.01 + 0.08 * torch.rand(len(poses), 17, 1)
    sigma[:, 0] = 0
    mu = poses.target + sigma * torch.randn_like(poses.target)
    return objective, config, poses, Prediction(mu, sigma.log().expand_as(mu))


@pytest.mark.parametrize("more", [(), ("model.input=person", "data.missing=0.1")], ids=["screen", "person"])
@pytest.mark.parametrize("noise", [0.0, 4.0])
def test_planted_errors_shrink(
    small: list[str], more: tuple[str, ...], noise: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rays, "STATURE", 0.0)  # no person is taken for a taller one here
    monkeypatch.setattr(rays, "CORRELATION", 0.0)
    objective, config, poses, prediction = planted(small, f"data.noise_px={noise}", *more)
    before = 1000 * float((prediction.mu - poses.target).norm(dim=-1).mean())
    report = camera_report(objective, config, poses, prediction, max(noise, 0.5))
    assert report["unplaced"] == 0
    assert report["by_sigma"]
    assert report["mpjpe_frame_mm"] < 0.8 * before
    assert report["mpjpe_frame_mm"] < report["uniform"]["mpjpe_frame_mm"] < before
    for share in report["coverage_90"].values():
        assert share == pytest.approx(90, abs=4)
    assert report["root_mm"] < 100


def test_deviations_are_those_of_the_likelihood_and_zero_for_the_pelvis(small: list[str]) -> None:
    objective, _, _, prediction = planted(small)
    found = joint_deviations(objective, prediction)
    torch.testing.assert_close(found, prediction.log_sigma.exp(), rtol=0.02, atol=0)  # type: ignore[union-attr]
    assert (found[:, 0] == 0).all()


def test_the_noise_is_fitted_to_training_poses(small: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    objective, config, poses, prediction = planted(small)
    seen: list[str] = []

    def known(_: Objective, training: PoseSet, *, flip_test: bool) -> Prediction:
        assert flip_test
        seen.extend({clip.subject for clip in training.clips})
        noisy = training.target + 0.03 * torch.randn_like(training.target)
        noisy[:, 0] = 0
        sigma = torch.full_like(noisy, 0.03)
        sigma[:, 0] = 0
        return Prediction(noisy, sigma.log())

    monkeypatch.setattr("lifting.reports.camera_evidence.predict", known)
    monkeypatch.setattr("lifting.reports.camera_evidence.THINNING", 1)
    torch.manual_seed(1)
    assert training_sight(objective, config).best_noise(uniform=False) <= 1.0  # these keypoints are exact
    assert set(seen) == {"S1", "S5"}
    assert training_sight(objective, lifter.with_data(config, noise_px=20.0)).best_noise(uniform=False) in NOISES[-3:]
    assert camera_report(objective, config, poses, prediction, None)["pixel_noise"] <= 1.0


@pytest.mark.parametrize("more", [(), ("model.input=person", "data.missing=0.1")], ids=["screen", "person"])
def test_drawn_poses_are_brought_to_the_rays(small: list[str], more: tuple[str, ...]) -> None:
    """Each as if it were the prediction; the true pose stays where it is."""
    objective, _, poses, prediction = planted(small, *more)
    sight = Sight.of(objective, poses, prediction)
    part, few = slice(3, 33), prediction.rows(slice(3, 33))
    drawn = torch.stack([few.mu, poses.target[part], few.mu])
    as_predicted, true, again = sight.errors_of(drawn, part, 0.5)
    expected = (sight.place(0.5, uniform=False)[0] - sight.target)[part].norm(dim=-1)
    torch.testing.assert_close(as_predicted, expected)
    assert torch.equal(as_predicted, again)
    assert true.max() < 0.002
    report = hypotheses_report(objective, poses, prediction, 20, 0.5)
    for number in ("min_mpjpe_mm", "min_joint_mm", "mean_mpjpe_mm"):
        assert report["given_rays"][number] < 0.9 * report["learned"][number]
    assert "given_rays" not in hypotheses_report(objective, poses, prediction, 20)


@pytest.mark.parametrize("loss", ["rle", "l1"])
def test_the_command(small: list[str], shell: Shell, tmp_path: Path, loss: str) -> None:
    run = tmp_path / "run"
    code, _, err = shell("train", "--output", run, *small, f"loss.name={loss}", "train.epochs=1")
    assert code == 0, err
    evaluate = ["evaluate", "--checkpoint", run / "last.pt"]
    code, out, err = shell(*evaluate, "--camera", "--hypotheses", 3, "--json", tmp_path / "r.json")
    assert code == 0, err
    report = json.loads((tmp_path / "r.json").read_text())
    assert {"mpjpe_mm", "mpjpe_frame_mm", "pa_mpjpe_mm", "pixel_noise", "coverage_90"} <= set(report["camera"])
    assert ("uniform" in report["camera"]) == (loss == "rle")
    assert ("predicts no sigma" in out) == (loss == "l1")
    assert "given its rays" in out
    assert "hypotheses, given rays" in out
    assert report["hypotheses"]["given_rays"]["min_mpjpe_mm"] < report["hypotheses"]["given_rays"]["mean_mpjpe_mm"]
    given = [*evaluate, "--camera", "--pixel-noise"]
    code, _, err = shell(*given, 3, "--json", tmp_path / "r.json")
    assert code == 0, err
    assert json.loads((tmp_path / "r.json").read_text())["camera"]["pixel_noise"] == 3
    for wrong in (0, -1, "nan"):
        refused(shell(*given, wrong), "--pixel-noise", "above 0")
    refused(shell(*evaluate, "--pixel-noise", 2), "--camera")


def test_people_whose_joints_are_all_in_one_place_count_as_predicted(small: list[str]) -> None:
    objective, config, poses, prediction = planted(small)
    heaped = poses.__class__(**{**vars(poses), "keypoints": torch.zeros_like(poses.keypoints)})
    report = camera_report(objective, config, heaped, prediction, 1.0)
    assert report["unplaced"] == len(poses)
    before = 1000 * float((prediction.mu - poses.target).norm(dim=-1).mean())
    assert report["mpjpe_frame_mm"] == pytest.approx(before, abs=0.01)
