"""Augmented crops of 256 x 256 from JPEGs of 1000 x 1000, against the plain way without augmentation, on one core.

The plain way decodes the whole picture, warps it and normalises it in float32; ours leaves 8-bit crops, because the
network normalises them. Both make batches of 32 in one process, in which the allocator keeps the pages of the pictures.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from lifting.config import SingleStageConfig, read_config
from lifting.datasets.image_batches import ImageBatches
from lifting.datasets.image_index import read_index
from lifting.datasets.image_packing import pack
from lifting.datasets.image_set import ImageSet
from lifting.geometry.crops import crop_matrix
from lifting.models.resnet import PIXELS
from tests.benchmarks.bench_step import times

SIDE, SIZE, BATCH, QUALITY = 1000, 256, 32, 90
PICTURES, ROUNDS = 8, 7
PLAIN = ["scale", "rotation", "colour", "occlude"]  # of data.augment, zero for no augmentation
BOXES = {"the whole picture": SIDE, "half of it": SIDE / 2}  # side of the box that becomes the crop, pixels


def benchmarks() -> list[dict[str, Any]]:
    """Plain time over ours, for boxes as large as the picture and half as large, as people in Human3.6M are."""
    with one_core(), TemporaryDirectory() as folder:
        files = write_pictures(Path(folder))
        return [row for name, box in BOXES.items() for row in rows(files, box, name, Path(folder) / f"{box:g}.h5")]


@contextmanager
def one_core() -> Iterator[None]:
    threads = cv2.getNumThreads(), torch.get_num_threads()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads[0])
        torch.set_num_threads(threads[1])


def rows(files: list[Path], box: float, name: str, packed: Path) -> list[dict[str, Any]]:
    images = image_set(files, box)
    pack(packed, images, source="mpii", checksum="")
    taken = times(
        {
            "plain": lambda: plain_batch(images),
            "augmented": batch(images),
            "not augmented": batch(images, *(f"data.augment.{what}=0" for what in PLAIN), "train.flip=false"),
            "augmented, packed": batch(read_index(packed)),
        },
        ROUNDS,
    )
    targets = {("the whole picture", "augmented"): 2.2}
    return [
        {"name": f"crops of {name}, {how}: times as fast as imread, warpAffine and float",
         "ratio": taken["plain"] / taken[how], "target": targets.get((name, how)), "better": "higher"}
        for how in ("augmented", "not augmented", "augmented, packed")
    ]  # fmt: skip


def write_pictures(folder: Path) -> list[Path]:
    """Pictures of coloured noise whose spectrum falls like a photograph's, about 110 kB each."""
    rng = np.random.default_rng(0)
    files = [folder / f"{k}.jpg" for k in range(PICTURES)]
    for file in files:
        picture = np.full((SIDE, SIDE, 3), 128, np.float32)
        for octave in range(9):
            noise = rng.normal(0, 24 / 1.45**octave, (2 << octave, 2 << octave, 3)).astype(np.float32)
            picture += cv2.resize(noise, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        encoded = cv2.imencode(".jpg", np.clip(picture, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        file.write_bytes(encoded[1].tobytes())
    return files


def image_set(files: list[Path], box: float) -> ImageSet:
    """One batch of these pictures, with a box in the middle and joints anywhere."""
    rng = np.random.default_rng(0)
    start = (SIDE - box) / 2
    camera = np.full((BATCH, 2), 1000, np.float32)
    return ImageSet(
        files=np.array([str(files[k % len(files)]) for k in range(BATCH)]),
        box=np.tile(np.array([start, start, box, box], np.float32), (BATCH, 1)),
        keypoints=rng.uniform(0, SIDE, (BATCH, 18, 2)).astype(np.float32),
        labelled=np.ones((BATCH, 18), bool),
        part=np.full(BATCH, "S1"),
        sequence=np.full(BATCH, "Walking"),
        camera=np.full(BATCH, "a"),
        frame=np.arange(BATCH),
        head_size=np.full(BATCH, np.nan, np.float32),
        points=rng.uniform(3, 5, (BATCH, 18, 3)).astype(np.float32),
        focal=camera,
        center=camera,
    )


def batch(images: ImageSet, *overrides: str) -> Callable[[], object]:
    """The next training batch, made in this process."""
    config = read_config(SingleStageConfig, overrides=[f"train.batch_size={BATCH}", f"data.size={SIZE}", *overrides])
    batches = ImageBatches(images, None, config, torch.device("cpu"))
    seeds = count()
    return lambda: list(batches.epoch(next(seeds)))


def plain_batch(images: ImageSet) -> NDArray[np.float32]:
    """(B, S, S, 3)."""
    matrices = crop_matrix(torch.from_numpy(images.box), SIZE).numpy()
    mean, std = (255 * np.array(values, np.float32) for values in PIXELS["imagenet"])
    made = []
    for file, matrix in zip(images.files, matrices, strict=True):
        picture = cv2.imread(str(file))
        assert picture is not None
        crop = cv2.warpAffine(picture, matrix, (SIZE, SIZE))
        made.append((crop.astype(np.float32) - mean) / std)
    return np.stack(made)
