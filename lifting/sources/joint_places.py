"""Brings the joints of CMU's skeleton to where Human3.6M and COCO have theirs.

Detectors learn from such labels, so a lifter has to see joints there. A joint is moved by a fixed offset in the axes of
a bone (x to the person's left, y up, z forward when he stands), in shares of his own lengths: ``leg`` from hip to
ankle, ``trunk`` from pelvis to thorax along the spine, ``arm`` from shoulder to elbow. What was matched:

- Human3.6M's published skeleton, that of S1 in the forward kinematics of Jain et al. 2016 ("Structural-RNN"): pelvis
  to hip 133 mm, thigh 443, shank 454, pelvis to spine 233, to thorax 257, to neck/nose 121, to head 115, thorax to
  shoulder 151, upper arm 279, forearm 252. The pelvis lies midway between the hips, which are half again as far apart
  as hip joints are; the spine bulges back; the neck/nose lies before the neck at chin height.
- Proportions to stature of Drillis and Contini 1966 (hip joint 0.530, knee 0.285, chin 0.870), by which CMU's hips
  and knees lie 5 and 2 cm too low.
- Hip joint centres of Bell et al. 1989: 0.36 of the distance between the iliac spines to each side, where CMU's are.
- Nose, eyes and ears against the tragus: Young 1993, "Head and Face Anthropometry of Adult U.S. Citizens" (pupils 63 mm
  apart and 82 mm before it, ears 145 mm apart, tip of the nose 120 mm before it).

Where these disagree (a hip that is raised is no centre of rotation any more), offsets are smaller than a standing pose
would have them: the thigh keeps its length to a few percent. `docs/joint_places.png` shows the result.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from lifting.geometry.skeleton import COCO17, H36M17, JointSet

CHEST = "chest"  # a joint between spine and thorax that Human3.6M has not


@dataclass(frozen=True)
class Body:
    """CMU's own joints over T frames, and the axes that they are moved along.

    Attributes:
        joints: (T, 3) metres for each name of `H36M17` and for `CHEST`.
        axes: rotations to the world for "pelvis", "chest" and "head": x left, y up, z forward.
    """

    joints: dict[str, np.ndarray]
    axes: dict[str, Rotation]

    def own_places(self) -> np.ndarray:
        """(T, 17, 3) metres: the joints of `H36M17` where CMU has them."""
        return np.stack([self.joints[name] for name in H36M17.joints], 1)


@dataclass(frozen=True)
class Place:
    """The mean of the joints ``at``, then a ``share`` of the way to ``towards``, then ``offset`` times ``unit``."""

    at: tuple[str, ...]
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)  # left, up, forward
    axes: str = "chest"
    unit: str = "trunk"
    towards: str = ""
    share: float = 0.0

    def of(self, body: Body, units: dict[str, float]) -> np.ndarray:
        """(T, 3) metres."""
        place = np.mean([body.joints[name] for name in self.at], axis=0)
        if self.towards:
            place = place + self.share * (body.joints[self.towards] - place)
        moved: np.ndarray = place + body.axes[self.axes].apply(units[self.unit] * np.array(self.offset))
        return moved

    def mirrored(self) -> "Place":
        """Of the right side, for one of the left."""
        other = [name.replace("left", "right") for name in (*self.at, self.towards)]
        x, y, z = self.offset
        return replace(self, at=tuple(other[:-1]), towards=other[-1], offset=(-x, y, z))


def _with_right(places: dict[str, Place]) -> dict[str, Place]:
    right = {name.replace("left", "right"): place.mirrored() for name, place in places.items() if "left" in name}
    return places | right


_KNEE = Place(("left_knee",), towards="left_hip", share=0.06)
_ELBOW = Place(("left_elbow",))
# CMU's radius ends at about two thirds of the forearm; the mean over eight people of the longer one is 0.9 upper arms.
_WRIST = Place(("left_wrist",), towards="left_elbow", share=-0.4)

H36M_PLACES = _with_right(
    {
        "pelvis": Place(("left_hip", "right_hip"), (0, 0.07, 0), "pelvis", "leg"),
        "left_hip": Place(("left_hip",), (0.045, 0.07, 0), "pelvis", "leg"),
        "left_knee": _KNEE,
        "left_ankle": Place(("left_ankle",)),
        "spine": Place(("spine", CHEST), (0, 0, -0.03)),
        "thorax": Place(("thorax",), (0, 0.263, 0)),
        "neck": Place(("neck",), (0, 0.07, 0.195), "head"),
        "head": Place(("head",), (0, 0.06, 0.023), "head"),
        "left_shoulder": Place(("left_shoulder",), (-0.09, 0, 0), unit="arm", towards="left_elbow", share=0.05),
        "left_elbow": _ELBOW,
        "left_wrist": _WRIST,
    }
)

COCO_PLACES = _with_right(
    {
        "nose": Place(("head",), (0, -0.01, 0.34), "head"),
        "left_eye": Place(("head",), (0.09, 0.12, 0.232), "head"),
        "left_ear": Place(("head",), (0.204, 0.062, 0), "head"),
        "left_shoulder": Place(("left_shoulder",), towards="left_elbow", share=0.05),
        "left_elbow": _ELBOW,
        "left_wrist": _WRIST,
        "left_hip": Place(("left_hip",), (0.015, 0.05, 0), "pelvis", "leg"),
        "left_knee": _KNEE,
        "left_ankle": Place(("left_ankle",), towards="left_knee", share=0.03),
    }
)

_TABLES = {H36M17.name: H36M_PLACES, COCO17.name: COCO_PLACES}


def place_joints(body: Body, joint_set: JointSet) -> np.ndarray:
    """(T, J, 3) metres: joints of ``joint_set``, `H36M17` or `COCO17`, where its data sets have them."""
    table, units = _TABLES[joint_set.name], _units(body)
    return np.stack([table[name].of(body, units) for name in joint_set.joints], 1)


def _units(body: Body) -> dict[str, float]:
    """Lengths in metres: means over the frames, in which bones keep their lengths, and over both sides."""

    def length(*names: str) -> float:
        ends = np.stack([body.joints[name] for name in names])
        return float(np.linalg.norm(np.diff(ends, axis=0), axis=-1).sum(0).mean())

    legs, arms = (
        [length(*(f"{side}_{joint}" for joint in joints)) for side in ("left", "right")]
        for joints in (("hip", "knee", "ankle"), ("shoulder", "elbow"))
    )
    return {"leg": sum(legs) / 2, "arm": sum(arms) / 2, "trunk": length("pelvis", "spine", CHEST, "thorax")}
