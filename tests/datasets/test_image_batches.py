"""Batches of crops: independent of the process, half 3D and half 2D, complete over the ranks; errors name pictures."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lifting.command import InputError
from lifting.config import SingleStageConfig, read_config
from lifting.datasets import image_batches
from lifting.datasets.image_batches import BROKEN_IN_A_ROW, Crops, ImageBatches
from lifting.datasets.image_index import read_index
from lifting.datasets.image_packing import pack
from lifting.datasets.image_set import ImageSet
from lifting.geometry.crops import crop_labels, picture_points
from lifting.prediction import Batch

CPU = torch.device("cpu")
SIZE = 32
PLAIN = [
    "train.flip=false",
    "data.augment.scale=0",
    "data.augment.rotation=0",
    "data.augment.colour=0",
    "data.augment.occlude=0",
]


def image_set(folder: Path, n: int, *, deep: bool) -> ImageSet:
    """Pictures of one colour each: the n-th has red 10 (n + 1), and all have blue 200 if they are deep."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(n)
    for row in range(n):
        colour = (200 if deep else 0, 0, 10 * (row + 1))  # blue, green, red
        assert cv2.imwrite(str(folder / f"{row}.jpg"), np.full((64, 48, 3), colour, np.uint8))
    return ImageSet(
        files=np.array([str(folder / f"{row}.jpg") for row in range(n)]),
        box=np.tile(np.array([8, 16, 32, 32], np.float32), (n, 1)),
        keypoints=rng.uniform(10, 40, (n, 18, 2)).astype(np.float32),
        labelled=rng.random((n, 18)) < 0.8,
        part=np.full(n, "S1"),
        sequence=np.full(n, "Walking"),
        camera=np.full(n, "a"),
        frame=np.arange(n),
        head_size=np.full(n, np.nan, np.float32),
        points=rng.normal(0, 0.4, (n, 18, 3)).astype(np.float32) if deep else None,
        focal=np.full((n, 2), 100, np.float32) if deep else None,
        center=np.full((n, 2), 24, np.float32) if deep else None,
    )


@pytest.fixture
def deep(tmp_path: Path) -> ImageSet:
    return image_set(tmp_path / "deep", 10, deep=True)


@pytest.fixture
def flat(tmp_path: Path) -> ImageSet:
    return image_set(tmp_path / "flat", 4, deep=False)


def configured(*overrides: str) -> SingleStageConfig:
    return read_config(SingleStageConfig, overrides=[f"data.size={SIZE}", "train.batch_size=6", *overrides])


