"""A parametric human body and its motion: joint angles over time, feet that do not slide, 17 joints.

Frames of reference: world z up; each body part x forward, y left, z up when a person stands upright. A joint turns by
a swing (the rotation vector that carries the bone from its rest direction) followed by a twist about the bone. Trunk,
neck and arms move by angles alone. A leg closes the chain from the pelvis to its foot on the floor, so feet do not
slide and knees bend only one way. Lengths in metres, times in seconds, angles in degrees in tables and poses.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from lifting.geometry.skeleton import H36M17
from lifting.synthetic.proportions import RATIOS

Array = NDArray[np.float64]

STATURES = (1.55, 1.95)  # metres


class Range(NamedTuple):
    """One degree of freedom: its limits, and the standard deviations of its three random components."""

    low: float
    high: float
    habit: float  # constant over a sequence
    spread: float  # drawn anew for every posture
    wander: float  # a slow drift that never stops


# Limits of spine, neck and arms: normal ranges of the American Academy of Orthopaedic Surgeons ("Joint Motion: Method
# of Measuring and Recording", 1965). They have no pelvis tilt; its limits allow bending and slouching. `height` is the
# height of the pelvis over that of standing; `back` is its distance behind the feet and `foot_*` are offsets of a foot,
# both in leg lengths. Legs have no angles here because they close the chain; a test checks that they stay within human
# ranges.
_TRUNK = {
    "height": Range(0.1, 1.1, 0.006, 0.0, 0.002),
    "back": Range(-0.25, 0.7, 0.01, 0.015, 0.012),
    "sway": Range(-0.15, 0.15, 0.01, 0.02, 0.015),
    "pelvis_flex": Range(-35, 60, 2, 2, 1.5),
    "pelvis_side": Range(-15, 15, 1, 1.5, 1),
    "pelvis_twist": Range(-40, 40, 3, 5, 3),
    "spine_flex": Range(-25, 80, 4, 4, 2.5),
    "spine_side": Range(-35, 35, 2, 4, 2),
    "spine_twist": Range(-45, 45, 3, 6, 3),
    "neck_flex": Range(-45, 45, 5, 6, 4),
    "neck_side": Range(-45, 45, 3, 4, 3),
    "neck_twist": Range(-60, 60, 5, 12, 7),
}
_LIMB = {
    "arm_flex": Range(-60, 175, 4, 7, 3),
    "arm_out": Range(-45, 175, 3, 5, 2.5),
    "arm_twist": Range(-85, 70, 6, 7, 4),
    "elbow": Range(4, 150, 5, 7, 4),
    "arm_swing": Range(0, 1.5, 0.2, 0, 0),
    "knee_out": Range(-40, 60, 4, 3, 2),
    "foot_forward": Range(-0.4, 0.7, 0.02, 0, 0),
    "foot_out": Range(-0.5, 0.4, 0.02, 0, 0),
    "foot_up": Range(-0.1, 0.6, 0, 0, 0),
}
SIDES = ("left", "right")
RANGES = _TRUNK | {f"{side}_{name}": limits for side in SIDES for name, limits in _LIMB.items()}
STRAIGHTEST = 0.997  # largest distance from hip to ankle over the leg's length: knees bend by at least nine degrees


@dataclass(frozen=True)
class Body:
    """Bone lengths of one person in metres, equal on both sides; ``ankle`` is the ankle's height above the floor."""

    hip: float
    thigh: float
    shank: float
    ankle: float
    lumbar: float
    thorax: float
    neck: float
    head: float
    shoulder: float
    upper_arm: float
    forearm: float

    @property
    def leg(self) -> float:
        return self.thigh + self.shank


def random_body(rng: np.random.Generator, stature: float) -> Body:
    """A person of this stature whose ratios each differ from the mean by a few percent, ten at most."""
    part = {name: ratio * (1 + np.clip(rng.normal(0, 0.04), -0.1, 0.1)) for name, ratio in RATIOS.items()}
    return Body(**{name: float(stature * ratio) for name, ratio in part.items()})


def ease(u: Array) -> Array:
    """The minimum-jerk step from 0 at u <= 0 to 1 at u >= 1 (Flash and Hogan 1985)."""
    u = np.clip(u, 0, 1)
    return u**3 * (10 - 15 * u + 6 * u**2)


def wander(rng: np.random.Generator, time: Array, columns: int) -> Array:
    """(T, columns) smooth noise of unit variance below 0.8 Hz: eight sinusoids of random phase per column."""
    frequency = rng.uniform(0.05, 0.8, (8, columns))
    weight = 1 / (1 + (frequency / 0.3) ** 2)
    weight *= np.sqrt(2 / (weight**2).sum(0))
    angle = 2 * np.pi * (frequency * time[:, None, None] + rng.random((8, columns)))
    noise: Array = (weight * np.sin(angle)).sum(1)
    return noise


