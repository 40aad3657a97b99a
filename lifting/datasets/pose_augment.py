"""Training poses as other people, other cameras and a detector would show them.

Everything runs on the device, a batch at a time. People and cameras change the 3D joints and the camera; the keypoints
are projections of the changed joints, so labels stay exact. The detector's mistakes change the keypoints alone.

Shape letters: B poses, J joints.
"""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from lifting.config import PoseAugmentConfig
from lifting.geometry.joint_maps import mirror_joints
from lifting.geometry.skeleton import JointSet
from lifting.geometry.views import Views

STATURE = 1.7  # metres: turns a focal length and a distance into the size of a person in the picture
PLACE = 0.35  # how far the root may be from the middle of the picture, over its sides
ASPECTS = (9 / 16, 16 / 9)  # height over width of the pictures of new cameras
WIDTH = 1000.0  # pixels of the pictures of new cameras
NEAREST = 0.3  # metres that every joint is in front of a new camera
LEVELS = (0.5, 1.5)  # noise of a joint over the noise of its pose
MISS = 0.3  # sigma of a joint that the detector puts somewhere else, over the stature
TELLING = 0.7  # share of those that the score gives away
LEG = ("knee", "ankle")
ARM = ("shoulder", "elbow", "wrist")
LEGLESS = 0.1  # share of poses, of those with missing joints, that lose knees and ankles together


def other_people(points: Tensor, config: PoseAugmentConfig, joint_set: JointSet) -> Tensor:
    """The same joint angles with other bone lengths, left and right alike, and another stature.

    Args:
        points: (B, J, 3), relative to the root, in any frame.
    """
    if not (config.bones or config.stature):
        return points
    parents, above, twin = _tree(joint_set, points.device)
    factor = 1 + config.bones * _uniform((*points.shape[:2], 1), (-1, 1), points)
    factor = factor[:, twin] * (1 + config.stature * _uniform((len(points), 1, 1), (-1, 1), points))
    bones = points - points[:, parents]
    return above.to(points.dtype) @ (factor * bones)


