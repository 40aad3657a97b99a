"""The joint sets of 2D detectors, and the way from each of them to Human3.6M's 17 joints.

The sets differ in their joints, not in what a name means, so one table of names serves all of them. It agrees with
mmpose and MotionBERT (and with `lifting.geometry.joint_maps.coco17_to_h36m17`) where all joints are there, and says
what stands in for a joint that a detector missed:

==========  ==========================================================================================================
pelvis      middle of the hips; else the set's own pelvis (BODY_25, Halpe-26)
thorax      middle of the shoulders; else the set's own neck (COCO-18, BODY_25, Halpe-26)
spine       halfway from pelvis to thorax
neck        the nose (Human3.6M's joint 9 lies between neck and nose)
head        middle of the eyes; else one eye, the middle of the ears, one ear, or the top of the head (Halpe-26)
the rest    the joint of the same name
==========  ==========================================================================================================
"""

import numpy as np

from lifting.command import InputError
from lifting.geometry.skeleton import COCO17, H36M17, JointSet

_BODY = "right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist"
_LEGS = "right_hip right_knee right_ankle left_hip left_knee left_ankle"
_FACE = "right_eye left_eye right_ear left_ear"


def _joint_set(name: str, joints: str, parents: tuple[int, ...]) -> JointSet:
    names = joints.split()
    twins = [n.replace("left", "|").replace("right", "left").replace("|", "right") for n in names]
    return JointSet(name, tuple(names), parents, tuple(names.index(twin) for twin in twins))


# OpenPose's COCO model: COCO-17 in another order, and a neck.
COCO18 = _joint_set(
    "coco18",
    f"nose neck {_BODY} {_LEGS} {_FACE}",
    (1, -1, 1, 2, 3, 1, 5, 6, 1, 8, 9, 1, 11, 12, 0, 0, 14, 15),
)

BODY25 = _joint_set(
    "body25",
    f"nose neck {_BODY} pelvis {_LEGS} {_FACE}"
    " left_big_toe left_small_toe left_heel right_big_toe right_small_toe right_heel",
    (1, 8, 1, 2, 3, 1, 5, 6, -1, 8, 9, 10, 8, 12, 13, 0, 0, 15, 16, 14, 19, 14, 11, 22, 11),
)

HALPE26 = _joint_set(
    "halpe26",
    " ".join(COCO17.joints) + " head neck pelvis"
    " left_big_toe right_big_toe left_small_toe right_small_toe left_heel right_heel",
    (18, 0, 0, 1, 2, 18, 18, 5, 6, 7, 8, 19, 19, 11, 12, 13, 14, 18, 19, -1, 15, 16, 20, 21, 15, 16),
)

DETECTED = {joints.name: joints for joints in (COCO17, H36M17, COCO18, BODY25, HALPE26)}

# Sets of face, hands and feet that begin with one of ours: COCO-WholeBody, the same in OpenPose's order, Halpe-136.
BEGINS_WITH = {133: COCO17, 134: COCO18, 136: HALPE26}

# Sets that are not read, so that an error can tell what it was given.
OTHERS = {14: "CrowdPose or AI Challenger", 15: "OpenPose's MPI", 16: "MPII", 21: "one hand", 32: "all of Human3.6M's",
          33: "MediaPipe", 68: "a face"}  # fmt: skip

# For each Human3.6M joint that is not in a set by name: what makes it, the best first.
_SOURCES: dict[str, tuple[tuple[str, ...], ...]] = {
    "pelvis": (("left_hip", "right_hip"), ("pelvis",)),
    "thorax": (("left_shoulder", "right_shoulder"), ("neck",)),
    "neck": (("nose",),),
    "head": (("left_eye", "right_eye"), ("left_eye",), ("right_eye",), ("left_ear", "right_ear"), ("left_ear",),
             ("right_ear",), ("head",)),
}  # fmt: skip


def sets_of(count: int) -> list[str]:
    """Names of the joint sets with that many joints; those that a larger set begins with included."""
    begins = [BEGINS_WITH[count].name] if count in BEGINS_WITH else []
    return [name for name, joints in DETECTED.items() if len(joints) == count] + begins


def refuse_count(count: int, where: str) -> None:
    """Raises an InputError that names the sets, if no joint set has that many joints."""
    if sets_of(count):
        return
    known: dict[int, list[str]] = {}
    for name, joints in DETECTED.items():
        known.setdefault(len(joints), []).append(name)
    sets = ", ".join(f"{number} ({' or '.join(names)})" for number, names in known.items())
    whole = ", ".join(f"{number} (begins with {joints.name})" for number, joints in BEGINS_WITH.items())
    guess = f", as {OTHERS[count]} has" if count in OTHERS else ""
    raise InputError(f"{where}: expected a set of {sets}, {whole} joints, got {count} joints{guess}")


def to_h36m17(points: np.ndarray, confidence: np.ndarray, joint_set: str) -> tuple[np.ndarray, np.ndarray]:
    """Human3.6M's joints from those of a detector, by the table on top of this module.

    Args:
        points: (..., J, 2), NaN where a joint is missing.
        confidence: (..., J) in [0, 1], 0 where missing.
        joint_set: a name of `DETECTED`.

    Returns:
        (..., 17, 2) points and (..., 17) confidences. A joint made of two is as sure as the less sure of them. Where
        nothing stands in for a missing joint it stays missing: NaN, with confidence 0.
    """
    joints = DETECTED[joint_set].joints
    if joint_set == H36M17.name:
        return points.copy(), confidence.copy()
    made = np.full((*points.shape[:-2], len(H36M17), 2), np.nan)
    sure = np.zeros(made.shape[:-1])
    for target, name in enumerate(H36M17.joints):
        for sources in _SOURCES.get(name, ((name,),)):
            if set(sources) <= set(joints):
                indices = [joints.index(source) for source in sources]
                _fill(made[..., target, :], sure[..., target], points[..., indices, :], confidence[..., indices])
    pelvis, spine, thorax = (H36M17.joints.index(name) for name in ("pelvis", "spine", "thorax"))
    ends = [pelvis, thorax]
    _fill(made[..., spine, :], sure[..., spine], made[..., ends, :], sure[..., ends])
    return made, sure


def _fill(made: np.ndarray, sure: np.ndarray, points: np.ndarray, confidence: np.ndarray) -> None:
    """Writes the mean of (..., S, 2) points where ``made`` (..., 2) is still missing and all S points are there."""
    mean = points.mean(-2)
    take = np.isnan(made[..., 0]) & ~np.isnan(mean[..., 0])
    made[take] = mean[take]
    sure[take] = confidence.min(-1)[take]