def rows_of(batch: Batch) -> list[int]:
    """The pictures in a batch without augmentation, identified by their red."""
    red = batch.input[:, 0, SIZE // 2, SIZE // 2].double()
    return [round(value / 10) - 1 for value in red.tolist()]


def refusal(attempt: Callable[[], object]) -> str:
    """The message of an attempt's error. The error itself is dropped, so that the loader's processes end at once."""
    try:
        attempt()
    except InputError as error:
        return str(error)
    pytest.fail("expected an InputError")


def parts(batch: Batch) -> tuple[torch.Tensor, ...]:
    assert batch.weight is not None and batch.has_depth is not None
    return batch.input, batch.target, batch.weight, batch.has_depth


def equal(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(parts(x), parts(y), strict=True)
    )


def test_an_epoch_is_each_deep_picture_once_and_as_many_flat_ones(deep: ImageSet, flat: ImageSet) -> None:
    batches = ImageBatches(deep, flat, configured(*PLAIN), CPU)
    assert len(batches) == 3  # ten pictures, three at a time
    epoch = list(batches.epoch(0))
    assert len(epoch) == 3
    seen_deep, seen_flat = [], []
    for batch in epoch:
        image, target, weight, has_depth = parts(batch)
        assert image.shape == (6, 3, SIZE, SIZE) and image.dtype == torch.uint8
        assert target.shape == (6, 18, 3) and weight.shape == (6, 18) and has_depth.shape == (6, 18)
        assert (target.dtype, weight.dtype, has_depth.dtype) == (torch.float32, torch.float32, torch.bool)
        blue = image[:, 2].double().mean((1, 2))
        assert (blue[:3] > 150).all() and (blue[3:] < 50).all()
        assert has_depth[:3].any(1).all() and not has_depth[3:].any() and not has_depth[:, 0].any()
        rows = rows_of(batch)
        seen_deep += rows[:3]
        seen_flat += rows[3:]
        for i, (row, images) in enumerate(zip(rows, [deep] * 3 + [flat] * 3, strict=True)):
            labelled = torch.from_numpy(images.labelled[row])
            assert torch.equal(weight[i], labelled.float())
            expected = (torch.from_numpy(images.keypoints[row]) - torch.tensor([24, 32])) / 32
            torch.testing.assert_close(target[i, labelled, :2], expected[labelled], rtol=0, atol=1e-6)
    assert len(set(seen_deep)) == 9 and set(seen_deep) <= set(range(10))
    assert sorted(seen_flat[:4]) == sorted(seen_flat[4:8]) == [0, 1, 2, 3]  # shuffled again whenever it runs out


def test_without_flat_pictures_a_batch_is_deep(deep: ImageSet) -> None:
    batches = ImageBatches(deep, None, configured(*PLAIN), CPU)
    assert len(batches) == 1
    (batch,) = batches.epoch(0)
    assert len(set(rows_of(batch))) == len(batch.input) == 6
    whole = ImageBatches(deep, None, configured(*PLAIN, "train.batch_size=64"), CPU)
    (batch,) = whole.epoch(0)
    assert sorted(rows_of(batch)) == list(range(10))


def test_the_seed_is_all_that_matters(deep: ImageSet, flat: ImageSet) -> None:
    state = torch.get_rng_state()
    batches = ImageBatches(deep, flat, configured(), CPU)
    first = list(batches.epoch(3))
    torch.manual_seed(17)
    np.random.default_rng(5).random()
    next(batches.epoch(9))  # and abandon it, as the engine does for batch norm
    assert equal(first, list(batches.epoch(3)))
    assert equal(first, list(ImageBatches(deep, flat, configured(), CPU).epoch(3)))
    assert not equal(first, list(batches.epoch(4)))
    torch.set_rng_state(state)
    list(batches.epoch(0))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_picture_that_repeats_in_an_epoch_is_augmented_differently(deep: ImageSet, tmp_path: Path) -> None:
    single = image_set(tmp_path / "single", 1, deep=False)
    (batch,) = ImageBatches(deep, single, configured("train.batch_size=20"), CPU).epoch(0)
    target = batch.target[10:]
    spans = (target[:, :, 0].amax(1) - target[:, :, 0].amin(1)).tolist()
    assert len(set(spans)) == 10


def test_processes_make_the_same_batches_and_stay(deep: ImageSet, flat: ImageSet) -> None:
    alone = ImageBatches(deep, flat, configured(), CPU)
    helped = ImageBatches(deep, flat, configured("data.workers=2"), CPU)
    assert equal(list(alone.epoch(0)), list(helped.epoch(0)))
    iterator = helped._loader._iterator
    assert iterator is not None
    next(helped.epoch(5))
    assert equal(list(alone.epoch(1)), list(helped.epoch(1)))
    assert helped._loader._iterator is iterator


def test_packed_pictures_are_read_by_processes_too(deep: ImageSet, tmp_path: Path) -> None:
    pack(tmp_path / "packed.h5", deep, source="a test", checksum="none")
    packed = read_index(tmp_path / "packed.h5")
    alone = list(ImageBatches(packed, None, configured(), CPU).epoch(0))
    assert equal(alone, list(ImageBatches(packed, None, configured("data.workers=2"), CPU).epoch(0)))
    torch.testing.assert_close(alone[0].target, next(ImageBatches(deep, None, configured(), CPU).epoch(0)).target)


def test_the_ranks_together_make_the_whole_batch(deep: ImageSet, flat: ImageSet) -> None:
    config = configured("train.batch_size=10")
    whole = list(ImageBatches(deep, flat, config, CPU).epoch(2))
    ours = [list(ImageBatches(deep, flat, config, CPU, rank, 2).epoch(2)) for rank in (0, 1)]
    assert [len(batch.input) for batch, *_ in ours] == [6, 4]
    for batch, one, two in zip(whole, *ours, strict=True):
        for part, first, second in zip(parts(batch), parts(one), parts(two), strict=True):
            for half, (a, b) in enumerate(((first[:3], second[:2]), (first[3:], second[2:]))):
                assert torch.equal(part[5 * half : 5 * half + 5][0::2], a)
                assert torch.equal(part[5 * half : 5 * half + 5][1::2], b)


def test_channels_last(deep: ImageSet) -> None:
    for wanted in ("true", "false"):
        (batch,) = ImageBatches(deep, None, configured(f"train.channels_last={wanted}"), CPU).epoch(0)
        last = batch.input.is_contiguous(memory_format=torch.channels_last)
        assert (last, batch.input.is_contiguous()) == (wanted == "true", wanted == "false")


def spoil(images: ImageSet, row: int) -> str:
    file = Path(images.files[row])
    file.write_bytes(file.read_bytes()[:-20])
    return str(file)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_picture_stops_in_one_line(deep: ImageSet, flat: ImageSet, workers: int) -> None:
    file = spoil(flat, 2)
    batches = ImageBatches(deep, flat, configured(f"data.workers={workers}"), CPU)
    assert (
        refusal(lambda: list(batches.epoch(0))) == f"{file}: expected a whole picture, got a file that ends too early"
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_pictures_are_skipped_and_counted(deep: ImageSet, flat: ImageSet, workers: int) -> None:
    config = configured(*PLAIN, "data.on_broken=skip", f"data.workers={workers}", "train.batch_size=20")
    untouched = ImageBatches(deep, flat, config, CPU)
    (before,) = untouched.epoch(0)
    assert untouched.skipped == set()
    missing = Path(deep.files[4])
    missing.unlink()
    broken = {str(missing), spoil(deep, 5), spoil(deep, 9), spoil(flat, 0)}
    batches = ImageBatches(deep, flat, config, CPU)
    (batch,) = batches.epoch(0)
    assert batches.skipped == broken
    instead = {4: 6, 5: 6, 9: 0}, {0: 1}
    rows = rows_of(before)
    expected = [instead[0].get(row, row) for row in rows[:10]] + [instead[1].get(row, row) for row in rows[10:]]
    assert rows_of(batch) == expected
    assert batch.weight is not None
    labelled = np.concatenate([deep.labelled[expected[:10]], flat.labelled[expected[10:]]])
    np.testing.assert_array_equal(batch.weight.numpy(), labelled)  # labels are those of the picture that replaced it
    list(batches.epoch(1))
    assert batches.skipped == broken


def test_the_next_picture_is_augmented_as_it_would_have_been_in_this_place(deep: ImageSet) -> None:
    order = [0, 1, 1]
    config = configured("data.on_broken=skip", "train.batch_size=3")
    fields = ("files", "box", "keypoints", "labelled", "points")
    two = replace(deep, **{name: getattr(deep, name)[order] for name in fields})
    whole = list(ImageBatches(two, None, config, CPU).epoch(0))
    spoil(deep, 0)
    place = ImageBatches(two, None, config, CPU)._plan(0)[0][0][:, 1].tolist().index(0)
    (skipped,) = ImageBatches(two, None, config, CPU).epoch(0)
    for row in range(3):
        assert torch.equal(skipped.input[row], whole[0].input[row]) == (row != place)


def test_a_missing_folder_does_not_count_as_broken_pictures(deep: ImageSet) -> None:
    gone = replace(deep, files=np.char.add(deep.files, ".gone"))
    with pytest.raises(InputError, match=r"\.jpg\.gone: .*; nor can the 9 pictures before it be read"):
        list(ImageBatches(gone, None, configured("data.on_broken=skip"), CPU).epoch(0))
    assert BROKEN_IN_A_ROW >= 10


@pytest.mark.parametrize("width", [0, -3, np.nan])
def test_an_empty_box(deep: ImageSet, width: float) -> None:
    box = deep.box.copy()
    box[3, 2] = width
    empty = replace(deep, box=box)
    for attempt in (
        lambda: ImageBatches(empty, None, configured(), CPU),
        lambda: next(image_batches.crop_batches(empty, SIZE, 4, 0, 0, 1)),
        lambda: next(image_batches.crop_batches(deep, SIZE, 4, 0, 0, 1, box=box)),
    ):
        assert refusal(attempt) == f"{deep.files[3]}: expected a box of a size above zero, got {width:g} x 32"


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("on_broken", ["stop", "skip"])
def test_a_box_outside_its_picture(deep: ImageSet, workers: int, on_broken: str) -> None:
    deep.box[7] = 100, 0, 20, 20
    message = f"{deep.files[7]}: expected a box that overlaps the 48 x 64 picture, got x 100, y 0, 20 x 20"
    config = configured(f"data.workers={workers}", f"data.on_broken={on_broken}", "train.batch_size=10")
    assert refusal(lambda: list(ImageBatches(deep, None, config, CPU).epoch(0))) == message
    assert refusal(lambda: list(image_batches.crop_batches(deep, SIZE, 4, workers, 0, 1))) == message


def test_a_label_that_is_not_finite(deep: ImageSet) -> None:
    deep.labelled[:] = True
    deep.labelled[2, 5] = False
    deep.keypoints[2, 5] = np.nan
    list(ImageBatches(deep, None, configured(), CPU).epoch(0))
    deep.labelled[2, 5] = True
    with pytest.raises(
        InputError, match=r"2\.jpg: expected finite labels, got NaN, infinity or more than 100000 for left_knee"
    ):
        ImageBatches(deep, None, configured(), CPU)
    deep.keypoints[2, 5] = 20
    assert deep.points is not None
    deep.points[6, 0, 2] = np.inf
    with pytest.raises(
        InputError, match=r"6\.jpg: expected finite labels, got NaN, infinity or more than 100000 for pelvis"
    ):
        ImageBatches(deep, None, configured(), CPU)


def test_nobody_labelled(deep: ImageSet) -> None:
    deep.labelled[:] = False
    deep.keypoints[:] = np.nan
    (batch,) = ImageBatches(deep, None, configured(), CPU).epoch(0)
    _, target, weight, has_depth = parts(batch)
    assert not weight.any() and not has_depth.any() and not target.any()


def test_more_ranks_than_samples(deep: ImageSet, flat: ImageSet) -> None:
    with pytest.raises(
        InputError, match=r"train\.batch_size: expected at least 4 samples of each set in a batch, .*got 3"
    ):
        ImageBatches(deep, flat, configured(), CPU, 0, 4)


@pytest.mark.parametrize("workers", [0, 2])
def test_crops_for_a_test_are_in_order_over_the_ranks(deep: ImageSet, workers: int) -> None:
    for rank, expected in ((0, [[0, 1], [6, 7]]), (1, [[2, 3], [8, 9]])):
        made = list(image_batches.crop_batches(deep, SIZE, 2, workers, rank, 3))
        assert [crops.rows.tolist() for crops in made] == expected
        for crops in made:
            assert crops.image.shape == (len(crops.rows), 3, SIZE, SIZE) and crops.image.dtype == torch.uint8
            assert crops.matrix.shape == (len(crops.rows), 2, 3) and crops.matrix.dtype == torch.float64
            assert rows_of(Batch(crops.image, crops.matrix)) == crops.rows.tolist()
    assert list(image_batches.crop_batches(deep, SIZE, 2, workers, 11, 12)) == []


def test_crops_for_a_test_lead_back_to_the_picture(deep: ImageSet) -> None:
    pixels = torch.from_numpy(deep.keypoints).double()
    matrix = torch.cat([crops.matrix for crops in image_batches.crop_batches(deep, SIZE, 4, 0, 0, 1)])
    labels = crop_labels(pixels, torch.zeros(pixels.shape[:2]), matrix, SIZE).float()
    assert float((picture_points(labels.double(), matrix, SIZE) - pixels).abs().max()) < 1e-4


def one(batches: Iterator[Crops]) -> Crops:
    (crops,) = batches
    return crops


def test_crops_for_a_test_with_other_boxes_and_painted_over(deep: ImageSet) -> None:
    plain = one(image_batches.crop_batches(deep, SIZE, 10, 0, 0, 1))
    halved = deep.box * np.array([1, 1, 0.5, 0.5], np.float32)
    near = one(image_batches.crop_batches(deep, SIZE, 10, 0, 0, 1, box=halved))
    torch.testing.assert_close(near.matrix[:, :, :2], 2 * plain.matrix[:, :, :2])

    def paint(crop: NDArray[np.uint8], row: int) -> None:
        crop[:4, : 2 + row] = 128

    for workers in (0, 1):
        painted = one(image_batches.crop_batches(deep, SIZE, 10, workers, 0, 1, paint=paint))
        for row in range(10):
            assert (painted.image[row, :, :4, : 2 + row] == 128).all()
            assert torch.equal(painted.image[row, :, 4:], plain.image[row, :, 4:])
            assert torch.equal(painted.image[row, :, :, 2 + row :], plain.image[row, :, :, 2 + row :])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_picture_stops_a_test(deep: ImageSet, workers: int) -> None:
    file = spoil(deep, 8)
    assert refusal(lambda: list(image_batches.crop_batches(deep, SIZE, 3, workers, 0, 1))).startswith(
        f"{file}: expected a whole picture"
    )
