"""Joint sets: which joint hangs on which, by name."""

import pytest

from lifting.geometry.skeleton import COCO17, H36M17, H36M18, JOINT_SETS, MPII16, JointSet


def both_sides(**parents: str) -> dict[str, str]:
    """The parent of each child, left and right."""
    return {f"{side}_{child}": f"{side}_{parent}" for side in ("left", "right") for child, parent in parents.items()}


LIMBS = both_sides(knee="hip", ankle="knee", elbow="shoulder", wrist="elbow")
HIPS, SHOULDERS, EYES = ((f"left_{name}", f"right_{name}") for name in ("hip", "shoulder", "eye"))
PARENTS = {
    "h36m17": {"spine": "pelvis", "thorax": "spine", "neck": "thorax", "head": "neck"}
    | dict.fromkeys(HIPS, "pelvis") | dict.fromkeys(SHOULDERS, "thorax"),
    "coco17": dict.fromkeys((*EYES, *SHOULDERS), "nose") | both_sides(ear="eye", hip="shoulder"),
    "mpii16": {"thorax": "pelvis", "upper_neck": "thorax", "head_top": "upper_neck"}
    | dict.fromkeys(HIPS, "pelvis") | dict.fromkeys(SHOULDERS, "thorax"),
}  # fmt: skip
PARENTS["h36m18"] = PARENTS["h36m17"] | {"shoulder_middle": "thorax"}


@pytest.mark.parametrize("joint_set", [H36M17, H36M18, COCO17, MPII16], ids=lambda joint_set: joint_set.name)
def test_every_joint_hangs_on_the_one_that_its_name_says(joint_set: JointSet) -> None:
    found = {joint_set.joints[child]: joint_set.joints[parent] for parent, child in joint_set.bones}
    assert found == LIMBS | PARENTS[joint_set.name]
    assert joint_set.joints[joint_set.root] not in found
    assert JOINT_SETS[joint_set.name] is joint_set
