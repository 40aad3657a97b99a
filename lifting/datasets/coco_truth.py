"""The annotations in an index of COCO's pictures, against which average precision is measured."""

from pathlib import Path
from typing import Any

import numpy as np

from lifting import safe_hdf5
from lifting.command import InputError, existing_file
from lifting.geometry.skeleton import COCO17
from lifting.safe_json import parse_json

# Keys of an annotation, with how many numbers each has: what pycocotools reads for the AP of keypoints.
KEYS = {
    "id": 1, "image_id": 1, "category_id": 1, "iscrowd": 1, "area": 1, "num_keypoints": 1, "bbox": 4,
    "keypoints": 3 * len(COCO17),
}  # fmt: skip


def read_truth(path: Path) -> dict[str, Any] | None:
    """For each part of an index a dict in COCO's layout; None for an index without annotations.

    They have no segments, which the AP of keypoints does not use.

    Raises:
        InputError: the file cannot be read, or the annotations are broken.
    """
    where = str(path)
    with safe_hdf5.open_hdf5(existing_file(path, "image index"), where) as file:
        found = safe_hdf5.dataset(file, "truth", (-1,), "u", where)
        if found is None:
            return None
        text = safe_hdf5.read(found, np.uint8, where).tobytes()
    truth = parse_json(text, f"{where}: truth")
    if not isinstance(truth, dict) or not truth or not all(map(_is_whole, truth.values())):
        raise InputError(f"{where}: truth: expected images, annotations and categories of each part, got others")
    return truth


def _is_whole(part: Any) -> bool:
    """Whether pycocotools can read these annotations."""
    try:
        pictures = {int(picture["id"]) for picture in part["images"]}
        {int(category["id"]) for category in part["categories"]}
        rows = part["annotations"]
        for key, count in KEYS.items():
            values = np.array([row[key] for row in rows], dtype=np.float64).reshape(len(rows), count)
            if not np.isfinite(values).all():
                return False
        return {row["image_id"] for row in rows} <= pictures
    except (KeyError, TypeError, ValueError, IndexError, OverflowError):
        return False
