"""Every reader of this package, with a small input that it accepts, and what has to be true of whatever it returns."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import fields
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml

from lifting import lifter, single_stage
from lifting.checkpoint import load_checkpoint, save_checkpoint
from lifting.commands.truth import read_truth
from lifting.config import Config, SingleStageConfig, load_config, read_config
from lifting.datasets import coco_truth
from lifting.datasets.decode import decode
from lifting.datasets.image_index import read_encoded, read_index, write_index
from lifting.datasets.image_packing import pack
from lifting.datasets.image_set import ImageSet
from lifting.datasets.poses import load_poses
from lifting.datasets.store import PoseStore, write_store
from lifting.estimate import read_boxes
from lifting.evaluate import score_predictions, write_predictions
from lifting.geometry import h36m
from lifting.geometry.crops import extent
from lifting.inference.intrinsics import read_intrinsics
from lifting.inference.lifter import Lifter
from lifting.keypoints.formats import read_keypoints
from lifting.lifted import Lifted, read_lifted
from lifting.likelihood.pose_density import PoseDensity
from lifting.metrics import oks
from lifting.models.pretrained import load_backbone
from lifting.models.published_weights import load_published
from lifting.models.reference_weights import load_reference
from lifting.prediction import Prediction
from lifting.reports.keypoint_evaluation import truth_of
from lifting.shipped import configs, released
from lifting.sources.asf_amc import read_amc, read_asf
from lifting.sources.bvh import read_bvh
from lifting.sources.bvh_map import read_map
from lifting.sources.image_readers import read_coco, read_mpii
from lifting.synthetic.poses import plans
from tests.conftest import SMALL
from tests.datasets.test_image_index import dotted
from tests.keypoints.posed import flat, mmpose, openpose, people, results, save, ultralytics
from tests.models.test_published_weights import made_up
from tests.models.test_single_stage_models import reference_state
from tests.small_lifters import OVERRIDES, write_checkpoint
from tests.sources import test_bvh, test_coco_images, test_image_readers, test_prepare_cmu, test_prepare_h36m
from tests.test_lifted import random_lifted

ROOT = Path(__file__).parents[2]


class Reader(NamedTuple):
    """A reader.

    Attributes:
        name: how the table calls it.
        make: writes a valid input into an empty folder; returns what ``read`` is given.
        read: reads it, as far as a command would, and raises `AssertionError` if what it got has a wrong shape or a
            value that no reader may return.
        share: of the usual number of inputs, for a reader that takes long.
    """

    name: str
    make: Callable[[Path], Path]
    read: Callable[[Path], object]
    share: float = 1.0


# ---- converters, from the command line to the store


@cache
def _script(name: str) -> ModuleType:
    return test_prepare_h36m.load(name)


def _prepare(script: str, source: Path, *options: str) -> Path:
    """Runs a converter in this process."""
    output = source.parent / "prepared.h5"
    output.unlink(missing_ok=True)
    sys.argv = [f"{script}.py", str(source), "--output", str(output), *options]
    _script(script).main()
    return output


def _prepared_poses(script: str, *options: str) -> Callable[[Path], None]:
    return lambda source: _store(_prepare(script, source, *options))


def _prepared_pictures(script: str, folder: str, source: Path) -> None:
    options = ["--images", str(source.parent / "images")] if script == "prepare_h36m" else []
    _index(_prepare(script, source / folder if folder else source, *options))


def _store(path: Path) -> None:
    with PoseStore(path) as store:
        assert np.isfinite(store.frame_rate) and store.frame_rate > 0
        joints = len(store.joint_set)
        for subject in store.subjects:
            cameras = store.cameras(subject)
            for camera in cameras.values():
                assert all(camera_value.isfinite().all() for camera_value in (camera.R, camera.t, camera.focal))
                assert camera.R.shape == (3, 3) and camera.focal.shape == camera.center.shape == (2,)
            for sequence in store.sequences(subject):
                positions = store.positions(subject, sequence)
                assert positions.shape == (store.frames(subject, sequence), joints, 3)
                assert positions.dtype == np.float32
                for detector in store.detectors:
                    for camera_name in cameras:
                        points = store.keypoints(subject, sequence, camera_name, detector)
                        assert points.shape == (len(positions), joints, 2)
        poses = load_poses(store, tuple(store.subjects), 1)
        assert poses.keypoints.shape == (len(poses), joints, 2) and poses.target.shape == (len(poses), joints, 3)
        assert poses.keypoints.isfinite().all() and poses.target.isfinite().all()
        assert (poses.target[:, store.joint_set.root] == 0).all()


def _index(path: Path) -> None:
    images = read_index(path)
    _images(images)
    for row in range(len(images)):
        picture = decode(read_encoded(images, row), "picture")
        assert picture.ndim == 3 and picture.shape[2] == 3


def _images(images: ImageSet) -> None:
    count = len(images)
    joints = len(images.joint_set)
    shapes = {"box": (4,), "keypoints": (joints, 2), "labelled": (joints,), "points": (joints, 3), "cut": (4,)}
    shapes |= {"focal": (2,), "center": (2,)}
    for field in fields(images):
        value = getattr(images, field.name)
        if isinstance(value, np.ndarray):
            assert value.shape == (count, *shapes.get(field.name, ())), field.name
    assert count and np.isfinite(images.box).all() and (images.box[:, 2:] > 0).all()
    assert np.isfinite(images.keypoints[images.labelled]).all()
    assert images.points is None or np.isfinite(images.points).all()


def _make_videopose3d(folder: Path) -> Path:
    source = {"S1": {"Walking 1": test_prepare_h36m.person(6, 1)}, "S11": {"Eating": test_prepare_h36m.person(5, 3)}}
    test_prepare_h36m.save_2d(folder, "cpn", test_prepare_h36m.seen(source, noise=2.0, spare=1))
    test_prepare_h36m.save_2d(folder, "gt", test_prepare_h36m.seen(source))
    test_prepare_h36m.save_3d(folder, source)
    return folder


def _make_poses(make: Callable[..., Path]) -> Callable[[Path], Path]:
    source = {"S1": {"Walking 1": test_prepare_h36m.person(6, 1)}, "S9": {"Photo": test_prepare_h36m.person(5, 3)}}
    return lambda folder: make(folder / "source", source)


def _make_martinez(folder: Path) -> Path:
    source = _make_poses(test_prepare_h36m.martinez)(folder)
    for stray in [*source.rglob("*.h5h5"), *source.rglob("Photo.54138969.h5")]:
        stray.unlink()
    return source


def _make_pictures(make: Callable[..., Any], folder: Path) -> Path:
    test_image_readers.h36m_pictures(folder / "images")
    (folder / "labels").mkdir()
    make(folder / "labels")
    return folder / "labels"


def _make_mpii(folder: Path) -> Path:
    valid = test_image_readers.persons(4)
    source = test_image_readers.save_mpii(folder / "mpii", test_image_readers.persons(4), valid)
    test_image_readers.save_heads(source, valid)
    return source


def _make_mpii_coco(folder: Path) -> Path:
    images = [{"id": i, "file_name": f"{i:09d}.jpg", "width": 640, "height": 480} for i in range(2)]
    labels = [{"image_id": p % 2, "bbox": [50 + p, 60, 200, 300], "keypoints": [100 + p, 120, 1] * 16}
              for p in range(4)]  # fmt: skip
    for i in range(2):
        test_image_readers.picture(folder / "images" / f"{i:09d}.jpg")
    return save(folder / "annot_mpii.json", {"images": images, "annotations": labels})


def _make_asf(folder: Path) -> Path:
    frames = [f"root 0 0 0 0 0 {i}\nupper {i} {2 * i} 3\nlower {9 * i}" for i in range(6)]
    (folder / "1.asf").write_text(test_prepare_cmu.ARM)
    (folder / "1_1.amc").write_text(test_prepare_cmu.motion(*frames))
    return folder


def _asf_amc(folder: Path) -> None:
    skeleton = read_asf(folder / "1.asf")
    ends = skeleton.ends(read_amc(folder / "1_1.amc", skeleton), skeleton.bones)
    assert ends.ndim == 3 and ends.shape[1:] == (len(skeleton.bones), 3) and np.isfinite(ends).all()


def _make_text(name: str, text: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_text(text)
        return folder / name

    return make


def _bvh(path: Path) -> None:
    bvh = read_bvh(path)
    positions = bvh.frames().stack(list(bvh.joints))
    assert positions.shape == (len(bvh.motion), len(bvh.joints), 3) and np.isfinite(positions).all()


# ---- keypoints, boxes, and what lift writes


def _keypoints(path: Path) -> None:
    keypoints = read_keypoints(path)
    for one in (keypoints, keypoints.to_h36m17()):
        assert one.points.shape == (*one.confidence.shape, 2)
        assert not np.isinf(one.points).any()
        assert np.array_equal(np.isnan(one.points).any(-1), one.confidence == 0)
        assert ((one.confidence >= 0) & (one.confidence <= 1)).all() and one.confidence.any()


def _json(content: Any) -> Callable[[Path], Path]:
    return lambda folder: save(folder / "keypoints.json", content)


def _make_npz(name: str, **arrays: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        np.savez(folder / name, **arrays)
        return folder / name

    return make


def _make_npy(folder: Path) -> Path:
    np.save(folder / "keypoints.npy", people("coco17", frames=3))
    return folder / "keypoints.npy"


def _keypoint_readers() -> list[Reader]:
    values = people("coco17", frames=4)
    xy, scores = values[..., :2].tolist(), values[..., 2].tolist()
    frames = {f"{t}.jpg": {"version": "AlphaPose v0.3", "people": [{"pose_keypoints_2d": flat(row)} for row in frame]}
              for t, frame in enumerate(people("coco18", frames=3))}  # fmt: skip
    pictures = [{"id": t, "file_name": f"{t}.jpg", "width": 1280, "height": 720} for t in range(4)]
    labels = [entry | {"num_keypoints": 17} for entry in results(values)]
    video = [{"frame_id": t, "instances": frame} for t, frame in enumerate(mmpose(values))]
    detectron = np.empty(4, dtype=object)
    for t, frame in enumerate(values):
        both = np.stack([frame[..., 0], frame[..., 1], frame[..., 2], frame[..., 2]], 1)
        detectron[t] = [[], both]
    sizes = {"metadata": {"w": 1280, "h": 720}, "boxes": np.zeros(4)}
    videopose: dict[str, Any] = {"positions_2d": {"me": {"custom": [values[:, 0, :, :2]]}}}
    videopose |= {"metadata": {"layout_name": "coco", "video_metadata": {"me": {"w": 1280, "h": 720}}}}
    own = {"keypoints": values[..., :2], "scores": values[..., 2], "size": np.array([1280, 720]), "fps": np.array(25)}
    own |= {"joint_set": np.array("coco17"), "frames": np.array(list("abcd")), "people": np.array(["Ann", "Bob"])}
    made = {
        "openpose": lambda folder: openpose(folder / "json", people("body25", frames=3)),
        "alphapose": _json(results(values, "{}.jpg")),
        "alphapose-open": _json(frames),
        "coco-results": _json(results(values)),
        "coco": _json({"images": pictures, "annotations": labels, "categories": []}),
        "mmpose": _json({"meta_info": {"dataset_name": "coco"}, "instance_info": video}),
        "ultralytics": _json(ultralytics(values, tracks=True)),
        "rtmlib": _json({"keypoints": xy, "scores": scores}),
        "npy": _make_npy,
        "own npz": _make_npz("keypoints.npz", **own),
        "videopose3d": _make_npz("keypoints.npz", **videopose),
        "detectron": _make_npz("keypoints.npz", keypoints=detectron, **sizes),
    }
    return [Reader(f"keypoints {name}", make, _keypoints) for name, make in made.items()]


def _boxes(path: Path) -> None:
    for boxes in read_boxes(path).values():
        assert all(len(box) == 4 and np.isfinite(box).all() and min(box[2:]) > 0 for box in boxes)


def _make_lifted(ending: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        random_lifted(frames=3).save(folder / f"lifted{ending}")
        return folder / f"lifted{ending}"

    return make


def _lifted(path: Path) -> None:
    lifted = read_lifted(path)
    assert lifted.joints.shape == lifted.sigma.shape == (*lifted.confidence.shape, 3)
    assert lifted.keypoints.points.shape[:2] == lifted.joints.shape[:2] and lifted.joints.dtype == np.float32
    assert lifted.keypoints.frame_rate is None or 0 < lifted.keypoints.frame_rate < np.inf
    assert lifted.keypoints.size is None or min(lifted.keypoints.size) > 0


@cache
def _example() -> Lifted:
    return random_lifted(frames=3)


def _truth(path: Path) -> None:
    assert read_truth(path, _example()).shape == _example().joints.shape


def _intrinsics(path: Path) -> None:
    camera = read_intrinsics(path, (1920, 1080))
    numbers = (*camera.focal, *camera.center, *camera.radial, *camera.tangential)
    assert len(numbers) == 9 and np.isfinite(numbers).all() and min(camera.focal) > 0


# ---- what this package writes


def _make_store(folder: Path) -> Path:
    chosen = [p.performed() for p in plans(seed=0) if p.subject in ("S1", "S9") and p.name == "Walking"]
    short = [type(s)(s.subject, s.name, s.positions[:6]) for s in chosen]
    for one in short:
        cameras = h36m.cameras(one.subject)
        world = torch.from_numpy(one.positions).double()
        seen = {name: camera.project(camera.world_to_camera(world)).float().numpy() for name, camera in cameras.items()}
        one.keypoints["cpn"] = seen
    rigs = {subject: h36m.cameras(subject) for subject in ("S1", "S9")}
    write_store(folder / "store.h5", short, rigs, frame_rate=50.0, source="test", checksum="none")
    return folder / "store.h5"


def _make_predictions(folder: Path) -> Path:
    data = _make_store(folder.parent)
    with PoseStore(data) as store:
        clips = {("S9", "Walking", name): camera.world_to_camera(torch.from_numpy(store.positions("S9", "Walking"))
                 .double()).numpy() for name, camera in store.cameras("S9").items()}  # fmt: skip
    write_predictions(folder / "predictions.h5", {clip: x - x[:, :1] for clip, x in clips.items()})
    return folder / "predictions.h5"


def _predictions(path: Path) -> None:
    report = score_predictions(path, path.parents[1] / "store.h5")
    assert np.isfinite(report["mpjpe_mm"]) and report["n_poses"] > 0


def _make_coco(folder: Path) -> Path:
    """Annotations of two pictures and a detector's boxes on them; the damaged ones are either."""
    test_coco_images.save(folder / "coco", test_coco_images.content())
    save(folder / "coco" / "boxes.json", test_coco_images.boxes())
    return folder / "coco"


