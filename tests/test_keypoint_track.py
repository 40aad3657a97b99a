"""The single-stage track in 2D, from the command line: COCO's joints trained, scored, drawn, exported and lifted."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import run_single_stage
from lifting import chosen_pictures, single_stage
from lifting.checkpoint import load_checkpoint
from lifting.command import InputError
from lifting.config import SingleStageConfig, read_config
from lifting.datasets.coco_truth import read_truth
from lifting.datasets.image_index import read_index, write_index
from lifting.datasets.image_packing import pack
from lifting.datasets.image_set import ImageSet, in_own_picture, select
from lifting.estimate import estimate_all
from lifting.geometry.crops import crop_labels, crop_matrix, picture_points, transform
from lifting.geometry.skeleton import COCO17, H36M17, H36M18
from lifting.inference.picture_lifter import lifter_keypoints
from lifting.prediction import Prediction
from lifting.reports import keypoint_evaluation
from lifting.reports.keypoint_evaluation import coco_results, keypoint_report, truth_of
from lifting.sources.image_readers import read_coco
from lifting.synthetic.group_pictures import make_groups
from tests.conftest import Shell, refused

MAIN = run_single_stage.main
ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def one_person(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of one person, because every run draws one."""
    monkeypatch.setattr(keypoint_evaluation, "DRAWN", 1)


