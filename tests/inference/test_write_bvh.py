"""BVH: what is written is read back by two readers that share nothing with the writer."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from lifting.command import InputError
from lifting.geometry.skeleton import H36M17
from lifting.inference.bvh import TO_FILE, write_bvh
from lifting.inference.smoothing import smooth
from lifting.sources.bvh import read_bvh
from tests.drawing.people import absent, people

Array = NDArray[np.float64]


def turn(axis: str, degrees: float) -> Array:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    rows = {"X": [[1, 0, 0], [0, c, -s], [0, s, c]], "Y": [[c, 0, s], [0, 1, 0], [-s, 0, c]]}
    return np.array(rows.get(axis, [[c, -s, 0], [s, c, 0], [0, 0, 1]]), dtype=np.float64)


def played(path: Path) -> tuple[dict[str, Array], float]:
    """A reader from the definition of the format: joints in centimetres by name, (T, 3), and the time of a frame."""
    head, motion = path.read_text().split("MOTION\n")
    lines = motion.splitlines()
    frames = [list(map(float, line.split())) for line in lines[2:]]
    assert len(frames) == int(lines[0].removeprefix("Frames: "))
    out: dict[str, list[Array]] = {}
    for frame in frames:
        values = iter(frame)
        stack: list[tuple[Array, Array]] = []
        name, R, p = "", np.eye(3), np.zeros(3)
        for words in map(str.split, head.splitlines()):
            match words:
                case ["ROOT" | "JOINT", joint]:
                    name = joint
                case ["End", "Site"]:
                    name = ""
                case ["{"]:
                    stack.append((R, p))
                case ["OFFSET", *offset]:
                    p = p + R @ np.array(offset, dtype=np.float64)
                    out.setdefault(name, []).append(p)
                case ["CHANNELS", _, *channels]:
                    for channel in channels:
                        value = next(values)
                        if channel.endswith("position"):
                            p = p + value * np.eye(3)["XYZ".index(channel[0])]
                        else:
                            R = R @ turn(channel[0], value)
                    out[name][-1] = p
                case ["}"]:
                    R, p = stack.pop()
        assert next(values, None) is None
    return {joint: np.array(places) for joint, places in out.items()}, float(lines[1].removeprefix("Frame Time: "))


def joints_of(places: dict[str, Array]) -> Array:
    """(T, 17, 3) in the file's axes."""
    return np.stack([places[name] for name in H36M17.joints], 1)


@pytest.mark.parametrize("root", [True, False])
def test_two_readers_find_the_joints_that_the_writer_states(tmp_path: Path, root: bool) -> None:
    lifted, _ = people(frames=30, root=root, pitch=0.3)
    (written,) = write_bvh(tmp_path / "out.bvh", lifted)
    places, frame_time = played(tmp_path / "out.bvh")
    assert frame_time == pytest.approx(1 / 25)
    assert written.frames == (0, 30)
    mine = joints_of(places) / 100 * TO_FILE
    np.testing.assert_allclose(mine, written.joints, atol=1e-5)
    other = read_bvh(tmp_path / "out.bvh")
    assert other.frame_rate == pytest.approx(25)
    theirs = other.frames(0.01).positions
    np.testing.assert_allclose(np.stack([theirs[n] for n in H36M17.joints], 1) * TO_FILE, written.joints, atol=1e-5)
    expected = np.zeros((30, 3)) if lifted.root is None else lifted.root[:, 0]
    np.testing.assert_allclose(written.joints[:, 0], expected, atol=1e-6)


def test_bones_have_median_lengths_and_the_directions_of_the_joints(tmp_path: Path) -> None:
    lifted, _ = people(frames=30)
    (written,) = write_bvh(tmp_path / "out.bvh", lifted)
    for a, b in H36M17.bones:
        bone, meant = written.joints[:, b] - written.joints[:, a], lifted.joints[:, 0, b] - lifted.joints[:, 0, a]
        length = np.linalg.norm(meant, axis=-1)
        np.testing.assert_allclose(np.linalg.norm(bone, axis=-1), np.median(length), rtol=1e-6)
        np.testing.assert_allclose((bone * meant).sum(-1) / np.median(length) / length, 1, atol=1e-9)


def test_fixed_bones_are_read_back_as_they_were_within_a_millimetre(tmp_path: Path) -> None:
    lifted, _ = people(frames=60, count=2, root=True)
    held = smooth(lifted)
    root = held.root
    assert root is not None
    # The joints that the first files state have bones of one length, so the second files have to state the same.
    first = write_bvh(tmp_path / "out.bvh", held)
    exact = np.stack([file.joints for file in first], 1) - root[:, :, None]
    assert np.abs(exact - held.joints).max() < 0.04
    for p, file in enumerate(write_bvh(tmp_path / "again.bvh", replace(held, joints=exact))):
        read = joints_of(played(file.path)[0]) / 100 * TO_FILE - root[:, p, None]
        assert np.abs(read - exact[:, p]).max() < 1e-3