def within(values: Array, low: Array, high: Array) -> Array:
    """Clips values smoothly to [low, high]; those inside by more than a tenth of the range do not change."""
    soft = (high - low) / 60
    values = low + soft * np.logaddexp(0, (values - low) / soft)
    return high - soft * np.logaddexp(0, (high - values) / soft)


@dataclass(frozen=True)
class Steps:
    """The steps of a person: a path with a heading, and the phase of the gait along it.

    The left foot leaves the floor ``swing`` cycles before every integer phase and lands at that phase; the right foot
    follows half a cycle later. Both stand while the phase is constant.
    """

    path: Array  # (T, 2) metres
    heading: Array  # (T,) radians
    phase: Array  # (T,) cycles, never decreasing
    swing: float  # fraction of a cycle for which a foot is in the air
    lift: float  # metres, largest rise of an ankle
    width: float  # metres from the midline to an ankle
    give: float  # metres over which the limit of the pelvis's height is smoothed, as by bending knees

    def feet(self) -> Array:
        """(T, 2, 3) left and right ankle, with heights above those of standing."""
        return np.stack([self._foot(0.0, self.width), self._foot(0.5, -self.width)], 1)

    def _foot(self, lag: float, side: float) -> Array:
        phase = self.phase + lag
        across = np.stack([-np.sin(self.heading), np.cos(self.heading)], 1)
        under = self.path + side * across
        stance = np.arange(np.floor(phase[0]), np.floor(phase[-1]) + 2)
        middle = stance + (1 - self.swing) / 2  # a foot stands where the body is in the middle of the foot's stance
        places = np.stack([np.interp(middle, phase, under[:, d]) for d in range(2)], 1)
        index = (np.floor(phase) - stance[0]).astype(int)
        u = np.clip((phase % 1 - (1 - self.swing)) / self.swing, 0, 1)
        ground = places[index] + (places[index + 1] - places[index]) * ease(u)[:, None]
        height = self.lift * u**3 * (1 - u) ** 4 / 0.00839  # highest, 1, at u = 3/7: a heel rises before it swings
        return np.concatenate([ground, height[:, None]], 1)


def gait_angles(steps: Steps, pose: dict[str, Array]) -> dict[str, Array]:
    """Adds a walk to the pose: swinging arms, and a pelvis that turns, drops and sways against the spine."""
    forward = np.cos(2 * np.pi * steps.phase)  # 1 where the left foot lands
    on_left = np.cos(2 * np.pi * (steps.phase - (1 - steps.swing) / 2))
    more = {
        "pelvis_twist": -5 * forward,
        "spine_twist": 10 * forward,
        "pelvis_side": 3.5 * on_left,
        "spine_side": -5 * on_left,
        "sway": 0.025 * on_left,
    }
    for side, sign in zip(SIDES, (-1, 1), strict=True):
        more[f"{side}_arm_flex"] = 20 * sign * forward * pose[f"{side}_arm_swing"]
        more[f"{side}_elbow"] = 10 * (1 + sign * forward) * pose[f"{side}_arm_swing"]
    return pose | {name: pose[name] + value for name, value in more.items()}


