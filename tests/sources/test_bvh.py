"""BVH: the reader against a slow twin and against ASF/AMC, maps, sources on disk and in a zip, the places of joints."""

import sys
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from lifting.command import InputError
from lifting.datasets.pose_checks import left_of_body
from lifting.datasets.store import PoseStore
from lifting.geometry.joint_maps import coco17_to_h36m17
from lifting.geometry.skeleton import COCO17, H36M17, JointSet
from lifting.sources import motion_files
from lifting.sources.asf_amc import read_amc, read_asf
from lifting.sources.bvh import Bvh, parse_bvh, read_bvh
from lifting.sources.bvh_map import BvhMap, read_map
from lifting.sources.joint_places import Body, place_joints
from lifting.sources.motion_files import find_motion_files
from tests.sources.test_prepare_cmu import load

ROOT = Path(__file__).parents[2]
MAPS = ROOT / "data" / "maps"
CMU_BVH = ROOT.parent / "shared/data/cmu_bvh.zip"
CMU_ASF = ROOT.parent / "shared/data/cmu/subjects"
needs_recordings = pytest.mark.skipif(not CMU_BVH.is_file(), reason="needs the CMU recordings")

ARM = """HIERARCHY
ROOT Base
{
  OFFSET 1 2 3
  CHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation
  JOINT Upper Arm
  {
    OFFSET 0 4 0
    CHANNELS 3 Yrotation Zrotation Xrotation
    JOINT Lower
    {
      OFFSET 3 0 0
      CHANNELS 2 Zposition Xrotation
      End Site
      {
        OFFSET 0 0 2
      }
    }
  }
}
MOTION
Frames: 3
Frame Time: 0.0083333
5 6 7 0 0 0 0 0 0 1 0
5 6 7 90 0 0 0 0 0 1 0
-1 0 2 10 20 30 40 50 60 1.5 70
"""


def turn(axis: str, angle: float) -> np.ndarray:
    i = "XYZ".index(axis)
    j, k = (i + 1) % 3, (i + 2) % 3
    made = np.eye(3)
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    made[j, j], made[j, k], made[k, j], made[k, k] = c, -s, s, c
    return made


def test_positions_of_a_slow_twin() -> None:
    """The same by matrices, one frame and one joint at a time."""
    bones = parse_bvh(ARM, "arm").frames(scale=2.0)
    expected = []
    for row in (
        [5, 6, 7, 0, 0, 0, 0, 0, 0, 1, 0],
        [5, 6, 7, 90, 0, 0, 0, 0, 0, 1, 0],
        [-1, 0, 2, *range(10, 61, 10), 1.5, 70],
    ):
        base = turn("Z", row[3]) @ turn("X", row[4]) @ turn("Y", row[5])
        upper = base @ turn("Y", row[6]) @ turn("Z", row[7]) @ turn("X", row[8])
        root = np.array(row[:3])  # in place of the root's offset
        shoulder = root + base @ [0, 4, 0]
        elbow = shoulder + upper @ [3, 0, row[9]]  # the z of the offset is replaced
        expected.append([root, shoulder, elbow, elbow + upper @ turn("X", row[10]) @ [0, 0, 2]])
    names = ["Base", "Upper Arm", "Lower", "Lower.end"]
    np.testing.assert_allclose(bones.stack(names), 2 * np.array(expected), atol=1e-12)
    np.testing.assert_allclose(bones.positions["Lower.end"][1], 2 * np.array([1.0, 9, 10]), atol=1e-12)


