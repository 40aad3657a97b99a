"""COCO's annotations and detections: what is read, what is left out and counted, and what is refused in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lifting.command import InputError
from lifting.datasets.coco_truth import read_truth
from lifting.datasets.image_index import read_encoded, read_index
from lifting.geometry.skeleton import COCO17
from lifting.sources.image_readers import read_coco
from tests.conftest import Shell, refused
from tests.sources.test_prepare_h36m import load

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT.parent / "shared/data/coco_sample"

Change = Callable[[Any], Any]


def person(number: int, picture: int, **changes: Any) -> dict[str, Any]:
    joints = np.column_stack([10 + np.arange(17), 5 + np.arange(17), np.tile([2, 1], 9)[:17]])
    return {
        "id": number, "image_id": picture, "category_id": 1, "iscrowd": 0, "area": 600.0,
        "bbox": [8.0, 4.0, 20.0, 30.0], "keypoints": joints.ravel().tolist(), "num_keypoints": 17,
        "segmentation": [[1, 2, 3, 4]], **changes,
    }  # fmt: skip


def content() -> dict[str, Any]:
    return {
        "images": [{"id": 7, "file_name": "a.png", "width": 60, "height": 40},
                   {"id": 9, "file_name": "b.png", "width": 30, "height": 50}],
        "annotations": [person(1, 7), person(2, 9), person(3, 7)],
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO17.joints)}],
    }  # fmt: skip


def boxes() -> list[dict[str, Any]]:
    return [{"image_id": 7, "category_id": 1, "bbox": [1.0, 2.0, 30.0, 20.0], "score": 0.75},
            {"image_id": 9, "category_id": 1, "bbox": [0.0, 0.0, 10.0, 10.0], "score": 0.5}]  # fmt: skip


def save(folder: Path, annotations: Any, name: str = "person_keypoints_val2017.json") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for file, size in (("a.png", (60, 40)), ("b.png", (30, 50))):
        cv2.imwrite(str(folder / file), np.full((*size[::-1], 3), 90, np.uint8))
    (folder / name).write_text(json.dumps(annotations))
    return folder / name


def test_people_come_with_their_joints_and_crops(tmp_path: Path) -> None:
    found = read_coco(save(tmp_path, content()))
    images = found.images
    assert images.joint_set == COCO17
    assert [Path(file).name for file in images.files] == ["a.png", "b.png", "a.png"]
    assert images.picture is not None and images.picture.tolist() == [7, 9, 7]
    assert images.part.tolist() == ["valid"] * 3
    np.testing.assert_allclose(images.keypoints[0], np.stack([10 + np.arange(17), 5 + np.arange(17)], 1))
    assert images.labelled.all()
    # 1.25 times 20 x 30, about (18, 19); the second one ends with its picture
    np.testing.assert_allclose(images.box[0], [18 - 12.5, 19 - 18.75, 25, 37.5])
    np.testing.assert_allclose(images.box[1], [18 - 12.5, 19 - 18.75, 25, 37.5])
    assert images.area is not None and images.area.tolist() == [600] * 3
    assert found.truth is not None
    assert [one["id"] for one in found.truth["valid"]["annotations"]] == [1, 2, 3]
    assert "segmentation" not in found.truth["valid"]["annotations"][0]
    assert found.notes == []


def test_train_and_val_beside_their_pictures(tmp_path: Path) -> None:
    """The layout of COCO: annotations/ beside train2017/ and val2017/."""
    for split in ("train2017", "val2017"):
        save(tmp_path / split, content())
        save(tmp_path / "annotations", content(), f"person_keypoints_{split}.json")
    for file in ("a.png", "b.png"):
        (tmp_path / "annotations" / file).unlink()
    found = read_coco(tmp_path)
    assert sorted(set(found.images.part)) == ["train", "valid"]
    for part, folder in (("train", "train2017"), ("valid", "val2017")):
        assert {Path(f).parent.name for f in found.images.files[found.images.part == part]} == {folder}
    assert found.truth is not None and list(found.truth) == ["valid"]  # nobody tests on the other
    elsewhere = read_coco(tmp_path / "annotations", images=tmp_path)
    assert elsewhere.images.files.tolist() == found.images.files.tolist()


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    odd = content()
    outside = person(6, 9)
    outside["keypoints"][0] = 30  # the picture is 30 wide: 29 is its last pixel
    odd["annotations"] += [
        person(4, 7, iscrowd=1, segmentation={"counts": [1, 2], "size": [40, 60]}),
        person(5, 7, keypoints=[0] * 51, num_keypoints=0),
        outside,
        person(7, 7, bbox=[5.0, 5.0, 0.0, 10.0]),
    ]
    found = read_coco(save(tmp_path, odd))
    assert len(found.images) == 4
    assert found.images.labelled.sum(1).tolist() == [17, 17, 17, 16]
    assert found.truth is not None and len(found.truth["valid"]["annotations"]) == 7
    text = "\n".join(found.notes)
    for words in ("1 crowds", "1 people without a labelled joint", "1 people with an empty box", "1 joints outside",
                  "1 masks in run-length code"):  # fmt: skip
        assert words in text


def test_detections_are_a_part_of_their_own(tmp_path: Path) -> None:
    extra = [*boxes(), {**boxes()[0], "image_id": 1234}, {**boxes()[0], "category_id": 3},
             {**boxes()[0], "bbox": [3.0, 3.0, 0.0, 5.0]}]  # fmt: skip
    (tmp_path / "detections.json").write_text(json.dumps(extra))
    found = read_coco(save(tmp_path, content()), boxes=tmp_path / "detections.json")
    rows = found.images.part == "detected"
    assert rows.sum() == 2
    assert found.images.score is not None and found.images.score[rows].tolist() == [0.75, 0.5]
    assert found.images.picture is not None and found.images.picture[rows].tolist() == [7, 9]
    assert not found.images.labelled[rows].any()
    assert found.truth is not None and found.truth["detected"] == found.truth["valid"]
    text = "\n".join(found.notes)
    for words in ("1 boxes of other categories", "1 boxes on other pictures", "1 boxes without area"):
        assert words in text


def at(*path: Any) -> Callable[[Any], Change]:
    """at("a", 0)(value): a change of what is at content["a"][0]."""

    def value(new: Any) -> Change:
        def change(tree: Any) -> Any:
            for key in path[:-1]:
                tree = tree[key]
            tree[path[-1]] = new
            return None

        return change

    return value


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (at("annotations", 0)({"caption": "A man.", "image_id": 7}), "expected person keypoints.*got captions"),
        (at("annotations", 0)({"bbox": [1, 2, 3, 4], "image_id": 7, "id": 1}), "expected person keypoints"),
        (at("annotations", 1, "keypoints")([1, 2, 2] * 16), r"s\[1\]: expected keypoints of 51 numbers, got 48"),
        (at("annotations", 1, "image_id")(8), r"annotations\[1\]: expected the id of an image, got 8"),
        (at("annotations", 2, "bbox")([1, 2, 3]), r"annotations\[2\]: expected bbox of 4 numbers"),
        (at("annotations", 0, "area")(None), r"annotations\[0\]: expected a number for area"),
        (at("images", 0, "width")("wide"), r"expected a number for width"),
        (at("categories", 0, "keypoints")(["head", "foot"]), "expected the 17 keypoints of COCO.*got 2 others"),
        (at("annotations")([]), "expected lists of images and annotations"),
        (at("images", 1, "id")(7), r"images\[1\]: expected another id, got 7, that of images\[0\]"),
        (at("images", 0, "id")("7"), r"images\[0\]: expected a whole number for id, got '7'"),
        (at("annotations", 1, "image_id")(9.5), r"annotations\[1\]: expected a whole number for image_id, got 9.5"),
        (at("annotations")([{**person(1, 7), "category_id": 0}]), "expected people, of category_id 1, got 0"),
    ],
)  # fmt: skip
def test_other_annotations_are_refused(tmp_path: Path, change: Change, words: str) -> None:
    tree = content()
    change(tree)
    with pytest.raises(InputError, match=words):
        read_coco(save(tmp_path, tree))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ([], "expected a list of {image_id, category_id, bbox, score}"),
        ({"boxes": 1}, "expected a list of {image_id, category_id, bbox, score}"),
        ([{**boxes()[0], "image_id": 5}], "expected people on the pictures of person_keypoints_val2017.json, got none"),
        ([{"image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4]}], "expected a number for score, got none"),
    ],
)
def test_other_detections_are_refused(tmp_path: Path, wrong: Any, words: str) -> None:
    (tmp_path / "detections.json").write_text(json.dumps(wrong))
    with pytest.raises(InputError, match=words):
        read_coco(save(tmp_path, content()), boxes=tmp_path / "detections.json")


def test_annotations_of_other_categories_are_left_out(tmp_path: Path) -> None:
    tree = content()
    tree["annotations"][0] = {"id": 1, "image_id": 7, "category_id": 18, "keypoints": [1, 2, 2] * 20}
    found = read_coco(save(tmp_path, tree))
    assert len(found.images) == 2
    assert found.truth is not None
    assert [row["id"] for row in found.truth["valid"]["annotations"]] == [2, 3]
    assert any("1 annotations of other categories left out" in note for note in found.notes)


def test_nothing_but_an_index_is_replaced(tmp_path: Path, shell: Shell) -> None:
    main = load("prepare_coco").main
    annotations = save(tmp_path, content())
    before = annotations.read_bytes()
    refused(shell(annotations, "--output", annotations, main=main), "expected no file or an HDF5 file to replace")
    assert annotations.read_bytes() == before
    refused(shell(annotations, "--output", tmp_path, main=main), "expected a file to write, found a folder")
    refused(shell(annotations, "--bxes", main=main), "--bxes", "--help")
    refused(shell(main=main), "source")


def test_prepare_coco(tmp_path: Path, shell: Shell) -> None:
    main = load("prepare_coco").main
    save(tmp_path / "val2017", content())
    annotations = save(tmp_path / "annotations", content())
    (tmp_path / "detections.json").write_text(json.dumps(boxes()))
    command = [annotations, "--images", tmp_path, "--boxes", tmp_path / "detections.json", "--output"]
    for pack in ([], ["--pack"]):
        code, out, err = shell(*command, tmp_path / "coco.h5", *pack, main=main)
        assert code == 0, err
        assert "valid" in out
        assert "detected" in out
        images = read_index(tmp_path / "coco.h5")
        assert len(images) == 5
        truth = read_truth(tmp_path / "coco.h5")
        assert truth is not None and set(truth) == {"valid", "detected"}
        read_encoded(images, 4)
    (tmp_path / "val2017" / "b.png").unlink()
    (tmp_path / "annotations" / "b.png").unlink()
    code, _, err = shell(*command, tmp_path / "other.h5", main=main)
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert "1 of 2 pictures are missing" in err
    assert "b.png" in err
    (tmp_path / "pictures.zip").write_bytes(b"PK")
    (tmp_path / "lmdb").mkdir()
    (tmp_path / "lmdb" / "data.mdb").write_bytes(b"x")
    for name, words in (("pictures.zip", "unpack it"), ("lmdb", "expected a folder of pictures, found an lmdb")):
        refused(shell(annotations, "--images", tmp_path / name, "--output", tmp_path / "other.h5", main=main), words)
    assert not (tmp_path / "other.h5").exists()


@pytest.mark.skipif(not SAMPLE.exists(), reason="needs shared/data")
def test_real_annotations(tmp_path: Path) -> None:
    found = read_coco(SAMPLE / "test_coco.json", boxes=SAMPLE / "test_coco_det_AP_H_56.json")
    assert [(found.images.part == part).sum() for part in ("valid", "detected")] == [12, 118]
    assert "2 people without a labelled joint" in found.notes[0]
    left, right = (found.images.keypoints[:, COCO17.joints.index(f"{side}_shoulder")] for side in ("left", "right"))
    assert np.isfinite(left).all() and np.isfinite(right).all()
