"""The canonical store: what is written is read back, and bad data and other files are refused."""

import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from lifting.command import InputError
from lifting.datasets.pose_checks import left_of_body
from lifting.datasets.store import FORMAT, VERSION, PoseStore, Sequence, checksum_of, write_store
from lifting.geometry import h36m
from lifting.geometry.cameras import Camera
from lifting.geometry.skeleton import COCO17, H36M17, JointSet
from tests.conftest import COCO_OF_H36M

# Clouds of joints as large as people, where people stand in front of Human3.6M's cameras.
POSES = (np.random.default_rng(0).normal(size=(7, 17, 3)) * 0.3 + [0.3, 1, 0.9]).astype(np.float32)
PIXELS = 500 + 200 * POSES[..., :2]
SUBJECTS = ("S11", "S1", "S5")


def write(path: Path, sequences: list[Sequence] | None = None, **changes: Any) -> Path:
    if sequences is None:
        sequences = [
            Sequence(s, n, POSES + i / 10)
            for i, s in enumerate(SUBJECTS)
            for n in ("Walking 10", "Walking", "Walking 2")
        ]
    keywords = {"frame_rate": 50.0, "source": "a test", "checksum": "none", **changes}
    cameras = keywords.pop("cameras", {s: h36m.cameras(s) for s in SUBJECTS})
    write_store(path, sequences, cameras, **keywords)
    return path


def test_everything_written_is_read_back(tmp_path: Path) -> None:
    keypoints = {
        "cpn": {c: PIXELS + i for i, c in enumerate(h36m.CAMERA_NAMES)},
        "d2": {"54138969": PIXELS - 7},
    }
    cameras = {"S9": {n: replace(c, tangential_factor=2.0) for n, c in reversed(h36m.cameras("S9").items())}}
    write(
        tmp_path / "x.h5",
        [Sequence("S9", "Photo 1", POSES, keypoints)],
        cameras=cameras,
        joint_set=COCO17,
        frame_rate=59.94,
    )
    with PoseStore(tmp_path / "x.h5") as store:
        assert (store.joint_set, store.frame_rate, store.source, store.checksum) == (COCO17, 59.94, "a test", "none")
        assert store.path == tmp_path / "x.h5"
        assert store.detectors == ["cpn", "d2"]
        positions = store.positions("S9", "Photo 1")
        assert positions.dtype == np.float32
        np.testing.assert_array_equal(positions, POSES)
        for detector, views in keypoints.items():
            for camera, points in views.items():
                np.testing.assert_array_equal(store.keypoints("S9", "Photo 1", camera, detector), points)
        read = store.cameras("S9")
    assert list(read) == list(cameras["S9"])  # in the given order, not sorted
    for name, expected_camera in cameras["S9"].items():
        for field, expected in vars(expected_camera).items():
            got = getattr(read[name], field)
            if isinstance(expected, torch.Tensor):
                torch.testing.assert_close(got, expected, rtol=0, atol=0)
            else:
                assert got == expected


def test_names_are_in_natural_order(tmp_path: Path) -> None:
    with PoseStore(write(tmp_path / "x.h5")) as store:
        assert store.subjects == ["S1", "S5", "S11"]
        assert store.sequences("S5") == ["Walking", "Walking 2", "Walking 10"]
        assert store.detectors == []


def test_it_is_plain_hdf5_that_states_its_format(tmp_path: Path) -> None:
    with h5py.File(write(tmp_path / "x.h5")) as file:
        assert dict(file.attrs) == {
            "format": FORMAT.encode(), "version": VERSION, "joint_set": b"h36m17", "units": b"m",
            "frame_rate": 50.0, "source": b"a test", "checksum": b"none",
        }  # fmt: skip
        assert file["poses/S1/Walking/positions"].dtype == np.float32


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda s: s.positions("S2", "Walking"), "no subject 'S2'.*S1, S5, S11"),
        (lambda s: s.sequences("S2"), "no subject 'S2'"),
        (lambda s: s.sequences("S1/Walking"), "no subject"),
        (lambda s: s.cameras("S2"), "no subject.*'S2'.*S1, S5, S11"),
        (lambda s: s.positions("S1", "Eating"), "no sequence 'Eating'.*Walking, Walking 2, Walking 10"),
        (lambda s: s.keypoints("S1", "Walking", "54138969", "cpn"), "detector 'cpn'.*there are none"),
        (lambda s: s.keypoints("S1", "Walking", "54138969", "gt"), "'gt' is computed by projecting"),
    ],
)
def test_an_error_names_what_is_absent(tmp_path: Path, ask: Callable[[PoseStore], object], message: str) -> None:
    with PoseStore(write(tmp_path / "x.h5")) as store, pytest.raises(InputError, match=message):
        ask(store)