def test_header_and_layout() -> None:
    bvh = parse_bvh(ARM.replace("\n", "\r\n").replace("0.0083333", "1.6667e-2"), "arm")
    assert bvh.frame_rate == 60.0
    assert parse_bvh(ARM, "arm").frame_rate == 120.0
    assert bvh.motion.shape == (3, 11)
    assert [joint.parent for joint in bvh.joints.values()] == ["", "Base", "Upper Arm", "Lower"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("HIERARCHY\n", "", "is no BVH file: expected HIERARCHY"),
        (ARM, "HIERARCHY\n", "expected MOTION after the hierarchy, found none: is the file cut off"),
        ("      End Site\n", "", "expected JOINT, End Site or a closing brace, got '{'"),
        ("  }\n}\nMOTION", "  }\nMOTION", "joint 'Base' is not closed"),
        (
            "CHANNELS 2 Zposition Xrotation",
            "CHANNELS 3 Zposition Xrotation",
            "'Lower' is to have 3 channels, got",
        ),
        ("CHANNELS 2 Zposition Xrotation", "CHANNELS 2 Wposition Xrotation", "channels, got none that is known"),
        ("OFFSET 3 0 0", "OFFSET 3 0 x", "joint 'Lower': expected three numbers after OFFSET, got 'x'"),
        ("OFFSET 3 0 0", "OFFSET 3 0 nan", "three numbers after OFFSET, got 'nan'"),
        ("JOINT Lower", "JOINT Base", "two joints are called 'Base'"),
        ("\nMOTION", "\nROOT Two { OFFSET 0 0 0 }\nMOTION", "expected one skeleton, got a second ROOT 'Two'"),
        (
            "Frames: 3",
            "Frames: 4",
            "expected 4 frames of 11 channels, got 33 numbers .3.0 frames.: is",
        ),
        ("1.5 70\n", "1.5\n", "expected 3 frames of 11 channels, got 32 numbers .2.9 frames."),
        ("1.5 70\n", "1.5 70 80\n", "got 34 numbers"),
        ("1.5 70", "1.5 nan", "expected finite numbers, got nan in frame 3"),
        ("1.5 70", "1.5 7o", "expected numbers in the motion"),
        ("Frames: 3", "Frames: 0", "expected frames and seconds a frame above 0, got '0'"),
        ("0.0083333", "0", "expected frames and seconds a frame above 0"),
        ("Frames: 3", "Fames: 3", "expected 'Frames: N'"),
    ],
)
def test_broken_files_are_refused_in_one_line(old: str, new: str, message: str) -> None:
    assert old in ARM
    with pytest.raises(InputError, match=message) as caught:
        parse_bvh(ARM.replace(old, new), "arm.bvh")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("arm.bvh")


def test_every_truncation_is_noticed() -> None:
    for end in range(0, len(ARM) - 4, 7):
        with pytest.raises(InputError):
            parse_bvh(ARM[:end], "arm")


def test_long_files_are_fast(tmp_path: Path) -> None:
    frames = "\n".join([" ".join(["-12.3456"] * 96)] * 3000)
    hierarchy = (
        "HIERARCHY\nROOT A { OFFSET 0 0 0\nCHANNELS 6 Xposition Yposition Zposition Zrotation Yrotation Xrotation\n"
    )
    for i in range(30):
        hierarchy += f"JOINT J{i} {{ OFFSET 0 1 0\nCHANNELS 3 Zrotation Yrotation Xrotation\n"
    path = tmp_path / "long.bvh"
    path.write_text(f"{hierarchy}{'}' * 31}\nMOTION\nFrames: 3000\nFrame Time: 0.01\n{frames}\n")
    start = time.process_time()
    bones = read_bvh(path).frames()
    assert len(bones.positions["J29"]) == 3000
    assert time.process_time() - start < 1.0


# A person of our own with the joints of 100STYLE: name -> parent, offset in centimetres.
OFFSETS = {
    "Hips": ("", (0, 0, 0)), "LeftHip": ("Hips", (8.2, 0, 0)), "LeftKnee": ("LeftHip", (0, -42.5, 0)),
    "LeftAnkle": ("LeftKnee", (0, -41.5, 0)), "RightHip": ("Hips", (-8.2, 0, 0)),
    "RightKnee": ("RightHip", (0, -42.5, 0)), "RightAnkle": ("RightKnee", (0, -41.5, 0)),
    "Chest": ("Hips", (0, 10, 0)), "Chest2": ("Chest", (0, 11, 0)),
    "Chest3": ("Chest2", (0, 10, 0)), "Chest4": ("Chest3", (0, 10, 0)), "Neck": ("Chest4", (0, 14, 0)),
    "Head": ("Neck", (0, 9.3, 0)), "LeftShoulder": ("Chest4", (17.5, 8, 0)), "LeftElbow": ("LeftShoulder", (29, 0, 0)),
    "LeftWrist": ("LeftElbow", (25, 0, 0)), "RightShoulder": ("Chest4", (-17.5, 8, 0)),
    "RightElbow": ("RightShoulder", (-29, 0, 0)), "RightWrist": ("RightElbow", (-25, 0, 0)),
}  # fmt: skip


