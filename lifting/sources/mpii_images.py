"""Readers of MPII: HRNet's lists of persons (Sun et al. 2019), and COCO-style dicts such as RLE's (Li et al. 2021).

MPII counts pixels from one. HRNet's files keep that, and both HRNet and this reader subtract one. RLE takes the pixels
of its own file as they stand, and so does this reader; the file does not say whether they count from zero or from one.

Both codes crop 1.25 times the extent that their file gives a person: HRNet's square of 200 pixels times the scale, and
RLE's box after it was clipped to the picture.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lifting.command import InputError
from lifting.datasets.image_set import ImageSet
from lifting.geometry.crops import AROUND
from lifting.geometry.joint_maps import mpii16_to_h36m18
from lifting.geometry.skeleton import MPII16
from lifting.safe_json import read_json
from lifting.sources import annotations
from lifting.sources.annotations import Source, column, kind_of, texts
from lifting.sources.apart import read_mat

Numbers = NDArray[np.float64]

PERSON = 200  # pixels that a scale of one is
DOWN = 15  # pixels at a scale of one, by which HRNet moves the middle so that the feet are in
HEAD = 0.6  # of the diagonal of the head's box: MPII's measure
SAME = 5  # pixels, median: the joints of gt_valid.mat are those of valid.json, if they are in the same order

JOINTS = len(MPII16)


class _Persons(NamedTuple):
    """Columns of N rows, pixels from zero."""

    name: NDArray[np.str_]
    part: NDArray[np.str_]
    box: Numbers  # (N, 4)
    joints: Numbers  # (N, 16, 2)
    labelled: NDArray[np.bool_]  # (N, 16)
    head_size: Numbers  # (N,)


def read_persons(paths: Sequence[Path], images: Path | None) -> Source:
    """Each file is a part, "valid" if it is called that and "train" if not; persons without a label are left out."""
    notes: list[str] = []
    parts, layouts = [], []
    for path in paths:
        content = read_json(path, "annotations")
        layout, read = ("HRNet", _hrnet_persons) if isinstance(content, list) else ("COCO-style", _coco_persons)
        parts.append(_kept(read(content, path, notes), path, notes))
        layouts.append(layout)
    persons = _Persons._make(np.concatenate(columns) for columns in zip(*parts, strict=True))
    keypoints, labelled = mpii16_to_h36m18(torch.from_numpy(persons.joints), torch.from_numpy(persons.labelled))
    image_set = ImageSet(
        files=annotations.in_folder(persons.name, images, paths[0].parent),
        box=persons.box.astype(np.float32),
        keypoints=keypoints.numpy().astype(np.float32),
        labelled=labelled.numpy(),
        part=persons.part,
        sequence=np.full(len(persons.name), ""),
        camera=np.full(len(persons.name), ""),
        frame=np.zeros(len(persons.name), dtype=np.int64),
        head_size=persons.head_size.astype(np.float32),
    )
    return Source(image_set, notes, " and ".join(dict.fromkeys(layouts)), list(paths))


def _hrnet_persons(content: Any, path: Path, notes: list[str]) -> _Persons:
    """A list of {image, center, scale, joints, joints_vis}; the box is the square that HRNet crops."""
    if not content or not isinstance(content[0], dict) or not {"image", "center", "joints"} <= content[0].keys():
        wanted = "persons with image, center, scale, joints and joints_vis"
        raise InputError(f"{path}: expected {wanted}, got {kind_of(content)}")
    names = texts(content, "image", f"{path}")
    joints = column(content, "joints", (JOINTS, 2), f"{path}")
    visible = column(content, "joints_vis", (JOINTS,), f"{path}")
    center, scale = column(content, "center", (2,), f"{path}"), column(content, "scale", (), f"{path}")
    for row in np.flatnonzero((scale <= 0) | (center[:, 0] == -1))[:1]:
        got = f"center {center[row].tolist()} and scale {scale[row]:g}"
        raise InputError(f"{path}[{row}]: expected the place of a person and a scale above 0, got {got}")
    labelled = (visible > 0) & ~(joints == -1).all(-1)
    middle = center - 1 + np.stack([0 * scale, DOWN * scale], 1)
    box = _around(middle, np.stack([PERSON * scale] * 2, 1))
    head_size = np.full(len(content), np.nan)
    if path.stem == "valid":
        head_size = _head_sizes(path.with_name("gt_valid.mat"), joints, labelled, notes)
    return _Persons(names, _part(path, len(names)), box, joints - 1, labelled, head_size)


def _coco_persons(content: Any, path: Path, _: list[str]) -> _Persons:
    """Lists of images and annotations, the latter with a box and 16 times x, y, visible.

    The box is clipped to the picture and then widened about its middle, which is how RLE reads MPII. (It widens
    Human3.6M's boxes by nothing.) A widened box may leave the picture.
    """
    all_pictures, labels = annotations.lists(content, path)
    if not isinstance(labels[0], dict) or "keypoints" not in labels[0]:
        raise InputError(f"{path}: expected annotations with keypoints, got {kind_of(labels)}")
    pictures, where = annotations.images_of(labels, all_pictures, path), f"{path}: image of annotations"
    names = texts(pictures, "file_name", where)
    joints = column(labels, "keypoints", (3 * JOINTS,), f"{path}: annotations").reshape(-1, JOINTS, 3)
    box = column(labels, "bbox", (4,), f"{path}: annotations")
    box = annotations.clipped(box, annotations.sizes(pictures, where))
    box = _around(box[:, :2] + box[:, 2:] / 2, box[:, 2:])
    head_size = np.full(len(labels), np.nan)
    return _Persons(names, _part(path, len(names)), box, joints[..., :2], joints[..., 2] > 0, head_size)


def _around(middle: Numbers, extent: Numbers) -> Numbers:
    """Boxes (N, 4) of `AROUND` times the extents (N, 2) of persons about their middles (N, 2)."""
    return np.concatenate([middle - AROUND * extent / 2, AROUND * extent], 1)


def _part(path: Path, count: int) -> NDArray[np.str_]:
    return np.full(count, "valid" if path.stem == "valid" else "train")


def _kept(persons: _Persons, path: Path, notes: list[str]) -> _Persons:
    """Those with a labelled joint and a box in the picture, as RLE's reader keeps them."""
    keep = np.asarray(persons.labelled.any(1) & (persons.box[:, 2:] > 0).all(1))
    left_out = np.flatnonzero(~keep)
    what = "without a labelled joint, or with a box that is empty or outside the picture"
    if not keep.any():
        raise InputError(f"{path}: expected labelled persons, got {len(keep):,} {what}")
    if len(left_out):
        notes.append(f"{path.name}: {len(left_out):,} left out, {what}; the first is [{left_out[0]}]")
    return _Persons._make(values[keep] for values in persons)


def _head_sizes(path: Path, joints: Numbers, labelled: NDArray[np.bool_], notes: list[str]) -> Numbers:
    """(N,) pixels from ``gt_valid.mat``, whose joints prove that it has the order of the persons; NaN without it."""
    count = len(joints)
    if not path.is_file():
        notes.append(f"no {path.name} beside valid.json: sizes of heads are unknown, PCKh cannot be measured")
        return np.full(count, np.nan)
    shapes = {"headboxes_src": (2, 2, count), "pos_gt_src": (JOINTS, 2, count), "jnt_missing": (JOINTS, count)}
    boxes, truth, missing = read_mat(path, shapes).values()
    if not all((np.abs(values) < annotations.ABSURD).all() for values in (boxes, truth, missing)):
        raise InputError(f"{path}: expected finite numbers, got others")
    apart = np.linalg.norm(truth.transpose(2, 0, 1) - joints, axis=-1)[labelled & (missing.T == 0)]
    if not len(apart) or np.median(apart) > SAME:
        raise InputError(f"{path}: expected the joints of valid.json in its order, got others")
    size = HEAD * np.linalg.norm(boxes[1] - boxes[0], axis=0)
    return np.asarray(np.where(size > 0, size, np.nan))
