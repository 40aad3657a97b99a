"""Index files: round trips, packed pictures that agree with their labels, and the refusal of other files."""

import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from lifting.command import InputError
from lifting.datasets import image_packing
from lifting.datasets.augment import Augmentation, crop_of
from lifting.datasets.decode import decode
from lifting.datasets.image_index import read_encoded, read_index, write_index
from lifting.datasets.image_packing import pack
from lifting.datasets.image_set import ImageSet, select

FLAT = ("points", "focal", "center")


def dotted(folder: Path, count: int = 5, *, deep: bool = True, size: tuple[int, int] = (700, 500)) -> ImageSet:
    """Black pictures with a soft white dot at joint ``row`` of each row; boxes small, large, cut off."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    focal, center = random.uniform(900, 1200, (count, 2)), random.uniform(200, 400, (count, 2))
    box = np.array(
        [[300, 200, 60, 90], [150, 60, 300, 402.5], [-40, -30, 350, 200], [420, 100, 250, 380], [1, 2, 3, 4]]
    )
    box = box[np.arange(count) % 5].astype(np.float64)
    keypoints = box[:, None, :2] + random.uniform(0.3, 0.7, (count, 18, 2)) * box[:, None, 2:]
    z = random.uniform(3, 5, (count, 18, 1))
    points = np.concatenate([(keypoints - center[:, None]) / focal[:, None] * z, z], -1)
    files = []
    for row in range(count):
        files.append(str(folder / f"{row}.png"))
        y, x = np.mgrid[: size[1], : size[0]]
        distance = ((np.stack([x, y], -1) - keypoints[row, row % 18]) ** 2).sum(-1)
        assert cv2.imwrite(files[-1], np.rint(255 * np.exp(-distance / 50)).astype(np.uint8))
    return ImageSet(
        files=np.array(files),
        box=box.astype(np.float32),
        keypoints=keypoints.astype(np.float32),
        labelled=random.random((count, 18)) < 0.8,
        part=np.array([f"S{row % 2}" for row in range(count)]),
        sequence=np.array(["Walking 1", "é 2", "", "x", "y"])[np.arange(count) % 5],
        camera=np.array(["54138969"] * count),
        frame=np.arange(count) * 64,
        head_size=np.where(np.arange(count) % 2, np.nan, 30).astype(np.float32),
        points=points.astype(np.float32) if deep else None,
        focal=focal.astype(np.float32) if deep else None,
        center=center.astype(np.float32) if deep else None,
    )


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    return dotted(tmp_path / "set" / "images")


def write(path: Path, images: ImageSet) -> Path:
    write_index(path, images, source="a test", checksum="none")
    return path


def packed(path: Path, images: ImageSet, **options: float) -> ImageSet:
    pack(path, images, source="a test", checksum="none", **options)  # type: ignore[arg-type]
    return read_index(path)


def assert_same(got: ImageSet, images: ImageSet) -> None:
    for name in ("box", "keypoints", "labelled", "part", "sequence", "camera", "frame", "head_size", *FLAT):
        before, after = getattr(images, name), getattr(got, name)
        np.testing.assert_array_equal(after, before)
        if before is not None:
            assert after.dtype.kind == before.dtype.kind


@pytest.mark.parametrize("deep", [True, False])
def test_round_trip(tmp_path: Path, deep: bool) -> None:
    images = dotted(tmp_path / "images", deep=deep)
    got = read_index(write(tmp_path / "out" / "index.h5", images))
    assert_same(got, images)
    assert got.packed is None
    assert (got.points is not None) == deep
    for row, file in enumerate(images.files):
        assert read_encoded(got, row) == Path(file).read_bytes()


def test_index_and_pictures_move_together(tmp_path: Path, images: ImageSet) -> None:
    write(tmp_path / "set" / "index.h5", images)
    before = read_encoded(images, 1)
    shutil.move(tmp_path / "set", tmp_path / "elsewhere")
    assert read_encoded(read_index(tmp_path / "elsewhere" / "index.h5"), 1) == before
    with pytest.raises(InputError, match=r"set/images/1\.png: expected a readable picture"):
        read_encoded(images, 1)


def test_an_index_apart_finds_its_pictures(tmp_path: Path, images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "there" / "index.h5", images)
    shutil.move(tmp_path / "there", tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    assert read_encoded(read_index(Path("index.h5")), 2) == read_encoded(images, 2)


def test_relative_paths_are_of_the_working_folder(
    tmp_path: Path, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path / "set")
    relative = np.array([os.path.relpath(file) for file in images.files.tolist()])
    write(Path("index.h5"), ImageSet(**{**vars(images), "files": relative}))
    monkeypatch.chdir(tmp_path)
    assert read_encoded(read_index(Path("set/index.h5")), 3) == read_encoded(images, 3)


# ---- packed


def middle_of_dot(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(x, y) of the bright dot."""
    light = picture[..., 0].astype(np.float64)
    light[light < 16] = 0
    y, x = np.mgrid[: light.shape[0], : light.shape[1]]
    return np.asarray(np.array([(light * x).sum(), (light * y).sum()]) / light.sum())