# The same with the joints of ACCAD.
ACCAD = {
    "Hips": ("", (0, 0, 0)), "ToSpine": ("Hips", (0, 6, -2)), "Spine": ("ToSpine", (0, 10, 0)),
    "Spine1": ("Spine", (0, 14, 0)), "Neck": ("Spine1", (0, 22, 0)), "Head": ("Neck", (0, 11, 2)),
    "LeftShoulder": ("Spine1", (3, 15, 0)), "LeftArm": ("LeftShoulder", (14, 2, 0)),
    "LeftForeArm": ("LeftArm", (29, 0, 0)), "LeftHand": ("LeftForeArm", (25, 0, 0)),
    "RightShoulder": ("Spine1", (-3, 15, 0)), "RightArm": ("RightShoulder", (-14, 2, 0)),
    "RightForeArm": ("RightArm", (-29, 0, 0)), "RightHand": ("RightForeArm", (-25, 0, 0)),
    "LeftUpLeg": ("Hips", (9, -3, 0)), "LeftLeg": ("LeftUpLeg", (0, -43, 0)), "LeftFoot": ("LeftLeg", (0, -42, 0)),
    "LeftToeBase": ("LeftFoot", (0, -6, 12)), "RightUpLeg": ("Hips", (-9, -3, 0)),
    "RightLeg": ("RightUpLeg", (0, -43, 0)), "RightFoot": ("RightLeg", (0, -42, 0)),
    "RightToeBase": ("RightFoot", (0, -6, 12)),
}  # fmt: skip

Offsets = Mapping[str, tuple[str, tuple[float, float, float]]]


def person(
    frames: int = 150, seconds: float = 1 / 60, offsets: Offsets = OFFSETS, bent: tuple[str, str] = ("Hip", "Knee")
) -> str:
    """The text of a file of somebody who stands with bent knees and moves a little."""
    lines = ["HIERARCHY"]

    def add(name: str, kind: str) -> None:
        channels = "6 Xposition Yposition Zposition " if kind == "ROOT" else "3 "
        offset = " ".join(map(str, offsets[name][1]))
        lines.append(f"{kind} {name}\n{{\nOFFSET {offset}\nCHANNELS {channels}Yrotation Xrotation Zrotation")
        order.append(name)
        children = [child for child, (parent, _) in offsets.items() if parent == name]
        for child in children:
            add(child, "JOINT")
        lines.append("}" if children else "End Site\n{\nOFFSET 0 1 0\n}\n}")

    order: list[str] = []
    add("Hips", "ROOT")
    angles = np.random.default_rng(0).normal(0, 3, (frames, 3 * len(order)))
    for side in ("Left", "Right"):
        angles[:, 3 * order.index(side + bent[0]) + 1] -= 30  # about x to the left: the knee goes forward, to +z
        angles[:, 3 * order.index(side + bent[1]) + 1] += 60
    rows = np.concatenate([np.tile([10.0, 90, 20], (frames, 1)), angles], 1)
    motion = "\n".join(" ".join(f"{value:.4f}" for value in row) for row in rows)
    return "\n".join(lines) + f"\nMOTION\nFrames: {frames}\nFrame Time: {seconds:.6f}\n{motion}\n"


@pytest.fixture
def convert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., PoseStore]:
    script = load("prepare_bvh")

    def run(source: Path, *options: str, map_file: Path = MAPS / "100style.yaml") -> PoseStore:
        output = tmp_path / "out" / "set.h5"
        words = ["prepare_bvh.py", str(source), "--map", str(map_file), "--output", str(output), *options]
        monkeypatch.setattr(sys, "argv", words)
        script.main()
        return PoseStore(output)

    return run


