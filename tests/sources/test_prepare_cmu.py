"""The CMU converter: forward kinematics against answers by hand, and real recordings that have to look like people."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from lifting.command import InputError
from lifting.datasets.pose_checks import left_of_body, share_in_picture
from lifting.datasets.store import PoseStore
from lifting.geometry import h36m
from lifting.geometry.skeleton import H36M17
from lifting.sources.asf_amc import read_amc, read_asf
from lifting.sources.recorded_motion import surround

ROOT = Path(__file__).parents[2]
SUBJECTS = ROOT.parent / "shared/data/cmu/subjects"
needs_recordings = pytest.mark.skipif(not SUBJECTS.is_dir(), reason="needs the CMU recordings")
INCH = 0.0254

HEAD = """# a comment
:version 1.10
:units
  mass 1.0
  length 0.45
  angle deg
:documentation
   begin of nothing
:root
   order TX TY TZ RX RY RZ
   axis XYZ
   position 0 0 0
   orientation 0 0 0
:bonedata
"""


def bone(number: int, name: str, direction: str, length: float, axis: str = "0 0 0", dof: str = "") -> str:
    channels = f"    dof {dof}\n    limits (-160.0 20.0)\n           (-70.0 70.0)\n" if dof else ""
    lines = (
        f"     id {number}\n     name {name}\n     direction {direction}\n     length {length}\n     axis {axis}  XYZ\n"
    )
    return f"  begin\n{lines}{channels}  end\n"


# An arm of two bones, each 0.45 units (an inch) long: the upper along x with a frame turned by 90 degrees about z, the
# lower along y.
ARM = (
    HEAD
    + bone(1, "upper", "1 0 0", 0.45, axis="0 0 90", dof="rx ry rz")
    + bone(2, "lower", "0 2 0", 0.45, dof="rz")
    + ":hierarchy\n  begin\n    root upper\n    upper lower\n  end\n"
)


def motion(*frames: str) -> str:
    numbered = "".join(f"{i}\n{frame.strip()}\n" for i, frame in enumerate(frames, 1))
    return "#!OML:ASF\n:FULLY-SPECIFIED\n:DEGREES\n" + numbered


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def arm_ends(folder: Path, *frames: str) -> np.ndarray:
    skeleton = read_asf(write(folder / "1.asf", ARM))
    angles = read_amc(write(folder / "1_1.amc", motion(*frames)), skeleton)
    return skeleton.ends(angles, ("root", "upper", "lower")) / INCH


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        ("root 0 0 0 0 0 0\nupper 0 0 0\nlower 0", [[0, 0, 0], [1, 0, 0], [1, 1, 0]]),
        ("root 0.45 0.9 0 0 0 0\nupper 0 0 0\nlower 0", [[1, 2, 0], [2, 2, 0], [2, 3, 0]]),
        ("root 0 0 0 0 0 90\nupper 0 0 0\nlower 0", [[0, 0, 0], [0, 1, 0], [-1, 1, 0]]),
        ("root 0 0 0 0 0 0\nupper 0 0 0\nlower 90", [[0, 0, 0], [1, 0, 0], [0, 0, 0]]),
        # The frame of the upper bone has its x along the world's y and its y along the world's -x.
        ("root 0 0 0 0 0 0\nupper 90 0 0\nlower 0", [[0, 0, 0], [0, 0, -1], [0, 1, -1]]),
        ("root 0 0 0 0 0 0\nupper 0 90 0\nlower 0", [[0, 0, 0], [1, 0, 0], [1, 0, -1]]),
        # About x first, then y, in fixed axes: x -> x -> -z, and y -> z -> x.
        ("root 0 0 0 90 90 0\nupper 0 0 0\nlower 0", [[0, 0, 0], [0, 0, -1], [1, 0, -1]]),
    ],
)
def test_forward_kinematics_by_hand(tmp_path: Path, frame: str, expected: list[list[float]]) -> None:
    np.testing.assert_allclose(arm_ends(tmp_path, frame), [expected], atol=1e-12)


def test_frames_are_independent_and_can_be_thinned(tmp_path: Path) -> None:
    frames = [f"upper {i} {2 * i} 3\nroot {i} 0 0 0 0 {i}\nlower {9 * i}" for i in range(7)]
    whole = arm_ends(tmp_path, *frames)
    np.testing.assert_allclose(np.concatenate([arm_ends(tmp_path, frame) for frame in frames]), whole, atol=1e-12)
    skeleton = read_asf(tmp_path / "1.asf")
    thinned = read_amc(write(tmp_path / "1_1.amc", motion(*frames)), skeleton, step=3)
    np.testing.assert_allclose(skeleton.ends(thinned, ("root", "upper", "lower")) / INCH, whole[::3], atol=1e-12)


def test_a_slow_twin_agrees(tmp_path: Path) -> None:
    """The same by 4 x 4 matrices, one frame at a time, from the formula of every bone's frame."""
    random = np.random.default_rng(0)
    angles = random.uniform(-90, 90, (5, 7))
    frames = [f"root 0 0 0 {a} {b} {c}\nupper {d} {e} {f}\nlower {g}" for a, b, c, d, e, f, g in angles]

    def about(*xyz: float) -> np.ndarray:
        made = np.eye(3)
        for axis, angle in enumerate(np.radians(xyz)):
            j, k = (axis + 1) % 3, (axis + 2) % 3
            turn = np.eye(3)
            turn[[j, j, k, k], [j, k, j, k]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
            made = turn @ made
        return made

    expected = []
    for a, b, c, d, e, f, g in angles:
        frame = about(0, 0, 90)
        upper = about(a, b, c) @ frame @ about(d, e, f) @ frame.T
        end = upper @ [1, 0, 0]
        expected.append([[0, 0, 0], end, end + upper @ about(0, 0, g) @ [0, 1, 0]])
    np.testing.assert_allclose(arm_ends(tmp_path, *frames), expected, atol=1e-12)
    assert np.allclose(about(10, 20, 30), Rotation.from_euler("xyz", [10, 20, 30], degrees=True).as_matrix())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("angle deg", "angle rad", "expected angles in degrees, got 'rad'"),
        ("0 0 90  XYZ", "0 0 90  ZYX", "expected axis order XYZ, got 'ZYX'"),
        ("length 0.45\n     axis 0 0 90", "length x\n     axis 0 0 90", "no ASF skeleton, or a broken one"),
        ("direction 1 0 0", "direction 0 0 0", "'upper' has no direction and length"),
        ("upper lower", "upper other", "no ASF skeleton, or a broken one"),
        ("dof rz", "dof l", "'lower' has channels that are not read: l"),
        (":units", ":other", "no ASF skeleton"),
    ],
)
def test_bad_skeletons_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in ARM
    with pytest.raises(InputError, match=message), np.errstate(invalid="ignore"):
        read_asf(write(tmp_path / "1.asf", ARM.replace(old, new)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (":DEGREES\n", "got 0 lines"),
        (motion("root 0 0 0 0 0 0\nupper 0 0 0\nlower 0").replace(":DEGREES", ":RADIANS"), "degrees, got radians"),
        (motion("root 0 0 0 0 0 0\nupper 0 0 0"), "blocks of 4 lines a frame, got 3 lines: is it cut off"),
        (motion("root 0 0 0 0 0 0\nupper 0 0 0\nlower"), "frame 1: 'lower' does not fit 1.asf"),
        (motion("root 0 0 0 0 0 0\nupper 0 0 0\nupper 0 0 0"), "frame 1: 'upper 0 0 0' does not fit"),
        (motion("root 0 0 0 0 0 0\nother 0 0 0\nlower 0"), "frame 1: 'other 0 0 0' does not fit"),
        (motion("root 0 0 0 0 0 0\nupper 0 0 0\nlower x"), "expected numbers"),
        (motion("root 0 0 0 0 0 0\nupper 0 0 0\nlower 1").replace("\n1\n", "\n7\n"), "expected frame 1, got '7'"),
    ],
)
def test_bad_motions_are_refused(tmp_path: Path, text: str, message: str) -> None:
    skeleton = read_asf(write(tmp_path / "1.asf", ARM))
    with pytest.raises(InputError, match=message):
        read_amc(write(tmp_path / "1_1.amc", text), skeleton)


