"""From each detector's joints to Human3.6M's, on a posed skeleton whose joints are known by name."""

import numpy as np
import pytest
import torch

from lifting.geometry.joint_maps import coco17_to_h36m17
from lifting.geometry.skeleton import COCO17, H36M17
from lifting.keypoints.joint_sets import BODY25, COCO18, DETECTED, HALPE26, to_h36m17
from tests.keypoints.posed import people, places

SETS = ("coco17", "coco18", "body25", "halpe26")


def posed(joint_set: str) -> np.ndarray:
    """(J, 2): the joints of one person, exact."""
    where = places() | {"neck": places()["thorax"]}
    return 100 + 400 * np.stack([where[name] for name in DETECTED[joint_set].joints])


def expected() -> dict[str, np.ndarray]:
    where = places()
    where |= {"neck": where["nose"], "head": (where["left_eye"] + where["right_eye"]) / 2}
    return {name: 100 + 400 * where[name] for name in H36M17.joints}


def convert(points: np.ndarray, joint_set: str, confidence: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    given = np.where(np.isnan(points[..., 0]), 0, 1.0) if confidence is None else confidence
    return to_h36m17(points, given, joint_set)


@pytest.mark.parametrize("joint_set", SETS)
def test_each_set_gives_the_joints_by_name(joint_set: str) -> None:
    points, confidence = convert(posed(joint_set), joint_set)
    for name, place in expected().items():
        np.testing.assert_allclose(points[H36M17.joints.index(name)], place, err_msg=name)
    assert (confidence == 1).all()


def test_coco_agrees_with_the_map_that_training_uses() -> None:
    values = people("coco17", frames=20, count=3)
    points, _ = convert(values[..., :2], "coco17")
    theirs = coco17_to_h36m17(torch.from_numpy(values[..., :2])).numpy()
    np.testing.assert_allclose(points, theirs, atol=1e-9)


def test_h36m_stays_as_it_is_and_is_no_view() -> None:
    values = people("h36m17")
    points, confidence = to_h36m17(values[..., :2], values[..., 2], "h36m17")
    np.testing.assert_array_equal(points, values[..., :2])
    np.testing.assert_array_equal(confidence, values[..., 2])
    assert not np.shares_memory(points, values)


@pytest.mark.parametrize(
    ("joint_set", "gone", "target", "stand_in"),
    [
        ("body25", ["left_hip"], "pelvis", ["pelvis"]),
        ("halpe26", ["left_hip"], "pelvis", ["pelvis"]),
        ("coco17", ["left_hip"], "pelvis", None),
        ("coco18", ["right_shoulder"], "thorax", ["neck"]),
        ("body25", ["right_shoulder"], "thorax", ["neck"]),
        ("coco17", ["right_shoulder"], "thorax", None),
        ("coco17", ["right_eye"], "head", ["left_eye"]),
        ("coco18", ["left_eye"], "head", ["right_eye"]),
        ("coco17", ["left_eye", "right_eye"], "head", ["left_ear", "right_ear"]),
        ("body25", ["left_eye", "right_eye", "left_ear"], "head", ["right_ear"]),
        ("halpe26", ["left_eye", "right_eye", "left_ear", "right_ear"], "head", ["head"]),
        ("coco17", ["left_eye", "right_eye", "left_ear", "right_ear"], "head", None),
        ("halpe26", ["nose"], "neck", None),
        ("coco17", ["left_wrist"], "left_wrist", None),
    ],
)  # fmt: skip
def test_what_stands_in_for_a_missing_joint(
    joint_set: str, gone: list[str], target: str, stand_in: list[str] | None
) -> None:
    joints = DETECTED[joint_set].joints
    points = posed(joint_set)
    points[[joints.index(name) for name in gone]] = np.nan
    made, confidence = convert(points, joint_set)
    at = H36M17.joints.index(target)
    if stand_in is None:
        assert np.isnan(made[at]).all()
        assert confidence[at] == 0
    else:
        np.testing.assert_allclose(made[at], points[[joints.index(name) for name in stand_in]].mean(0))
        assert confidence[at] == 1
    spine = H36M17.joints.index("spine")
    assert np.isnan(made[spine]).all() == np.isnan(made[[0, 8]]).any()
    untouched = [j for j, name in enumerate(H36M17.joints) if name not in (*gone, target, "spine")]
    assert not np.isnan(made[untouched]).any()


def test_a_joint_of_two_is_as_sure_as_the_less_sure() -> None:
    confidence = np.linspace(0.2, 0.9, 17)
    _, sure = convert(posed("coco17"), "coco17", confidence)
    joints = COCO17.joints
    for target, sources in (("pelvis", ("left_hip", "right_hip")), ("left_knee", ("left_knee",)),
                            ("spine", ("left_hip", "right_hip", "left_shoulder", "right_shoulder"))):  # fmt: skip
        least = min(confidence[joints.index(name)] for name in sources)
        assert sure[H36M17.joints.index(target)] == pytest.approx(least)


def test_missing_joints_are_handled_pose_by_pose() -> None:
    values = people("body25", frames=5)
    values[2, 1, BODY25.joints.index("left_hip")] = np.nan
    made, _ = convert(values[..., :2], "body25")
    for t in range(5):
        for p in range(2):
            np.testing.assert_array_equal(made[t, p], convert(values[t, p, :, :2], "body25")[0])


@pytest.mark.parametrize("joint_set", [COCO18, BODY25, HALPE26])
def test_sets_are_trees_with_true_mirror_images(joint_set: object) -> None:
    assert isinstance(joint_set, type(H36M17))
    assert len(set(joint_set.joints)) == len(joint_set.joints) == len(joint_set.parents)
    for joint, name in enumerate(joint_set.joints):
        twin = joint_set.joints[joint_set.mirror[joint]]
        assert {name, twin} == {name} if "_" not in name else name.split("_", 1)[1] == twin.split("_", 1)[1]
        seen = set()
        while joint >= 0:  # every way up ends at the root
            assert joint not in seen
            seen.add(joint)
            joint = joint_set.parents[joint]
        assert joint_set.root in seen
    lengths = [np.linalg.norm(np.diff(posed(joint_set.name)[list(bone)], axis=0)) for bone in joint_set.bones]
    assert max(lengths) < 0.6 * 400  # a wrong parent makes a bone as long as the body
