"""The single-stage track, mostly from the command line: trained on a few rendered people, evaluated, studied, used."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn

import run_single_stage
from lifting import chosen_pictures, estimate, single_stage
from lifting.checkpoint import load_checkpoint
from lifting.command import InputError
from lifting.commands import single_stage_verbs
from lifting.config import SingleStageConfig, read_config
from lifting.datasets import image_set
from lifting.datasets.image_index import write_index
from lifting.datasets.image_set import ImageSet, select
from lifting.drawing.pose_figures import DrawnPose
from lifting.geometry.crops import crop_labels, crop_matrix, picture_points
from lifting.geometry.joint_maps import h36m18_to_mpii16
from lifting.geometry.skeleton import H36M18, MPII16
from lifting.likelihood import RLE, Mixed
from lifting.models.reference_weights import to_reference
from lifting.models.regressor import Regressor
from lifting.prediction import Batch, Prediction
from lifting.reports import image_evaluation, robustness
from lifting.reports.image_evaluation import crop_labels_of, deep_report, in_metres, root_relative
from lifting.reports.robustness import GROUPS, cut_box
from lifting.sources.image_readers import read_h36m_images, read_mpii
from lifting.synthetic.pictures import make_rendered
from lifting.training.objective import ImageObjective
from tests.conftest import Shell, refused

MAIN = run_single_stage.main
ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of one picture, because every run draws one."""
    monkeypatch.setattr(image_evaluation, "DRAWN", 1)


