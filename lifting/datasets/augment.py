"""One sample: a crop of a picture with its labels, and the augmentation of both.

Scaling, rotation and mirroring are one affine map, that of `crops.crop_matrix`, which is applied to pixels and labels
alike. Colours and the noise rectangle change the crop afterwards, and no label.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lifting.command import InputError
from lifting.config import AugmentConfig, SingleStageConfig
from lifting.datasets.decode import SHRINKS, BrokenPictureError, decode, reduce
from lifting.datasets.image_index import read_encoded
from lifting.datasets.image_set import ImageSet
from lifting.geometry.crops import Size, crop_labels, extent
from lifting.geometry.joint_maps import mirror_joints
from lifting.geometry.skeleton import H36M18

ROOT = H36M18.root  # of every set with 3D labels

OUTSIDE = (128, 128, 128)  # colour of a crop outside the picture
TURNED = 0.6  # probability of a rotation; the other crops stay upright, like most people at test
HIDDEN = (0.05, 0.4)  # range of the noise rectangle's area over the box's
ASPECT = 3.0  # largest ratio of the rectangle's sides


@dataclass(frozen=True)
class Augmentation:
    """The augmentation of one sample; the defaults change nothing.

    Attributes:
        scale: factor on the sides of what the crop shows.
        angle: radians, see `crops.crop_matrix`.
        mirrored: whether left and right are exchanged.
        colour: factor on each channel.
        rectangle: the noise rectangle, or None: its centre (x, y) relative to the box's, in widths and heights of the
            box; its area over the box's; its width over its height.
    """

    scale: float = 1.0
    angle: float = 0.0
    mirrored: bool = False
    colour: tuple[float, ...] = (1.0, 1.0, 1.0)
    rectangle: tuple[float, float, float, float] | None = None


UNCHANGED = Augmentation()


def training_crop(
    image_set: ImageSet, row: int, config: SingleStageConfig, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], Tensor, bool]:
    """The randomly augmented crop of a row, (H, W, 3) RGB, its map, (2, 3), and whether it is mirrored.

    Raises:
        BrokenPictureError: the picture cannot be read.
        InputError: the box is outside the picture.
    """
    size, augmentation = config.data.size, draw(config.data.augment, rng, flip=config.train.flip)
    crop, matrix = crop_of(image_set, row, image_set.box[row], size, augmentation)
    crop = tint(crop, augmentation.colour)
    if augmentation.rectangle is not None:
        width, height = (image_set.box[row, 2:] / shrinkage(matrix.numpy())).tolist()
        hide(crop, augmentation.rectangle, (width, height), rng)
    return crop, matrix, augmentation.mirrored


def crop_of(
    image_set: ImageSet, row: int, box: NDArray[np.float32], size: Size, augmentation: Augmentation = UNCHANGED
) -> tuple[NDArray[np.uint8], Tensor]:
    """The crop around a box, (H, W, 3) RGB, and its map, (2, 3), with the affine part of an augmentation.

    Raises:
        BrokenPictureError: the picture cannot be read.
        InputError: the box is outside the picture.
    """
    matrix = matrix_of(box, size, augmentation)
    shrunk, name = decodable_shrink(matrix), str(image_set.files[row])
    try:
        encoded = read_encoded(image_set, row)
    except InputError as error:
        raise BrokenPictureError(str(error)) from None
    picture = decode(encoded, name, shrink=shrunk)
    height, width = (shrunk * side for side in picture.shape[:2])
    x, y, w, h = box.tolist()
    if x + w <= 0 or y + h <= 0 or x >= width or y >= height:
        raise InputError(
            f"{name}: expected a box that overlaps the {width} x {height} picture, got x {x:g}, y {y:g}, {w:g} x {h:g}"
        )
    return warp(picture, matrix, size, shrunk=shrunk), torch.from_numpy(matrix)


def matrix_of(box: NDArray[np.float32], size: Size, augmentation: Augmentation) -> NDArray[np.float64]:
    """The map of `crops.crop_matrix`, (2, 3), for one box, (4,): scalars take a tenth of the time of small tensors."""
    x, y, width, height = box.tolist()
    across, down = extent(size)
    zoom = 1 / (max(width / across, height / down) * augmentation.scale)
    cos, sin = zoom * math.cos(augmentation.angle), zoom * math.sin(augmentation.angle)
    sign = -1.0 if augmentation.mirrored else 1.0
    linear = np.array([[sign * cos, -sign * sin], [sin, cos]])
    shift = np.array([across - 1, down - 1]) / 2 - linear @ (x + width / 2, y + height / 2)
    return np.column_stack([linear, shift])


def labels_of(
    image_set: ImageSet, rows: NDArray[np.int64], matrix: Tensor, size: Size, mirrored: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The training labels of crops.

    Args:
        rows: (B,).
        matrix: (B, 2, 3) of `crops.crop_matrix`.
        size: of the crop.
        mirrored: (B,) bool, whether each crop is mirrored, which exchanges left and right joints.

    Returns:
        target: (B, J, 3) float32, u, v, d of `crops`; zero where there is no label.
        weight: (B, J) float32, one where there is a label and zero elsewhere.
        has_depth: (B, J) bool, whether d is a label; never for the root, because d is relative to it.
    """
    labelled = torch.from_numpy(image_set.labelled[rows])
    has_depth = labelled & (image_set.points is not None)
    has_depth[:, ROOT] = False
    depth = torch.zeros(labelled.shape, dtype=torch.float64)
    if image_set.points is not None:
        z = torch.from_numpy(image_set.points[rows, :, 2]).double()
        depth = z - z[:, ROOT : ROOT + 1]
    target = crop_labels(torch.from_numpy(image_set.keypoints[rows]).double(), depth, matrix, size).float()
    target = torch.where(labelled[..., None], target, 0.0)  # without a label it may be NaN
    labels = torch.cat([target, labelled[..., None], has_depth[..., None]], -1)
    labels = torch.where(mirrored[:, None, None], mirror_joints(labels, image_set.joint_set), labels)
    return labels[..., :3], labels[..., 3], labels[..., 4].bool()