def place_joints(body: Body, steps: Steps, pose: dict[str, Array]) -> Array:
    """Forward kinematics.

    Args:
        pose: the (T,) values of each name of `RANGES`.

    Returns:
        (T, 17, 3) world positions in metres, joints of `H36M17`.
    """
    joints: dict[str, Array] = {}
    facing = Rotation.from_rotvec(np.outer(steps.heading, [0, 0, 1]))
    turned = Rotation.from_rotvec(np.outer(steps.heading + np.radians(pose["pelvis_twist"]), [0, 0, 1]))
    pelvis = turned * _turn(pose["pelvis_side"], pose["pelvis_flex"])
    feet = steps.feet() + _foot_offsets(body, facing, pose)
    offset = np.stack([-pose["back"] * body.leg, pose["sway"], 0 * pose["sway"]], 1)
    root = np.pad(steps.path, ((0, 0), (0, 1))) + facing.apply(offset)
    hips = {side: pelvis.apply([0, sign * body.hip, 0]) for side, sign in zip(SIDES, (1, -1), strict=True)}
    root[:, 2] = _pelvis_height(body, steps.give, pose["height"], root, hips, feet)
    joints["pelvis"] = root
    half = _turn(pose["spine_side"] / 2, pose["spine_flex"] / 2, pose["spine_twist"] / 2)
    joints["spine"] = root + (pelvis * half).apply([0, 0, body.lumbar])
    chest = pelvis * half * half
    joints["thorax"] = joints["spine"] + chest.apply([0, 0, body.thorax])
    skull = chest * _turn(pose["neck_side"], pose["neck_flex"], pose["neck_twist"])
    joints["neck"] = joints["thorax"] + skull.apply(body.neck * np.array([0.36, 0, 0.93]))
    joints["head"] = joints["neck"] + skull.apply(body.head * np.array([-0.12, 0, 0.99]))
    for i, (side, sign) in enumerate(zip(SIDES, (1, -1), strict=True)):
        _add_arm(joints, body, chest, pose, side, sign)
        hip, foot = root + hips[side], feet[:, i]
        out = np.radians(pose[f"{side}_knee_out"])[:, None]
        pole = np.cos(out) * np.array([1, 0, 0.7]) + np.sin(out) * np.array([0, sign, 0])
        joints[f"{side}_hip"], joints[f"{side}_ankle"] = hip, foot
        joints[f"{side}_knee"] = middle_joint(hip, foot, body.thigh, body.shank, facing.apply(pole))
    return np.stack([joints[name] for name in H36M17.joints], 1)


def _turn(side: Array, forward: Array, twist: Array | None = None) -> Rotation:
    """Degrees: a lean to the right and forward as one swing, then (in the turned frame) a twist to the left."""
    swing = Rotation.from_rotvec(np.radians(np.stack([side, forward, 0 * side], 1)))
    return swing if twist is None else swing * Rotation.from_rotvec(np.radians(np.outer(twist, [0, 0, 1])))


def _foot_offsets(body: Body, facing: Rotation, pose: dict[str, Array]) -> Array:
    made = []
    for side, sign in zip(SIDES, (1, -1), strict=True):
        forward, out, up = (pose[f"{side}_foot_{way}"] * body.leg for way in ("forward", "out", "up"))
        made.append(facing.apply(np.stack([forward, sign * out, up + body.ankle], 1)))
    return np.stack(made, 1)


def _pelvis_height(body: Body, give: float, height: Array, root: Array, hips: dict[str, Array], feet: Array) -> Array:
    """A smooth minimum of the height asked for and the height that the legs can reach."""
    reach = STRAIGHTEST * body.leg
    bounds = [height * (body.ankle + reach)]
    for i, side in enumerate(SIDES):
        apart = ((root + hips[side] - feet[:, i])[:, :2] ** 2).sum(1)
        bounds.append(feet[:, i, 2] + np.sqrt(np.maximum(reach**2 - apart, 0.01)) - hips[side][:, 2])
    lowest: Array = -give * np.logaddexp.reduce(-np.stack(bounds) / give, 0)
    return lowest


def _add_arm(
    joints: dict[str, Array], body: Body, chest: Rotation, pose: dict[str, Array], side: str, sign: int
) -> None:
    flex, out, twist, elbow = (pose[f"{side}_{name}"] for name in ("arm_flex", "arm_out", "arm_twist", "elbow"))
    raised = np.radians(np.hypot(flex, out))
    clavicle = 0.3 * (1 - np.cos(raised)) - 0.12  # the shoulder girdle rises with the arm
    direction = np.stack([0 * clavicle - 0.05, sign * np.cos(clavicle), np.sin(clavicle)], 1)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    upper = chest * _turn(sign * out, -flex, -sign * twist)
    fore = upper * _turn(0 * elbow, -elbow)
    joints[f"{side}_shoulder"] = joints["thorax"] + chest.apply(body.shoulder * direction)
    joints[f"{side}_elbow"] = joints[f"{side}_shoulder"] + upper.apply([0, 0, -body.upper_arm])
    joints[f"{side}_wrist"] = joints[f"{side}_elbow"] + fore.apply([0, 0, -body.forearm])


def middle_joint(start: Array, end: Array, first: float, second: float, pole: Array) -> Array:
    """(T, 3) knee between start and end, with bones of the given lengths, bent towards the pole (law of cosines)."""
    axis = end - start
    distance = np.linalg.norm(axis, axis=1, keepdims=True)
    axis = axis / distance
    along = (first**2 - second**2 + distance**2) / (2 * distance)
    bend = pole - (pole * axis).sum(1, keepdims=True) * axis
    bend /= np.linalg.norm(bend, axis=1, keepdims=True)
    middle: Array = start + along * axis + np.sqrt(np.maximum(first**2 - along**2, 0)) * bend
    return middle
