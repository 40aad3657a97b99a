"""People on a floor: what the viewer and the films draw.

Scene axes: x to the right of the picture, y up, z towards the camera; the floor is at y = 0. Lengths in metres.
The camera's pitch is not in the input. The scene is levelled by people themselves: those who stand with straight legs
stand upright on average.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from lifting.geometry.skeleton import H36M17
from lifting.lifted import Lifted

ANKLE = 0.07  # metres from the lowest joint to the floor: ankles are joints, soles are not
_SPACING = 1.3  # metres between people whose places are unknown
_STRAIGHT = 0.93  # of the length of spine and legs between thorax and ankles, for one who stands
_FEWEST = 0.05  # of all poses must stand, or the floor is not levelled
_STEEPEST = 45.0  # degrees; a mean lean beyond this is taken as no evidence of the camera's pitch
_FLIP = np.diag([1.0, -1.0, -1.0])  # camera axes -> x right, y up, z towards the camera


@dataclass(frozen=True)
class Scene:
    """Poses in scene axes; NaN where a person is absent.

    Attributes:
        joints: (T, P, 17, 3) metres relative to the pelvis.
        place: (T, P, 3) metres, where the pelvis is.
        axes: (T, P, 3, 3), or (1, 1, 3, 3) if it never changes; column i is axis i of `Lifted.axes` in the scene.
        deviation: (T, P, 17, 3) metres along these axes, or None if the lifter has no sigma.
        truth: (T, P, 17, 3) metres relative to the pelvis, or None.
        camera: (3,) metres, where the camera is, or None if depths are unknown.
        camera_axes: (3, 3), column i is axis i of the camera in the scene.
        tilt: degrees, by how much the scene was turned to be level.
    """

    joints: np.ndarray
    place: np.ndarray
    axes: np.ndarray
    deviation: np.ndarray | None
    truth: np.ndarray | None
    camera: np.ndarray | None
    camera_axes: np.ndarray
    tilt: float


def build_scene(lifted: Lifted, truth: np.ndarray | None = None) -> Scene:
    """Turns camera axes, y down, into a scene with a level floor, and gives everybody a place in it.

    With `Lifted.root` people stand at their places in the camera frame. Without it they stand side by side in the
    order in which the picture shows them, each with the lowest joint on the floor.

    Args:
        truth: (T, P, 17, 3) metres in `Lifted.axes`, NaN where it is unknown; its own pelvis is subtracted.

    Raises:
        ValueError: ``truth`` does not have the shape of `Lifted.joints`.
    """
    joints = np.asarray(lifted.joints, dtype=np.float64)
    if truth is not None and truth.shape != joints.shape:
        raise ValueError(f"truth: expected {joints.shape}, got {truth.shape}")
    root = None if lifted.root is None or not np.isfinite(lifted.root).any() else _known_roots(lifted.root)
    to_scene = np.broadcast_to(_FLIP, (1, 1, 3, 3))
    if root is not None and lifted.axes == "ray":
        rays = root / np.linalg.norm(root, axis=-1, keepdims=True)
        to_scene = _FLIP @ rotation_between(rays, np.array([0.0, 0.0, 1.0])).swapaxes(-1, -2)
    level, tilt = _level(_turned(joints, to_scene))
    to_scene = level @ to_scene
    joints = _turned(joints, to_scene)
    camera = None
    if root is None:
        place = _side_by_side(joints, np.asarray(lifted.keypoints.points))
    else:
        place, camera = _on_the_floor(joints, root @ (level @ _FLIP).T)
    if truth is not None:
        truth = _turned(truth - truth[..., :1, :], to_scene)
    deviation = lifted.deviation if np.isfinite(lifted.deviation).any() else None
    return Scene(joints, place, to_scene, deviation, truth, camera, level @ _FLIP, tilt)


def rotation_between(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(..., 3) unit vectors, not opposite -> (..., 3, 3), the smallest rotation that takes ``start`` to ``end``.

    With v = start x end and c = start . end, it is I + [v] + [v]^2 / (1 + c) (Rodrigues).
    """
    v, c = np.cross(start, end), (start * end).sum(-1)
    x, y, z = np.moveaxis(v, -1, 0)
    zero = np.zeros_like(x)
    cross = np.stack([np.stack(row, -1) for row in ((zero, -z, y), (z, zero, -x), (-y, x, zero))], -2)
    rotation: np.ndarray = np.eye(3) + cross + cross @ cross / (1 + c)[..., None, None]
    return rotation


