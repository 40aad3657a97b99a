"""Damaged files for every reader, in short, and by name what the long form (`make fuzz`) has found."""

import json
import mmap
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from lifting import safe_hdf5
from lifting.command import InputError
from tests.fuzz.damage import KINDS
from tests.fuzz.readers import readers
from tests.fuzz.run import fuzz

INPUTS = 11  # for each reader; the valid one first
READERS = {reader.name: reader for reader in readers()}

CAUGHT = """import numpy, lifting.command
try:
    numpy.empty(1 << 40)
except MemoryError:
    raise lifting.command.InputError("no")
"""


def test_damaged_files_are_read_right_or_refused_in_a_line() -> None:
    found = fuzz({reader.name: int(INPUTS * reader.share) for reader in READERS.values()}, 0, 0)
    assert not [outcome for outcome in found if outcome.kind == "failed"]
    for name in READERS:
        kinds = [outcome.kind for outcome in sorted(found) if outcome.reader == name]
        assert kinds[0] == "accepted", f"{name}: the valid input was refused"
        assert "refused" in kinds, f"{name}: nothing was refused, so the damage does not reach it"


PROBES = {
    "while True: pass": "it hangs",
    "import ctypes; ctypes.string_at(0)": "SIGSEGV",
    "bytearray(3 << 30)": "MemoryError",
    "raise RuntimeError('a traceback')": "RuntimeError: a traceback",
    "import warnings; warnings.warn('a second line')": "UserWarning",
    CAUGHT: "took too much memory, then refused",
    "assert 1 == 2": "AssertionError",
}


