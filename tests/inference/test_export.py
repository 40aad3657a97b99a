"""Exported files: they are what torch computes, for any number of inputs, and they say what their numbers are."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

import run_single_stage
from lifting import Lifter, single_stage
from lifting.checkpoint import save_checkpoint
from lifting.command import InputError, RunError
from lifting.config import SingleStageConfig, read_config
from lifting.geometry.skeleton import H36M17, H36M18
from lifting.inference import export
from lifting.inference.export import OPSET, TOLERANCE, export_lifter, export_single_stage
from lifting.inference.pixel_lifter import load_pixel_lifter
from lifting.keypoints.formats import read_keypoints
from lifting.prediction import Prediction
from lifting.reports.image_evaluation import deviation_of, predict_crops
from tests.conftest import Shell, refused


def metadata_of(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def run(path: Path, **feed: NDArray[np.generic]) -> list[torch.Tensor]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(found) for found in session.run(["joints", "sigma", "deviation"], feed)]


def close(found: list[torch.Tensor], expected: tuple[torch.Tensor, ...]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=TOLERANCE, rtol=0, equal_nan=True)


def test_the_file_computes_what_torch_does(
    checkpoints: dict[str, Path], exported: Path, poses: NDArray[np.float64]
) -> None:
    module, _ = load_pixel_lifter(checkpoints["person"])
    for n in (0, 1, 6, 500):
        keypoints = np.resize(poses, (n, 17, 2)).astype(np.float32)
        confidence = np.random.default_rng(n).choice([0, 0.5, 1], (n, 17)).astype(np.float32)
        keypoints[confidence == 0] = np.nan
        size = np.full((n, 2), (1280, 720), np.float32)
        with torch.no_grad():
            expected = module(*map(torch.from_numpy, (keypoints, confidence, size)))
        assert all(x.isfinite().all() for x in expected)
        close(run(exported, keypoints=keypoints, confidence=confidence, image_size=size), expected)


def test_weights_alone_are_a_checkpoint(shell: Shell, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    whole = torch.load(checkpoints["person"], weights_only=True)
    torch.save(whole | {"optimizer": torch.randn(10_000), "epoch": 3}, tmp_path / "last.pt")
    output = tmp_path / "weights.pt"
    code, out, _ = shell("export", "--checkpoint", tmp_path / "last.pt", "--output", output, "--licence", "MIT")
    assert (code, out.split(":")[0]) == (0, f"wrote {output}")
    assert output.stat().st_size < (tmp_path / "last.pt").stat().st_size - 30_000
    (one, about), (other, _) = load_pixel_lifter(output), load_pixel_lifter(checkpoints["person"])
    assert about.licence == "MIT"
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_real_people_come_out_the_same(checkpoints: dict[str, Path], exported: Path) -> None:
    """Twelve people in pictures of COCO, many of them with hidden joints."""
    sample = Path(__file__).parents[3] / "shared/data/coco_sample/test_coco.json"
    if not sample.is_file():
        pytest.skip("no sample of COCO")
    people = read_keypoints(sample, size=(640, 640))
    by_onnx, by_torch = (
        Lifter.load(path).lift(people.points, (640, 640), people.confidence, people.joint_set)
        for path in (exported, checkpoints["person"])
    )
    assert np.isfinite(by_onnx.joints).all((2, 3)).sum() == 12
    for name in ("joints", "sigma", "deviation"):
        np.testing.assert_allclose(getattr(by_onnx, name), getattr(by_torch, name), rtol=0, atol=TOLERANCE)


def test_a_lifter_without_sigma_or_missing_joints(
    checkpoints: dict[str, Path], poses: NDArray[np.float64], tmp_path: Path
) -> None:
    path = tmp_path / "plain.onnx"
    export_lifter(checkpoints["no_sigma"], path, licence="ask me")
    module, _ = load_pixel_lifter(checkpoints["no_sigma"])
    keypoints, confidence = poses.astype(np.float32), np.ones((6, 17), np.float32)
    confidence[2, 5] = 0
    size = np.full((6, 2), 1000, np.float32)
    with torch.no_grad():
        expected = module(*map(torch.from_numpy, (keypoints, confidence, size)))
    close(run(path, keypoints=keypoints, confidence=confidence, image_size=size), expected)
    metadata = metadata_of(path)
    assert (metadata["axes"], metadata["takes_missing"], metadata["licence"]) == ("camera", "false", "ask me")


def test_the_file_says_what_it_is(checkpoints: dict[str, Path], exported: Path) -> None:
    model = onnx.load(exported)
    onnx.checker.check_model(model, full_check=True)
    assert [(x.domain, x.version) for x in model.opset_import] == [("", OPSET)]
    named = [(x.name, [d.dim_param or d.dim_value for d in x.type.tensor_type.shape.dim]) for x in model.graph.input]
    n = named[0][1][0]
    assert isinstance(n, str)  # any number of poses
    assert named == [("keypoints", [n, 17, 2]), ("confidence", [n, 17]), ("image_size", [n, 2])]
    assert [x.name for x in model.graph.output] == ["joints", "sigma", "deviation"]
    metadata = metadata_of(exported)
    assert tuple(json.loads(metadata["joint_names"])) == H36M17.joints
    assert (metadata["licence"], metadata["axes"], metadata["takes_missing"]) == ("CC0", "ray", "true")
    assert metadata["checkpoint"].startswith("person.pt ")
    assert "metres" in metadata["units"]
    assert metadata["version"]
    assert str(Path(__file__).parents[2]).encode() not in exported.read_bytes()  # no paths of the machine
    assert not any("flow" in x.name for x in model.graph.initializer)


def test_what_differs_is_not_written(
    checkpoints: dict[str, Path], exported: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file of other weights than the module's is caught by the check and leaves nothing behind."""
    monkeypatch.setattr(export, "_onnx_of", lambda *_: exported.read_bytes())
    other = torch.load(checkpoints["person"], weights_only=True)
    next(iter(other["network"].values())).mul_(1.5)
    torch.save(other, tmp_path / "other.pt")
    with pytest.raises(RunError, match="ONNX Runtime and torch differ by"):
        export_lifter(tmp_path / "other.pt", tmp_path / "folder" / "model.onnx")
    assert not (tmp_path / "folder").exists()
    with pytest.raises(InputError, match=r"expected \.onnx, got model\.pt"):
        export_lifter(checkpoints["person"], Path("model.pt"))