def test_an_error_names_an_absent_camera(tmp_path: Path) -> None:
    write(tmp_path / "x.h5", [Sequence("S1", "Walking", POSES, {"cpn": {"54138969": PIXELS}})])
    with PoseStore(tmp_path / "x.h5") as store, pytest.raises(InputError, match=r"no camera '5'.*54138969"):
        store.keypoints("S1", "Walking", "5", "cpn")


@pytest.mark.parametrize(
    ("sequence", "message"),
    [
        (Sequence("S1", "W", POSES[:, :16]), r"S1 W: positions: expected \(T, 17, 3\), got \(7, 16, 3\)"),
        (Sequence("S1", "W", POSES[:0]), r"expected \(T, 17, 3\), got \(0, 17, 3\)"),
        (Sequence("S1", "W", np.where(np.arange(3) == 1, np.nan, POSES)), r"finite values, got nan at \[0, 0, 1\]"),
        (Sequence("S2", "W", POSES), "no cameras for S2; there are cameras for S11, S1, S5"),
        (Sequence("S1", "W", POSES, {"gt": {}}), "'gt' are made from the positions"),
        (Sequence("S1", "W", POSES, {"cpn": {"1": PIXELS}}), "camera 1; S1 has 54138969"),
        (
            Sequence("S1", "W", POSES, {"cpn": {"54138969": PIXELS[:3]}}),
            r"expected \(7, 17, 2\), got \(3, 17, 2\)",
        ),
        (Sequence("S1", "W", POSES, {"cpn": {"54138969": PIXELS * np.inf}}), "expected finite values"),
        (Sequence("S1", "a/b", POSES), "cannot be called 'a/b'"),
    ],
)
def test_bad_sequences_are_refused_and_leave_no_file(tmp_path: Path, sequence: Sequence, message: str) -> None:
    with pytest.raises(InputError, match=message):
        write(tmp_path / "x.h5", [Sequence("S1", "fine", POSES), sequence])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("joint_set", [H36M17, COCO17], ids=lambda joint_set: joint_set.name)
@pytest.mark.parametrize(
    ("factor", "message"),
    [
        (1000, r"S1 W: positions: expected poses 0.4 to 4.0 m across, got 1[0-9]{3} m: millimetres in place of metres"),
        (100, r"got 1[0-9.]+ m: centimetres in place of metres"),
        (10, r"got 1[0-9]\.[0-9]* m$"),
        (1e-3, r"got 0.001[0-9]* m$"),
    ],
)
def test_positions_in_other_units_are_refused(tmp_path: Path, factor: float, message: str, joint_set: JointSet) -> None:
    with pytest.raises(InputError, match=message):
        write(tmp_path / "x.h5", [Sequence("S1", "W", factor * POSES)], joint_set=joint_set)
    assert list(tmp_path.iterdir()) == []


def camera(**changes: Any) -> dict[str, dict[str, Camera]]:
    """S1 with one of its cameras, changed."""
    return {"S1": {"left": replace(h36m.cameras("S1")["54138969"], **changes)}}