def draw(config: AugmentConfig, rng: np.random.Generator, *, flip: bool) -> Augmentation:
    """A random augmentation, uniform within the configured bounds, and mirrored half of the time if ``flip``.

    The RLE reference draws from clipped normal distributions, which pile up samples at the bounds.
    """
    scale = 1 + rng.uniform(-config.scale, config.scale)
    angle = math.radians(rng.uniform(-config.rotation, config.rotation))
    turned, mirrored, hidden = rng.random(3) < (TURNED, 0.5 if flip else 0.0, config.occlude)
    colour = tuple((1 + rng.uniform(-config.colour, config.colour, 3)).tolist())
    x, y = rng.uniform(-0.5, 0.5, 2)
    rectangle = (float(x), float(y), rng.uniform(*HIDDEN), ASPECT ** rng.uniform(-1, 1))
    return Augmentation(scale, angle if turned else 0.0, bool(mirrored), colour, rectangle if hidden else None)


def shrinkage(matrix: NDArray[np.float64]) -> float:
    """The number of picture pixels per crop pixel, along a line."""
    (a, b, _), (c, d, _) = matrix.tolist()
    return 1 / math.sqrt(abs(a * d - b * c))


def decodable_shrink(matrix: NDArray[np.float64]) -> int:
    """The largest ``shrink`` of `decode.decode` that costs the crop no sharpness."""
    most = max(1.0, shrinkage(matrix))
    return max(k for k in SHRINKS if k <= most)


def warp(picture: NDArray[np.uint8], matrix: NDArray[np.float64], size: Size, *, shrunk: int = 1) -> NDArray[np.uint8]:
    """The crop by bilinear interpolation, with the colour `OUTSIDE` beyond the picture.

    Where two or more picture pixels along a line make one crop pixel, `reduce` first averages over all of them, because
    bilinear interpolation alone would sample four and skip the others.

    Args:
        picture: (H, W, 3) RGB.
        matrix: (2, 3) of `crops.crop_matrix`, for the picture at full size.
        size: of the crop.
        shrunk: the ``shrink`` with which the picture was decoded.

    Returns:
        (H, W, 3) of the crop.
    """
    further = max(1, min(int(shrinkage(matrix) / shrunk), *picture.shape[:2]))
    picture, factor = reduce(picture, further), shrunk * further
    linear = matrix[:, :2]
    shift = matrix[:, 2] + linear.sum(1) * (factor - 1) / 2
    from_reduced = np.column_stack([factor * linear, shift])
    left, top, right, bottom = _seen(from_reduced, size, picture.shape)
    from_reduced[:, 2] += from_reduced[:, :2] @ (left, top)
    # OpenCV 5 warps four channels in half the time of three, to the same values.
    padded = cv2.cvtColor(picture[top:bottom, left:right], cv2.COLOR_RGB2RGBA)
    crop = cv2.warpAffine(padded, from_reduced, extent(size), flags=cv2.INTER_LINEAR, borderValue=OUTSIDE)
    return np.asarray(cv2.cvtColor(crop, cv2.COLOR_RGBA2RGB), dtype=np.uint8)


def _seen(matrix: NDArray[np.float64], size: Size, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """The part of a picture, (H, W, 3), that a crop shows: left, top, right, bottom; at least one pixel."""
    (a, b, x), (c, d, y) = cv2.invertAffineTransform(matrix).tolist()
    across, down = ((side - 1) / 2 for side in extent(size))
    height, width, _ = shape
    middle_x, half_x = a * across + b * down + x, abs(a) * across + abs(b) * down + 1  # interpolation looks one further
    middle_y, half_y = c * across + d * down + y, abs(c) * across + abs(d) * down + 1
    left = min(max(math.floor(middle_x - half_x), 0), width - 1)
    top = min(max(math.floor(middle_y - half_y), 0), height - 1)
    right = min(max(math.ceil(middle_x + half_x), left) + 1, width)
    bottom = min(max(math.ceil(middle_y + half_y), top) + 1, height)
    return left, top, right, bottom


def tint(crop: NDArray[np.uint8], colour: tuple[float, ...]) -> NDArray[np.uint8]:
    """Multiplies each channel by its factor, rounds, and clips at 255."""
    return np.asarray(cv2.transform(crop, np.diag(colour)), dtype=np.uint8)


def hide(
    crop: NDArray[np.uint8],
    rectangle: tuple[float, float, float, float],
    person: tuple[float, float],
    rng: np.random.Generator,
) -> None:
    """Fills `Augmentation.rectangle`, clipped to the crop, with noise.

    Args:
        crop: (H, W, 3), changed in place.
        person: width and height of the box in pixels of the crop.
    """
    x, y, area, aspect = rectangle
    pixels = area * person[0] * person[1]
    half = np.sqrt([pixels * aspect, pixels / aspect]) / 2
    whole = np.array([crop.shape[1], crop.shape[0]])
    middle = whole / 2 + np.array([x, y]) * person
    (left, top), (right, bottom) = (np.rint(np.clip(middle + s * half, 0, whole)).astype(int) for s in (-1, 1))
    crop[top:bottom, left:right] = rng.integers(0, 256, (bottom - top, right - left, 3), dtype=np.uint8)
