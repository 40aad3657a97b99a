"""Crops of pictures and their labels: a dot drawn at a joint stays at its label; fast crops are the readable ones."""

import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from lifting.command import InputError
from lifting.config import AugmentConfig, SingleStageConfig, read_config
from lifting.datasets.augment import (
    HIDDEN,
    OUTSIDE,
    ROOT,
    TURNED,
    Augmentation,
    crop_of,
    decodable_shrink,
    draw,
    hide,
    labels_of,
    matrix_of,
    shrinkage,
    tint,
    training_crop,
    warp,
)
from lifting.datasets.decode import SHRINKS, BrokenPictureError, decode, reduce
from lifting.datasets.image_set import ImageSet
from lifting.geometry.crops import crop_matrix, transform
from lifting.geometry.skeleton import H36M18

Picture = NDArray[np.uint8]
SIDE, SIZE, SPREAD = 480, 128, 3.5
WITHIN = (0.1, 0.15)  # pixels of the crop: accuracy of a dot's position in the lossless picture and in the JPEG
BOX = np.array([90, 90, 260, 300], np.float32)


def image_set(files: list[Path], *, deep: bool = True) -> ImageSet:
    """A set of these pictures, with joints on a grid in the box, jittered differently in each picture."""
    n, rng = len(files), np.random.default_rng(5)
    grid = np.stack(np.meshgrid([-46, 0, 46], [-80, -48, -16, 16, 48, 80]), -1).reshape(18, 2)
    keypoints = grid + rng.uniform(-3, 3, (n, 18, 2)) + BOX[:2] + BOX[2:] / 2
    points = np.concatenate([keypoints / 100, rng.uniform(3, 5, (n, 18, 1))], -1)
    camera = np.full((n, 2), 100)
    return ImageSet(
        files=np.array([str(file) for file in files]),
        box=np.tile(BOX, (n, 1)),
        keypoints=keypoints.astype(np.float32),
        labelled=np.ones((n, 18), bool),
        part=np.full(n, "S1"),
        sequence=np.full(n, "Walking"),
        camera=np.full(n, "a"),
        frame=np.arange(n),
        head_size=np.full(n, np.nan, np.float32),
        points=points.astype(np.float32) if deep else None,
        focal=camera.astype(np.float32) if deep else None,
        center=camera.astype(np.float32) if deep else None,
    )


def dotted(keypoints: NDArray[np.float32]) -> Picture:
    """A black picture with a blob at each joint, in a mix of red and green that identifies the joint."""
    y, x = np.mgrid[:SIDE, :SIDE]
    canvas = np.zeros((SIDE, SIDE, 3))
    for joint, at in enumerate(keypoints.astype(np.float64)):
        blob = np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / (2 * SPREAD**2))
        canvas += blob[..., None] * (10.0 + 10 * joint, 190.0 - 10 * joint, 0)
    return np.rint(canvas).astype(np.uint8)


def look(crop: Picture, at: NDArray[np.float64], radius: float) -> tuple[NDArray[np.float64], float]:
    """The centroid of the blob around a position, and the joint that its colour identifies."""
    y, x = np.mgrid[: len(crop), : len(crop)]
    light = crop * (np.hypot(x - at[0], y - at[1]) < radius)[..., None].astype(np.float64)
    red, green, _ = light.sum((0, 1))
    grey = light.sum(-1)
    return np.array([(grey * x).sum(), (grey * y).sum()]) / grey.sum(), (200 * red / (red + green) - 10) / 10