ONE = camera()["S1"]["left"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"t": 1000 * ONE.t}, r"S1 W: camera left: expected people at least 10.02 pixels across .* t takes the world"),
        ({"t": -ONE.t}, r"expected people in front, got 100% behind it; R X \+ t takes the world"),
        ({"R": ONE.R.T, "t": -ONE.R.T @ ONE.t}, "S1 W: camera left: expected people"),  # camera -> world
        ({"focal": ONE.focal / 1000}, "got 0.293 pixels at .* focal and center are in pixels"),
        (
            {"focal": ONE.focal / 1000, "center": torch.zeros(2)},
            "got .* pixels at .* focal and center are in pixels",
        ),
        ({"center": ONE.center + 2000}, "in or near a picture of 1000 x 1002, got [0-9]{3} pixels at"),
        ({"R": torch.eye(3)[[1, 0, 2]]}, "camera .*left: R: expected a rotation, got"),
        ({"R": 2 * ONE.R}, "R: expected a rotation"),
    ],
)
def test_cameras_that_do_not_see_the_people_are_refused(
    tmp_path: Path, changes: dict[str, torch.Tensor], message: str
) -> None:
    write(tmp_path / "fine.h5", [Sequence("S1", "W", POSES)], cameras=camera())
    with pytest.raises(InputError, match=message):
        write(tmp_path / "x.h5", [Sequence("S1", "W", POSES)], cameras=camera(**changes))
    assert not (tmp_path / "x.h5").exists()


@pytest.mark.parametrize(
    "wrong",
    [PIXELS / 500 - 1, PIXELS / 1000, np.zeros_like(PIXELS), PIXELS + 3000, PIXELS - [0, 3000]],
    ids=["-1 to 1", "0 to 1", "missing", "right of the picture", "above the picture"],
)
def test_keypoints_that_are_not_pixels_of_the_picture_are_refused(tmp_path: Path, wrong: np.ndarray) -> None:
    message = "S1 W: keypoints cpn, left: expected people at least 10.02 pixels .* x 1002, got .*; keypoints are in pix"
    with pytest.raises(InputError, match=message):
        write(tmp_path / "x.h5", [Sequence("S1", "W", POSES, {"cpn": {"left": wrong}})], cameras=camera())


def test_a_few_wild_frames_pass(tmp_path: Path) -> None:
    """Real data has failures of the detector and glitches of the capture."""
    positions, pixels = POSES.copy(), PIXELS.copy()
    positions[:3], pixels[:3] = 50 * positions[:3], 0
    write(tmp_path / "x.h5", [Sequence("S1", "W", positions, {"cpn": {"left": pixels}})], cameras=camera())


@pytest.mark.parametrize("joint_set", [H36M17, COCO17], ids=lambda joint_set: joint_set.name)
def test_exchanged_sides_are_refused_if_there_is_no_doubt(
    small_store: Path, tmp_path: Path, joint_set: JointSet
) -> None:
    with PoseStore(small_store) as store:
        positions = store.positions("S1", "Walking")
    if joint_set == COCO17:
        positions = positions[:, COCO_OF_H36M]
    exchanged = positions[:, list(joint_set.mirror)]
    assert len(positions) > 200
    write(tmp_path / "fine.h5", [Sequence("S1", "W", positions)], joint_set=joint_set)
    with pytest.raises(InputError, match="S1: left and right are exchanged, or the world is mirrored"):
        write(tmp_path / "x.h5", [Sequence("S1", "W", exchanged)], joint_set=joint_set)
    write(tmp_path / "few.h5", [Sequence("S1", "W", exchanged[:90])], joint_set=joint_set)  # too few to tell


def test_straight_legs_do_not_tell_left_from_right(small_store: Path, tmp_path: Path) -> None:
    """Of a person who stands, knees may be a centimetre behind the line from hip to ankle in every frame."""
    with PoseStore(small_store) as store:
        standing = store.positions("S1", "Walking").copy()
    hips, knees, ankles = (standing[:, joints] for joints in ([1, 4], [2, 5], [3, 6]))
    middle = (hips + ankles) / 2
    bent = knees - middle
    standing[:, [2, 5]] = middle - 0.01 * bent / np.linalg.norm(bent, axis=-1, keepdims=True)
    assert (left_of_body(standing) < 0).mean() > 0.9
    write(tmp_path / "x.h5", [Sequence("S1", "W", standing)])


def test_one_camera_that_misses_the_person_passes(tmp_path: Path) -> None:
    away = replace(ONE, t=-ONE.t)
    sequences = [Sequence("S1", "W", POSES)]
    write(tmp_path / "one.h5", sequences, cameras={"S1": {"away": away, "towards": ONE}})
    with pytest.raises(InputError, match="camera away: expected people in front"):
        write(tmp_path / "none.h5", sequences, cameras={"S1": {"away": away, "again": away}})


