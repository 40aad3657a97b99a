"""Joint sets: names, parents and mirror images. It needs no torch, because lifting with ONNX Runtime has none."""

from dataclasses import dataclass


@dataclass(frozen=True)
class JointSet:
    """A fixed order of named joints.

    Attributes:
        name: what a store or a checkpoint calls the set.
        joints: the name of each joint.
        parents: the index of each joint's parent, -1 for the root.
        mirror: the index of each joint's mirror image; a joint on the midline is its own mirror image.
    """

    name: str
    joints: tuple[str, ...]
    parents: tuple[int, ...]
    mirror: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.joints)

    @property
    def root(self) -> int:
        """The joint that poses are relative to."""
        return self.parents.index(-1)

    @property
    def bones(self) -> list[tuple[int, int]]:
        """(parent, child) of every bone."""
        return [(parent, child) for child, parent in enumerate(self.parents) if parent >= 0]

    @property
    def left(self) -> tuple[int, ...]:
        return tuple(j for j, name in enumerate(self.joints) if name.startswith("left"))

    @property
    def right(self) -> tuple[int, ...]:
        return tuple(j for j, name in enumerate(self.joints) if name.startswith("right"))


def _joint_set(name: str, joints: str, parents: tuple[int, ...]) -> JointSet:
    names = tuple(joints.split())
    other = {"left": "right", "right": "left"}
    twins = ["_".join(other.get(word, word) for word in joint.split("_")) for joint in names]
    return JointSet(name, names, parents, tuple(names.index(twin) for twin in twins))


H36M17 = _joint_set(
    "h36m17",
    "pelvis right_hip right_knee right_ankle left_hip left_knee left_ankle spine thorax neck head"
    " left_shoulder left_elbow left_wrist right_shoulder right_elbow right_wrist",
    (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 9, 8, 11, 12, 8, 14, 15),
)

COCO17 = _joint_set(
    "coco17",
    "nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow right_elbow"
    " left_wrist right_wrist left_hip right_hip left_knee right_knee left_ankle right_ankle",
    (-1, 0, 0, 1, 2, 0, 0, 5, 6, 7, 8, 5, 6, 11, 12, 13, 14),
)

# What the single-stage track predicts. MPII's thorax is the middle of the shoulders and not Human3.6M's thorax, so it
# is a joint of its own.
H36M18 = _joint_set("h36m18", " ".join((*H36M17.joints, "shoulder_middle")), (*H36M17.parents, 8))

MPII16 = _joint_set(
    "mpii16",
    "right_ankle right_knee right_hip left_hip left_knee left_ankle pelvis thorax upper_neck head_top"
    " right_wrist right_elbow right_shoulder left_shoulder left_elbow left_wrist",
    (1, 2, 6, 6, 3, 4, -1, 6, 7, 8, 11, 12, 7, 7, 13, 14),
)

JOINT_SETS = {joint_set.name: joint_set for joint_set in (H36M17, H36M18, COCO17, MPII16)}

# Each Human3.6M joint is the mean of these COCO joints; the spine, 7, is added later, halfway from pelvis to thorax.
COCO_SOURCES = (
    (11, 12), (12,), (14,), (16,), (11,), (13,), (15,), (), (5, 6), (0,), (1, 2), (5,), (7,), (9,), (6,), (8,), (10,),
)  # fmt: skip
