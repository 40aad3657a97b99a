"""Puts the pictures of an index into its file, each as a cut-out around its person."""

import errno
import math
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lifting.command import InputError, whole_file
from lifting.datasets.decode import decode
from lifting.datasets.image_index import check_any, read_encoded, write_contents
from lifting.datasets.image_set import ImageSet

SIDE = 320  # pixels; the longer side of a packed box is at most this
MARGIN = 1.3 * (math.cos(math.pi / 6) + math.sin(math.pi / 6))  # holds the augmented crop: 1.3 boxes, turned by 30 deg
QUALITY = 95  # of packed JPEGs

_BLOCK = 256  # pictures that are encoded before their bytes are written
_ROW = 1 << 10  # upper bound of the bytes of a row's labels
_CHUNK = 1 << 22  # bytes; more than HDF5's cache holds, so that it reads one picture and not its whole chunk


def pack(
    path: Path,
    image_set: ImageSet,
    *,
    source: str,
    checksum: str,
    truth: dict[str, Any] | None = None,
    side: int = SIDE,
    margin: float = MARGIN,
) -> None:
    """Writes an index that contains the pictures: for each row, a JPEG cut out around its box, with labels to match.

    The cut-out is the square around the centre of the box with ``margin`` times its longer side, clipped to the
    picture. It is shrunk if the longer side of the box exceeds ``side`` pixels.

    Args:
        source, checksum, truth: as in `write_index`.

    Raises:
        InputError: the set is empty, a picture cannot be read, or a box is outside its picture.
        OSError: the file could not be written.
    """
    check_any(path, image_set)
    origins: list[NDArray[np.int64]] = []
    zooms: list[NDArray[np.float64]] = []
    sizes = [0]
    cut = partial(_cut, image_set, side=side, margin=margin)
    with whole_file(path) as temporary, h5py.File(temporary, "w") as file, ThreadPoolExecutor() as pool:
        encoded = file.create_dataset("encoded", (0,), np.uint8, maxshape=(None,), chunks=(_CHUNK,))
        for rows in _blocks(len(image_set)):
            jpegs, block_origins, block_zooms = zip(*pool.map(cut, rows), strict=True)
            _append(encoded, b"".join(jpegs), path.parent)
            origins += block_origins
            zooms += block_zooms
            sizes += map(len, jpegs)
        file["offsets"] = np.cumsum(sizes, dtype=np.int64)
        moved = _moved(image_set, np.array(origins), np.array(zooms))
        _check_room(path.parent, _ROW * len(moved))
        write_contents(file, moved, source, checksum, truth)


def _blocks(count: int) -> Iterator[range]:
    with tqdm(total=count, desc="packing", disable=None) as bar:
        for start in range(0, count, _BLOCK):
            rows = range(start, min(start + _BLOCK, count))
            yield rows
            bar.update(len(rows))


def _append(encoded: h5py.Dataset, block: bytes, folder: Path) -> None:
    _check_room(folder, len(block))
    start = len(encoded)
    encoded.resize((start + len(block),))
    encoded[start:] = np.frombuffer(block, np.uint8)


def _check_room(folder: Path, size: int) -> None:
    """Raises OSError if the disk does not have ``size`` bytes and some to spare: HDF5 would crash the process."""
    if shutil.disk_usage(folder).free < size + 2 * _CHUNK:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _cut(
    image_set: ImageSet, row: int, *, side: int, margin: float
) -> tuple[bytes, NDArray[np.int64], NDArray[np.float64]]:
    """A JPEG, the pixel of the picture at its top left, and its zoom (its pixels per picture pixel), both (x, y)."""
    name = str(image_set.files[row])
    picture = decode(read_encoded(image_set, row), name)
    box, extent = image_set.box[row].astype(np.float64), np.array(picture.shape[1::-1])
    longer = box[2:].max()
    middle, reach = box[:2] + box[2:] / 2, margin * longer / 2
    low = np.maximum(np.floor(middle - reach), 0).astype(np.int64)
    high = np.minimum(np.ceil(middle + reach) + 1, extent).astype(np.int64)
    if not longer > 0 or (high <= low).any():
        width, height = extent
        raise InputError(f"{name}: expected a box that overlaps the {width} x {height} picture, got {box.tolist()}")
    cut: cv2.typing.MatLike = picture[low[1] : high[1], low[0] : high[0]]
    size = np.maximum((high - low) * min(1.0, side / longer), 1).astype(np.int64)  # rounded down
    if (size < high - low).any():
        cut = cv2.resize(cut, size.tolist(), interpolation=cv2.INTER_AREA)
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(cut, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return jpeg.tobytes(), low, size / (high - low)


def _moved(image_set: ImageSet, origin: NDArray[np.int64], zoom: NDArray[np.float64]) -> ImageSet:
    """The set with its labels in pixels of the cut-outs, and with their names."""

    def placed(points: NDArray[np.float32]) -> NDArray[np.float32]:
        low, factor = (a.reshape(len(a), *[1] * (points.ndim - 2), 2) for a in (origin, zoom))
        return np.asarray((points - low + 0.5) * factor - 0.5, dtype=np.float32)

    box = np.concatenate([placed(image_set.box[:, :2]), image_set.box[:, 2:] * zoom], 1)
    moved = replace(
        image_set,
        files=np.array([f"{os.path.basename(file)}#{row}" for row, file in enumerate(image_set.files.tolist())]),
        box=box.astype(np.float32),
        keypoints=placed(image_set.keypoints),
        head_size=(image_set.head_size * np.sqrt(zoom.prod(1))).astype(np.float32),
    )
    if image_set.area is not None:
        area, cut = image_set.area * zoom.prod(1), np.concatenate([origin, zoom], 1)
        moved = replace(moved, area=area.astype(np.float32), cut=cut.astype(np.float32))
    if image_set.focal is None or image_set.center is None:
        return moved
    return replace(moved, focal=(image_set.focal * zoom).astype(np.float32), center=placed(image_set.center))