@pytest.fixture(scope="module")
def dots(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    """Two pictures with a dot at each joint, one lossless and one a JPEG."""
    folder = tmp_path_factory.mktemp("dots")
    images = image_set([folder / "dots.png", folder / "dots.jpg"])
    for file, keypoints in zip(images.files, images.keypoints, strict=True):
        assert cv2.imwrite(str(file), dotted(keypoints)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    return images


def configured(*overrides: str) -> SingleStageConfig:
    return read_config(SingleStageConfig, overrides=[f"data.size={SIZE}", *overrides])


def labels(images: ImageSet, row: int, matrix: Tensor, mirrored: bool, size: int = SIZE) -> tuple[Tensor, ...]:
    made = labels_of(images, np.array([row]), matrix[None], size, torch.tensor([mirrored]))
    return tuple(part[0] for part in made)


def distances(crop: Picture, target: Tensor, zoom: float, row: int, mirrored: bool) -> NDArray[np.float64]:
    """The distance from each label to the dot there, which must be the dot of that joint or of its mirror image.

    Colours are checked only in row 0, because a JPEG stores them at half the resolution.
    """
    size, found = len(crop), []
    for joint, at in enumerate((target[:, :2].double().numpy() + 0.5) * size - 0.5):
        centroid, colour = look(crop, at, 3.2 * SPREAD * zoom + 1)
        assert row == 1 or abs(colour - (H36M18.mirror[joint] if mirrored else joint)) < 0.3
        found.append(np.linalg.norm(centroid - at))
    return np.array(found)


@pytest.mark.parametrize("row", [0, 1], ids=["png", "jpg"])
@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(),
        Augmentation(scale=0.75),
        Augmentation(scale=1.3),
        Augmentation(angle=0.5),
        Augmentation(angle=-0.3),
        Augmentation(mirrored=True),
        Augmentation(scale=1.2, angle=0.4, mirrored=True),
    ],
    ids=["none", "near", "far", "clockwise", "counter", "mirrored", "all"],
)
def test_dots_follow_their_joints(dots: ImageSet, row: int, augmentation: Augmentation) -> None:
    a = augmentation
    for size, shrunk in ((320, (1,)), (128, (1, 2)), (64, (2, 4))):
        crop, matrix = crop_of(dots, row, dots.box[row], size, a)
        assert decodable_shrink(matrix.numpy()) in shrunk
        target = labels(dots, row, matrix, a.mirrored, size)[0]
        zoom = size / (float(BOX.max()) * a.scale)
        assert distances(crop, target, zoom, row, a.mirrored).max() < WITHIN[row]


@pytest.mark.parametrize("shrink", SHRINKS)
@pytest.mark.parametrize("ending", [".jpg", ".png"])
@pytest.mark.parametrize("side", [640, 645], ids=["even", "with a rest"])
def test_a_blob_stays_where_it_is_however_it_was_decoded(shrink: int, ending: str, side: int) -> None:
    y, x = np.mgrid[:side, : side + 3]
    for at in np.random.default_rng(0).uniform(280, 360, (4, 2)):
        blob = 220 * np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / (2 * 20.0**2))
        picture = decode(cv2.imencode(ending, blob.astype(np.uint8))[1].tobytes(), "blob", shrink=shrink)
        matrix = crop_matrix(torch.tensor([120.0, 120.0, 400.0, 400.0]), 80, 1.0, 0.3, True)
        crop = warp(picture, matrix.numpy(), 80, shrunk=shrink)
        place = transform(matrix, torch.tensor(at[None]))[0].numpy()
        assert np.linalg.norm(look(crop, place, 16)[0] - place) < 0.03


def test_dots_follow_their_joints_in_training(dots: ImageSet) -> None:
    config = configured("data.augment.occlude=0", "data.augment.colour=0", "data.augment.scale=0.25")
    found: list[list[float]] = [[], []]
    seen = set()
    for seed in range(40):
        row = seed % 2
        crop, matrix, mirrored = training_crop(dots, row, config, np.random.default_rng(seed))
        zoom = math.sqrt(abs(float(torch.linalg.det(matrix[:, :2]))))
        found[row] += distances(crop, labels(dots, row, matrix, mirrored)[0], zoom, row, mirrored).tolist()
        seen.add(mirrored)
    assert max(found[0]) < WITHIN[0] and max(found[1]) < WITHIN[1]
    assert seen == {True, False}