def _coco(source: Path) -> None:
    found = read_coco(source, boxes=source / "boxes.json")
    _images(found.images)
    assert found.truth is not None and all("annotations" in part for part in found.truth.values())


def _make_coco_index(folder: Path) -> Path:
    found = read_coco(_make_coco(folder.parent / "pictures"))
    write_index(folder / "coco.h5", found.images, source="test", checksum="none", truth=found.truth)
    return folder / "coco.h5"


def _coco_index(path: Path) -> None:
    """As evaluation reads it, up to the AP of joints that are where the labels are."""
    _read_index(path)
    images, truth = read_index(path), coco_truth.read_truth(path)
    if images.picture is None:
        return
    score, points = np.ones(len(images)), np.where(images.labelled[..., None], images.keypoints, 0).astype(np.float64)
    found = oks.results(images.picture, points, np.ones(images.labelled.shape), score, score)
    values = oks.average_precision(truth_of(images, truth), found)
    assert all(not value < 0 and not value > 100 for value in values.values())


def _make_index(packed: bool, folder: Path) -> Path:
    images = dotted(folder.parent / "pictures", count=4)
    (pack if packed else write_index)(folder / "index.h5", images, source="test", checksum="none")
    return folder / "index.h5"


def _read_index(path: Path) -> None:
    images = read_index(path)
    _images(images)
    for row in range(len(images)):
        read_encoded(images, row)