@pytest.fixture(scope="module")
def image_network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small single-stage network with random weights."""
    torch.manual_seed(0)
    small = ["model.backbone=resnet18", "model.width=8", "data.size=64", "loss.flow.width=8", "loss.flow.couplings=2"]
    config = read_config(SingleStageConfig, overrides=small)
    objective = single_stage.build_objective(config)
    states = {"network": objective.network.state_dict(), "likelihood": objective.likelihood.state_dict()}
    path = tmp_path_factory.mktemp("image") / "crops.pt"
    save_checkpoint(path, {"config": config.model_dump(mode="json"), "joint_set": H36M18.name, **states})
    return path


def test_an_image_network_takes_crops_of_bytes(shell: Shell, image_network: Path, tmp_path: Path) -> None:
    path = tmp_path / "crops.onnx"
    arguments = ["export", "--checkpoint", image_network, "--output", path]
    code, out, err = shell(*arguments, main=run_single_stage.main)
    assert code == 0, err
    assert f"opset {OPSET}" in out
    objective, config = single_stage.load(image_network, ["train.device=cpu", "train.precision=fp32"])
    crops = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    expected = predict_crops(objective, crops, torch.arange(18) > 0, config)
    found = run(path, crops=crops.numpy())
    assert expected.sigma is not None
    close(found[:2], (expected.mu, expected.sigma))
    deviation = deviation_of(objective, Prediction(expected.mu, expected.log_sigma))
    torch.testing.assert_close(found[2], deviation, atol=0, rtol=0.03)
    metadata = metadata_of(path)
    assert tuple(json.loads(metadata["joint_names"])) == H36M18.joints
    assert "/ 64 - 1/2" in metadata["units"]


def test_export_refuses_a_torch_that_would_fix_the_number_of_rows(
    shell: Shell, checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "__version__", "2.6.0+cpu")
    output = tmp_path / "out.onnx"
    refused(shell("export", "--checkpoint", checkpoints["person"], "--output", output), "torch 2.7", "2.6.0+cpu")
    assert not output.exists()


def test_export_refuses_the_other_track(
    shell: Shell, image_network: Path, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    output = ["--output", tmp_path / "model.onnx"]
    refused(shell("export", "--checkpoint", image_network, *output), "expected a run of the lifting track")
    other: Callable[[], None] = run_single_stage.main
    refused(shell("export", "--checkpoint", checkpoints["screen"], *output, main=other), "of the single_stage track")
    refused(shell("export", "--checkpoint", checkpoints["flow"], *output), "flow.pt", "loss.name flow")
    refused(shell("export", "--checkpoint", tmp_path / "no.pt", *output), "no.pt")
    with pytest.raises(InputError, match=r"\.onnx"):
        export_single_stage(image_network, tmp_path / "model.pb")
