"""Annotated pictures: every layout comes out alike, in our conventions, and what cannot be believed is refused."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.io import savemat

from lifting.command import InputError
from lifting.datasets.image_index import read_encoded, read_index
from lifting.datasets.image_set import ImageSet
from lifting.geometry import h36m
from lifting.geometry.h36m import action_of
from lifting.geometry.skeleton import H36M17, H36M18, MPII16
from lifting.sources.image_readers import check_pictures, read_h36m_images, read_mpii, table, wrong_s9
from lifting.synthetic.poses import sequences
from tests.conftest import Shell, refused
from tests.sources.test_prepare_h36m import load

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT.parent / "shared/data/mpii_sample"

SEQUENCES = {("S1", 2, 1): "Directions 1", ("S9", 5, 2): "Greeting 2", ("S9", 14, 1): "Walking 1"}
FRAMES = (0, 5, 64)
CENTRE, ADDED = "R (X - t)", "R X + t"

Change = Callable[[Any], Any]


class Shot(NamedTuple):
    """One picture of somebody, as the files have it."""

    subject: str
    action: int
    sub: int
    camera: int
    frame: int
    world: NDArray[np.float64]  # (17, 3) metres
    points: NDArray[np.float64]  # (17, 3) metres, in the camera
    pixels: NDArray[np.float64]  # (17, 2)
    box: list[float]
    size: tuple[int, int]

    @property
    def file_name(self) -> str:
        subject = int(self.subject[1:])
        folder = f"s_{subject:02d}_act_{self.action:02d}_subact_{self.sub:02d}_ca_{self.camera:02d}"
        return f"{folder}/{folder}_{self.frame + 1:06d}.jpg"

    def cam_param(self, convention: str) -> dict[str, Any]:
        camera = h36m.cameras(self.subject)[h36m.CAMERA_NAMES[self.camera - 1]]
        t = camera.t if convention == ADDED else -camera.R.T @ camera.t
        named = {"R": camera.R, "t": 1000 * t, "f": camera.focal, "c": camera.center}
        return {name: value.tolist() for name, value in named.items()}


@cache
def shots() -> list[Shot]:
    """Three sequences, three frames, four cameras."""
    made = []
    for (subject, action, sub), sequence in zip(SEQUENCES, islice(sequences(seed=0), len(SEQUENCES)), strict=True):
        for number, camera in enumerate(h36m.cameras(subject).values(), start=1):
            for frame in FRAMES:
                world = sequence.positions[frame].astype(np.float64)
                points = camera.world_to_camera(torch.from_numpy(world)).numpy()
                pixels = points[:, :2] / points[:, 2:] * camera.focal.numpy() + camera.center.numpy()
                low, high = pixels.min(0), pixels.max(0)
                box = [*((low + high) / 2 - 0.6 * (high - low)), *(1.2 * (high - low))]
                made.append(Shot(subject, action, sub, number, frame, world, points, pixels, box, camera.size))
    return made


def same(content: Any) -> Any:
    return content


def picture(path: Path, size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((size[1], size[0], 3), 90, np.uint8))


def dump(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def h36m_pictures(folder: Path) -> Path:
    for shot in shots():
        picture(folder / shot.file_name)
    return folder


def save_rle(folder: Path, change: Change = same, name: str = "Sample_64_test_Human36M_protocol_2") -> Path:
    content = {
        "images": [{"file_name": s.file_name, "width": s.size[0], "height": s.size[1]} for s in shots()],
        "annotations": [
            {
                "image_id": row,
                "bbox": s.box,
                "keypoints_world": (1000 * s.world).tolist(),
                "cam_param": s.cam_param(CENTRE),
            }
            for row, s in enumerate(shots())
        ],
    }
    return dump(folder / f"{name}.json", change(content))


def save_posenet(
    folder: Path, convention: str = CENTRE, data: Change = same, camera: Change = same, joint_3d: Change = same
) -> Path:
    for subject in ("S1", "S9"):
        images, annotations = [], []
        cameras: dict[str, Any] = {}
        joints: dict[str, Any] = {}
        own = [(number, shot) for number, shot in enumerate(shots(), start=100) if shot.subject == subject]
        for number, s in own:
            keys = {"action_idx": s.action, "subaction_idx": s.sub, "cam_idx": s.camera, "frame_idx": s.frame}
            image = {"id": number, "file_name": s.file_name, "width": s.size[0], "height": s.size[1]}
            images.append(image | keys | {"subject": int(subject[1:])})
            annotations.append({"id": number, "image_id": number, "bbox": s.box})
            cameras[str(s.camera)] = s.cam_param(convention)
            of_sub = joints.setdefault(str(s.action), {}).setdefault(str(s.sub), {})
            of_sub[str(s.frame)] = (1000 * s.world).tolist()
        stem = f"Human36M_subject{subject[1:]}"
        dump(folder / f"{stem}_data.json", data({"images": images[::-1], "annotations": annotations}))
        dump(folder / f"{stem}_camera.json", camera(cameras))
        dump(folder / f"{stem}_joint_3d.json", joint_3d(joints))
    return folder


def assert_h36m(images: ImageSet) -> None:
    assert images.points is not None and images.focal is not None and images.center is not None
    assert len(images) == len(shots())
    for row, shot in enumerate(shots()):
        middle = shot.points[[11, 14]].mean(0)
        np.testing.assert_allclose(images.points[row], np.concatenate([shot.points, middle[None]]), atol=1e-5)
        np.testing.assert_allclose(images.keypoints[row, :17], shot.pixels, atol=1e-3)
        again = images.points[row, :, :2] / images.points[row, :, 2:] * images.focal[row] + images.center[row]
        np.testing.assert_allclose(images.keypoints[row], again, atol=1e-3)
        np.testing.assert_allclose(images.box[row], shot.box, atol=1e-3)
        assert images.files[row].endswith(shot.file_name)
    assert images.labelled.all()
    assert images.part.tolist() == [s.subject for s in shots()]
    assert images.sequence.tolist() == [SEQUENCES[s.subject, s.action, s.sub] for s in shots()]
    assert images.camera.tolist() == [h36m.CAMERA_NAMES[s.camera - 1] for s in shots()]
    assert images.frame.tolist() == [s.frame for s in shots()]
    assert {action_of(name) for name in images.sequence.tolist()} == {"Directions", "Greeting", "Walking"}
    assert wrong_s9(images).tolist() == [(s.action, s.sub) == (5, 2) for s in shots()]


# ---- Human3.6M


def test_rle(tmp_path: Path) -> None:
    pictures = h36m_pictures(tmp_path / "images")
    path = save_rle(tmp_path / "annotations")
    for source, images in ((tmp_path, None), (path.parent, None), (path, None), (path, pictures)):
        found = read_h36m_images(source, images)
        assert_h36m(found.images)
        check_pictures(found.images)
        assert (found.layout, found.files) == ("RLE", [path])


@pytest.mark.parametrize("convention", [CENTRE, ADDED])
def test_posenet(tmp_path: Path, convention: str) -> None:
    h36m_pictures(tmp_path / "images")
    save_posenet(tmp_path / "annotations", convention)
    found = read_h36m_images(tmp_path)
    assert_h36m(found.images)
    check_pictures(found.images)
    assert found.layout == "PoseNet"
    assert len(found.files) == 6
    assert found.notes == [f"S1, S9: t read as in {convention}, which has the joints in the boxes"]


def test_posenet_of_one_subject(tmp_path: Path) -> None:
    save_posenet(tmp_path)
    found = read_h36m_images(tmp_path / "Human36M_subject9_data.json")
    assert set(found.images.part) == {"S9"}


def test_each_subject_has_its_own_reading_of_t(tmp_path: Path) -> None:
    save_posenet(tmp_path, ADDED)
    own = (tmp_path / "Human36M_subject9_camera.json").read_text()
    save_posenet(tmp_path, CENTRE)
    (tmp_path / "Human36M_subject9_camera.json").write_text(own)
    found = read_h36m_images(tmp_path)
    assert_h36m(found.images)
    assert [note.split(",")[0] for note in found.notes] == [f"S1: t read as in {CENTRE}", f"S9: t read as in {ADDED}"]


def test_train_and_test_files_make_one_set(tmp_path: Path) -> None:
    def only(subject: str) -> Change:
        keep = [row for row, shot in enumerate(shots()) if shot.subject == subject]
        return lambda content: {name: [entries[row] for row in keep] for name, entries in content.items()}

    save_rle(tmp_path, only("S1"), "Sample_trainmin_train_Human36M_protocol_2")
    save_rle(tmp_path, only("S9"))
    found = read_h36m_images(tmp_path)
    assert len(found.files) == 2
    assert sorted(found.images.files.tolist()) == sorted(str(tmp_path / "images" / s.file_name) for s in shots())
    save_rle(tmp_path, only("S1"), "Sample_5_train_Human36M_protocol_2")
    with pytest.raises(InputError, match=r"s_01.*\.jpg: expected one annotation, got 2"):
        read_h36m_images(tmp_path)


def test_boxes_end_with_the_picture(tmp_path: Path) -> None:
    def wide(content: Any) -> Any:
        content["annotations"][0]["bbox"] = [-50, 20, 2000, 3000]
        return content

    images = read_h36m_images(save_rle(tmp_path, wide)).images
    width, height = shots()[0].size
    assert images.box[0].tolist() == [0, 20, width - 1, height - 1 - 20]


def put(*path: Any) -> Callable[[Any], Change]:
    """A change of what is at a path in a JSON tree; of None, its removal."""

    def to(value: Any) -> Change:
        def change(content: Any) -> Any:
            inner = content
            for key in path[:-1]:
                inner = inner[key]
            if value is None:
                del inner[path[-1]]
            else:
                inner[path[-1]] = value
            return content

        return change

    return to


def scaled(factor: float) -> Change:
    def change(content: Any) -> Any:
        for entry in content["annotations"]:
            entry["keypoints_world"] = (factor * np.array(entry["keypoints_world"])).tolist()
        return content

    return change


def exchanged(content: Any) -> Any:
    for entry in content["annotations"]:
        entry["keypoints_world"] = [entry["keypoints_world"][j] for j in H36M17.mirror]
    return content


NAN = [float("nan")] * 4


@pytest.mark.parametrize("box", [[10, 10, 0, 5], [2000, 10, 50, 50]])
def test_people_outside_of_their_picture_are_left_out(tmp_path: Path, box: list[float]) -> None:
    whole = read_h36m_images(save_rle(tmp_path)).images
    found = read_h36m_images(save_rle(tmp_path, put("annotations", 1, "bbox")(box)))
    assert "1 boxes outside their picture left out" in found.notes
    kept = np.arange(len(whole)) != 1
    assert found.images.files.tolist() == whole.files[kept].tolist()
    np.testing.assert_array_equal(found.images.keypoints, whole.keypoints[kept])

    def everywhere(tree: Any) -> Any:
        return {**tree, "annotations": [{**label, "bbox": box} for label in tree["annotations"]]}

    with pytest.raises(InputError, match="expected a box in the picture, got one of x"):
        read_h36m_images(save_rle(tmp_path, everywhere))


def test_every_nth_frame(tmp_path: Path) -> None:
    path = save_rle(tmp_path)
    whole = read_h36m_images(path).images
    thinned = read_h36m_images(path, every=(5, 10)).images
    tested = np.isin(whole.part, ["S9", "S11"])
    assert thinned.files.tolist() == whole.files[whole.frame % np.where(tested, 10, 5) == 0].tolist()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda _: [1], "expected lists of images and annotations, got a list of 1 entries"),
        (lambda _: {"images": [], "annotations": []}, "expected lists of images and annotations, got a dict of images"),
        (lambda c: {**c, "images": c["images"][1:]}, "expected an annotation for each image, got 36 for 35"),
        (put("annotations", 3, "cam_param")(None), "annotations[3]: expected a camera under cam_param, got none"),
        (
            put("annotations", 3, "cam_param", "f")(None),
            "cam_param of annotations[3]: expected f of 2 numbers, got none",
        ),
        (put("annotations", 4, "bbox")([1, 2, 3]), "annotations[4]: expected bbox of 4 numbers, got 3"),
        (
            put("annotations", 4, "bbox")(NAN),
            "annotations[4]: expected bbox of 4 numbers, got some that are not finite",
        ),
        (put("annotations", 4, "bbox")("wide"), "annotations[4]: expected bbox of 4 numbers, got 'wide'"),
        (put("annotations", 0)(7), "annotations[0]: expected a camera"),
        (put("annotations", 2, "keypoints_world")(None), "annotations[2]: expected keypoints_world of 17 x 3 numbers"),
        (put("images", 2, "file_name")("a.jpg"), "images[2]: expected a name like s_09_act_02"),
        (put("images", 2, "file_name")(None), "images[2]: expected a text for file_name, got None"),
        (put("images", 2, "width")(None), "images[2]: expected a number for width, got none"),
        (
            put("images", 2, "file_name")("s_01_act_01_subact_01_ca_01_000001.jpg"),
            "expected an action of 2 to 16, got 1",
        ),
        (put("images", 2, "file_name")("s_01_act_02_subact_03_ca_01_000001.jpg"), "a sub-action of 1 to 2, got 3"),
        (put("images", 2, "file_name")("s_01_act_02_subact_02_ca_05_000001.jpg"), "a camera of 1 to 4, got 5"),
        (scaled(0.001), "of the joints are in the boxes, whether t is read as in R (X - t) or R X + t"),
        (exchanged, "left and right are exchanged"),
    ],
)
def test_wrong_rle_files(tmp_path: Path, change: Change, words: str) -> None:
    path = save_rle(tmp_path, change)
    with pytest.raises(InputError, match=re.escape(words)):
        read_h36m_images(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": lambda _: "x"}, "subject1_data.json: expected lists of images and annotations, got a str"),
        ({"data": put("annotations", 2, "image_id")(7)}, "annotations[2]: expected the id of an image, got 7"),
        ({"data": put("annotations", 2, "image_id")(None)}, "annotations[2]: expected a number for image_id, got none"),
        ({"data": put("images", 0, "cam_idx")(None)}, "expected a number for cam_idx, got none"),
        ({"camera": put("2")(None)}, "annotations[3]: expected a camera 2 in Human36M_subject1_camera.json, got none"),
        ({"camera": put("2", "R")([1])}, "camera.json: for annotations[3]: expected R of 3 x 3 numbers, got 1"),
        ({"camera": put("2", "t")([9e5, 0, 0])}, "S1, camera 2: only 0% of the joints are in the boxes"),
        (
            {"joint_3d": lambda _: {}},
            "annotations[0]: expected joints of act, sub, frame 2, 1, 0 in Human36M_subject1_joint",
        ),
        (
            {"joint_3d": lambda _: []},
            "annotations[0]: expected joints of act, sub, frame 2, 1, 0 in Human36M_subject1_joint",
        ),
    ],
)
def test_wrong_posenet_files(tmp_path: Path, changes: dict[str, Change], words: str) -> None:
    save_posenet(tmp_path, **changes)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=re.escape(words)):
        read_h36m_images(tmp_path / "Human36M_subject1_data.json")


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found none of them"):
        read_h36m_images(tmp_path)
    with pytest.raises(InputError, match="found none of them"):
        read_mpii(tmp_path / "nowhere")
    save_posenet(tmp_path)
    (tmp_path / "Human36M_subject9_camera.json").unlink()
    with pytest.raises(InputError, match=r"found nothing at .*Human36M_subject9_camera\.json"):
        read_h36m_images(tmp_path)
    save_rle(tmp_path)
    with pytest.raises(InputError, match="expected one layout"):
        read_h36m_images(tmp_path)
    (tmp_path / "Sample_Human36M.json").write_text('{"images": [')
    with pytest.raises(InputError, match=r"Sample_Human36M\.json is not JSON, or only a part of it"):
        read_h36m_images(tmp_path / "Sample_Human36M.json")


# ---- MPII


def persons(count: int = 4) -> list[dict[str, Any]]:
    """As HRNet's files have them: pixels from one."""
    random = np.random.default_rng(0)
    made = []
    for row in range(count):
        joints = random.uniform(100, 300, (16, 2)).round(1)
        visible = np.ones(16, dtype=int)
        joints[row], visible[row] = -1, 0
        joints[15] = (-1, -1)  # visible, says the file
        names = {"image": f"{row // 2:09d}.jpg", "center": [200.0 + row, 210.0], "scale": 1.5}
        made.append({**names, "joints": joints.tolist(), "joints_vis": visible.tolist()})
    return made


