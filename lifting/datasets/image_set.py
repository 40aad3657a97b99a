"""Pictures of people with their labels, as every reader returns them and every index file holds them."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lifting.command import InputError
from lifting.geometry.skeleton import H36M18, JointSet


@dataclass(frozen=True)
class ImageSet:
    """N pictures with one labelled person each; a picture with several people appears several times.

    The centres of pixels have integer coordinates, counted from zero.

    Attributes:
        files: (N,) str, paths of the pictures, or only their names if ``packed`` holds them.
        box: (N, 4) float32, x, y, width, height of the person, pixels.
        keypoints: (N, J, 2) float32, pixels, of the joints of ``joint_set``; any value where a joint is not labelled.
        labelled: (N, J) bool, whether a joint has a label in the picture.
        part: (N,) str, the subject of Human3.6M or the split of MPII or COCO, by which a configuration selects.
        sequence: (N,) str, "Walking 1"; "" where there is none.
        camera: (N,) str, "" where there is none.
        frame: (N,) int64, number of the frame in its sequence; 0 where there is none.
        points: (N, J, 3) float32, metres, camera frame; None without 3D labels.
        focal, center: (N, 2) float32, pixels, pinhole intrinsics of the picture; None without 3D labels.
        head_size: (N,) float32, pixels, the unit of MPII's PCKh; NaN where it is unknown.
        picture: (N,) int64, COCO's id of the picture; None for other sets.
        score: (N,) float32, how sure a detector is of the box, 1 for a labelled box; None for other sets than COCO.
        area: (N,) float32, square pixels of the person's segment, the unit of OKS; NaN for a detected box; None for
            other sets than COCO.
        cut: (N, 4) float32, where a packed picture of COCO was cut out of its own one: x, y of the pixel at its top
            left, and its zoom along x and y; None if nothing was cut.
        joint_set: the J joints.
        packed: the index file that holds the encoded pictures, or None if each is a file of its own.
    """

    files: NDArray[np.str_]
    box: NDArray[np.float32]
    keypoints: NDArray[np.float32]
    labelled: NDArray[np.bool_]
    part: NDArray[np.str_]
    sequence: NDArray[np.str_]
    camera: NDArray[np.str_]
    frame: NDArray[np.int64]
    head_size: NDArray[np.float32]
    points: NDArray[np.float32] | None = None
    focal: NDArray[np.float32] | None = None
    center: NDArray[np.float32] | None = None
    picture: NDArray[np.int64] | None = None
    score: NDArray[np.float32] | None = None
    area: NDArray[np.float32] | None = None
    cut: NDArray[np.float32] | None = None
    joint_set: JointSet = H36M18
    packed: Path | None = None

    def __len__(self) -> int:
        return len(self.files)


def check_boxes(image_set: ImageSet, boxes: NDArray[np.float32]) -> None:
    """Raises `InputError` for the first box that is empty or not finite."""
    bad = ~(np.isfinite(boxes).all(1) & (boxes[:, 2:] > 0).all(1))
    for row in np.flatnonzero(bad)[:1]:
        _, _, width, height = boxes[row].tolist()
        raise InputError(f"{image_set.files[row]}: expected a box of a size above zero, got {width:g} x {height:g}")


def in_own_picture(images: ImageSet, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points (N, J, 2) in pixels of a set's pictures, in those of the pictures that these were cut out of."""
    if images.cut is None:
        return points
    low, zoom = images.cut[:, None, :2].astype(np.float64), images.cut[:, None, 2:].astype(np.float64)
    return (points + 0.5) / zoom - 0.5 + low


def select(images: ImageSet, rows: NDArray[np.int64] | NDArray[np.bool_]) -> ImageSet:
    """The subset of these rows, given by number or as a mask."""
    arrays: dict[str, Any] = {
        f.name: v[rows] for f in fields(images) if isinstance(v := getattr(images, f.name), np.ndarray)
    }
    return replace(images, **arrays)


def evenly(images: ImageSet, count: int) -> NDArray[np.int64]:
    """So many rows of a set, evenly spread from its first to its last; all of them if it has fewer."""
    return np.unique(np.linspace(0, len(images) - 1, min(count, len(images))).astype(np.int64))


def recordings_of(images: ImageSet, parts: tuple[str, ...]) -> list[str]:
    """The recordings of these parts, each once: "S9 Walking 1, camera 54138969", or the part if it has no sequence."""
    some = select(images, np.isin(images.part, parts))
    rows = zip(some.part.tolist(), some.sequence.tolist(), some.camera.tolist(), strict=True)
    names = (f"{part} {sequence}, camera {camera}" if sequence else part for part, sequence, camera in rows)
    return list(dict.fromkeys(names))