def test_other_bad_calls_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="given twice"):
        write(tmp_path / "x.h5", [Sequence("S1", "W", POSES), Sequence("S1", "W", POSES)])
    with pytest.raises(InputError, match="no sequence was given"):
        write(tmp_path / "x.h5", [])
    with pytest.raises(InputError, match="frame rate"):
        write(tmp_path / "x.h5", frame_rate=0)
    broken = {"1": replace(h36m.cameras("S1")["54138969"], t=torch.zeros(2))}
    with pytest.raises(InputError, match=r"camera .*: t: expected \(3,\), got \(2,\)"):
        write(tmp_path / "x.h5", cameras=dict.fromkeys(SUBJECTS, broken))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = write(tmp_path / "x.h5")
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))  # like a full disk: writes beyond this size fail
    try:
        with pytest.raises(OSError, match="large"):
            write(path, frame_rate=25)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before


def spoil(path: Path, change: Callable[[h5py.File], object]) -> None:
    with h5py.File(path, "r+") as file:
        change(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.attrs.__delitem__("format"), "expected a file of format 'lifting-poses', got None"),
        (lambda f: f.attrs.update(format="other"), r"expected a file of format .* got 'other'"),
        (lambda f: f.attrs.update(version=99), "expected version 1 .* got 99"),
        (lambda f: f.attrs.update(joint_set="h36m99"), "joint sets h36m17, h36m18, coco17, mpii16, got 'h36m99'"),
        (lambda f: f.attrs.__delitem__("frame_rate"), "no attribute frame_rate"),
        (lambda f: f.__delitem__("poses"), "poses missing"),
    ],
)
def test_files_of_another_kind_are_refused(tmp_path: Path, change: Callable[[h5py.File], object], message: str) -> None:
    path = write(tmp_path / "x.h5")
    spoil(path, change)
    with pytest.raises(InputError, match=message):
        PoseStore(path)


def test_broken_files_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.h5")
    content = path.read_bytes()
    with pytest.raises(InputError, match="nothing at"):
        PoseStore(tmp_path / "absent.h5")
    for bad, message in (
        (b"", "is empty"),
        (content[: len(content) // 2], "not a readable HDF5"),
        (b"text" * 99, "not a readable HDF5"),
    ):
        path.write_bytes(bad)
        with pytest.raises(InputError, match=message):
            PoseStore(path)


def test_broken_contents_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.h5")
    spoil(path, lambda f: f["cameras/S1/54138969"].attrs.__delitem__("R"))
    spoil(path, lambda f: f.__delitem__("poses/S5/Walking/positions"))
    spoil(path, lambda f: f["poses/S1/Walking"].move("positions", "was"))
    spoil(path, lambda f: f["poses/S1/Walking"].create_dataset("positions", data=np.zeros((3, 16, 3))))
    with PoseStore(path) as store:
        with pytest.raises(InputError, match="no attribute R"):
            store.cameras("S1")
        with pytest.raises(InputError, match="no array 'positions'"):
            store.positions("S5", "Walking")
        with pytest.raises(InputError, match=r"expected \(T, 17, 3\), got \(3, 16, 3\)"):
            store.positions("S1", "Walking")


def test_keypoints_of_another_length_than_the_positions_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.h5", [Sequence("S1", "Walking", POSES, {"cpn": {"54138969": PIXELS}})])
    spoil(path, lambda f: f["poses/S1/Walking"].__delitem__("positions"))
    spoil(path, lambda f: f["poses/S1/Walking"].create_dataset("positions", data=POSES[:5]))
    with PoseStore(path) as store:
        assert store.frames("S1", "Walking") == 5
        with pytest.raises(InputError, match=r"cpn/54138969: expected \(5, 17, 2\), got \(7, 17, 2\)"):
            store.keypoints("S1", "Walking", "54138969", "cpn")


def test_checksum_follows_the_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").write_bytes(b"")
    assert checksum_of([tmp_path / "a"]) == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert checksum_of([tmp_path / "b"]) != checksum_of([tmp_path / "a"])


def test_the_store_has_the_default_joint_set(tmp_path: Path) -> None:
    with PoseStore(write(tmp_path / "x.h5")) as store:
        assert store.joint_set is H36M17