def save_mpii(folder: Path, train: Any, valid: Any = None) -> Path:
    dump(folder / "annot" / "train.json", train)
    if valid is not None:
        dump(folder / "annot" / "valid.json", valid)
    for row in range(2):
        picture(folder / "images" / f"{row:09d}.jpg")
    return folder


def save_heads(folder: Path, valid: list[dict[str, Any]], **changes: Any) -> None:
    boxes = np.zeros((2, 2, len(valid)))
    boxes[0] = 50
    boxes[1] = 50 + np.array([[30], [40]]) * (1 + np.arange(len(valid)))
    content = {
        "headboxes_src": boxes,
        "pos_gt_src": np.stack([person["joints"] for person in valid], -1),
        "jnt_missing": 1 - np.stack([person["joints_vis"] for person in valid], -1),
        "dataset_joints": np.array(["rank", "rkne"], dtype=object),
    }
    savemat(folder / "annot" / "gt_valid.mat", content | changes)


def assert_mpii(images: ImageSet, expected: list[dict[str, Any]]) -> None:
    assert images.points is None
    assert len(images) == len(expected)
    for row, person in enumerate(expected):
        ours = {name: H36M18.joints.index(name) for name in MPII16.joints if name in H36M18.joints}
        ours |= {"thorax": 17, "upper_neck": 8, "head_top": 10}
        for j, name in enumerate(MPII16.joints):
            there = bool(person["joints_vis"][j]) and person["joints"][j] != [-1, -1]
            assert images.labelled[row, ours[name]] == there
            if there:
                zero_based = np.array(person["joints"][j]) - 1
                np.testing.assert_allclose(images.keypoints[row, ours[name]], zero_based, atol=1e-4)
        assert not images.labelled[row, [7, 9]].any()
        assert images.files[row].endswith(person["image"])


