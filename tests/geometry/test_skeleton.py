"""Joint sets: which joint hangs on which, by name."""

import pytest

from lifting.geometry.skeleton import COCO17, H36M17, H36M18, JOINT_SETS, MPII16, JointSet

LIMBS = {f"{side}_{child}": f"{side}_{parent}" for side in ("left", "right")
         for child, parent in (("knee", "hip"), ("ankle", "knee"), ("elbow", "shoulder"), ("wrist", "elbow"))}  # fmt: skip
HIPS = {"left_hip": "pelvis", "right_hip": "pelvis"}
PARENTS = {
    "h36m17": HIPS | {"spine": "pelvis", "thorax": "spine", "neck": "thorax", "head": "neck"}
    | dict.fromkeys(("left_shoulder", "right_shoulder"), "thorax"),
    "coco17": dict.fromkeys(("left_eye", "right_eye", "left_shoulder", "right_shoulder"), "nose")
    | {f"{side}_{child}": f"{side}_{parent}" for side in ("left", "right")
       for child, parent in (("ear", "eye"), ("hip", "shoulder"))},
    "mpii16": HIPS | {"thorax": "pelvis", "upper_neck": "thorax", "head_top": "upper_neck"}
    | dict.fromkeys(("left_shoulder", "right_shoulder"), "thorax"),
}  # fmt: skip
PARENTS["h36m18"] = PARENTS["h36m17"] | {"shoulder_middle": "thorax"}


@pytest.mark.parametrize("joint_set", [H36M17, H36M18, COCO17, MPII16], ids=lambda joint_set: joint_set.name)
def test_every_joint_hangs_on_the_one_that_its_name_says(joint_set: JointSet) -> None:
    found = {joint_set.joints[child]: joint_set.joints[parent] for parent, child in joint_set.bones}
    assert found == LIMBS | PARENTS[joint_set.name]
    assert joint_set.joints[joint_set.root] not in found
    assert JOINT_SETS[joint_set.name] is joint_set