@pytest.fixture(scope="session")
def indices(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Index files of a small rendered set: one with 3D labels and one with only 2D labels."""
    folder = tmp_path_factory.mktemp("rendered") / "set"
    make_rendered(folder, train=40, test=8, flat_train=24, flat_valid=6, workers=1)
    deep, flat = folder / "h36m.h5", folder / "mpii.h5"
    write_index(deep, read_h36m_images(folder / "h36m")[0], source="test", checksum="")
    write_index(flat, read_mpii(folder / "mpii")[0], source="test", checksum="")
    return deep, flat


@pytest.fixture(scope="session")
def small(indices: tuple[Path, Path]) -> list[str]:
    """Overrides for a run that takes seconds."""
    return [
        f"data.path={indices[0]}",
        f"data.flat_path={indices[1]}",
        "data.size=64",
        "model.backbone=resnet18",
        "model.width=8",
        "loss.flow.width=8",
        "loss.flow.couplings=2",
        "train.batch_size=16",
        "train.epochs=2",
        "train.bn_batches=2",
        "train.precision=fp32",
    ]


@pytest.fixture(scope="session")
def trained(small: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a run of one epoch."""
    folder = tmp_path_factory.mktemp("run")
    single_stage.train(read_config(SingleStageConfig, overrides=[*small, "train.epochs=1"]), folder)
    return folder / "last.pt"


def held_out(indices: tuple[Path, Path]) -> tuple[ImageSet, SingleStageConfig]:
    config = read_config(SingleStageConfig, overrides=[f"data.path={indices[0]}", "data.size=64"])
    return chosen_pictures.test_set(config), config


# -- training ---------------------------------------------------------------------------------------------------------


def test_train_evaluates_and_draws_and_one_plus_one_epochs_equal_two(
    shell: Shell, small: list[str], tmp_path: Path
) -> None:
    code, out, err = shell("train", "--output", tmp_path / "two", *small, main=MAIN)
    assert code == 0, err
    assert "MPJPE (protocol #1)" in out
    assert "PCKh@0.5" in out
    assert "the RLE paper gives the mean over all frames" in out
    assert "the mean training pose" in out
    names = {path.name for path in (tmp_path / "two").iterdir()}
    assert {"config.yaml", "last.pt", "best.pt", "metrics.jsonl", "report.json", "poses.png"} <= names
    report = json.loads((tmp_path / "two" / "report.json").read_text())
    assert {"mpjpe_mm", "pa_mpjpe_mm", "per_action", "nll", "sigma_error_r", "mean_pose_mpjpe_mm", "flat"} <= set(
        report
    )
    assert report["n_poses"] == 8
    assert report["flat"]["n_people"] == 6

    assert shell("train", "--output", tmp_path / "one", *small, "train.epochs=1", main=MAIN)[0] == 0
    assert shell("train", "--resume", tmp_path / "one", "train.epochs=2", main=MAIN)[0] == 0
    one, two = (load_checkpoint(tmp_path / name / "last.pt") for name in ("one", "two"))
    for part in ("network", "likelihood"):
        for name, weight in two[part].items():
            assert torch.equal(weight, one[part][name]), name
    lines = [json.loads(line) for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]


@pytest.mark.parametrize(
    "overrides",
    [
        ["loss.name=l1", "data.flat_path=null"],
        ["model.name=integral", "loss.name=mpjpe"],
        ["loss.name=dle", "loss.heatmap=1", "model.sigma=joint"],
        ["loss.name=rle_reference", "train.precision=bf16", "train.channels_last=false"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_every_kind_of_network_and_loss_trains(small: list[str], overrides: list[str], tmp_path: Path) -> None:
    config = read_config(SingleStageConfig, overrides=[*small, "train.epochs=1", *overrides])
    single_stage.train(config, tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert np.isfinite(report["mpjpe_mm"])
    assert ("sigma_error_r" in report) == (config.loss.name not in ("l1", "mpjpe"))
    objective, loaded = single_stage.load(tmp_path / "last.pt")
    assert loaded == config
    again = single_stage.evaluate(objective, chosen_pictures.test_set(config), config)[0]
    assert again["mpjpe_mm"] == pytest.approx(report["mpjpe_mm"], rel=1e-6)


def test_labels_without_depth_give_no_gradient_to_the_depth() -> None:
    """Through network and likelihood: a picture of MPII gives no gradient to the rows of the mu layer for depth d."""
    network = Regressor("resnet18", width=8)
    objective = ImageObjective(network, Mixed(RLE(3), RLE(2)))
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    target = torch.full((2, 18, 3), torch.nan)
    target[..., :2] = 0.1
    weight = torch.ones(2, 18)
    weight[0, 5] = 0
    target[0, 5] = torch.nan
    loss, sigma = objective(Batch(images, target, weight, torch.zeros(2, 18, dtype=torch.bool)))
    loss.backward()
    gradient = network.mu_head.weight.grad
    assert gradient is not None
    gradient = gradient.view(18, 3, -1)
    assert loss.isfinite()
    assert sigma.isfinite()
    assert (gradient[:, 2] == 0).all()
    assert (gradient[:, :2] != 0).any(-1).all()


def test_a_network_starts_from_given_weights_and_goes_on_without_the_file(
    small: list[str], trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = tmp_path / "weights.pt"
    weights.write_bytes(trained.read_bytes())
    caplog.set_level("INFO")
    overrides = [*small, "train.epochs=1", f"model.weights={weights}"]
    single_stage.train(read_config(SingleStageConfig, overrides=overrides), tmp_path / "run")
    assert "backbone weights from" in caplog.text
    weights.unlink()
    single_stage.train(read_config(SingleStageConfig, overrides=[*overrides, "train.epochs=2"]), tmp_path / "run")
    single_stage.load(tmp_path / "run" / "last.pt")


# -- evaluation -------------------------------------------------------------------------------------------------------


def test_true_labels_have_no_error(indices: tuple[Path, Path]) -> None:
    images, config = held_out(indices)
    matrix = crop_matrix(torch.from_numpy(images.box), 64)
    labels = crop_labels_of(images, matrix, 64)
    objective = ImageObjective(nn.Identity(), Mixed(RLE(3), RLE(2)))
    noise = 0.05 * torch.randn(labels.shape, generator=torch.Generator().manual_seed(0))
    noise[:, 0] = 0
    report = deep_report(objective, images, Prediction(labels, torch.full_like(labels, -2)), matrix, config)
    assert report["mpjpe_mm"] < 1e-2
    assert report["pa_mpjpe_mm"] < 1e-2
    assert report["mpsse_mm"] < 0.1
    assert "mpsce_mm" not in report  # every recording here has a single picture
    one = np.full(len(images), "one")
    together = replace(images, sequence=one, camera=one)
    report = deep_report(objective, together, Prediction(labels, torch.full_like(labels, -2)), matrix, config)
    assert report["mpsce_mm"] < 0.1
    wrong = deep_report(objective, together, Prediction(labels + noise, noise.abs().log()), matrix, config)
    assert wrong["mpjpe_mm"] > 50
    assert wrong["sigma_error_r"] > 0.8  # sigma is the error itself
    assert min(wrong["mpsse_mm"], wrong["mpsce_mm"]) > 10


def test_sigma_in_metres_is_the_distance_that_one_sigma_moves_a_joint(indices: tuple[Path, Path]) -> None:
    images, _ = held_out(indices)
    matrix = crop_matrix(torch.from_numpy(images.box), 64)
    labels = crop_labels_of(images, matrix, 64)
    labels[..., 2] = 0  # at the depth of the root
    step = 1e-3
    mu, sigma = in_metres(Prediction(labels, torch.full_like(labels, step).log()), matrix, images, 64)
    assert sigma is not None
    for axis in range(3):
        moved = labels.clone()
        moved[:, 1:, axis] += step
        far = in_metres(Prediction(moved), matrix, images, 64)[0] - mu
        torch.testing.assert_close(far[:, 1:, axis], sigma[:, 1:, axis], rtol=2e-3, atol=1e-7)


def test_the_mean_pose_by_hand(indices: tuple[Path, Path]) -> None:
    images, _ = held_out(indices)
    poses = root_relative(images)[:, :17]
    assert image_evaluation.mean_pose_error(images, images) == pytest.approx(
        1000 * float((poses - poses.mean(0)).norm(dim=-1).mean())
    )


def test_evaluate_with_studies(shell: Shell, trained: Path, tmp_path: Path) -> None:
    files = {name: tmp_path / f"{name}.png" for name in ("figure", "occlusion", "truncation")}
    options = [word for name, path in files.items() for word in (f"--{name}", path)]
    code, out, err = shell("evaluate", "--checkpoint", trained, "--json", tmp_path / "r.json", *options, main=MAIN)
    assert code == 0, err
    report = json.loads((tmp_path / "r.json").read_text())
    for path in files.values():
        assert path.stat().st_size > 10_000
    table = report["occlusion"]["occluded"]
    assert list(table) == list(GROUPS)
    assert all(list(row) == list(GROUPS) for row in table.values())
    assert table["head"] != report["occlusion"]["clean"]
    cuts = report["truncation"]
    assert "outside_mm" not in cuts[0] or cuts[0]["share_outside"] > 0
    assert cuts[-1]["share_outside"] > 20
    assert cuts[0]["mpjpe_mm"] == pytest.approx(report["mpjpe_frame_mm"], rel=1e-5)
    assert "under a grey square" in out
    assert "leaves a part of the person out" in out


def test_the_grey_square_covers_the_joints_and_nothing_else(
    indices: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, config = held_out(indices)
    matrix = crop_matrix(torch.from_numpy(images.box), 64)
    labels = crop_labels(torch.from_numpy(images.keypoints), torch.zeros(len(images), 18), matrix, 64)
    painted: list[np.ndarray] = []

    def predict(objective: object, images: ImageSet, config: object, paint: object = None) -> tuple[Prediction, object]:
        if callable(paint):
            crop = np.zeros((64, 64, 3), np.uint8)
            paint(crop, 3)
            painted.append(crop)
        return Prediction(torch.zeros(len(images), 18, 3)), matrix

    monkeypatch.setattr(robustness, "predict", predict)
    robustness.occlusion_report(None, images, Prediction(torch.zeros(len(images), 18, 3)), matrix, config)  # type: ignore[arg-type]
    assert len(painted) == len(GROUPS)
    for crop, joints in zip(painted, GROUPS.values(), strict=True):
        grey = torch.from_numpy(crop[..., 0]).nonzero().flip(-1)  # x, y
        centres = (labels[3, list(joints), :2] + 0.5) * 64 - 0.5
        reach = robustness.SQUARE * 32 + 1
        assert ((grey[:, None] - centres).abs() <= reach).all(-1).any(1).all()
        inside = ((centres > reach) & (centres < 63 - reach)).all(1)
        for x, y in centres[inside].round().int().tolist():
            assert (crop[y, x] == robustness.GREY).all()


def test_a_cut_box_keeps_its_upper_edge_and_its_middle() -> None:
    box = np.array([[10, 20, 100, 200], [0, 0, 50, 40]], np.float32)
    cut = cut_box(box, 0.25)
    assert cut[:, 2:].tolist() == [[150, 150], [37.5, 37.5]]
    assert (cut[:, 0] + cut[:, 2] / 2).tolist() == [60, 25]
    assert cut[:, 1].tolist() == [20, -5]  # the square around a wide box starts above the box
    whole, same = (crop_matrix(torch.from_numpy(b), 64) for b in (box, cut_box(box, 0)))
    torch.testing.assert_close(same, whole, rtol=0, atol=1e-5)


# -- use --------------------------------------------------------------------------------------------------------------


def test_what_was_found_before_a_broken_picture_is_kept(
    shell: Shell, trained: Path, indices: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Beside the output of an earlier time; and ``data.on_broken=skip`` goes on."""
    folder, output, part = (tmp_path / name for name in ("pictures", "found.json", "found.part.json"))
    folder.mkdir()
    whole = Path(held_out(indices)[0].files[0]).read_bytes()
    for name, content in (("0.jpg", whole), ("1.jpg", whole[:2000]), ("2.jpg", whole)):
        (folder / name).write_bytes(content)
    (folder / "3.jpg").mkdir()
    output.write_text("of an earlier time")
    command = ["estimate", "--checkpoint", trained, "--input", folder, "--output", output]
    code, out, err = shell(*command, main=MAIN)
    assert (code, out) == (2, f"stopped after 1 people in 1 pictures: {part}\n")
    assert "1.jpg" in err.splitlines()[-1]
    assert output.read_text() == "of an earlier time"
    assert [person["picture"] for person in json.loads(part.read_text())["people"]] == ["0.jpg"]

    code, out, err = shell(*command, "data.on_broken=skip", main=MAIN)
    assert (code, out) == (0, f"2 people in 2 pictures: {output}\n")
    assert "1.jpg" in caplog.text
    assert [person["picture"] for person in json.loads(output.read_text())["people"]] == ["0.jpg", "2.jpg"]
    assert not part.exists()

    all_of_them = estimate.estimate_all

    def stopped(*arguments: Any) -> Iterator[estimate.Estimate]:
        yield next(all_of_them(*arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(single_stage_verbs, "estimate_all", stopped)
    assert shell(*command, main=MAIN)[0] == 130
    assert [person["picture"] for person in json.loads(part.read_text())["people"]] == ["0.jpg"]
    for name in ("0.jpg", "2.jpg"):
        (folder / name).unlink()
    monkeypatch.undo()
    refused(shell(*command, "data.on_broken=skip", main=MAIN), str(folder), "expected a picture that can be read")


def test_estimate_a_picture_and_a_folder(
    shell: Shell, trained: Path, indices: tuple[Path, Path], tmp_path: Path
) -> None:
    images, _ = held_out(indices)
    folder = tmp_path / "pictures"
    folder.mkdir()
    boxes = {}
    for row in range(3):
        (folder / f"{row}.jpg").write_bytes(Path(images.files[row]).read_bytes())
        boxes[f"{row}.jpg"] = [images.box[row].tolist()] * (row + 1)
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    command = ["estimate", "--checkpoint", trained, "--input"]
    one = [*command, folder / "0.jpg", "--output", tmp_path / "one.json", "--figures", tmp_path / "drawn"]
    code, out, err = shell(*one, main=MAIN)
    assert code == 0, err
    assert "1 people in 1 pictures" in out
    assert (tmp_path / "drawn" / "0.jpg.png").stat().st_size > 10_000
    person = json.loads((tmp_path / "one.json").read_text())["people"][0]
    assert np.shape(person["metres"]) == np.shape(person["deviation"]) == (18, 3)
    assert person["metres"][0] == person["deviation"][0] == [0, 0, 0]
    again = [*command, folder / "0.jpg", "--output", tmp_path / "again.json"]
    assert shell(*again, main=MAIN)[0] == 0
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "one.json").read_bytes()

    many = [*command, folder, "--boxes", tmp_path / "boxes.json", "--output", tmp_path / "many.npz"]
    code, out, err = shell(*many, "--camera", 300, 4, main=MAIN)
    assert code == 0, err
    found = np.load(tmp_path / "many.npz")
    assert found["picture"].tolist() == ["0.jpg", "1.jpg", "1.jpg", "2.jpg", "2.jpg", "2.jpg"]
    assert found["pixels"].shape == (6, 18, 2)
    assert found["deviation"][:, 1:].min() > 0
    np.testing.assert_allclose(found["metres"][1], found["metres"][2])
    halves = {name: [[x + w / 4, y + h / 4, w / 2, h / 2] for x, y, w, h in rows] for name, rows in boxes.items()}
    (tmp_path / "boxes.json").write_text(json.dumps(halves))
    wider = [*many[:-1], tmp_path / "wider.npz", "--around", 2]
    assert shell(*wider, "--camera", 300, 4, main=MAIN)[0] == 0
    again = np.load(tmp_path / "wider.npz")
    for name in ("pixels", "pixel_deviation", "metres", "deviation"):
        np.testing.assert_allclose(again[name], found[name], rtol=1e-4, atol=1e-3)
    refused(shell(*wider[:-1], 0, main=MAIN), "--around", "above zero")
    refused(shell(*one, "--around", 2, main=MAIN), "--around", "--boxes")
    # The pixels agree with those of the evaluation, for which the JPEG decoder shrinks the picture.
    objective, config = single_stage.load(trained)
    prediction, matrix = image_evaluation.predict(objective, images, config)
    pixels = picture_points(prediction.mu, matrix, config.data.size)
    np.testing.assert_allclose(found["pixels"][0], pixels[0], atol=0.5)


def test_a_figure_shows_no_picture_twice(
    trained: Path, indices: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drawn: list[DrawnPose] = []
    monkeypatch.setattr(image_evaluation, "DRAWN", 4)
    monkeypatch.setattr("lifting.drawing.pose_figures.draw_poses", lambda path, poses: drawn.extend(poses))
    objective, config = single_stage.load(trained)
    for count, expected in ((8, 4), (3, 3), (1, 1)):
        images = select(held_out(indices)[0], np.arange(count))
        prediction, matrix = image_evaluation.predict(objective, images, config)
        drawn.clear()
        image_evaluation.draw(tmp_path / "poses.png", objective, images, prediction, matrix, config)
        assert len(drawn) == len({pose.keypoints.tobytes() for pose in drawn}) == expected


def test_estimates_are_saved_under_any_other_ending_as_arrays(tmp_path: Path) -> None:
    pixels, metres = np.random.default_rng(0).normal(size=(18, 2)), np.ones((18, 3))
    box = (0.0, 0.0, 5.0, 5.0)
    person = estimate.Estimate("a.png", box, H36M18, pixels, np.ones(18), None, metres=metres)
    estimate.save_estimates(tmp_path / "joints.data", [person])
    found = np.load(tmp_path / "joints.data")
    assert np.array_equal(found["pixels"], pixels[None])
    assert {"joints", "picture", "box", "pixels", "confidence", "metres"} == set(found)
    assert [path.name for path in tmp_path.iterdir()] == ["joints.data"]


def test_the_scale_of_x_and_y_follows_from_the_bones() -> None:
    generator = torch.Generator().manual_seed(0)
    metres = 0.3 * torch.randn(18, 3, generator=generator, dtype=torch.float64)
    bones = [(a, b) for a, b in H36M18.bones if b < 17]
    length = float(torch.stack([metres[a] - metres[b] for a, b in bones]).norm(dim=-1).sum())
    stature = length / estimate._BONES
    uvd = metres / torch.tensor([0.9 * stature, 0.9 * stature, 2.0], dtype=torch.float64)
    assert estimate.across_scale(uvd, stature) == pytest.approx(0.9 * stature, rel=1e-6)


def test_the_reference_weights_become_a_checkpoint_and_go_back(
    shell: Shell, indices: tuple[Path, Path], tmp_path: Path
) -> None:
    config = read_config(
        SingleStageConfig,
        overrides=[
            *("model.backbone=resnet18", "model.width=8", "model.input=reference", "model.sigma=coordinate"),
            *("loss.name=rle_reference", "loss.flow.width=32", "loss.flow.couplings=4"),
        ],
    )
    objective = single_stage.build_objective(config)
    assert isinstance(objective.network, Regressor)
    assert isinstance(objective.likelihood, Mixed)
    state = to_reference(objective.network, objective.likelihood)
    torch.save(state, tmp_path / "h36m-laplace-rle.pth")
    command = ["convert", "--input", tmp_path / "h36m-laplace-rle.pth", "--output", tmp_path / "reference.pt"]
    code, out, err = shell(*command, main=MAIN)
    assert code == 0, err
    assert "resnet18" in out
    assert single_stage.load(tmp_path / "reference.pt")[1].data.drop_wrong_s9
    code, out, err = shell("evaluate", "--checkpoint", tmp_path / "reference.pt", "--data", indices[0], main=MAIN)
    assert code == 0, err
    assert "MPJPE" in out
    back = ["convert", "--input", tmp_path / "reference.pt", "--output", tmp_path / "back.pth"]
    assert shell(*back, main=MAIN)[0] == 0
    again = torch.load(tmp_path / "back.pth", weights_only=True)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], weight) for name, weight in state.items())


def test_the_cost_table_has_the_papers_figures(shell: Shell) -> None:
    code, out, err = shell("cost", main=MAIN)
    assert code == 0, err
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()[1:]}
    rle, integral = rows["resnet50_rle_paper"], rows["integral"]
    assert round(float(rle[0][:-1]) + float(rle[1][:-1]), 1) == 23.8
    assert round(float(rle[3][:-1]), 1) == 5.4
    assert round(float(integral[0][:-1]), 1) == 34.3
    assert round(float(integral[3][:-1]), 1) == 14.1


def test_a_broken_picture_stops_or_is_skipped(
    shell: Shell, small: list[str], indices: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = chosen_pictures.load_index(str(indices[0]))
    files = images.files.copy()
    (tmp_path / "broken.jpg").write_bytes(Path(files[3]).read_bytes()[:2000])
    files[3] = str(tmp_path / "broken.jpg")
    write_index(tmp_path / "spoilt.h5", replace(images, files=files), source="test", checksum="")
    run = ["train", "--output", tmp_path / "run", *small, f"data.path={tmp_path / 'spoilt.h5'}", "train.epochs=1"]
    code, _, err = shell(*run, main=MAIN)
    assert code == 2
    assert "broken.jpg" in err.splitlines()[-1]
    assert "Traceback" not in err
    code, _, err = shell(*run, "data.on_broken=skip", main=MAIN)
    assert code == 0, err
    assert "1 pictures could not be read" in caplog.text
    assert "broken.jpg" in caplog.text
    # A broken test picture is found before the first epoch, or left out.
    files[3], row = images.files[3], int(np.flatnonzero(images.part == "S9")[0])
    files[row] = str(tmp_path / "broken.jpg")
    write_index(tmp_path / "spoilt.h5", replace(images, files=files), source="test", checksum="")
    run[2] = tmp_path / "again"
    refused(shell(*run, main=MAIN), "broken.jpg")
    assert shell(*run, "data.on_broken=skip", main=MAIN)[0] == 0
    assert "1 of 8 test pictures cannot be read" in caplog.text
    assert json.loads((tmp_path / "again" / "report.json").read_text())["n_poses"] == 7


def test_the_report_leaves_out_what_the_data_does_not_have(
    shell: Shell, small: list[str], trained: Path, indices: tuple[Path, Path], tmp_path: Path
) -> None:
    """MPII without head sizes, or without a test part; an index with only the test subjects."""
    images = chosen_pictures.load_index(str(indices[1]))
    heads = np.full(len(images), np.nan, np.float32)
    write_index(tmp_path / "flat.h5", replace(images, head_size=heads), source="test", checksum="")
    run = ["train", "--output", tmp_path / "run", *small, f"data.flat_path={tmp_path / 'flat.h5'}", "train.epochs=1"]
    code, out, err = shell(*run, main=MAIN)
    assert code == 0, err
    assert "PCKh" not in out
    images = chosen_pictures.load_index(str(indices[0]))
    test = select(images, np.isin(images.part, ("S9", "S11")))
    write_index(tmp_path / "test.h5", test, source="test", checksum="")
    options = ["--data", tmp_path / "test.h5", "data.flat_test_parts=[nobody]"]
    code, out, err = shell("evaluate", "--checkpoint", trained, *options, main=MAIN)
    assert code == 0, err
    assert "MPJPE" in out
    assert "mean training pose" not in out


def test_names_of_embedded_sets(indices: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copytree(indices[0].parent, tmp_path / "set", ignore=shutil.ignore_patterns("*.h5"))
    monkeypatch.setattr("lifting.synthetic.pictures.rendered_folder", lambda: tmp_path / "set")
    assert np.isfinite(chosen_pictures.load_index("rendered_mpii").head_size).any()
    assert chosen_pictures.load_index("rendered").points is not None
    assert chosen_pictures.index_of("rendered_mpii") == chosen_pictures.index_of("rendered", flat=True)
    assert chosen_pictures.index_of("rendered_mpii", flat=True) == tmp_path / "set" / "mpii.h5"


def test_bad_input_is_one_line(
    shell: Shell, small: list[str], trained: Path, indices: tuple[Path, Path], tmp_path: Path
) -> None:
    run = ["train", "--output", tmp_path / "run", *small]
    refused(shell(*run, "data.siz=3", main=MAIN), "data.siz", "data.size")
    refused(shell(*run, "data.test_parts=[S4]", main=MAIN), "S4", "S9")
    refused(shell(*run, f"data.path={indices[1]}", "data.train_parts=[train]", main=MAIN), "3D labels")
    refused(shell(*run, "data.path=nowhere.h5", main=MAIN), "nowhere.h5")
    integral = ["--config", single_stage.CONFIGS / "integral.yaml", "loss.name=rle"]
    refused(shell(*run, *integral, main=MAIN), "integral", "l1")
    refused(shell(*run, f"model.weights={trained}", "model.width=16", main=MAIN), "expected", "conv1")
    refused(shell(*run, "data.flat_path=rendered", main=MAIN), "flat_path", "rendered")
    refused(shell("cost", "train.epochs=3", main=MAIN), "train.epochs=3")
    refused(shell("cost", "--size", 0, main=MAIN), "multiple of 32")
    evaluate = ["evaluate", "--checkpoint", trained, "--occlusion", tmp_path / "o.foo", "--json", tmp_path / "r.json"]
    refused(shell(*evaluate, main=MAIN), "o.foo", "png")
    picture = tmp_path / "a.png"
    cv2.imwrite(str(picture), np.zeros((40, 30, 3), np.uint8))
    base = ["estimate", "--checkpoint", trained, "--input", picture, "--output"]
    refused(shell(*base, tmp_path / "out.txt", main=MAIN), ".npz", "out.txt")
    refused(shell(*base, tmp_path / "out.json", "--stature", "inf", main=MAIN), "--stature", "inf")
    refused(shell(*base, tmp_path / "out.json", "--camera", "nan", 5, main=MAIN), "--camera", "nan")
    boxes = tmp_path / "boxes.json"
    for content, words in (
        ("[1, 2]", ("expected", "list")),
        ("{", ("not JSON",)),
        ('{"b.png": [0, 0, 5, 5]}', ("a.png", "found none")),
        ('{"a.png": [0, 0, 0, 5]}', ("a.png", "above zero")),
        ('{"a.png": [50, 0, 5, 5]}', ("a.png", "30 x 40")),
        ('{"a.png": []}', ("found no box",)),
    ):
        boxes.write_text(content)
        refused(shell(*base, tmp_path / "out.json", "--boxes", boxes, main=MAIN), *words)
    (tmp_path / "none").mkdir()
    empty = ["estimate", "--checkpoint", trained, "--input", tmp_path / "none", "--output", tmp_path / "o.json"]
    refused(shell(*empty, main=MAIN), "found none")
    with pytest.raises(InputError, match="expected a file"):
        single_stage.convert(tmp_path / "no.pth", tmp_path / "x.pt")
    assert not (tmp_path / "run" / "last.pt").exists()


def test_train_refuses_and_evaluate_warns_of_shared_recordings(
    shell: Shell, small: list[str], trained: Path, indices: tuple[Path, Path], tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    run = ["train", "--output", tmp_path / "run", *small]
    names = image_set.recordings_of(chosen_pictures.load_index(str(indices[0])), ("S9",))
    assert all(name.startswith("S9 ") and ", camera " in name for name in names)
    both = ["data.train_parts=[S1, S9]", "data.test_parts=[S9]"]
    refused(shell(*run, *both, main=MAIN), f"{indices[0]}: expected test", f"{len(names)} that are: {names[0]}")
    refused(shell(*run, "data.flat_train_parts=[train, valid]", main=MAIN), f"{indices[1]}: ", "1 that are: valid")
    assert not (tmp_path / "run").exists()
    caplog.clear()
    assert shell("evaluate", "--checkpoint", trained, main=MAIN)[0] == 0
    assert "names as training recordings" not in caplog.text
    assert shell("evaluate", "--checkpoint", trained, "data.test_parts=[S1, S9]", main=MAIN)[0] == 0
    words = "of the test recordings have the same names as training recordings"
    lines = [line for line in caplog.messages if words in line]
    assert len(lines) == 1
    assert "such as S1 " in lines[0]


def test_a_2d_network_of_the_same_pictures_is_lifted(
    shell: Shell, indices: tuple[Path, Path], small: list[str], tmp_path: Path
) -> None:
    code, out, err = shell("train", "--output", tmp_path / "run", *small, "model.dims=2", "train.epochs=1", main=MAIN)
    assert code == 0, err
    assert "NME" in out
    assert "PCKh@0.5" in out
    command = ["evaluate", "--checkpoint", tmp_path / "run" / "last.pt", "--lifter", "released"]
    code, out, err = shell(*command, "--json", tmp_path / "report.json", "--cut", 0.2, main=MAIN)
    assert code == 0, err
    assert "draws, each joint's own 2D sigma" in out
    lifted = json.loads((tmp_path / "report.json").read_text())["lifted"]
    assert lifted["cut"] == 0.2
    assert 50 < lifted["sigma"]["mpjpe_frame_mm"] < 1000  # after one epoch of 40 pictures
    assert lifted["seconds"] > 0


def test_mpii_alone_in_2d_has_a_pckh(
    shell: Shell, indices: tuple[Path, Path], small: list[str], tmp_path: Path
) -> None:
    """With the 18 joints of a network that was trained here, and with MPII's 16, which converted weights have."""
    alone = ["model.dims=2", f"data.path={indices[1]}", "data.flat_path=null", "data.train_parts=[train]"]
    alone += ["data.test_parts=[valid]", "train.epochs=1"]
    code, out, err = shell("train", "--output", tmp_path / "run", *small, *alone, main=MAIN)
    assert code == 0, err
    assert "PCKh@0.5" in out
    config = read_config(SingleStageConfig, overrides=[*small, *alone])
    images = chosen_pictures.test_set(config)
    exact = torch.from_numpy(images.keypoints).double()
    assert image_evaluation.pckh_of(images, exact)["pckh_50"] == 100
    sixteen = chosen_pictures.with_joints(images, MPII16, "mpii.h5")
    off = exact + torch.randn(exact.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 8
    found = image_evaluation.pckh_of(images, off)
    assert 5 < found["pckh_10"] < 95
    assert image_evaluation.pckh_of(sixteen, h36m18_to_mpii16(off)) == found
    objective = single_stage.build_objective(config, MPII16)
    assert single_stage.evaluate(objective, images, config)[1].mu.shape == (len(images), 16, 2)