@pytest.mark.parametrize("side", [1000, 320, 97])
def test_packed_dots_are_where_the_labels_say(tmp_path: Path, images: ImageSet, side: int) -> None:
    images = select(images, np.arange(4))  # the last box is no larger than its dot
    got = packed(tmp_path / "packed.h5", images, side=side)
    assert (got.box[:, 2:].max(1) <= side + 1e-3).all()
    for row in range(len(got)):
        picture = decode(read_encoded(got, row), "a cut")
        assert np.abs(middle_of_dot(picture) - got.keypoints[row, row]).max() < 0.1
        shrunk = got.box[row, 2:] / images.box[row, 2:]
        expected = min(1, side / images.box[row, 2:].max())
        assert np.abs(shrunk - expected).max() < 1 / min(picture.shape[:2])


@pytest.mark.parametrize("angle", [-30, 0, 30])
@pytest.mark.parametrize("side", [1000, 150])
def test_augmented_crops_are_those_of_the_picture(tmp_path: Path, images: ImageSet, side: int, angle: float) -> None:
    """Up to their corners, which would be grey if the cut-out were too small, and grey beyond the picture."""
    images = select(images, np.arange(4))
    got = packed(tmp_path / "packed.h5", images, side=side)
    largest = Augmentation(scale=1.3, angle=np.radians(angle))
    for row in range(len(got)):
        before, _ = crop_of(images, row, images.box[row], 128, largest)
        after, _ = crop_of(got, row, got.box[row], 128, largest)
        apart = np.abs(before.astype(int) - after.astype(int)).max(-1)
        assert np.median(apart) <= 1
        assert (apart > 40).mean() < 0.02  # the edge of the picture, after shrinking


def test_packed_labels_project_as_before(tmp_path: Path, images: ImageSet) -> None:
    got = packed(tmp_path / "packed.h5", images, side=100)
    assert got.points is not None and got.focal is not None and got.center is not None
    xy = got.points[..., :2].astype(np.float64) / got.points[..., 2:]
    again = xy * got.focal[:, None] + got.center[:, None]
    assert np.abs(again - got.keypoints).max() < 1e-3
    np.testing.assert_array_equal(got.points, images.points)
    np.testing.assert_allclose(got.head_size[0] / images.head_size[0], got.box[0, 2] / images.box[0, 2], rtol=0.02)
    for name in ("labelled", "part", "sequence", "camera", "frame"):
        np.testing.assert_array_equal(getattr(got, name), getattr(images, name))


def test_rows_of_a_packed_set_keep_their_pictures(tmp_path: Path, images: ImageSet) -> None:
    got = packed(tmp_path / "packed.h5", images)
    some = select(got, np.array([3, 0]))
    assert read_encoded(some, 0) == read_encoded(got, 3)
    assert read_encoded(some, 1) == read_encoded(got, 0)
    again = packed(tmp_path / "again.h5", some)
    np.testing.assert_allclose(again.keypoints, some.keypoints, atol=1e-3)