def test_the_harness_notices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers that fail in each of the ways that count; the worker takes them from the environment."""
    monkeypatch.setenv("FUZZ_PROBES", json.dumps(list(PROBES)))
    monkeypatch.setenv("FUZZ_SECONDS", "2")  # the one that hangs would take all of them
    found = fuzz({f"probe {number}": 1 for number in range(len(PROBES))}, 0, 1)
    assert [outcome.kind for outcome in found] == ["failed"] * len(PROBES)
    for outcome, message in zip(sorted(found), PROBES.values(), strict=True):
        assert message in outcome.message, outcome


# ---- what the long form has found, each in the smallest form


Change = Callable[[Any], Any]


def edited(path: Path, change: Change) -> None:
    """Takes a file apart, changes it, and puts it together again."""
    kind = KINDS[path.suffix]
    tree = kind.load(path.read_bytes())
    path.write_bytes(kind.dump(change(tree) or tree))


def at(*keys: Any, value: Any) -> Change:
    def change(tree: Any) -> None:
        for key in keys[:-1]:
            tree = tree[key]
        tree[keys[-1]] = value

    return change


HUGE = 10**400
WIDE = np.linspace(-1e308, 1e308, 6 * 17 * 3).reshape(6, 17, 3)
FOUND: list[tuple[str, str, Change]] = [
    ("videopose3d", "data_2d_h36m_cpn.npz", at("metadata", "keypoints_symmetry", value=[1, 2])),
    ("videopose3d", "data_2d_h36m_cpn.npz", at("metadata", "keypoints_symmetry", value=[[{}, 1], [None]])),
    ("videopose3d", "data_3d_h36m.npz", at("positions_3d", "S1", value={})),
    ("videopose3d", "data_3d_h36m.npz", at("positions_3d", value={})),
    ("boxes", "boxes.json", at("b.jpg", value=[1, 2, 3, HUGE])),
    ("martinez", "Photo.h5", lambda tree: {"3D_positions": tree["3D_positions"] * 1e305}),
    ("martinez", "Photo.h5", lambda tree: {"3D_positions": tree["3D_positions"] * 1e30}),
    ("martinez", "Photo.h5", lambda tree: {"3D_positions": "text"}),
    ("martinez", "Photo.h5", lambda tree: {"3D_positions": {"a": np.zeros(3)}}),
    ("martinez", "cameras.h5", at("subject1", "camera1", "k", value=np.zeros(2))),
    ("martinez", "cameras.h5", at("subject1", "camera1", "R", value=np.zeros(2))),
    ("martinez", "cameras.h5", at("subject1", "camera1", value=np.zeros(2))),
    ("mpii", "train.json", at(0, "scale", value=HUGE)),
    ("mpii", "train.json", at(0, "scale", value=1e308)),
    ("mpii coco", "annot_mpii.json", at("images", 0, "file_name", value=3)),
    ("mpii", "gt_valid.mat", at("headboxes_src", value=np.full((2, 2, 4), 1e200))),
    ("mpii coco", "annot_mpii.json", at("images", 0, "id", value=HUGE)),
    ("camera file", "camera.json", at("focal", value=[HUGE, 1])),
    ("lifted npz", "lifted.npz", at("version", value=np.array([1, 1]))),
    ("lifted npz", "lifted.npz", at("format", value=np.zeros((0,)))),
    ("lifted npz", "lifted.npz", at("joints", value=np.full((3, 2, 17, 3), 1e300))),
    ("lifted json", "lifted.json", at("sigma", value=[HUGE])),
    ("lifted json", "lifted.json", at("keypoints", "frame_rate", value=-1)),
    ("lifted json", "lifted.json", at("keypoints", "size", value=[0, 480])),
    ("truth", "truth.npz", at("joints", value=np.array([HUGE], dtype=object))),
    ("keypoints alphapose", "keypoints.json", at(0, "image_id", value="\ud800.jpg")),
    ("keypoints videopose3d", "keypoints.npz", at("metadata", value=[1])),
    ("keypoints detectron", "keypoints.npz", at("keypoints", value={"a": 1})),
    ("keypoints own npz", "keypoints.npz", at("joint_set", value=np.array(["coco17", "x"]))),
    ("keypoints rtmlib", "keypoints.json", at("keypoints", value=[[[]], [[]]])),
    ("store", "store.h5", at("@joint_set", value=np.zeros(3))),
    ("store", "store.h5", at("@version", value=np.ones(2))),
    ("store", "store.h5", at("@frame_rate", value=float("inf"))),
    ("store", "store.h5", at("@frame_rate", value=-50.0)),
    ("store", "store.h5", at("poses", "S1", value=np.zeros(()))),
    ("store", "store.h5", at("poses", "S1", "Walking", "keypoints", value=np.zeros(()))),
    ("store", "store.h5", at("poses", "S1", "Walking", "positions", value=10**9)),
    ("store", "store.h5", at("cameras", "S1", "54138969", "@R", value=np.eye(4))),
    ("store", "store.h5", at("cameras", "S1", "54138969", "@size", value=np.array([1e300, 0]))),
    (
        "predictions",
        "predictions.h5",
        at("S9", "Walking", "54138969", value=WIDE),
    ),
    ("predictions", "predictions.h5", at("@stride", value="x" * 5000)),
    ("image index", "index.h5", at("@root", value=1.5)),
    ("image index", "index.h5", at("@format", value=np.zeros(2))),
    ("image index", "index.h5", at("box", value={"a": 1.0})),
    ("image index", "index.h5", at("box", value=np.full((4, 4), np.nan))),
    ("image index", "index.h5", at("frame", value=np.full(4, 1j))),
    ("image index", "index.h5", at("files", value=1.5)),
    ("packed index", "index.h5", at("offsets", value=np.arange(4))),
    ("packed index", "index.h5", at("offsets", value=np.array([0, 9, -5, 10**12, 3]))),
    ("packed index", "index.h5", at("camera", value=np.zeros(4))),
    ("checkpoint", "last.pt", lambda tree: {key: tree[key] for key in tree if key != "version"}),
    ("checkpoint", "last.pt", at("joint_set", value={"a": 1})),
    ("checkpoint", "last.pt", at("config", "data", value=3)),
    ("checkpoint", "last.pt", at("config", value=[])),
    ("checkpoint", "last.pt", at("network", value=[])),
    ("checkpoint", "last.pt", at("network", value={"a": 3})),
    ("checkpoint", "last.pt", lambda tree: at("network", next(iter(tree["network"])), value="x")(tree)),
    ("crossfit checkpoint", "last.pt", at("density", "scale", value=torch.tensor(1.0))),
]


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The valid input of a reader, made once for all tests, which put back what they change."""

    @cache
    def make(name: str) -> Path:
        folder = tmp_path_factory.mktemp("valid") / "input"
        folder.mkdir()
        return READERS[name].make(folder)

    return make


@pytest.mark.parametrize(("name", "file", "change"), FOUND, ids=lambda value: value if isinstance(value, str) else "")
def test_what_was_found_is_refused(valid: Callable[[str], Path], name: str, file: str, change: Change) -> None:
    source = valid(name)
    path = source if source.is_file() else next(source.rglob(file))
    content = path.read_bytes()
    edited(path, change)
    try:
        with pytest.raises(InputError):
            READERS[name].read(source)
    finally:
        path.write_bytes(content)


