"""Batches of crops with their labels, read from picture files by the configured number of processes.

The augmentation of a sample depends only on the epoch's seed and on the sample's place in the epoch, so a batch is the
same whichever process makes it, and a resumed run sees the same batches as an uninterrupted one.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lifting.command import InputError
from lifting.config import SingleStageConfig
from lifting.datasets.augment import ROOT, crop_of, labels_of, training_crop
from lifting.datasets.decode import BrokenPictureError
from lifting.datasets.image_set import ImageSet, check_boxes
from lifting.geometry.crops import Size
from lifting.prediction import Batch

ABSURD = 1e5  # no label in pixels or metres is as large
BROKEN_IN_A_ROW = 100  # so many in a row mean that a folder is missing

Made = TypeVar("Made", bound=tuple[object, ...])


class Crops(NamedTuple):
    """Crops without augmentation, for evaluation.

    Attributes:
        image: (B, 3, H, W) uint8 RGB, channels last in memory.
        matrix: (B, 2, 3) float64 of `crops.crop_matrix`.
        rows: (B,) int64, the rows of the set.
    """

    image: Tensor
    matrix: Tensor
    rows: Tensor


class _Training(NamedTuple):
    images: Tensor  # (B, H, W, 3)
    target: Tensor
    weight: Tensor
    has_depth: Tensor
    skipped: list[str]


class ImageBatches:
    """Shuffled training batches: pictures with 3D labels, or half of these and half of pictures with only 2D labels.

    An epoch has every picture of ``deep`` once, except those of an incomplete last batch, and as many of ``flat``,
    which is shuffled again whenever it runs out. Every rank draws the same order and takes its share of each half.
    Only one epoch runs at a time: a new one ends the one before.

    Args:
        deep: pictures with 3D labels.
        flat: pictures with 2D labels, or None.
        config: crops, augmentation, batch size, workers, and what to do about broken pictures.
        device: where the batches go.
        rank, world: the number of this process, and of all processes.

    Attributes:
        skipped: names of this rank's pictures that could not be read and were replaced by the next one in their set.

    Raises:
        InputError: a box is empty, a label is not finite, or a batch has fewer samples of a set than there are ranks.
            An epoch also raises it for a box outside its picture and, with ``on_broken: stop``, for a picture that
            cannot be read.
    """

    def __init__(
        self,
        deep: ImageSet,
        flat: ImageSet | None,
        config: SingleStageConfig,
        device: torch.device,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.sets = (deep,) if flat is None else (deep, flat)
        for image_set in self.sets:
            check_labels(image_set)
        self.each = min(config.train.batch_size // len(self.sets), len(deep))
        if self.each < world:
            raise InputError(
                f"train.batch_size: expected at least {world} samples of each set in a batch, one for each rank, "
                f"got {self.each}"
            )
        self.device, self.channels_last = device, config.train.channels_last
        self.rank, self.world = rank, world
        self.skipped: set[str] = set()
        self._order: list[NDArray[np.int64]] = []
        pinned = device.type == "cuda"
        self._loader = _loader(_TrainingCrops(self.sets, config), self._order, config.data.workers, pinned=pinned)

    def __len__(self) -> int:
        return len(self.sets[0]) // self.each

    def epoch(self, seed: int, start: int = 0) -> Iterator[Batch]:
        """One pass, from batch ``start`` on; ``seed`` fixes its order and its augmentations."""
        self._order[:] = self._plan(seed)[start:]
        for made in _read(self._loader):
            self.skipped.update(made.skipped)
            images, *labels = (part.to(self.device, non_blocking=True) for part in made[:4])
            images = rearrange(images, "b h w c -> b c h w")  # a view: the channels stay last in memory
            yield Batch(images if self.channels_last else images.contiguous(), *labels)

    def _plan(self, seed: int) -> list[NDArray[np.int64]]:
        """This rank's samples in each batch: (sets, n, 3), keys of (seed, row of the set, place in the epoch)."""
        rng = np.random.default_rng(seed)
        total = len(self) * self.each
        parts = []
        for image_set in self.sets:
            passes = -(-total // len(image_set))
            rows = np.concatenate([rng.permutation(len(image_set)) for _ in range(passes)])[:total]
            keys = np.stack([np.full(total, seed), rows, np.arange(total)], 1)
            batches = rearrange(keys, "(batch sample) key -> batch sample key", sample=self.each)
            parts.append(batches[:, self.rank :: self.world])
        return list(np.stack(parts, 1))


def crop_batches(
    image_set: ImageSet,
    size: Size,
    batch_size: int,
    workers: int,
    rank: int,
    world: int,
    *,
    box: NDArray[np.float32] | None = None,
    paint: Callable[[NDArray[np.uint8], int], None] | None = None,
) -> Iterator[Crops]:
    """Crops of the batches rank, rank + world, ... of the set, in its order; its last batch may be smaller.

    Args:
        size: of the crops.
        box: (N, 4), used instead of the set's own boxes.
        paint: changes a crop, (H, W, 3), in place; it is called with the crop and its row.

    Raises:
        InputError: a picture cannot be read, or a box is empty or outside its picture.
    """
    boxes = image_set.box if box is None else box
    check_boxes(image_set, boxes)
    rows = np.arange(len(image_set))
    order = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)][rank::world]
    for crops in _read(_loader(_TestCrops(image_set, boxes, size), order, workers)):
        if paint is not None:
            for crop, row in zip(crops.image.numpy(), crops.rows.tolist(), strict=True):
                paint(crop, row)
        yield crops._replace(image=rearrange(crops.image, "b h w c -> b c h w"))