def _turned(points: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    turned: np.ndarray = np.einsum("tpab,tpjb->tpja", np.broadcast_to(rotation, (*points.shape[:2], 3, 3)), points)
    return turned


def _level(joints: np.ndarray) -> tuple[np.ndarray, float]:
    """The rotation after which those who stand straight are upright on average, and its angle in degrees."""
    at = {name: joints[..., index, :] for index, name in enumerate(H36M17.joints)}

    def bones(*names: str) -> np.ndarray:
        parts = [np.linalg.norm(at[a] - at[b], axis=-1) for a, b in pairwise(names)]
        total: np.ndarray = np.sum(parts, axis=0)
        return total

    legs = sum(bones(f"{side}_hip", f"{side}_knee", f"{side}_ankle") for side in ("left", "right")) / 2
    body = at["thorax"] - (at["left_ankle"] + at["right_ankle"]) / 2
    length = np.linalg.norm(body, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        standing = length > _STRAIGHT * (bones("thorax", "spine", "pelvis") + legs)
    present = np.isfinite(length).sum()
    if standing.sum() < max(1, _FEWEST * present):
        return np.eye(3), 0.0
    up = (body[standing] / length[standing, None]).mean(0)
    up /= max(np.linalg.norm(up), 1e-9)
    tilt = float(np.degrees(np.arccos(np.clip(up[1], -1, 1))))
    if tilt > _STEEPEST:
        return np.eye(3), 0.0
    return rotation_between(up, np.array([0.0, 1.0, 0.0])), tilt


def _known_roots(root: np.ndarray) -> np.ndarray:
    """Fills gaps in time; somebody whose place is never known gets the mean place of the others."""
    filled = np.array(root, dtype=np.float64)
    frames = np.arange(len(filled))
    for person in range(filled.shape[1]):
        known = np.isfinite(filled[:, person]).all(-1)
        for axis in range(3):
            track = filled[:, person, axis]
            fill = np.interp(frames, frames[known], track[known]) if known.any() else np.nanmean(root[..., axis])
            filled[:, person, axis] = np.where(known, track, fill)
    return filled


def _on_the_floor(joints: np.ndarray, root: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(T, P, 3) places and (3,) the camera, shifted so that half of all poses reach the floor, around x = z = 0."""
    lowest = (joints[..., 1] + root[..., None, 1]).min(-1)
    present = np.isfinite(lowest)
    centre = np.median(root[present], axis=0) if present.any() else np.zeros(3)
    floor = np.median(lowest[present]) - ANKLE if present.any() else 0.0
    shift = np.array([centre[0], floor, centre[2]])
    return root - shift, -shift


def _side_by_side(joints: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(T, P, 3) places in a row. Those who are never there together may share one."""
    frames, people = joints.shape[:2]
    present = np.isfinite(joints[..., 0, 0])
    lanes: list[list[int]] = []
    for person in range(people):
        free = (lane for lane in lanes if not (present[:, lane].any(1) & present[:, person]).any())
        lane = next(free, None)
        if lane is None:
            lanes.append([person])
        else:
            lane.append(person)

    def across(lane: list[int]) -> float:
        there = points[:, lane, :, 0]
        there = there[np.isfinite(there)]
        return float(np.median(there)) if there.size else 0.0

    place = np.zeros((frames, people, 3))
    for number, lane in enumerate(sorted(lanes, key=across)):
        place[:, lane, 0] = _SPACING * (number - (len(lanes) - 1) / 2)
    place[..., 1] = ANKLE - np.where(present, joints[..., 1].min(-1), 0.0)
    return place