def test_a_folder_a_zip_and_a_file_give_the_same(tmp_path: Path, convert: Callable[..., PoseStore]) -> None:
    folder = tmp_path / "Style"
    folder.mkdir()
    (folder / "Walk.bvh").write_text(person())
    (folder / "Frame_Cuts.csv").write_text("ignored")
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("100STYLE/Style/Walk.BVH", person())
        archive.writestr("__MACOSX/Style/._Walk.bvh", b"\0")
    found = []
    for source in (folder, tmp_path / "set.zip", folder / "Walk.bvh"):
        with convert(source) as store:
            assert (store.subjects, store.sequences("performer")) == (["performer"], ["Walk"])
            assert (store.frame_rate, store.joint_set) == (60, H36M17)
            found.append(store.positions("performer", "Walk"))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    positions = found[0]
    assert (left_of_body(positions) > 0).all()
    assert (positions[:, 10, 2] - positions[:, 0, 2] > 0.5).all()  # z up
    np.testing.assert_allclose(np.linalg.norm(positions[:, 2] - positions[:, 3], axis=-1), 0.415, atol=1e-4)
    bones = parse_bvh(person(), "").frames(0.01)
    x, y, z = bones.positions["LeftKnee"].T
    np.testing.assert_allclose(positions[:, 5], np.stack([x, -z, y], 1), atol=1e-5)
    with convert(folder, "--fps", "20") as store:
        np.testing.assert_array_equal(store.positions("performer", "Walk"), positions[::3])


def test_people_are_named_and_rates_must_agree(tmp_path: Path, convert: Callable[..., PoseStore]) -> None:
    text = (MAPS / "100style.yaml").read_text()
    for name in ("Anna", "Bert"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a_1.bvh").write_text(person(seconds=1 / 60 if name == "Anna" else 1 / 30))
    by_folder = tmp_path / "folder.yaml"
    by_folder.write_text(text.replace("subject: performer", "subject: folder"))
    with pytest.raises(InputError, match=r"expected one frame rate, got 60 in .*; 30 in .*--fps"):
        convert(tmp_path, map_file=by_folder)
    with pytest.raises(InputError, match="--fps: expected a divisor of 60, the file's frame rate, got 50"):
        convert(tmp_path, "--fps", "50", map_file=by_folder)
    with convert(tmp_path, "--fps", "30", map_file=by_folder) as store:
        assert (store.subjects, store.frame_rate) == (["Anna", "Bert"], 30)
    by_name = tmp_path / "name.yaml"
    by_name.write_text(text.replace("subject: performer", "subject: '^b_(.)'"))
    with pytest.raises(InputError, match="expected a name that fits"):
        convert(tmp_path, "--fps", "30", map_file=by_name)


def test_maps_that_come_along_are_whole() -> None:
    assert {path.stem: read_map(path).cmu is not None for path in MAPS.glob("*.yaml")} == {
        "cmu": True,
        "100style": False,
        "accad": False,
    }


def test_the_map_of_accad(tmp_path: Path, convert: Callable[..., PoseStore]) -> None:
    """Its joints by name, of two people at their own frame rates, with and without the joint that some files lack."""
    short = {name: ("Hips" if parent == "ToSpine" else parent, at) for name, (parent, at) in ACCAD.items()}
    del short["ToSpine"]
    legs = ("UpLeg", "Leg")
    (tmp_path / "Male1_B3_Walk.bvh").write_text(person(60, 1 / 30, ACCAD, legs))
    (tmp_path / "Male2_B24_WalkToCrouch.bvh").write_text(person(60, 1 / 120, short, legs))
    with convert(tmp_path, "--fps", "30", map_file=MAPS / "accad.yaml") as store:
        assert store.subjects == ["Male1", "Male2"]
        assert store.sequences("Male1") == ["Male1_B3_Walk"]
        positions = store.positions("Male1", "Male1_B3_Walk")
        assert len(store.positions("Male2", "Male2_B24_WalkToCrouch")) == 15
    at = parse_bvh(person(60, 1 / 30, ACCAD, legs), "").frames(0.01).positions
    expected = {
        "left_knee": at["LeftLeg"], "right_ankle": at["RightFoot"], "left_shoulder": at["LeftArm"],
        "right_elbow": at["RightForeArm"], "right_wrist": at["RightHand"], "thorax": at["Neck"], "neck": at["Head"],
        "pelvis": (at["LeftUpLeg"] + at["RightUpLeg"]) / 2, "spine": (at["Spine"] + at["Spine1"]) / 2,
        "head": (at["Head"] + at["Head.end"]) / 2,
    }  # fmt: skip
    for name, place in expected.items():  # z up
        np.testing.assert_allclose(
            positions[:, H36M17.joints.index(name)], place[:, [0, 2, 1]] * (1, -1, 1), atol=1e-5, err_msg=name
        )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("metres: 0.01", "metres: 0", "metres: Input should be greater than 0"),
        ("up: y", "up: x", "up: Input should be 'y' or 'z'"),
        ("  spine:", "  spline:", "expected Human3.6M's 17: missing spine; unknown spline"),
        ("subject: performer", "subject: '^x'", "a name or an expression with a group; got"),
        ("subject: performer", "subject: '('", "expected a regular expression"),
        ("left_knee: LeftKnee", "left_knee: {at: LeftKnee, offset: [1, 2]}", "joints.left_knee.offset"),
        ("left_knee: LeftKnee", "left_knee: [", "is not YAML"),
    ],
)
def test_broken_maps_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "map.yaml"
    path.write_text((MAPS / "100style.yaml").read_text().replace(old, new))
    with pytest.raises(InputError, match=message) as caught:
        read_map(path)
    assert "\n" not in str(caught.value)