def test_hrnet(tmp_path: Path) -> None:
    train, valid = persons(4), persons(3)
    save_mpii(tmp_path, train, valid)
    save_heads(tmp_path, valid)
    found = read_mpii(tmp_path)
    assert_mpii(found.images, train + valid)
    check_pictures(found.images)
    assert found.images.part.tolist() == ["train"] * 4 + ["valid"] * 3
    assert np.isnan(found.images.head_size[:4]).all()
    np.testing.assert_allclose(found.images.head_size[4:], [30, 60, 90])  # 0.6 of a diagonal of 50, 100, 150
    side = 200 * 1.5 * 1.25
    middle = np.array([199.0, 209.0 + 15 * 1.5])
    np.testing.assert_allclose(found.images.box[0], [*(middle - side / 2), side, side])
    assert (found.layout, found.notes) == ("HRNet", [])
    assert [line.split() for line in table(found.images)][1:] == [["train", "2", "4", "56"], ["valid", "2", "3", "42"]]


def test_hrnet_without_heads_or_in_one_file(tmp_path: Path) -> None:
    save_mpii(tmp_path, persons(), persons())
    found = read_mpii(tmp_path / "annot")
    assert np.isnan(found.images.head_size).all()
    assert "PCKh cannot be measured" in found.notes[0]
    only = read_mpii(tmp_path / "annot" / "train.json")
    assert set(only.images.part) == {"train"}
    assert_mpii(only.images, persons())


