"""Reads COCO's person keypoints (Lin et al. 2014), and a detector's boxes on its pictures.

A person's crop is 1.25 times the box around its middle, as in SimplePose, HRNet and RLE. The box is first clipped to
the picture. Pixels are taken as they stand, counted from zero.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lifting.command import InputError
from lifting.datasets.coco_truth import KEYS
from lifting.datasets.image_set import ImageSet
from lifting.geometry.crops import AROUND
from lifting.geometry.skeleton import COCO17
from lifting.safe_json import read_json
from lifting.sources import annotations
from lifting.sources.annotations import Source, column, kind_of, texts

Numbers = NDArray[np.float64]

PERSON = 1  # COCO's number of the category
JOINTS = len(COCO17)


def read_keypoints(paths: Sequence[Path], images: Path | None, detections: Path | None) -> Source:
    """Every labelled person of these files.

    A file is the part "train" if its name says so, and "valid" if not. ``detections`` are another part, "detected", on
    the pictures of "valid".

    Args:
        images: the folder of the pictures; without it, the usual places (`annotations.in_folder`) and folders that are
            called like the annotations, as ``val2017`` beside ``annotations/person_keypoints_val2017.json``.
        detections: JSON of a detector, a list of {image_id, category_id, bbox, score}.

    Raises:
        InputError: a file is of another kind, or something in it is missing or cannot be.
    """
    notes: list[str] = []
    parts, truth = [], {}
    for path in paths:
        part = "train" if "train" in path.stem else "valid"
        content = read_json(path, "annotations")
        pictures, labels = annotations.lists(content, path)
        labels = _people(labels, path, notes)
        check_category(content, labels, path)
        if part in truth:
            raise InputError(f"{path}: expected one file of the part {part}, got another before it")
        parts.append(_persons(pictures, labels, path, images, part, notes))
        truth[part] = _truth(pictures, labels, path)
        if detections is not None and part == "valid":
            parts.append(_detected(detections, pictures, path, images, notes))
            truth["detected"] = truth[part]
    if detections is not None and "detected" not in truth:
        raise InputError(f"--boxes: {detections}: expected annotations of the pictures to test on, got only train")
    if len(truth) > 1:
        truth.pop("train", None)  # nobody tests on it, and COCO's has 150,000 people
    columns: dict[str, Any] = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    count = len(columns["files"])
    image_set = ImageSet(
        **columns,
        sequence=np.full(count, ""),
        camera=np.full(count, ""),
        frame=np.zeros(count, dtype=np.int64),
        head_size=np.full(count, np.nan, dtype=np.float32),
        joint_set=COCO17,
    )
    files = [*paths, *([detections] if detections else [])]
    return Source(image_set, notes, "COCO", files, truth)


def _people(labels: list[Any], path: Path, notes: list[str]) -> list[Any]:
    """The annotations of people, which is those of all who say no category."""
    categories = [label.get("category_id", PERSON) if isinstance(label, dict) else PERSON for label in labels]
    people = [label for label, category in zip(labels, categories, strict=True) if category == PERSON]
    if not people:
        raise InputError(f"{path}: expected people, of category_id {PERSON}, got {categories[0]!r:.40}")
    if len(people) < len(labels):
        notes.append(f"{path.name}: {len(labels) - len(people):,} annotations of other categories left out")
    return people


def check_category(content: dict[str, Any], labels: list[Any], path: Path) -> None:
    """Raises `InputError` unless the annotations are keypoints of people, in COCO's order of joints."""
    if not isinstance(labels[0], dict) or "keypoints" not in labels[0]:
        kind = "captions" if isinstance(labels[0], dict) and "caption" in labels[0] else kind_of(labels)
        raise InputError(f"{path}: expected person keypoints (person_keypoints_*.json), got {kind}")
    categories = content.get("categories")
    persons = [c for c in categories if isinstance(c, dict)] if isinstance(categories, list) else []
    for category in persons:
        named = category.get("keypoints", list(COCO17.joints))
        if category.get("id") == PERSON and named != list(COCO17.joints):
            count = len(named) if isinstance(named, list) else 0
            raise InputError(
                f"{path}: expected the {JOINTS} keypoints of COCO, nose to right_ankle, got {count} others"
            )