def load(script: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(script, ROOT / "data" / f"{script}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def convert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., PoseStore]:
    script = load("prepare_cmu")

    def run(source: Path, *options: str) -> PoseStore:
        output = tmp_path / "out" / "cmu.h5"
        monkeypatch.setattr(sys, "argv", ["prepare_cmu.py", str(source), "--output", str(output), *options])
        script.main()
        return PoseStore(output)

    return run


def test_bad_sources_are_refused(tmp_path: Path, convert: Callable[..., PoseStore]) -> None:
    with pytest.raises(InputError, match="expected a folder, found nothing"):
        convert(tmp_path / "absent")
    with pytest.raises(InputError, match=r"found no \.asf file"):
        convert(tmp_path)
    write(tmp_path / "1.asf", ARM)
    with pytest.raises(InputError, match=r"expected 1_\*.amc beside it"):
        convert(tmp_path)
    write(tmp_path / "1_1.amc", motion("root 0 0 0 0 0 0\nupper 0 0 0\nlower 0"))
    with pytest.raises(InputError, match="it has no bone head, lclavicle"):
        convert(tmp_path)
    with pytest.raises(InputError, match="expected a divisor of 120, got 50"):
        convert(tmp_path, "--fps", "50")
    (tmp_path / "1_1.amc").rename(tmp_path / "1_1.AMC")
    with pytest.raises(InputError, match="it has no bone head, lclavicle"):
        convert(tmp_path)
    (tmp_path / "copy").mkdir()
    write(tmp_path / "copy" / "1.asf", ARM)
    with pytest.raises(InputError, match=r"expected one skeleton of 1, got .*1.asf and .*1.asf"):
        convert(tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def walker(tmp_path: Path) -> Path:
    """A folder with subject 02 and three of its recordings: two walks and a run, as they are."""
    folder = tmp_path / "subjects" / "02"
    folder.mkdir(parents=True)
    for name in ("02.asf", "02_01.amc", "02_02.amc", "02_03.amc"):
        (folder / name).symlink_to(SUBJECTS / "02" / name)
    return folder


@needs_recordings
def test_a_real_walk(walker: Path, convert: Callable[..., PoseStore], capsys: pytest.CaptureFixture[str]) -> None:
    with convert(walker.parent, "--places", "cmu") as store:
        assert store.subjects == ["02"]
        assert store.sequences("02") == ["02_01", "02_02", "02_03"]
        assert (store.frame_rate, store.joint_set) == (60, H36M17)
        assert h36m.action_of("02_01") == "02"
        cameras = store.cameras("02")
        all_positions = [store.positions("02", name) for name in store.sequences("02")]
    assert capsys.readouterr().out.splitlines()[2].split()[:3] == ["02", "3", str(sum(map(len, all_positions)))]
    positions = all_positions[0]
    ankles, pelvis, head = positions[:, [3, 6], 2], positions[:, 0], positions[:, 10, 2]
    assert ankles.min() > 0
    assert ankles.min(1).max() < 0.2
    assert head.min() > 1.5
    assert head.max() < 1.9
    assert (positions[:, 8, 2] - pelvis[:, 2] > 0.3).all()
    assert (left_of_body(positions) > 0).all()
    ahead = np.gradient(pelvis, axis=0)[:, :2]  # he walks forward: the left hip is at the left of where he goes
    hips = (positions[:, 4] - positions[:, 1])[:, :2]
    assert (ahead[:, 0] * hips[:, 1] - ahead[:, 1] * hips[:, 0] > 0).all()
    for parent, child in H36M17.bones:
        if child != 9 and parent not in (7, 8):  # joints of the upper trunk are not ends of one bone of theirs
            lengths = np.linalg.norm(
                np.concatenate(all_positions)[:, child] - np.concatenate(all_positions)[:, parent], axis=-1
            )
            assert np.ptp(lengths) < 1e-6
    assert list(cameras) == list(h36m.CAMERA_NAMES)
    for camera in cameras.values():
        assert all(share_in_picture(part, camera) == 1 for part in all_positions)


@needs_recordings
def test_frame_rates_are_thinned(walker: Path, convert: Callable[..., PoseStore]) -> None:
    with convert(walker, "--fps", "120") as store:
        full = store.positions("02", "02_01")
    with convert(walker, "--fps", "30") as store:
        assert store.frame_rate == 30
        np.testing.assert_array_equal(store.positions("02", "02_01"), full[::4])
    assert len(full) == 343


@needs_recordings
def test_exchanged_sides_are_refused(
    walker: Path, convert: Callable[..., PoseStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (walker / "02.asf").read_text()
    (walker / "02.asf").unlink()
    write(walker / "02.asf", text.replace("length 0.45", "length 450"))
    with pytest.raises(InputError, match=r"subject 02: expected thighs .* metres in place of millimetres"):
        convert(walker)
    (walker / "02.asf").unlink()
    other = {"lfemur": "rfemur", "rfemur": "lfemur", "lhipjoint": "rhipjoint", "rhipjoint": "lhipjoint"}
    other |= {"ltibia": "rtibia", "rtibia": "ltibia"}
    for name in ("02.asf", "02_01.amc", "02_02.amc", "02_03.amc"):
        lines = (text if name == "02.asf" else (SUBJECTS / "02" / name).read_text()).split(" ")
        (walker / name).unlink(missing_ok=True)
        exchanged = "\n".join(
            " ".join(other.get(w, w) for w in line.split(" ")) for line in " ".join(lines).split("\n")
        )
        write(walker / name, exchanged)
    with pytest.raises(InputError, match="subject 02: left and right are exchanged"):
        convert(walker)


def test_cameras_draw_back_until_everything_is_seen() -> None:
    near = np.random.default_rng(0).uniform([-0.5, -0.5, 0], [0.5, 0.5, 1.8], (50, 17, 3)).astype(np.float32)
    far = (
        near
        + np.array([7, 3, 0], np.float32)
        + np.linspace(-4, 4, 50, dtype=np.float32)[:, None, None] * np.array([1, 0, 0], np.float32)
    )
    usual, closest = surround(near)
    wide, distance = surround(far)
    assert closest < 6 < distance < 20
    for cameras, positions in ((usual, near), (wide, far)):
        assert all(share_in_picture(positions, camera) == 1 for camera in cameras.values())
    assert min(share_in_picture(far, camera) for camera in usual.values()) < 1


def test_motion_in_a_plane_is_surrounded_too() -> None:
    flat = np.random.default_rng(0).uniform([-0.5, 0, 0], [0.5, 0, 1.8], (1, 17, 3)).astype(np.float32)
    assert all(share_in_picture(flat, camera) == 1 for camera in surround(flat)[0].values())
