"""Maps of joints as tensors: mirror images, and from one joint set to another."""

from functools import lru_cache

import torch
from torch import Tensor

from lifting.geometry.skeleton import COCO17, COCO_SOURCES, H36M17, H36M18, MPII16, JointSet

# The MPII joint that labels each of the 18 joints; MPII has no spine and no neck/nose.
_MPII_SOURCES = (6, 2, 1, 0, 3, 4, 5, None, 8, None, 9, 13, 14, 15, 12, 11, 10, 7)


def flip(points: Tensor, joint_set: JointSet) -> Tensor:
    """Mirror image of root-relative or screen-centred points: x negated, left and right joints exchanged.

    Args:
        points: (..., J, D), x first.
    """
    mirrored = mirror_joints(points, joint_set)
    mirrored[..., 0] *= -1
    return mirrored


def mirror_joints(values: Tensor, joint_set: JointSet) -> Tensor:
    """Exchanges left and right joints of (..., J, D) without changing a sign, as is right for a sigma."""
    return values.index_select(-2, _index(joint_set.mirror, values.device))


@lru_cache
def _index(joints: tuple[int, ...], device: torch.device) -> Tensor:
    """Joint indices on the device: indexing with a Python list would copy it there each time, and wait for the copy."""
    return torch.tensor(joints, device=device)


def coco17_to_h36m17(points: Tensor) -> Tensor:
    """(..., 17, D) COCO joints -> (..., 17, D) Human3.6M joints.

    As in mmpose and MotionBERT, pelvis and thorax are the middles of hips and shoulders, the spine is halfway between
    them, the neck/nose joint is the nose, and the head is the middle of the eyes. A joint that is computed from a
    missing one (NaN) is NaN too.
    """
    made = [points[..., list(s), :].mean(-2) if s else points[..., 0, :] for s in COCO_SOURCES]
    made[7] = (made[0] + made[8]) / 2
    return torch.stack(made, -2)


def h36m17_to_h36m18(points: Tensor) -> Tensor:
    """(..., 17, D) -> (..., 18, D): appends the middle of the shoulders."""
    middle = points[..., [H36M17.joints.index("left_shoulder"), H36M17.joints.index("right_shoulder")], :].mean(-2)
    return torch.cat([points, middle[..., None, :]], -2)


def mpii16_to_h36m18(points: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    """(..., 16, D) MPII joints, (..., 16) bool -> (..., 18, D), (..., 18); spine and neck/nose: zero, not visible."""
    there = [j for j, source in enumerate(_MPII_SOURCES) if source is not None]
    sources = [source for source in _MPII_SOURCES if source is not None]
    made = points.new_zeros((*points.shape[:-2], len(_MPII_SOURCES), points.shape[-1]))
    seen = visible.new_zeros((*visible.shape[:-1], len(_MPII_SOURCES)))
    made[..., there, :], seen[..., there] = points[..., sources, :], visible[..., sources]
    return made, seen


def coco17_to_h36m18(points: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    """(..., 17, D) COCO joints, (..., 17) bool -> (..., 18, D), (..., 18).

    The joints of arms and legs are the same; pelvis and shoulder middle are the middles of hips and shoulders. COCO has
    no label for spine, thorax, neck and head: zero, not visible.
    """
    made = points.new_zeros((*points.shape[:-2], len(H36M18), points.shape[-1]))
    seen = visible.new_zeros((*visible.shape[:-1], len(H36M18)))
    middles = {"pelvis": ("left_hip", "right_hip"), "shoulder_middle": ("left_shoulder", "right_shoulder")}
    for target, name in enumerate(H36M18.joints):
        sources = [COCO17.joints.index(source) for source in middles.get(name, (name,)) if source in COCO17.joints]
        if sources:
            made[..., target, :], seen[..., target] = points[..., sources, :].mean(-2), visible[..., sources].all(-1)
    return made, seen


def h36m18_to_mpii16(points: Tensor) -> Tensor:
    """(..., 18, D) -> (..., 16, D): each MPII joint is the one that it labels in `mpii16_to_h36m18`."""
    return points[..., [_MPII_SOURCES.index(j) for j in range(len(MPII16))], :]