def _persons(
    pictures: list[Any], labels: list[Any], path: Path, images: Path | None, part: str, notes: list[str]
) -> dict[str, NDArray[Any]]:
    """The columns of an `ImageSet` of the people with a labelled joint, who are no crowd."""
    where = f"{path}: annotations"
    joints = column(labels, "keypoints", (3 * JOINTS,), where).reshape(-1, JOINTS, 3)
    box, area = column(labels, "bbox", (4,), where), column(labels, "area", (), where)
    crowd = column(labels, "iscrowd", (), where) > 0
    own, at = annotations.images_of(labels, pictures, path), f"{path}: image of annotations"
    extent = annotations.sizes(own, at)
    masks = sum(isinstance(label.get("segmentation"), dict) for label in labels)
    labelled = joints[..., 2] > 0
    outside = labelled & ~((joints[..., :2] >= 0) & (joints[..., :2] < extent[:, None])).all(-1)
    labelled &= ~outside
    box = annotations.clipped(box, extent)
    nobody, empty = ~labelled.any(1), ~((box[:, 2:] > 0).all(1) & (area > 0))
    keep = ~crowd & ~nobody & ~empty
    for many, what in (
        (crowd.sum(), "crowds left out"),
        ((nobody & ~crowd).sum(), "people without a labelled joint left out"),
        ((empty & ~crowd & ~nobody).sum(), "people with an empty box left out"),
        (outside.sum(), "joints outside their picture taken as not labelled"),
        (masks, "masks in run-length code ignored, like all segments"),
    ):
        if many:
            notes.append(f"{path.name}: {many:,} {what}")
    if not keep.any():
        raise InputError(f"{path}: expected people with labelled joints, got {len(labels):,} annotations without any")
    kept = np.flatnonzero(keep)
    names = texts([own[row] for row in kept], "file_name", at)
    return {
        "files": _files(names, images, path),
        "box": _around(box[kept]),
        "keypoints": joints[kept, :, :2].astype(np.float32),
        "labelled": labelled[kept],
        "part": np.full(len(kept), part),
        "picture": np.array(annotations.ids([labels[row] for row in kept], "image_id", where)),
        "score": np.ones(len(kept), dtype=np.float32),
        "area": area[kept].astype(np.float32),
    }


def _detected(
    detections: Path, pictures: list[Any], path: Path, images: Path | None, notes: list[str]
) -> dict[str, NDArray[Any]]:
    """The columns of an `ImageSet` of a detector's people, none of whose joints is labelled."""
    found = read_json(detections, "boxes")
    if not isinstance(found, list) or not found:
        wanted = "a list of {image_id, category_id, bbox, score}"
        raise InputError(f"--boxes: {detections}: expected {wanted}, got {kind_of(found)}")
    where = f"{detections}"
    category = column(found, "category_id", (), where)
    picture, box, score = (column(found, k, s, where) for k, s in (("image_id", ()), ("bbox", (4,)), ("score", ())))
    known = annotations.by_id(pictures, path)
    extent = annotations.sizes(pictures, f"{path}: images")
    row = np.array([known.get(int(number), -1) for number in picture.tolist()])
    ours, person = row >= 0, category == PERSON
    if not (ours & person).any():
        raise InputError(f"--boxes: {detections}: expected people on the pictures of {path.name}, got none on them")
    box = annotations.clipped(box, extent[row])
    empty = ~(box[:, 2:] > 0).all(1)
    for many, what in (
        ((~person).sum(), "boxes of other categories left out"),
        ((person & ~ours).sum(), f"boxes on other pictures than those of {path.name} left out"),
        ((person & ours & empty).sum(), "boxes without area left out"),
    ):
        if many:
            notes.append(f"{detections.name}: {many:,} {what}")
    kept = np.flatnonzero(ours & person & ~empty)
    names = texts([pictures[r] for r in row[kept]], "file_name", f"{path}: images")
    return {
        "files": _files(names, images, path),
        "box": _around(box[kept]),
        "keypoints": np.zeros((len(kept), JOINTS, 2), dtype=np.float32),
        "labelled": np.zeros((len(kept), JOINTS), dtype=np.bool_),
        "part": np.full(len(kept), "detected"),
        "picture": picture[kept].astype(np.int64),
        "score": score[kept].astype(np.float32),
        "area": np.full(len(kept), np.nan, dtype=np.float32),
    }


def _truth(pictures: list[Any], labels: list[Any], path: Path) -> dict[str, Any]:
    """What `coco_truth.read_truth` returns of a part; segments take most of the room and are of no use for AP."""
    where = f"{path}: annotations"
    whole = {key: annotations.ids(labels, key, where) for key in ("id", "image_id", "category_id", "num_keypoints")}
    rows = [
        {key: label[key] for key in KEYS} | dict(zip(whole, numbers, strict=True))
        for label, numbers in zip(labels, zip(*whole.values(), strict=True), strict=True)
    ]
    return {
        "images": [{"id": number} for number in annotations.by_id(pictures, path)],
        "annotations": rows,
        "categories": [{"id": PERSON, "name": "person", "keypoints": list(COCO17.joints)}],
    }


def _around(box: Numbers) -> NDArray[np.float32]:
    """(N, 4) boxes of `AROUND` times the sides, about the same middles."""
    return np.concatenate([box[:, :2] + (1 - AROUND) / 2 * box[:, 2:], AROUND * box[:, 2:]], 1).astype(np.float32)


def _files(names: NDArray[np.str_], images: Path | None, path: Path) -> NDArray[np.str_]:
    """Paths of pictures; COCO has them in a folder named like the annotations, such as ``val2017``."""
    split = path.stem.rpartition("_")[2]
    more = [path.parent / split, path.parent.parent / split, path.parent.parent / "images" / split]
    if images is not None and (images / split).is_dir():
        images = images / split
    return annotations.in_folder(names, images, path.parent, more)
