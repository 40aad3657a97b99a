"""A lifter for any camera, from training to predictions in the camera frame, as a person runs it."""

import json
from pathlib import Path

import pytest
import torch

from lifting import lifter
from lifting.config import load_config
from lifting.evaluate import score_predictions
from lifting.metrics.pose_errors import rareness
from lifting.prediction import Prediction
from tests.conftest import SMALL, Shell

pytestmark = pytest.mark.usefixtures("few_draws")

CONFIGS = Path(__file__).parents[1] / "configs" / "lifting"


@pytest.mark.parametrize("config", ["any_camera.yaml", "any_camera_fc.yaml"])
def test_train_evaluate_and_save(shell: Shell, small_store: Path, tmp_path: Path, config: str) -> None:
    options = [o for o in SMALL if not o.startswith("model.")]
    options += ["model.width=64", "train.lr_decay=0.9"]
    run = tmp_path / "run"
    data = f"data.path=[{small_store}, {small_store}]"
    code, _, err = shell("train", "--config", CONFIGS / config, "--output", run, data, *options)
    assert code == 0, err
    report, saved = tmp_path / "report.json", tmp_path / "predictions.h5"
    checkpoint = run / "last.pt"
    overrides = [f"data.path={small_store}", "data.noise_px=5", "data.missing=0.1"]
    figure = tmp_path / "poses.png"
    where = ["--json", report, "--save", saved, "--figure", figure]
    code, _, err = shell("evaluate", "--checkpoint", checkpoint, *where, "--uncertainty", *overrides)
    assert code == 0, err
    assert figure.stat().st_size > 10_000
    found = json.loads(report.read_text())
    again = score_predictions(saved, small_store)  # these are compared in the camera frame
    for name in ("mpjpe_mm", "pa_mpjpe_mm"):
        assert again[name] == pytest.approx(found[name], abs=0.01)
    code, _, err = shell("evaluate", "--checkpoint", checkpoint, "--save", saved)  # on both files, which have one name
    assert code == 2
    assert "clips of different names" in err


def test_the_rarest_poses_are_the_same_for_every_input(small_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ranked: list[tuple[torch.Tensor, torch.Tensor]] = []

    def noted(test: torch.Tensor, training: torch.Tensor) -> torch.Tensor:
        ranked.append((test, training))
        return rareness(test, training)

    monkeypatch.setattr(lifter, "rareness", noted)
    for kind in ("screen", "person"):
        config = load_config(overrides=[f"data.path={small_store}", *SMALL, f"model.input={kind}"])
        poses = lifter.load_poses(config, train=False)
        lifter.evaluate_rare(poses, Prediction(poses.target), config)
    for one, other in zip(*ranked, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_test_subjects_may_have_a_file_of_their_own(small_store: Path) -> None:
    config = load_config(None, [f"data.test_path={small_store}", "data.path=elsewhere.h5", *SMALL])
    assert lifter.data_paths(config) == [str(small_store)]
    assert lifter.data_paths(config, train=True) == ["elsewhere.h5"]
    poses = lifter.load_poses(config, train=False)
    assert {clip.subject for clip in poses.clips} == {"S9"}
    assert torch.isfinite(poses.target).all()


def test_other_data_replace_a_test_file_of_its_own(shell: Shell, small_store: Path, tmp_path: Path) -> None:
    """Whoever names data is tested on them, and not on the file that the training was tested on."""
    gone = tmp_path / "gone.h5"
    gone.write_bytes(small_store.read_bytes())
    run = tmp_path / "run"
    code, _, err = shell(
        "train", "--output", run, f"data.path={small_store}", f"data.test_path={gone}", *SMALL, "train.epochs=1"
    )
    assert code == 0, err
    gone.unlink()
    for named in (["--data", small_store], [f"data.path={small_store}"]):
        assert shell("evaluate", "--checkpoint", run / "last.pt", *named)[0] == 0
    code, _, err = shell("evaluate", "--checkpoint", run / "last.pt")
    assert code == 2
    assert "gone.h5" in err