@pytest.fixture(scope="session")
def groups(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small set in COCO's layout."""
    folder = tmp_path_factory.mktemp("groups") / "set"
    make_groups(folder, train=24, val=6, workers=1)
    return folder


@pytest.fixture(scope="session")
def index(groups: Path) -> Path:
    """Its index file, with detections."""
    read = read_coco(groups, boxes=groups / "annotations" / "person_detections_val.json")
    write_index(groups / "coco.h5", read.images, source="test", checksum="", truth=read.truth)
    return groups / "coco.h5"


@pytest.fixture(scope="session")
def small(index: Path) -> list[str]:
    """Overrides for a run that takes seconds."""
    return [
        *("model.dims=2", "model.backbone=resnet18", "model.width=8", "loss.flow.width=8"),
        "loss.flow.couplings=2",
        *(f"data.path={index}", "data.train_parts=[train]", "data.test_parts=[valid]", "data.size=[64, 96]"),
        *("train.batch_size=16", "train.epochs=1", "train.bn_batches=2", "train.precision=fp32"),
    ]


@pytest.fixture(scope="session")
def trained(small: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    single_stage.train(read_config(SingleStageConfig, overrides=small), folder)
    return folder / "last.pt"


def exact(images: ImageSet, config: SingleStageConfig) -> tuple[Prediction, torch.Tensor]:
    """A prediction that is the labels, in crops as `predict` makes them."""
    matrix = crop_matrix(torch.from_numpy(images.box), config.data.size)
    keypoints = torch.from_numpy(images.keypoints).double()
    uv = crop_labels(keypoints, torch.zeros(keypoints.shape[:2], dtype=torch.float64), matrix, config.data.size)
    return Prediction(uv[..., :2].float(), torch.full((*keypoints.shape[:2], 2), -3.0)), matrix


def test_train_evaluate_and_resume(shell: Shell, small: list[str], trained: Path, tmp_path: Path) -> None:
    folder = trained.parent
    assert {"config.yaml", "last.pt", "best.pt", "metrics.jsonl", "report.json", "poses.png"} <= {
        path.name for path in folder.iterdir()
    }
    report = json.loads((folder / "report.json").read_text())
    assert {"nme_percent", "nll", "oks", "confidence_oks_r", "ap", "ar", "n_people", "sigma_error_r"} <= report.keys()
    assert load_checkpoint(trained)["joint_set"] == "coco17"
    command = ["evaluate", "--checkpoint", trained, "--json", tmp_path / "report.json"]
    code, out, err = shell(*command, "--results", tmp_path / "results.json", main=MAIN)
    assert code == 0, err
    assert "COCO: AP" in out
    assert "error" in out
    again = json.loads((tmp_path / "report.json").read_text())
    assert {key: again[key] for key in report} == report
    found = json.loads((tmp_path / "results.json").read_text())
    assert {"image_id", "category_id", "keypoints", "score"} == found[0].keys()
    assert len(found[0]["keypoints"]) == 51
    code, out, err = shell("train", "--resume", folder, "train.epochs=2", main=MAIN)
    assert code == 0, err
    assert [json.loads(line)["epoch"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == [1, 2]


@pytest.mark.parametrize(
    "overrides",
    [
        ["loss.name=l1"],
        ["model.name=integral", "loss.name=l1"],
        ["model.name=simplepose", "loss.name=heatmap"],
        ["loss.name=dle", "loss.beta=0", "model.sigma=coordinate"],
        ["loss.name=rle_reference", "model.sigma=coordinate", "loss.heatmap=1"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_every_way_to_find_joints_trains(small: list[str], tmp_path: Path, overrides: list[str]) -> None:
    config = read_config(SingleStageConfig, overrides=[*small, *overrides])
    report = single_stage.train(config, tmp_path)
    assert report is not None
    assert 0 <= report["oks"] <= 100
    objective, config = single_stage.load(tmp_path / "last.pt")
    images = chosen_pictures.test_set(config)
    prediction = single_stage.evaluate(objective, images, config)[1]
    assert prediction.mu.shape == (len(images), 17, 2)
    assert (prediction.peak is not None) == (config.model.name == "simplepose")
    confidence = prediction.confidence
    assert ((confidence >= 0) & (confidence <= 1)).all()


@pytest.fixture(scope="session")
def fitted(small: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a network that may look at the people it is tested on, with their pictures beside it."""
    folder = tmp_path_factory.mktemp("fitted")
    make_groups(folder / "few", train=1, val=3, workers=1)
    read = read_coco(folder / "few")
    write_index(folder / "few.h5", read.images, source="test", checksum="", truth=read.truth)
    overrides = [
        *small,
        *(f"data.path={folder / 'few.h5'}", "data.train_parts=[valid]", "train.batch_size=8", "train.bn_batches=1"),
        *("data.augment.scale=0", "data.augment.rotation=0", "data.augment.occlude=0", "data.augment.colour=0"),
        *("model.width=16", "train.epochs=40", "train.lr=0.003", "train.warmup_steps=3", "train.lr_steps=[32]"),
        *("train.flip=false", "loss.name=radial"),  # without a flow, whose integral is half a second in every epoch
    ]
    with pytest.raises(InputError, match="expected test recordings that are not trained on"):
        single_stage.train(read_config(SingleStageConfig, overrides=overrides), folder / "refused")
    single_stage.train(read_config(SingleStageConfig, overrides=[*overrides, "data.overfit=true"]), folder)
    return folder


def test_a_few_pictures_are_fitted(fitted: Path) -> None:
    assert json.loads((fitted / "report.json").read_text())["ap"] > 95


def test_exact_joints_have_an_ap_of_100_from_files_and_from_cut_outs(
    index: Path, small: list[str], trained: Path
) -> None:
    """Packed pictures are cut and shrunk, COCO's annotations are not: AP is measured in the pictures as they were."""
    config = read_config(SingleStageConfig, overrides=small)
    objective, _ = single_stage.load(trained)
    images = chosen_pictures.test_set(config)
    pack(index.with_name("packed.h5"), images, source="test", checksum="", truth=read_truth(index), side=60)
    for path in (index, index.with_name("packed.h5")):
        some = select(images, np.arange(len(images))) if path == index else read_index(path)
        prediction, matrix = exact(some, config)
        report = keypoint_report(objective, some, prediction, matrix, config, truth_of(some, read_truth(path)))
        assert report["ap"] == pytest.approx(100)
        assert report["oks"] == pytest.approx(100, abs=1e-3)
        assert report["nme_percent"] < 1e-3
    assert some.cut is not None
    assert float(some.cut[:, 2].min()) < 1
    np.testing.assert_allclose(
        in_own_picture(some, some.keypoints.astype(np.float64))[images.labelled],
        images.keypoints[images.labelled],
        atol=1e-3,
    )


@pytest.mark.parametrize("stride", [2, 3])
def test_exact_joints_have_an_ap_of_100_in_every_second_picture(index: Path, small: list[str], stride: int) -> None:
    """The people of the others are not to be found."""
    config = read_config(SingleStageConfig, overrides=[*small, f"data.test_stride={stride}"])
    objective = single_stage.build_objective(config, COCO17)
    images = chosen_pictures.test_set(config)
    everybody = chosen_pictures.test_set(read_config(SingleStageConfig, overrides=small))
    assert images.picture is not None and everybody.picture is not None
    assert set(images.picture) == set(np.unique(everybody.picture)[::stride])
    prediction, matrix = exact(images, config)
    report = keypoint_report(objective, images, prediction, matrix, config, single_stage.truth_for(config, images))
    assert report["ap"] == pytest.approx(100)
    assert report["ar"] == pytest.approx(100)


def test_pictures_of_other_joints(index: Path, small: list[str], trained: Path, groups: Path) -> None:
    """A network of Human3.6M's joints has no OKS on COCO; MPII's pictures cannot be those of a network of COCO."""
    config = read_config(SingleStageConfig, overrides=small)
    images = chosen_pictures.test_set(config)
    report, _, _ = single_stage.evaluate_all(single_stage.build_objective(config, H36M18), images, None, config)
    assert "nme_percent" in report
    assert "ap" not in report
    flat = replace(images, joint_set=H36M18)
    with pytest.raises(InputError, match=r"data.flat_path: .*: expected the joints coco17, got h36m18"):
        single_stage.evaluate_all(single_stage.load(trained)[0], images, flat, config)


def test_detected_boxes(index: Path, small: list[str], trained: Path, shell: Shell) -> None:
    code, out, err = shell("evaluate", "--checkpoint", trained, "data.test_parts=[detected]", main=MAIN)
    assert code == 0, err
    assert "COCO: AP" in out
    assert "NME" not in out
    config = read_config(SingleStageConfig, overrides=[*small, "data.test_parts=[detected]"])
    images = chosen_pictures.test_set(config)
    assert images.score is not None
    prediction, matrix = exact(images, config)
    found = coco_results(images, prediction, matrix, config)
    assert max(row["score"] for row in found) <= float(images.score.max())
    words = "expected one part"
    refused(shell("evaluate", "--checkpoint", trained, "data.test_parts=[valid, detected]", main=MAIN), words)


def test_an_index_without_annotations_for_ap_is_refused(index: Path, small: list[str], tmp_path: Path) -> None:
    write_index(tmp_path / "bare.h5", read_index(index), source="test", checksum="")
    config = read_config(SingleStageConfig, overrides=[*small, f"data.path={tmp_path / 'bare.h5'}"])
    with pytest.raises(InputError, match="expected annotations to measure AP of valid against, got none"):
        single_stage.train(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.dims=3"], "expected pictures with 3D labels"),
        (["model.name=simplepose"], "loss.name heatmap with model.name simplepose"),
        (["loss.name=heatmap"], "loss.name heatmap with model.name simplepose"),
        (["model.name=integral"], "expected a loss without sigma"),
        (["data.flat_path=rendered"], "data.flat_path"),
        (["data.size=[64, 100]"], "expected multiples of 32"),
    ],
)
def test_what_does_not_fit_is_refused(
    shell: Shell, small: list[str], overrides: list[str], words: str, tmp_path: Path
) -> None:
    demo = ["--config", ROOT / "configs" / "single_stage" / "coco_demo.yaml", "--output", tmp_path / "run"]
    refused(shell("train", *demo, *small, *overrides, main=MAIN), words)


def test_a_3d_verb_is_refused(shell: Shell, trained: Path, tmp_path: Path) -> None:
    base = ["evaluate", "--checkpoint", trained]
    refused(shell(*base, "--occlusion", tmp_path / "o.png", main=MAIN), "--occlusion", "model.dims 2")
    refused(shell(*base, "--cut", 0.2, main=MAIN), "--lifter")
    refused(shell(*base, "--lifter", "released", main=MAIN), "expected pictures with 3D labels")


def test_coco_is_mixed_into_3d_training(index: Path) -> None:
    coco = read_index(index)
    deep = replace(
        coco, keypoints=np.zeros((len(coco), 18, 2), np.float32), labelled=np.ones((len(coco), 18), np.bool_),
        joint_set=H36M18,
    )  # fmt: skip
    flat = chosen_pictures.with_joints(coco, H36M18, "coco.h5")
    assert flat.joint_set == H36M18
    for name in ("left_wrist", "right_ankle", "left_shoulder"):
        here, there = H36M18.joints.index(name), COCO17.joints.index(name)
        assert np.array_equal(flat.labelled[:, here], coco.labelled[:, there])
        assert np.array_equal(flat.keypoints[:, here], coco.keypoints[:, there])
    hips = [COCO17.joints.index(f"{side}_hip") for side in ("left", "right")]
    both = coco.labelled[:, hips].all(1)
    assert np.array_equal(flat.labelled[:, 0], both)
    np.testing.assert_allclose(flat.keypoints[both, 0], coco.keypoints[both][:, hips].mean(1), rtol=1e-6)
    for name in ("spine", "thorax", "neck", "head"):
        assert not flat.labelled[:, H36M18.joints.index(name)].any()
    with pytest.raises(InputError, match="expected the joints coco17, got h36m18"):
        chosen_pictures.with_joints(deep, COCO17, "h36m.h5")


def test_estimate_and_lift(shell: Shell, fitted: Path, tmp_path: Path) -> None:
    images = read_index(fitted / "few.h5")
    picture = Path(str(images.files[0]))
    rows = images.files == images.files[0]
    bare = [[x + w / 10, y + h / 10, w / 1.25, h / 1.25] for x, y, w, h in images.box[rows].tolist()]  # as detected
    (tmp_path / "boxes.json").write_text(json.dumps({picture.name: bare}))
    base = [
        "estimate",
        "--checkpoint",
        fitted / "last.pt",
        "--input",
        picture,
        "--boxes",
        tmp_path / "boxes.json",
        "--output",
    ]
    code, _, err = shell(*base, tmp_path / "flat.json", "--figures", tmp_path / "figures", main=MAIN)
    assert code == 0, err
    flat = json.loads((tmp_path / "flat.json").read_text())
    assert flat["joints"] == list(COCO17.joints)
    assert flat["people"][0]["metres"] is None
    assert np.shape(flat["people"][0]["pixel_deviation"]) == (17, 2)
    known = images.labelled[0]
    np.testing.assert_allclose(np.array(flat["people"][0]["pixels"])[known], images.keypoints[0][known], atol=9)
    assert len(list((tmp_path / "figures").iterdir())) == rows.sum()
    assert cv2.imread(str(next((tmp_path / "figures").iterdir()))) is not None

    objective, config = single_stage.load(fitted / "last.pt")
    nowhere = lambda one, size: replace(one, metres=np.full((17, 3), np.nan))  # noqa: E731
    list(estimate_all(objective, config, [(picture, None)], tmp_path / "lost", None, 1.7, nowhere))
    assert len(list((tmp_path / "lost").iterdir())) == 1

    code, _, err = shell(*base, tmp_path / "deep.npz", "--lifter", "released", "--focal", 300, main=MAIN)
    assert code == 0, err
    deep = np.load(tmp_path / "deep.npz")
    assert deep["joints"].tolist() == list(H36M17.joints)
    assert deep["metres"].shape == deep["deviation"].shape == (rows.sum(), 17, 3)
    assert np.isfinite(deep["metres"]).all()
    assert deep["root"].shape == (rows.sum(), 3)
    assert (deep["root"][:, 2] > 0.5).all()
    wrists = COCO17.joints.index("left_wrist"), H36M17.joints.index("left_wrist")
    np.testing.assert_allclose(deep["pixels"][:, wrists[1]], [p["pixels"][wrists[0]] for p in flat["people"]])
    code, _, err = shell(*base, tmp_path / "ray.json", "--lifter", "released", main=MAIN)
    assert code == 0, err
    assert json.loads((tmp_path / "ray.json").read_text())["people"][0]["root"] is None
    refused(shell(*base, tmp_path / "x.json", "--focal", 300, main=MAIN), "--lifter")
    refused(shell(*base, tmp_path / "x.json", "--camera", 300, 4, main=MAIN), "--camera", "a 2D one has --lifter")
    refused(shell(*base, tmp_path / "x.json", "--lifter", "released", "--focal", -1, main=MAIN), "--focal")


def test_deviations_follow_the_joints_to_the_lifter() -> None:
    rng = np.random.default_rng(0)
    pixels, deviation = rng.uniform(0, 100, (3, 17, 2)), rng.uniform(1, 5, (3, 17, 2))
    points, noise = lifter_keypoints(pixels, deviation, COCO17)
    assert noise is not None
    knee = COCO17.joints.index("left_knee")
    np.testing.assert_allclose(noise[:, H36M17.joints.index("left_knee")], np.sqrt((deviation[:, knee] ** 2).mean(-1)))
    hips = deviation[:, [11, 12]].mean(1)
    np.testing.assert_allclose(noise[:, 0], np.sqrt((hips**2).mean(-1)))
    same, _ = lifter_keypoints(rng.uniform(0, 100, (2, 18, 2)), None, H36M18)
    assert same.shape == (2, 17, 2)
    assert points.shape == (3, 17, 2)


def test_crops_taller_than_wide_hold_the_box(small: list[str]) -> None:
    config = read_config(SingleStageConfig, overrides=small)
    images = chosen_pictures.test_set(config)
    prediction, matrix = exact(images, config)
    width, height = 64, 96
    corners = torch.from_numpy(np.stack([images.box[:, :2], images.box[:, :2] + images.box[:, 2:]], 1)).double()
    inside = transform(matrix, corners)
    assert float(inside.min()) > -1.01
    assert float(inside[..., 0].max()) < width + 0.01
    assert float(inside[..., 1].max()) < height + 0.01
    span = inside[:, 1] - inside[:, 0]
    assert torch.allclose((span / torch.tensor([width, height])).amax(-1), torch.ones(len(images), dtype=torch.float64))
    back = picture_points(prediction.mu.double(), matrix, config.data.size).numpy()
    np.testing.assert_allclose(back[images.labelled], images.keypoints[images.labelled], atol=1e-3)