def test_pelvis_and_thorax_face_where_the_person_faces(tmp_path: Path) -> None:
    """Somebody who faces the camera in a T-pose, seen upright, needs no rotation at all."""
    lifted, _ = people(frames=3, sigma=False)
    at = {
        "right_hip": (-0.1, 0, 0), "right_knee": (-0.1, 0.4, 0), "right_ankle": (-0.1, 0.8, 0), "left_hip": (0.1, 0, 0),
        "left_knee": (0.1, 0.4, 0), "left_ankle": (0.1, 0.8, 0), "spine": (0, -0.2, 0), "thorax": (0, -0.45, 0),
        "neck": (0, -0.55, 0), "head": (0, -0.7, 0), "left_shoulder": (0.15, -0.45, 0), "left_elbow": (0.4, -0.45, 0),
        "left_wrist": (0.6, -0.45, 0), "right_shoulder": (-0.15, -0.45, 0), "right_elbow": (-0.4, -0.45, 0),
        "right_wrist": (-0.6, -0.45, 0),
    }  # fmt: skip
    for name, place in at.items():
        lifted.joints[:, 0, H36M17.joints.index(name)] = place
    write_bvh(tmp_path / "out.bvh", lifted)
    rows = np.loadtxt(tmp_path / "out.bvh", skiprows=(tmp_path / "out.bvh").read_text().count("\n") - 3)
    np.testing.assert_allclose(rows, 0, atol=1e-3)


def test_opposite_and_degenerate_bones_are_written(tmp_path: Path) -> None:
    lifted, _ = people(frames=4, sigma=False)
    lifted.joints[0, 0, 2] = lifted.joints[0, 0, 1] + (0, -0.45, 0)  # a knee above its hip: half a turn
    lifted.joints[1, 0, [1, 4]] = 0  # no line through the hips
    (written,) = write_bvh(tmp_path / "out.bvh", lifted)
    np.testing.assert_allclose(joints_of(played(tmp_path / "out.bvh")[0]) / 100 * TO_FILE, written.joints, atol=1e-5)


def test_several_people_several_files_and_gaps_repeat_a_pose(tmp_path: Path) -> None:
    lifted, _ = people(frames=20, count=3)
    absent(lifted, slice(0, 3), 0)
    absent(lifted, slice(8, 11), 0)
    absent(lifted, slice(0, 20), 1)
    lifted = replace(lifted, keypoints=replace(lifted.keypoints, people=("a/b", "never", "c")))
    files = write_bvh(tmp_path / "out.bvh", lifted, 50)
    assert [(file.path.name, file.person, file.frames) for file in files] == [
        ("out_a_b.bvh", "a/b", (3, 20)),
        ("out_c.bvh", "c", (0, 20)),
    ]
    joints = joints_of(played(files[0].path)[0])
    assert joints.shape == (20, 17, 3)  # in step with the file of somebody who was there from the first frame
    np.testing.assert_allclose(joints[:3], np.broadcast_to(joints[3], (3, 17, 3)), atol=1e-9)
    np.testing.assert_allclose(joints[8:11], np.broadcast_to(joints[7], (3, 17, 3)), atol=1e-9)
    assert {path.name for path in tmp_path.iterdir()} == {"out_a_b.bvh", "out_c.bvh"}


def test_no_file_is_written_twice_whatever_people_are_called(tmp_path: Path) -> None:
    lifted, _ = people(frames=2, count=4)
    lifted = replace(lifted, keypoints=replace(lifted.keypoints, people=("2", "a b", "a_b", 300 * "x")))
    files = write_bvh(tmp_path / "out.bvh", lifted, 50)
    assert [file.path.name for file in files] == ["out_2.bvh", "out_a_b.bvh", "out_a_b_2.bvh", f"out_{100 * 'x'}.bvh"]


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    lifted, _ = people(frames=3, frame_rate=None)
    with pytest.raises(InputError, match="--fps"):
        write_bvh(tmp_path / "out.bvh", lifted)
    placed, _ = people(frames=3, root=True, count=2)
    assert placed.root is not None
    placed.root[:, 0] = np.nan
    assert [file.person for file in write_bvh(tmp_path / "out.bvh", placed, 25)] == [placed.keypoints.people[1]]
    (tmp_path / "out.bvh").unlink()
    placed.root[:] = np.nan
    with pytest.raises(InputError, match="nobody was placed in space"):
        write_bvh(tmp_path / "out.bvh", placed, 25)
    absent(lifted, slice(0, 3), 0)
    with pytest.raises(InputError, match="nobody was lifted"):
        write_bvh(tmp_path / "out.bvh", lifted, 25)
    assert not list(tmp_path.iterdir())