def _make_picture(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        dotted(folder.parent / "pictures", count=1, size=(64, 48))
        import cv2

        picture = cv2.imread(str(folder.parent / "pictures/0.png"))
        assert picture is not None and cv2.imwrite(str(folder / name), picture)
        return folder / name

    return make


def _picture(path: Path) -> None:
    for shrink in (1, 4):
        picture = decode(path.read_bytes(), path.name, shrink=shrink, upright=True)
        assert picture.ndim == 3 and picture.shape[2] == 3 and picture.dtype == np.uint8


def _lifter(path: Path) -> None:
    pose = Lifter.load(path, threads=1).lift(people("h36m17", frames=2)[:, 0, :, :2], (1280, 720))
    assert pose.joints.shape == pose.sigma.shape == (2, 17, 3) and pose.joints.dtype == np.float32


def _make_crossfit(folder: Path) -> Path:
    path = write_checkpoint(folder / "last.pt", OVERRIDES["screen"])
    weights = torch.tensor([0.4, 0.6])
    density = PoseDensity(torch.ones(16, 3), weights, 2 * weights, torch.eye(48), torch.tensor(2.3))
    save_checkpoint(path, {**load_checkpoint(path), "density": density.state_dict()})
    return path


def _crossfit(path: Path) -> None:
    _lifter(path)
    likelihood = lifter.load(path)[0].likelihood
    zero = torch.zeros(2, 16, 3)
    if isinstance(likelihood, PoseDensity):  # not if the damage took its name
        assert likelihood.log_prob_pose(Prediction(zero, zero), zero).shape == (2,)
        assert likelihood.sample(Prediction(zero, zero), 5).shape == (5, 2, 16, 3)


def _make_image_checkpoint(folder: Path) -> Path:
    config = read_config(SingleStageConfig, overrides=["model.backbone=resnet18", "model.width=8", "data.size=32",
                                                       "loss.flow.width=8", "loss.flow.couplings=2"])  # fmt: skip
    objective = single_stage.build_objective(config)
    states = {"network": objective.network.state_dict(), "likelihood": objective.likelihood.state_dict()}
    save_checkpoint(folder / "last.pt", {"config": config.model_dump(mode="json"), **states})
    return folder / "last.pt"


def _image_checkpoint(path: Path) -> None:
    objective, config = single_stage.load(path)
    width, height = extent(config.data.size)
    with torch.no_grad():
        prediction = objective.network(torch.zeros(1, 3, height, width))
    assert prediction.mu.shape == (1, len(objective.joint_set), objective.dims)


def _make_reference(folder: Path) -> Path:
    state = {name: value for name, value in reference_state().items() if "backbone" not in name}
    torch.save(_narrow(state), folder / "reference.pth")
    return folder / "reference.pth"


def _narrow(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A ResNet's weights with an eighth of its features, and flows with as many."""

    def fewer(name: str, size: int) -> int:
        outside = 3 if name == "preact.conv1.weight" else 0
        return size if size in (outside, 1, 2, 6, 7) or size < 8 or size == 54 else size // 8

    made = {}
    for name, value in state.items():
        shape = [side if k > 1 else fewer(name, side) for k, side in enumerate(value.shape)]
        made[name] = value[tuple(slice(side) for side in shape)].clone()
    return made


def _reference(path: Path) -> None:
    network, likelihood = load_reference(path)
    with torch.no_grad():
        prediction = network.eval()(torch.zeros(1, 3, 32, 32))
        assert prediction.mu.shape == (1, 18, 3) and prediction.log_sigma.shape == (1, 18, 3)
        assert likelihood.with_depth(prediction, torch.zeros(1, 18, 3)).shape == (1, 18)


def _make_published(folder: Path) -> Path:
    torch.save({"meta": {"epoch": 210}, "state_dict": made_up("mmpose")}, folder / "published.pth")
    return folder / "published.pth"


def _published(path: Path) -> None:
    network, likelihood, _ = load_published(path)
    with torch.no_grad():
        prediction = network.eval()(torch.zeros(1, 3, 64, 32))
        assert prediction.mu.shape == (1, 5, 2) and prediction.log_sigma.shape == (1, 5, 2)
        if prediction.log_sigma.isfinite().all():  # a changed bit may make a weight absurd, which is no other shape
            assert likelihood(prediction, torch.zeros(1, 5, 2)).shape == (1, 5)


def _backbone(path: Path) -> None:
    from lifting.models.regressor import Regressor

    network = Regressor("resnet18", 8, 18, sigma="coordinate", input="reference")
    load_backbone(network, path)


def _config(schema: Any, path: Path) -> None:
    assert isinstance(read_config(schema, path), schema)


def _make_onnx(folder: Path) -> Path:
    (folder / "lifter.onnx").write_bytes(released("srnet_rle.onnx").read_bytes())
    return folder / "lifter.onnx"


def readers() -> list[Reader]:
    rle, posenet = test_image_readers.save_rle, test_image_readers.save_posenet
    boxes = {"a.jpg": [[1, 2, 30, 40], [5, 6, 7, 8]], "b.jpg": [1, 2, 3, 4], "c.jpg": []}
    camera = {"size": [1920, 1080], "focal": [1450.0, 1452.0], "center": [962.1, 540.3], "radial": [-0.2, 0.2, 0.0]}
    run = load_config(overrides=SMALL).model_dump(mode="json")
    images_run = yaml.safe_load((configs("single_stage") / "demo.yaml").read_text())
    poses = _prepared_poses
    return [
        Reader("videopose3d", _make_videopose3d, poses("prepare_h36m"), 0.5),
        Reader("martinez", _make_martinez, poses("prepare_h36m"), 0.5),
        Reader("official cdf", _make_poses(test_prepare_h36m.official), poses("prepare_h36m"), 0.5),
        Reader("posenet", partial(_make_pictures, posenet), partial(_prepared_pictures, "prepare_h36m", ""), 0.5),
        Reader("rle json", partial(_make_pictures, rle), partial(_prepared_pictures, "prepare_h36m", ""), 0.5),
        Reader("mpii", _make_mpii, lambda source: _images(read_mpii(source).images)),
        Reader("mpii coco", _make_mpii_coco, lambda source: _images(read_mpii(source).images)),
        Reader("asf amc", _make_asf, _asf_amc),
        Reader("bvh", _make_text("arm.bvh", test_bvh.ARM), _bvh),
        Reader("bvh map", _make_text("map.yaml", (ROOT / "data/maps/cmu.yaml").read_text()), read_map),
        *_keypoint_readers(),
        Reader("boxes", lambda folder: save(folder / "boxes.json", boxes), _boxes),
        Reader("camera file", lambda folder: save(folder / "camera.json", camera), _intrinsics),
        Reader("lifted npz", _make_lifted(".npz"), _lifted),
        Reader("lifted json", _make_lifted(".json"), _lifted),
        Reader("truth", _make_npz("truth.npz", joints=_example().joints + 1), _truth),
        Reader("store", _make_store, _store),
        Reader("predictions", _make_predictions, _predictions),
        Reader("image index", partial(_make_index, False), _read_index),
        Reader("coco", _make_coco, _coco),
        Reader("coco index", _make_coco_index, _coco_index),
        Reader("packed index", partial(_make_index, True), _read_index),
        Reader("jpeg", _make_picture("a.jpg"), _picture),
        Reader("png", _make_picture("a.png"), _picture),
        Reader("tiff", _make_picture("a.tif"), _picture),
        Reader("config", _make_text("run.yaml", yaml.safe_dump(run)), partial(_config, Config)),
        Reader("image config", _make_text("run.yaml", yaml.safe_dump(images_run)),
               partial(_config, SingleStageConfig)),
        Reader("checkpoint", lambda folder: write_checkpoint(folder / "last.pt", OVERRIDES["screen"]), _lifter),
        Reader("crossfit checkpoint", _make_crossfit, _crossfit),
        Reader("image checkpoint", _make_image_checkpoint, _image_checkpoint),
        Reader("reference", _make_reference, _reference),
        Reader("published 2d", _make_published, _published),
        Reader("backbone", _make_reference, _backbone),
        Reader("onnx", _make_onnx, _lifter, 0.5),
        *_probes(),
    ]  # fmt: skip


def _probes() -> list[Reader]:
    """Readers that do what the environment says: for the test that the harness notices every kind of failure."""
    codes: list[str] = json.loads(os.environ.get("FUZZ_PROBES", "[]"))
    return [Reader(f"probe {k}", _make_text("a.txt", "any"), partial(_obey, code)) for k, code in enumerate(codes)]


def _obey(code: str, _: Path) -> None:
    exec(code, {})