def on_the_same_floor(root: Tensor, up: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """The root (B, 3), raised or lowered so that the lowest joint of a changed person is as high as it was.

    Where cameras stay, a person's place in the picture tells how far away the floor under him is, and with it his size.

    Args:
        root: camera frame.
        up: (B, 3) unit vectors in the same frame.
        before, after: (B, J, 3), relative to the root.
    """
    lowest, now = ((points * up[:, None]).sum(-1).amin(1, keepdim=True) for points in (before, after))
    return root + up * (lowest - now)


def other_cameras(count: int, config: PoseAugmentConfig, like: Tensor) -> tuple[Views, Tensor]:
    """Random cameras that look at a person: the cameras, and the (B, 3) root in their frames, in metres.

    The person's size in the picture and his distance are drawn, and the focal length follows from them, within its
    limits. The world's z axis points up.
    """
    width = torch.full((count, 1), WIDTH, device=like.device)
    size = torch.cat([width, width * _log_uniform((count, 1), ASPECTS, like)], 1)
    distance = _log_uniform((count, 1), config.distance, like)
    person = _log_uniform((count, 1), config.height, like) * size.amin(1, keepdim=True)
    low, high = (WIDTH * limit for limit in config.focal)
    focal = (person * distance / STATURE).clamp(low, high)
    nothing = torch.zeros_like(size)
    radial = F.pad(config.distortion * _uniform((count, 1), (-1, 1), like), (0, 2))
    views = Views(
        size, focal.expand(-1, 2), size / 2, radial, nothing, torch.ones_like(width), _rotations(count, config, like)
    )
    place = PLACE * size * _uniform((count, 2), (-1, 1), like) / focal
    ray = F.normalize(torch.cat([place, torch.ones_like(width)], 1), dim=1)
    return views, distance * ray


def _rotations(count: int, config: PoseAugmentConfig, like: Tensor) -> Tensor:
    """(B, 3, 3) world (z up) -> camera: any azimuth; elevation and roll within their ranges."""
    azimuth = _uniform((count,), (0, 2 * math.pi), like)
    usual, any_ = (_uniform((count,), limits, like) for limits in (config.elevation, (-85.0, 85.0)))
    elevation = torch.deg2rad(torch.where(_chance((count,), config.anywhere, like), any_, usual))
    roll = torch.deg2rad(config.roll * _uniform((count,), (-1, 1), like))
    sin, cos = torch.sin(azimuth), torch.cos(azimuth)
    zero = torch.zeros_like(sin)
    right = torch.stack([sin, -cos, zero], -1)
    ahead = torch.stack([cos * torch.cos(elevation), sin * torch.cos(elevation), -torch.sin(elevation)], -1)
    down = torch.linalg.cross(ahead, right)
    s, c = torch.sin(roll)[:, None], torch.cos(roll)[:, None]
    return torch.stack([c * right + s * down, c * down - s * right, ahead], 1)


def seen_from(views: Views, root: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Joints in front of new cameras: (B, J, 3) in the camera frame, and their (B, J, 2) pixels.

    A person too close to a camera is moved back along the ray of the root.

    Args:
        root: (B, 3) camera frame.
        points: (B, J, 3) relative to the root, camera frame.
    """
    nearest = points[..., 2].amin(1) + root[:, 2]
    back = (NEAREST - nearest).clamp(min=0) / root[:, 2]
    placed = points + (root * (1 + back[:, None]))[:, None]
    return placed, views.project(placed)


def detected(uv: Tensor, person: Tensor, config: PoseAugmentConfig, joint_set: JointSet) -> tuple[Tensor, Tensor]:
    """What a detector makes of projected joints.

    Args:
        uv: (B, J, 2) pixels.
        person: (B,) stature in pixels.

    Returns:
        (B, J, 2) pixels and the (B, J) confidence: 0 where a joint is missing, 1 where it is not and the detector
        gives no scores.
    """
    shape = uv.shape[:2]
    level = config.noise * _uniform((len(uv), 1), (0, 1), uv) ** 2 * _uniform(shape, LEVELS, uv)
    missed = _chance(shape, config.misses, uv)
    uv = _exchanged(uv, config, joint_set)
    spread = torch.where(missed, MISS, level)
    uv = uv + (spread * person[:, None])[..., None] * torch.randn_like(uv)
    doubt = torch.where(missed & _chance(shape, TELLING, uv), 1.0, 10 * level)
    score = (1 - doubt + 0.1 * torch.randn_like(level)).clamp(0.05, 1)
    confidence = torch.where(_chance((len(uv), 1), config.scores, uv), score, torch.ones_like(score))
    return uv, confidence.masked_fill(_missing(shape, config, joint_set, uv), 0)


def _exchanged(uv: Tensor, config: PoseAugmentConfig, joint_set: JointSet) -> Tensor:
    """Left and right arms, legs or both exchanged, in some of the poses."""
    limbs = torch.stack([_limbs(joint_set, words, uv.device) for words in (("hip", *LEG), ARM)])
    both, which = _uniform((len(uv), 1), (0, 1), uv), _chance((len(uv), 1), 0.5, uv)
    chosen = torch.where(both < 1 / 3, limbs.any(0), torch.where(which, limbs[0], limbs[1]))
    chosen = chosen & _chance((len(uv), 1), config.swaps, uv)
    return torch.where(chosen[..., None], mirror_joints(uv, joint_set), uv)


def _missing(shape: torch.Size, config: PoseAugmentConfig, joint_set: JointSet, like: Tensor) -> Tensor:
    """(B, J) bool. Half of the poses are whole; each of the others has a share of its own, and some lose their legs."""
    share = (config.missing * _uniform((shape[0], 1), (-1, 1), like)).clamp(min=0)
    gone = _uniform(shape, (0, 1), like) < share
    legless = _chance((shape[0], 1), LEGLESS if config.missing else 0.0, like) & (share > 0)
    return gone | (legless & _limbs(joint_set, LEG, like.device))


@lru_cache
def _limbs(joint_set: JointSet, words: tuple[str, ...], device: torch.device) -> Tensor:
    """(J,) bool: the joints whose name ends in one of the words."""
    return torch.tensor([name.split("_")[-1] in words for name in joint_set.joints], device=device)


@lru_cache
def _tree(joint_set: JointSet, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The parent of each joint (the root is its own), which bones lead to it (J, J), and the bone it shares a length
    with."""
    count, root = len(joint_set), joint_set.root
    parents = [root if p < 0 else p for p in joint_set.parents]
    above = torch.zeros(count, count)
    for joint in range(count):
        at = joint
        while at != root:
            above[joint, at] = 1
            at = parents[at]
    twin = [min(j, m) for j, m in enumerate(joint_set.mirror)]
    return torch.tensor(parents, device=device), above.to(device), torch.tensor(twin, device=device)


def _uniform(shape: tuple[int, ...], limits: tuple[float, float], like: Tensor) -> Tensor:
    return limits[0] + (limits[1] - limits[0]) * torch.rand(shape, device=like.device)


def _log_uniform(shape: tuple[int, ...], limits: tuple[float, float], like: Tensor) -> Tensor:
    return torch.exp(_uniform(shape, (math.log(limits[0]), math.log(limits[1])), like))


def _chance(shape: tuple[int, ...], share: float, like: Tensor) -> Tensor:
    return torch.rand(shape, device=like.device) < share