def readable_training_crop(
    images: ImageSet, row: int, config: SingleStageConfig, rng: np.random.Generator
) -> tuple[Picture, Tensor]:
    """`training_crop` step by step: BGR to RGB after decoding, the map from tensors, a warp of three channels."""
    a = draw(config.data.augment, rng, flip=config.train.flip)
    matrix = crop_matrix(torch.from_numpy(images.box[row]), SIZE, a.scale, a.angle, a.mirrored)
    pixels_each = 1 / math.sqrt(abs(float(torch.linalg.det(matrix[:, :2]))))
    shrunk = max(k for k in SHRINKS if k <= max(1, pixels_each))
    flag = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4}[shrunk]
    lossless = str(images.files[row]).endswith(".png")
    bgr = cv2.imread(str(images.files[row]), cv2.IMREAD_COLOR if lossless else flag)
    assert bgr is not None
    picture = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB).astype(np.uint8)
    picture = reduce(picture, shrunk if lossless else 1)
    moved = matrix.numpy().copy()
    moved[:, 2] += moved[:, :2].sum(1) * (shrunk - 1) / 2
    moved[:, :2] *= shrunk
    crop = cv2.warpAffine(picture, moved, (SIZE, SIZE), flags=cv2.INTER_LINEAR, borderValue=OUTSIDE)
    crop = np.minimum(np.rint(crop * np.array(a.colour)), 255).astype(np.uint8)
    if a.rectangle is not None:
        width, height = (images.box[row, 2:] / pixels_each).tolist()
        hide(crop, a.rectangle, (width, height), rng)
    return crop, matrix


@pytest.mark.parametrize("row", [0, 1], ids=["png", "jpg"])
def test_fast_crops_are_the_readable_ones(dots: ImageSet, row: int) -> None:
    config, shrunk = configured("data.augment.scale=0.6"), set()
    for seed in range(30):
        crop, matrix, _ = training_crop(dots, row, config, np.random.default_rng(seed))
        expected, expected_matrix = readable_training_crop(dots, row, config, np.random.default_rng(seed))
        torch.testing.assert_close(matrix, expected_matrix, rtol=0, atol=1e-10)
        difference = np.abs(crop.astype(int) - expected)
        assert difference.max() <= 1 and difference.mean() < 0.01
        shrunk.add(decodable_shrink(matrix.numpy()))
    assert len(shrunk) > 1


def test_a_warp_that_sees_part_of_the_picture_is_one_that_sees_all_of_it() -> None:
    rng = np.random.default_rng(0)
    picture = cv2.GaussianBlur(rng.integers(0, 256, (90, 140, 3), dtype=np.uint8), (0, 0), 2).astype(np.uint8)
    for box in (rng.uniform((-150, -150, 30, 30), (200, 150, 60, 60), (100, 4))).astype(np.float32):
        size = (64, 64) if rng.random() < 0.5 else (40, 72)
        matrix = matrix_of(box, size, Augmentation(1, rng.uniform(-3, 3), bool(rng.random() < 0.5)))
        expected = cv2.warpAffine(picture, matrix, size, flags=cv2.INTER_LINEAR, borderValue=OUTSIDE)
        difference = np.abs(warp(picture, matrix, size).astype(int) - expected)
        assert difference.max() <= 1 and difference.mean() < 0.01


def test_a_picture_narrower_than_a_pixel_of_the_crop() -> None:
    matrix = np.array([[0.25, 0, 0], [0, 0.25, 0]])
    tall, wide = (warp(np.full(shape, 200, np.uint8), matrix, 50) for shape in ((200, 2, 3), (2, 200, 3)))
    assert tall.shape == (50, 50, 3)
    assert (tall[0, 0] > 128).all()
    np.testing.assert_array_equal(tall, wide.transpose(1, 0, 2))


def test_scalars_make_the_map_of_tensors() -> None:
    rng = np.random.default_rng(0)
    for box in rng.uniform(1, 900, (200, 4)).astype(np.float32):
        a = Augmentation(rng.uniform(0.5, 2), rng.uniform(-math.pi, math.pi), bool(rng.random() < 0.5))
        for size in (SIZE, (96, 128)):
            expected = crop_matrix(torch.from_numpy(box), size, a.scale, a.angle, a.mirrored)
            made = matrix_of(box, size, a)
            np.testing.assert_allclose(made, expected, rtol=1e-13, atol=1e-9)
        assert math.isclose(shrinkage(made), 1 / math.sqrt(abs(np.linalg.det(made[:, :2]))), rel_tol=1e-12)