def test_a_matlab_file_that_crashes_scipy_is_refused(valid: Callable[[str], Path]) -> None:
    source = valid("mpii")
    path = next(source.rglob("gt_valid.mat"))
    content = path.read_bytes()
    kind = content.index(b"jnt_missing") + 16  # behind the name, which is padded: the type of the values
    path.write_bytes(content[:kind] + b"\0" + content[kind + 1 :])
    try:
        with pytest.raises(InputError, match="got a file that crashes its reader"):
            READERS["mpii"].read(source)
    finally:
        path.write_bytes(content)


TEXTS = [
    ("asf amc", "1.asf", "direction 1 0 0", "direction 0 0 0"),
    ("asf amc", "1.asf", "direction 1 0 0", "direction 1e999 0 0"),
    ("asf amc", "1.asf", "axis 0 0 90", "axis 0 0 1e999"),
    ("asf amc", "1.asf", "length 0.45", "length 0"),
    ("asf amc", "1_1.amc", "lower 9", "lower nan"),
    ("asf amc", "1_1.amc", "lower 9", "lower 1e300"),
    ("bvh", "arm.bvh", "5 6 7 0", "5 6 7 1e300"),
    ("bvh", "arm.bvh", "OFFSET 1 2 3", "OFFSET 1 2 1e300"),
]


@pytest.mark.parametrize(("name", "file", "old", "new"), TEXTS)
def test_words_that_were_found_are_refused(tmp_path: Path, name: str, file: str, old: str, new: str) -> None:
    (tmp_path / "input").mkdir()
    source = READERS[name].make(tmp_path / "input")
    path = source if source.is_file() else source / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError):
        READERS[name].read(source)


def test_a_heap_in_which_hdf5_would_search_for_ever_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store as this package wrote it until November 2026, with texts of variable length."""
    monkeypatch.setattr(safe_hdf5, "_WINDOW", mmap.PAGESIZE)
    (tmp_path / "input").mkdir()
    store = READERS["store"].make(tmp_path / "input")
    with h5py.File(store, "r+") as file:
        for name in ("format", "joint_set", "source", "checksum"):
            file.attrs[name] = file.attrs[name].decode()
    READERS["store"].read(store)
    content = bytearray(store.read_bytes())
    heap = content.index(b"GCOL\x01")
    assert content[heap + 16 : heap + 18] != b"\0\0"
    content[heap + 16 : heap + 32] = bytes(16)
    store.write_bytes(content)
    with pytest.raises(InputError, match="a broken heap"):
        READERS["store"].read(store)


@pytest.mark.parametrize("start", [0, mmap.PAGESIZE - 16, mmap.PAGESIZE - 2, mmap.PAGESIZE, 3 * mmap.PAGESIZE + 5])
def test_a_heap_is_found_wherever_it_lies(start: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is searched in windows, so that it does not count as memory."""
    monkeypatch.setattr(safe_hdf5, "_WINDOW", mmap.PAGESIZE)
    broken = b"GCOL\x01\0\0\0" + (64).to_bytes(8, "little") + bytes(48)
    (tmp_path / "store").write_bytes(b"x" * start + broken + b"y" * 20)
    with pytest.raises(ValueError, match="a broken heap"):
        safe_hdf5._check_heaps(tmp_path / "store")


def test_texts_with_letters_that_do_not_exist_are_refused(valid: Callable[[str], Path]) -> None:
    path = valid("keypoints own npz")
    content = path.read_bytes()
    tree = KINDS[".npz"].load(content)
    for letter in (0x110000, 0xD800):
        tree["frames"] = np.array([letter] * 4, dtype="<u4").view("<U1")
        path.write_bytes(KINDS[".npz"].dump(tree))
        with pytest.raises(InputError, match="letters that do not exist"):
            READERS["keypoints own npz"].read(path)
    path.write_bytes(content)


def test_a_header_of_an_array_that_is_no_python_is_refused(tmp_path: Path) -> None:
    reader = READERS["keypoints npy"]
    path = reader.make(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"'fortran_order': False", b"'fortran_order': (alse"))
    with pytest.raises(InputError, match="holds no plain array"):
        reader.read(path)


def test_old_texts_of_variable_length_are_still_read(tmp_path: Path) -> None:
    (tmp_path / "input").mkdir()
    path = READERS["image index"].make(tmp_path / "input")
    with h5py.File(path, "r+") as file:
        for name in ("files", "part", "sequence", "camera"):
            words = [word.decode() for word in file[name][()]]
            del file[name]
            file.create_dataset(name, data=words, dtype=h5py.string_dtype())
        for name in ("format", "joint_set", "root"):
            file.attrs[name] = file.attrs[name].decode()
    READERS["image index"].read(path)