def test_many_blocks(tmp_path: Path, images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = packed(tmp_path / "whole.h5", images)
    monkeypatch.setattr(image_packing, "_BLOCK", 2)
    parts = packed(tmp_path / "parts.h5", images)
    assert [read_encoded(parts, row) for row in range(5)] == [read_encoded(whole, row) for row in range(5)]
    assert_same(parts, whole)


def _read_rows(images: ImageSet) -> list[bytes]:
    return [read_encoded(images, row) for row in range(len(images))]


def test_forked_processes_read_too(tmp_path: Path, images: ImageSet) -> None:
    got = packed(tmp_path / "packed.h5", images)
    mine = _read_rows(got)  # so that the file is open when the process forks
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(_read_rows, [got] * 8) == [mine] * 8
    assert _read_rows(got) == mine


READ_AND_EXIT = """
import ctypes, sys
from pathlib import Path
from lifting.datasets import image_index
ctypes.pythonapi.Py_IncRef(ctypes.py_object(image_index._packed))  # so that Python's own end does not free its files
image_index.read_encoded(image_index.read_index(Path(sys.argv[1])), 0)
"""


def test_a_process_that_has_read_packed_pictures_exits_cleanly(tmp_path: Path, images: ImageSet) -> None:
    """HDF5 closed the file object after the end of Python, which crashed the process: exit code 139."""
    packed(tmp_path / "packed.h5", images)
    command = [sys.executable, "-c", READ_AND_EXIT, str(tmp_path / "packed.h5")]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_leaves_nothing(tmp_path: Path, images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(OSError, match=r"No space left on device: '.*packed\.h5'"):
        packed(tmp_path / "out" / "packed.h5", images)
    assert list((tmp_path / "out").iterdir()) == []


# ---- refused


def change(**attributes: object) -> Callable[[h5py.File], None]:
    return lambda file: file.attrs.update(attributes)


def without(name: str) -> Callable[[h5py.File], None]:
    return lambda file: file.__delitem__(name)


def shortened(file: h5py.File) -> None:
    box = file["box"][1:]
    del file["box"]
    file["box"] = box


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (change(format="lifting-poses"), "expected an index of format 'lifting-images', got 'lifting-poses'"),
        (change(version=2), "expected an index of version 1, got"),
        (change(joint_set="coco17"), "keypoints: expected \\(5, 17, 2\\), got \\(5, 18, 2\\)"),
        (lambda file: file.attrs.__delitem__("root"), "broken index, root missing"),
        (without("keypoints"), "broken index, keypoints missing"),
        (without("focal"), "broken index, focal missing"),
        (shortened, r"box: expected \(5, 4\), got \(4, 4\)"),
    ],
)
def test_broken_indices(tmp_path: Path, images: ImageSet, break_it: Callable[[h5py.File], None], words: str) -> None:
    path = write(tmp_path / "index.h5", images)
    with h5py.File(path, "a") as file:
        break_it(file)
    with pytest.raises(InputError, match=f"index.h5: {words}"):
        read_index(path)


def test_files_that_are_no_index(tmp_path: Path, images: ImageSet) -> None:
    path = write(tmp_path / "index.h5", images)
    (tmp_path / "half.h5").write_bytes(path.read_bytes()[:3000])
    (tmp_path / "text.h5").write_text("hello")
    (tmp_path / "empty.h5").touch()
    for name in ("half", "text", "empty", "none"):
        with pytest.raises(InputError, match=rf"{name}\.h5"):
            read_index(tmp_path / f"{name}.h5")


def test_nothing_to_write(tmp_path: Path, images: ImageSet) -> None:
    nobody = select(images, np.zeros(len(images), dtype=bool))
    for put in (write, packed):
        with pytest.raises(InputError, match=r"none\.h5: expected at least one picture to write, got none"):
            put(tmp_path / "none.h5", nobody)
    assert not (tmp_path / "none.h5").exists()


@pytest.mark.parametrize("box", [(800, 10, 20, 20), (10, 10, 0, 0)])
def test_a_box_outside_its_picture_is_not_packed(tmp_path: Path, images: ImageSet, box: tuple[float, ...]) -> None:
    images.box[2] = box
    with pytest.raises(InputError, match=r"2\.png: expected a box that overlaps the \d+ x \d+ picture"):
        packed(tmp_path / "out" / "packed.h5", images)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_broken_or_missing_picture_is_named(tmp_path: Path, images: ImageSet) -> None:
    Path(str(images.files[1])).write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"1\.png"):
        packed(tmp_path / "packed.h5", images)
    Path(str(images.files[1])).unlink()
    with pytest.raises(InputError, match=r"1\.png: expected a readable picture \(No such file"):
        packed(tmp_path / "packed.h5", images)


def test_a_packed_index_that_was_deleted(tmp_path: Path, images: ImageSet) -> None:
    got = packed(tmp_path / "packed.h5", images)
    (tmp_path / "packed.h5").unlink()
    with pytest.raises(InputError, match=r"found nothing at .*packed\.h5"):
        read_encoded(got, 0)