def test_colour_and_noise_change_only_pixels(dots: ImageSet) -> None:
    """The same draw with and without them has the same labels, and the same pixels outside the rectangle."""
    whole = ("data.augment.occlude=1", "data.augment.colour=0")
    for seed in range(20):
        made = [
            training_crop(dots, 0, configured(*overrides), np.random.default_rng(seed))
            for overrides in (whole, ("data.augment.occlude=0", "data.augment.colour=0"), ())
        ]
        hidden, plain, coloured = made
        for other in (hidden, coloured):
            assert torch.equal(other[1], plain[1]) and other[2] == plain[2]
        y, x = np.nonzero((hidden[0] != plain[0]).any(-1))
        inside = np.zeros((SIZE, SIZE), bool)
        inside[y.min() : y.max() + 1, x.min() : x.max() + 1] = True
        assert inside.sum() - len(y) < 0.001 * inside.sum() + 1  # noise may happen to be the pixel's own colour
        zoom = abs(float(torch.linalg.det(plain[1][:, :2])))
        assert inside.sum() < HIDDEN[1] * 1.1 * zoom * BOX[2] * BOX[3]
        assert np.ptp(hidden[0][inside]) > 200


def test_a_rectangle_of_noise_by_hand() -> None:
    """A quarter of a person of 30 x 20 pixels, half as wide again as high, off the middle of a crop of 60 x 40."""
    crop = np.zeros((40, 60, 3), np.uint8)
    hide(crop, (0.1, -0.2, 0.24, 1.5), (30, 20), np.random.default_rng(0))
    y, x = np.nonzero(crop.any(-1))  # 144 pixels: sqrt(216) wide and sqrt(96) high, about (33, 16)
    assert (x.min(), x.max() + 1, y.min(), y.max() + 1) == (26, 40, 11, 21)
    hide(crop, (0.9, 0.9, 4.0, 1.0), (30, 20), np.random.default_rng(0))  # beyond the corner
    assert crop[-1, -1].any()


def test_tint_is_a_product_that_stays_in_range() -> None:
    crop = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    colour = (1.2, 0.8, 0.97)
    expected = np.minimum(np.rint(crop * np.array(colour)), 255)
    made = tint(crop, colour)
    assert made.dtype == np.uint8
    assert np.abs(made - expected).max() <= 1  # halves may be rounded either way
    assert made.max() == 255
    np.testing.assert_array_equal(tint(crop, (1.0, 1.0, 1.0)), crop)


def test_what_is_drawn_is_within_the_configured_bounds() -> None:
    config, rng = AugmentConfig(scale=0.25, rotation=40, colour=0.1, occlude=0.3), np.random.default_rng(0)
    drawn = [draw(config, rng, flip=True) for _ in range(2000)]
    scale, angle = np.array([a.scale for a in drawn]), np.degrees([a.angle for a in drawn])
    colour = np.array([a.colour for a in drawn])
    assert 0.75 <= scale.min() < 0.76 and 1.24 < scale.max() <= 1.25
    assert -40 <= angle.min() < -39 and 39 < angle.max() <= 40
    assert 0.9 <= colour.min() < 0.901 and 1.099 < colour.max() <= 1.1
    assert abs(np.corrcoef(colour.T) - np.eye(3)).max() < 0.1
    for share, expected in (
        (np.mean(angle != 0), TURNED),
        (np.mean([a.mirrored for a in drawn]), 0.5),
        (np.mean([a.rectangle is not None for a in drawn]), 0.3),
    ):
        assert abs(share - expected) < 0.04
    areas = np.array([a.rectangle[2:] for a in drawn if a.rectangle is not None])
    assert 0.05 <= areas[:, 0].min() < 0.06 and 0.39 < areas[:, 0].max() <= 0.4
    assert 1 / 3 <= areas[:, 1].min() < 0.34 and 2.95 < areas[:, 1].max() <= 3
    assert not any(draw(config, rng, flip=False).mirrored for _ in range(50))
    nothing = AugmentConfig(scale=0, rotation=0, colour=0, occlude=0)
    assert draw(nothing, rng, flip=False) == Augmentation()


def test_mirrored_labels_are_those_of_the_mirrored_person(dots: ImageSet) -> None:
    some = replace(dots, labelled=np.random.default_rng(0).random((2, 18)) < 0.6)
    straight = labels(some, 0, crop_of(some, 0, BOX, SIZE)[1], False)
    crop, matrix = crop_of(some, 0, BOX, SIZE, Augmentation(mirrored=True))
    mirrored = labels(some, 0, matrix, True)
    mirror = list(H36M18.mirror)
    torch.testing.assert_close(mirrored[0], straight[0][mirror] * torch.tensor([-1, 1, 1]), rtol=0, atol=1e-6)
    assert torch.equal(mirrored[1], straight[1][mirror]) and torch.equal(mirrored[2], straight[2][mirror])
    assert not torch.equal(mirrored[1], straight[1])  # otherwise nothing was tested
    assert mirror[H36M18.joints.index("left_wrist")] == H36M18.joints.index("right_wrist")
    # The mirrored crop is the mirror image of the crop, so twice is once.
    difference = crop[:, ::-1].astype(int) - crop_of(some, 0, BOX, SIZE)[0]
    assert np.abs(difference).max() <= 1