def test_bad_sources_are_refused(
    tmp_path: Path, convert: Callable[..., PoseStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="expected a file, found nothing"):
        convert(tmp_path / "absent")
    with pytest.raises(InputError, match=r"expected .bvh files .* found none"):
        convert(tmp_path)
    (tmp_path / "a.bvh").write_text(ARM)
    with pytest.raises(InputError, match=r"a.bvh: joints not found: Chest2, .*; the file has Base, Upper Arm, Lower$"):
        convert(tmp_path / "a.bvh")
    (tmp_path / "a.bvh").write_text(person().replace("Left", "Tfel").replace("Right", "Left").replace("Tfel", "Right"))
    with pytest.raises(InputError, match="left and right are exchanged"):
        convert(tmp_path / "a.bvh")
    (tmp_path / "a.bvh").write_text(person(frames=1))
    drop = tmp_path / "drop.yaml"
    drop.write_text((MAPS / "100style.yaml").read_text() + "drop: 1\n")
    with pytest.raises(InputError, match="expected more than the 1 frames to drop, got 1"):
        convert(tmp_path / "a.bvh", map_file=drop)
    with pytest.raises(InputError, match="coco17: a recording has no such joints of its own"):
        convert(tmp_path / "a.bvh", "--joints", "coco17")
    assert not (tmp_path / "out").exists()


def test_zips_are_read_in_memory_and_within_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../evil.bvh", person(frames=2))
        archive.writestr("bomb.bvh", "0" * 100_000)
    before = sorted(tmp_path.rglob("*"))
    bomb, evil = find_motion_files(path, ".bvh")
    assert (evil.stem, parse_bvh(evil.text(), evil.where).motion.shape[0]) == ("evil", 2)
    assert sorted(tmp_path.rglob("*")) == before
    assert not (tmp_path.parents[1] / "evil.bvh").exists()
    monkeypatch.setattr(motion_files, "LARGEST", 99_999)
    with pytest.raises(InputError, match=r"bomb.bvh in .*set.zip: expected at most .* it unpacks to more"):
        bomb.read()
    broken = bytearray(path.read_bytes())
    broken[60:80] = bytes(20)
    path.write_bytes(broken)
    with pytest.raises(InputError, match="the zip is broken"):
        next(file for file in find_motion_files(path, ".bvh") if file.stem == "evil").read()


STANDING = {
    "pelvis": (0, 0, 0), "left_hip": (0.093, -0.1, 0.04), "left_knee": (0.088, -0.5, 0.04),
    "left_ankle": (0.08, -0.93, 0.04), "spine": (0, 0.115, -0.01),
    "chest": (0, 0.23, -0.01), "thorax": (0, 0.345, -0.015), "neck": (0, 0.53, -0.035),
    "head": (0, 0.625, -0.015), "left_shoulder": (0.185, 0.4, -0.02), "left_elbow": (0.19, 0.11, -0.02),
    "left_wrist": (0.19, -0.075, 0),
}  # fmt: skip


def standing(turned: Rotation | None = None, scale: float = 1.0) -> Body:
    """CMU's mean person at rest, x to his left, y up, z forward; then turned and scaled."""
    turned = turned or Rotation.identity()
    right = {n.replace("left", "right"): (-x, y, z) for n, (x, y, z) in STANDING.items() if "left" in n}
    joints = {name: turned.apply([scale * np.array(at)]) for name, at in (STANDING | right).items()}
    return Body(joints, dict.fromkeys(("pelvis", "chest", "head"), turned * Rotation.identity(1)))


@pytest.mark.parametrize("joint_set", [H36M17, COCO17], ids=lambda joint_set: joint_set.name)
def test_places_are_symmetric_and_follow_the_body(joint_set: JointSet) -> None:
    points = place_joints(standing(), joint_set)[0]
    np.testing.assert_allclose(points[list(joint_set.mirror)] * [-1, 1, 1], points, atol=1e-12)
    assert (points[list(joint_set.left), 0] > 0.02).all()
    turned = Rotation.from_euler("xyz", [30, 50, 70], degrees=True)
    moved = place_joints(standing(turned, scale=1.2), joint_set)[0]
    np.testing.assert_allclose(moved, 1.2 * turned.apply(points), atol=1e-12)


def test_human36m_lengths() -> None:
    """Within 15 % of the published skeleton, and each joint where it has to be."""
    points = dict(zip(H36M17.joints, place_joints(standing(), H36M17)[0], strict=True))
    published = {
        ("pelvis", "left_hip"): 0.133, ("left_hip", "left_knee"): 0.443, ("left_knee", "left_ankle"): 0.454,
        ("pelvis", "spine"): 0.233, ("spine", "thorax"): 0.257, ("thorax", "neck"): 0.121, ("neck", "head"): 0.115,
        ("thorax", "left_shoulder"): 0.151, ("left_shoulder", "left_elbow"): 0.279, ("left_elbow", "left_wrist"): 0.252,
    }  # fmt: skip
    for (parent, child), length in published.items():
        assert np.linalg.norm(points[child] - points[parent]) == pytest.approx(length, rel=0.15), child
    np.testing.assert_allclose(points["pelvis"], (points["left_hip"] + points["right_hip"]) / 2, atol=1e-12)
    assert points["spine"][2] < min(points["pelvis"][2], points["thorax"][2])  # the back is behind
    assert points["neck"][2] > points["head"][2] > points["thorax"][2]
    assert points["thorax"][1] > points["left_shoulder"][1] + 0.03


def test_coco_faces() -> None:
    points = dict(zip(COCO17.joints, place_joints(standing(), COCO17)[0], strict=True))
    assert points["left_eye"][0] - points["right_eye"][0] == pytest.approx(0.063, rel=0.1)
    assert points["left_ear"][0] - points["right_ear"][0] == pytest.approx(0.145, rel=0.1)
    assert points["nose"][2] > points["left_eye"][2] + 0.02 > points["left_ear"][2] + 0.08
    assert points["nose"][1] < points["left_ear"][1] < points["left_eye"][1]
    wide = place_joints(standing(), H36M17)[0]
    assert points["left_hip"][0] < wide[4, 0]
    assert points["left_shoulder"][0] > wide[11, 0]


def of_trial(name: str, step: int = 4) -> tuple[Bvh, BvhMap]:
    with zipfile.ZipFile(CMU_BVH) as archive:
        text = archive.read(f"{name[:2]}/{name}.bvh").decode("latin1")
    return parse_bvh(text, name), read_map(MAPS / "cmu.yaml")


@needs_recordings
def test_bvh_agrees_with_asf_and_amc() -> None:
    """Two independent formats and readers: legs and root to 0.1 mm, the mended chest and arms to 6 mm."""
    cmu = load("prepare_cmu")
    for name in ("02_01", "03_01"):
        bvh, bvh_map = of_trial(name)
        body = bvh_map.body(bvh_map.bones(bvh, 4))
        skeleton = read_asf(CMU_ASF / name[:2] / f"{name[:2]}.asf")
        motion = read_amc(CMU_ASF / name[:2] / f"{name}.amc", skeleton, 4)
        other = cmu.body_of(skeleton.frames(motion).turned_up())
        apart = np.linalg.norm(body.own_places() - other.own_places(), axis=-1)
        assert apart[:, :8].max() < 1e-4
        assert apart.max() < 6e-3
        for joint_set in (H36M17, COCO17):
            assert np.linalg.norm(place_joints(body, joint_set) - place_joints(other, joint_set), axis=-1).max() < 8e-3


@needs_recordings
def test_real_people_keep_their_bones() -> None:
    for name in ("05_01", "06_01", "07_01"):
        bvh, bvh_map = of_trial(name)
        points = place_joints(bvh_map.body(bvh_map.bones(bvh, 4)), H36M17)
        lengths = np.stack([np.linalg.norm(points[:, c] - points[:, p], axis=-1) for p, c in H36M17.bones], 1)
        assert lengths.std(0).max() < 0.015
        assert (left_of_body(points) > 0).mean() > 0.9
        assert len(points) == -(-(len(bvh.motion) - 1) // 4)  # without the T-pose


@needs_recordings
def test_cmu_bvh_by_zip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(CMU_BVH) as whole, zipfile.ZipFile(tmp_path / "few.zip", "w") as few:
        for name in ("07/07_01.bvh", "08/08_01.bvh"):
            few.writestr(name, whole.read(name))
    script, output, made = load("prepare_cmu"), tmp_path / "cmu.h5", dict[str, np.ndarray]()
    for joints in ("h36m17", "coco17"):
        words = [
            "prepare_cmu.py",
            str(tmp_path / "few.zip"),
            "--output",
            str(output),
            "--fps",
            "30",
            "--joints",
            joints,
        ]
        monkeypatch.setattr(sys, "argv", words)
        script.main()
        with PoseStore(output) as store:
            assert (store.subjects, store.sequences("07"), store.frame_rate) == (["07", "08"], ["07_01"], 30)
            assert store.joint_set.name == joints
            assert len(store.cameras("08")) == 4
            made[joints] = store.positions("07", "07_01")
    monkeypatch.setattr(sys, "argv", [*words[:-2], "--places", "coco"])
    script.main()
    with PoseStore(output) as store:
        assert store.joint_set.name == "h36m17"
        as_detected = coco17_to_h36m17(torch.from_numpy(made["coco17"]))
        np.testing.assert_allclose(store.positions("07", "07_01"), as_detected, atol=1e-6)
        nose = np.linalg.norm(store.positions("07", "07_01") - made["h36m17"], axis=-1)[:, 9]
        assert nose.min() > 0.04  # the nose is not Human3.6M's joint 9
    monkeypatch.setattr(sys, "argv", [*words, "--places", "cmu"])
    with pytest.raises(InputError, match=r"coco17: a recording has no such joints of its own; .* placed as h36m"):
        script.main()
    (tmp_path / "a.asf").touch()
    (tmp_path / "a.bvh").touch()
    monkeypatch.setattr(sys, "argv", ["prepare_cmu.py", str(tmp_path)])
    with pytest.raises(InputError, match=r"found both .asf and .bvh"):
        script.main()