def coco(people: list[dict[str, Any]]) -> dict[str, Any]:
    """The same people in the style of COCO, and, as the file of RLE is read, from zero."""
    annotations = []
    for row, person in enumerate(people):
        joints = np.array(person["joints"]) - 1
        seen = np.array(person["joints_vis"]) * (np.array(person["joints"])[:, 0] != -1)
        keypoints = np.concatenate([joints * seen[:, None], seen[:, None]], 1).ravel().tolist()
        annotations.append({"id": row, "image_id": row // 2, "bbox": [90, -10, 220, 260], "keypoints": keypoints})
    images = [{"id": row, "file_name": f"{row:09d}.jpg", "width": 400, "height": 240} for row in (1, 0)]
    return {"images": images, "annotations": annotations}


def test_coco_style(tmp_path: Path) -> None:
    save_mpii(tmp_path, persons())
    path = dump(tmp_path / "annotations" / "annot_mpii.json", coco(persons()))
    found = read_mpii(path)
    assert_mpii(found.images, persons())
    check_pictures(found.images)
    # [90, -10, 220, 260] is cut to [90, 0, 220, 239] by a picture of 400 x 240, then widened by 1.25 about (200, 119.5)
    np.testing.assert_allclose(found.images.box, [[62.5, -29.875, 275, 298.75]] * 4)
    assert set(found.images.part) == {"train"}
    assert np.isnan(found.images.head_size).all()
    (tmp_path / "annot" / "train.json").rename(tmp_path / "annotations" / "train.json")
    with pytest.raises(InputError, match=r"expected one layout, got train\.json and annot_mpii\.json"):
        read_mpii(tmp_path / "annotations")


@pytest.mark.parametrize("change", [put(1, "joints_vis")([0] * 16), put(1, "joints")([[-1, -1]] * 16)])
def test_people_without_labels_are_left_out(tmp_path: Path, change: Change) -> None:
    valid = change(persons())
    save_mpii(tmp_path, persons(), valid)
    save_heads(tmp_path, valid)
    found = read_mpii(tmp_path)
    assert_mpii(found.images, [*persons(), valid[0], *valid[2:]])
    np.testing.assert_allclose(found.images.head_size[4:], [30, 90, 120])  # each still has its own head
    assert found.notes == [
        "valid.json: 1 left out, without a labelled joint, or with a box that is empty or outside the picture;"
        " the first is [1]"
    ]
    nobody = [{**person, "joints_vis": [0] * 16} for person in persons()]
    with pytest.raises(InputError, match="expected labelled persons, got 4 without a labelled joint"):
        read_mpii(save_mpii(tmp_path / "none", nobody))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda _: [],
            "train.json: expected persons with image, center, scale, joints and joints_vis, got a list of 0",
        ),
        (lambda _: [[1]], "expected persons with image, center"),
        (lambda _: 3, "expected lists of images and annotations, got a int"),
        (lambda _: {"a": 1}, "expected lists of images and annotations, got a dict of a"),
        (
            lambda _: {"images": [{"id": 1}], "annotations": [{"bbox": 1}]},
            "expected annotations with keypoints, got a list",
        ),
        (put(2, "joints")([[1, 2]] * 15), "train.json[2]: expected joints of 16 x 2 numbers, got 15 x 2"),
        (put(2, "joints_vis")(None), "train.json[2]: expected joints_vis of 16 numbers, got none"),
        (
            put(2, "scale")(0),
            "train.json[2]: expected the place of a person and a scale above 0, got center [202.0, 210.0]",
        ),
        (put(2, "center")([-1, -1]), "train.json[2]: expected the place of a person"),
        (put(2, "image")(5), "train.json[2]: expected a text for image, got 5"),
    ],
)
def test_wrong_mpii_files(tmp_path: Path, change: Change, words: str) -> None:
    save_mpii(tmp_path, change(persons()))
    with pytest.raises(InputError, match=re.escape(words)):
        read_mpii(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"headboxes_src": np.zeros((2, 2, 3))}, r"headboxes_src: expected \(2, 2, 4\), got"),
        ({"pos_gt_src": np.stack([p["joints"] for p in persons()[::-1]], -1)}, "joints of valid.json in its order"),
    ],
)
def test_heads_of_others(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    save_mpii(tmp_path, persons(), persons())
    save_heads(tmp_path, persons(), **changes)
    with pytest.raises(InputError, match=words):
        read_mpii(tmp_path)
    (tmp_path / "annot" / "gt_valid.mat").write_bytes(b"no such thing")
    with pytest.raises(InputError, match=r"gt_valid\.mat: expected a MATLAB file with headboxes_src"):
        read_mpii(tmp_path)


# ---- the commands


PREPARE_H36M, PREPARE_MPII = load("prepare_h36m").main, load("prepare_mpii").main


@pytest.mark.parametrize("pack", [[], ["--pack"]])
def test_prepare_h36m_images(tmp_path: Path, shell: Shell, pack: list[str]) -> None:
    pictures = h36m_pictures(tmp_path / "pictures")
    for shot in shots():
        picture(pictures / shot.file_name, shot.size)
    save_posenet(tmp_path / "annotations", ADDED)
    output = tmp_path / "out" / "h36m.h5"
    command = [tmp_path / "annotations", "--images", pictures, "--output", output, *pack]
    code, out, _ = shell(*command, "--train-every", 5, "--test-every", 64, main=PREPARE_H36M)
    assert code == 0
    assert [line.split() for line in out.splitlines()] == [
        ["Human3.6M,", "PoseNet", "layout"],
        ["part", "pictures", "persons", "labelled", "joints"],
        ["S1", "8", "8", str(8 * 18)],
        ["S9", "16", "16", str(16 * 18)],
        ["wrote", str(output)],
    ]
    images = read_index(output)
    assert images.frame[images.part == "S1"].tolist() == [0, 5] * 4
    assert images.frame[images.part == "S9"].tolist() == [0, 64] * 8
    assert (images.packed is not None) == bool(pack)
    assert all(read_encoded(images, row).startswith(b"\xff\xd8") for row in range(len(images)))


def test_prepare_refuses(tmp_path: Path, shell: Shell) -> None:
    path, output = save_rle(tmp_path), tmp_path / "x.h5"
    refused(shell(path, "--pack", "--output", output, main=PREPARE_H36M), "--pack", "need --images")
    refused(
        shell(path, "--images", tmp_path, "--test-every", 0, "--output", output, main=PREPARE_H36M),
        "expected 1 or more",
    )
    refused(
        shell(path, "--images", tmp_path / "no", "--output", output, main=PREPARE_H36M),
        "--images: expected a folder, found nothing at",
    )
    assert not output.exists()


def test_missing_pictures_are_counted(tmp_path: Path, shell: Shell) -> None:
    save_mpii(tmp_path, persons())
    (tmp_path / "images" / "000000001.jpg").unlink()
    code, _, err = shell(tmp_path, "--output", tmp_path / "mpii.h5", main=PREPARE_MPII)
    first = tmp_path / "images" / "000000001.jpg"
    assert (code, err) == (2, f"error: 1 of 2 pictures are missing, the first is {first}\n")
    assert not (tmp_path / "mpii.h5").exists()


def test_an_error_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text("[1,")
    command = [sys.executable, "data/prepare_mpii.py", str(tmp_path), "--output", str(tmp_path / "x.h5")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {tmp_path / 'train.json'} is not JSON")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="no pictures of MPII at hand")
@pytest.mark.parametrize("pack", [[], ["--pack"]])
def test_real_pictures_of_mpii(tmp_path: Path, shell: Shell, pack: list[str]) -> None:
    output = tmp_path / "mpii.h5"
    code, out, _ = shell(SAMPLE, "--output", output, *pack, main=PREPARE_MPII)
    assert code == 0
    assert out.splitlines()[2].split() == ["train", "5", "5", "76"]
    images = read_index(output)
    offset = images.keypoints - images.box[:, None, :2]
    inside = np.asarray(((offset >= 0) & (offset <= images.box[:, None, 2:])).all(-1))
    assert inside[images.labelled].mean() > 0.95
    feet = images.labelled[:, [3, 6]]
    assert (images.keypoints[:, [3, 6], 1] > images.keypoints[:, 10:11, 1])[feet].all()  # below the head