def test_labels(dots: ImageSet) -> None:
    images = replace(dots, keypoints=dots.keypoints.copy(), labelled=dots.labelled.copy())
    images.keypoints[0, 3], images.labelled[0, 3] = np.nan, False
    images.keypoints[0, 5] = 1000, -300  # far outside the crop, but still a label
    matrix = crop_of(images, 0, BOX, SIZE)[1]
    target, weight, has_depth = labels(images, 0, matrix, False)
    assert (target.dtype, weight.dtype, has_depth.dtype) == (torch.float32, torch.float32, torch.bool)
    assert target.isfinite().all() and not target[3].any()
    assert weight.tolist() == [float(joint != 3) for joint in range(18)]
    assert has_depth.tolist() == [joint not in (ROOT, 3) for joint in range(18)]
    assert images.points is not None
    depth = (images.points[0, :, 2].astype(np.float64) - images.points[0, ROOT, 2]) / 2
    np.testing.assert_allclose(target[weight > 0, 2], depth[images.labelled[0]], atol=1e-7)
    middle = BOX[:2] + BOX[2:] / 2
    np.testing.assert_allclose(target[5, :2], ((1000, -300) - middle) / BOX.max(), atol=1e-6)

    flat = replace(images, points=None, focal=None, center=None)
    flat_target, flat_weight, flat_depth = labels(flat, 0, matrix, False)
    assert torch.equal(flat_target[:, :2], target[:, :2]) and torch.equal(flat_weight, weight)
    assert not flat_target[:, 2].any() and not flat_depth.any()

    nobody = replace(images, labelled=np.zeros_like(images.labelled))
    assert not any(part.any() for part in labels(nobody, 0, matrix, False))


def test_outside_of_the_picture_is_grey(dots: ImageSet) -> None:
    crop, _ = crop_of(dots, 0, np.array([-200, -200, 300, 300], np.float32), SIZE)
    assert (crop[: SIZE // 2] == 128).all()
    assert (crop[-20:, -20:] < 128).all()


def test_shrinking_averages() -> None:
    """Stripes one pixel wide become grey at every scale, whether the decoder or `warp` shrinks them."""
    stripes = np.zeros((400, 400, 3), np.uint8)
    stripes[:, ::2] = 200
    encoded = cv2.imencode(".jpg", stripes)[1].tobytes()
    for factor in (2, 3, 4, 6.5, 9, 40):
        matrix = np.array([[1 / factor, 0, 0], [0, 1 / factor, 0]])
        size, shrunk = int(400 / factor) - 2, decodable_shrink(matrix)
        whole = warp(stripes, matrix, size)[2:-2, 2:-2]
        reduced = warp(decode(encoded, "stripes", shrink=shrunk), matrix, size, shrunk=shrunk)[2:-2, 2:-2]
        for crop in (whole, reduced):
            assert np.abs(crop.astype(int) - 100).max() <= (36 if factor == 3 else 16), factor


def test_a_box_outside_its_picture(dots: ImageSet) -> None:
    for box in ([480, 10, 50, 60], [-50, 10, 50, 60], [10, 480, 50, 60], [10, -60, 50, 60]):
        with pytest.raises(InputError) as refusal:
            crop_of(dots, 0, np.array(box, np.float32), SIZE)
        x, y, w, h = box
        message = f"dots.png: expected a box that overlaps the 480 x 480 picture, got x {x}, y {y}, {w} x {h}"
        assert message in str(refusal.value)
        assert not isinstance(refusal.value, BrokenPictureError)
    for box in ([479, 10, 50, 60], [-49, 10, 50, 60], [10, 479, 50, 60], [10, -59, 50, 60]):
        assert crop_of(dots, 0, np.array(box, np.float32), SIZE)[0].shape == (SIZE, SIZE, 3)