def check_labels(image_set: ImageSet) -> None:
    """Raises `InputError` as `check_boxes` does, and for the first label that is not finite."""
    check_boxes(image_set, image_set.box)
    finite = (np.abs(image_set.keypoints) < ABSURD).all(-1)  # which NaN is not
    if image_set.points is not None:
        finite &= (np.abs(image_set.points) < ABSURD).all(-1)
        finite &= np.isfinite(image_set.points[:, ROOT : ROOT + 1, 2])  # every depth is relative to it
    for row, joint in np.argwhere(image_set.labelled & ~finite)[:1]:
        name = image_set.joint_set.joints[joint]
        got = f"NaN, infinity or more than {ABSURD:g} for {name}"
        raise InputError(f"{image_set.files[row]}: expected finite labels, got {got}")


class _TrainingCrops(Dataset["_Training | str"]):
    """Batches by their keys. An error is returned, because one raised in a worker process becomes a traceback."""

    def __init__(self, sets: tuple[ImageSet, ...], config: SingleStageConfig) -> None:
        self.sets, self.config = sets, config

    def __getitem__(self, keys: NDArray[np.int64]) -> _Training | str:
        skipped: list[str] = []
        images: list[NDArray[np.uint8]] = []
        labels = []
        size = self.config.data.size
        try:
            for which, image_set in enumerate(self.sets):
                made = [self._crop(which, key, skipped) for key in keys[which].tolist()]
                rows, crops, matrices, mirrored = zip(*made, strict=True)
                images += crops
                labels.append(labels_of(image_set, np.array(rows), torch.stack(matrices), size, torch.tensor(mirrored)))
        except InputError as error:
            return str(error)
        target, weight, has_depth = (torch.cat(parts) for parts in zip(*labels, strict=True))
        return _Training(torch.from_numpy(np.stack(images)), target, weight, has_depth, skipped)

    def _crop(self, which: int, key: list[int], skipped: list[str]) -> tuple[int, NDArray[np.uint8], Tensor, bool]:
        """A row and its `training_crop`: the row of the key, or the next one of its set that can be read."""
        image_set, (seed, row, place) = self.sets[which], key
        for later in range(min(BROKEN_IN_A_ROW, len(image_set))):
            one = (row + later) % len(image_set)
            try:
                rng = np.random.default_rng((seed, which, place))
                return one, *training_crop(image_set, one, self.config, rng)
            except BrokenPictureError as error:
                if self.config.data.on_broken == "stop":
                    raise
                skipped.append(str(image_set.files[one]))
                last = error
        raise InputError(f"{last}; nor can the {later} pictures before it be read")


class _TestCrops(Dataset["Crops | str"]):
    """Batches by their rows, with images (B, H, W, 3); errors are returned as above."""

    def __init__(self, image_set: ImageSet, boxes: NDArray[np.float32], size: Size) -> None:
        self.image_set, self.boxes, self.size = image_set, boxes, size

    def __getitem__(self, rows: NDArray[np.int64]) -> Crops | str:
        try:
            made = [crop_of(self.image_set, int(row), self.boxes[row], self.size) for row in rows]
        except InputError as error:
            return str(error)
        images, matrices = zip(*made, strict=True)
        return Crops(torch.from_numpy(np.stack(images)), torch.stack(matrices), torch.from_numpy(rows))


def _loader(
    dataset: "Dataset[Made | str]", order: list[NDArray[np.int64]], workers: int, *, pinned: bool = False
) -> "DataLoader[Made | str]":
    """Reads the batches that ``order`` lists when the iteration starts; its processes persist between iterations."""
    return DataLoader(
        dataset,
        batch_size=None,  # the dataset makes whole batches
        sampler=order,
        num_workers=workers,
        collate_fn=_as_it_is,
        worker_init_fn=_start_worker,
        persistent_workers=workers > 0,
        pin_memory=pinned,
        generator=torch.Generator(),  # its own, so that the global one does not change
    )


def _read(made: "Iterable[Made | str]") -> Iterator[Made]:
    for batch in made:
        if isinstance(batch, str):
            raise InputError(batch)
        yield batch


def _as_it_is(batch: Made) -> Made:
    return batch


def _start_worker(_: int) -> None:
    cv2.setNumThreads(0)  # one thread per process; the DataLoader does the same for torch
    _leave_stops_to_the_parent()


def _leave_stops_to_the_parent() -> None:
    """Ctrl-C and SIGTERM reach every process of a terminal or a batch job, but the parent still wants its batches.

    It saves its state first. Then it ends this process itself, by a SIGTERM of its own.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):  # macOS and Windows
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def watch() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
            pass
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
