"""Symmetry and constancy of predicted bone lengths, which errors of single joints do not see.

As ManiPose reports them (Rommel et al. 2024, "ManiPose: Manifold-Constrained Multi-Hypothesis 3D Human Pose
Estimation"). Both are zero for a rigid skeleton; motion capture deviates slightly.

Shape letters: N poses, J joints, K bones, C clips.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lifting.chunks import in_chunks
from lifting.geometry.skeleton import JointSet
from lifting.metrics.pose_errors import CHUNK


def bone_lengths(poses: Tensor, joint_set: JointSet) -> Tensor:
    """(N, J, 3) -> (N, K) float64 of the order of `JointSet.bones`, in the units of the poses.

    Raises:
        ValueError: poses of another shape.
    """
    if poses.shape[1:] != (len(joint_set), 3):
        raise ValueError(f"poses: expected (N, {len(joint_set)}, 3), got {tuple(poses.shape)}")
    parents, children = (list(ends) for ends in zip(*joint_set.bones, strict=True))
    lengths: Tensor = torch.linalg.vector_norm(poses[:, children].double() - poses[:, parents].double(), dim=-1)
    return lengths


def mirrored_bones(joint_set: JointSet) -> list[tuple[int, int]]:
    """Each left bone and its right twin, as indices into `JointSet.bones`; bones without a twin are left out."""
    bones, mirror = joint_set.bones, joint_set.mirror
    twins = [(mirror[parent], mirror[child]) for parent, child in bones]
    return [
        (index, bones.index(twin))
        for index, (bone, twin) in enumerate(zip(bones, twins, strict=True))
        if bone[1] in joint_set.left and twin in bones
    ]


def mpsse(poses: Tensor, joint_set: JointSet) -> float | None:
    """Mean per segment symmetry error: the mean over poses and left-right pairs of | |left bone| - |right bone| |.

    Args:
        poses: (N, J, 3) metres.

    Returns:
        metres; None for a joint set without left and right bones.
    """
    pairs = mirrored_bones(joint_set)
    if not pairs:
        return None
    left, right = (list(side) for side in zip(*pairs, strict=True))
    total = 0.0
    for chunk in in_chunks(poses, CHUNK):
        lengths = bone_lengths(chunk, joint_set)
        total += float((lengths[:, left] - lengths[:, right]).abs().sum())
    return total / (len(poses) * len(pairs))


def mpsce(poses: Tensor, joint_set: JointSet, clip: Tensor) -> float | None:
    """Mean per segment consistency error: how much the length of a bone varies over time.

    The standard deviation (with T - 1) of each bone's length within one clip, the mean over all bones, and then the
    mean over clips, weighted by their numbers of poses. A clip of a single pose tells nothing and is left out.

    ManiPose takes windows of 243 frames for clips. A whole recording is longer and shows more variation.

    Args:
        poses: (N, J, 3) metres.
        clip: (N,) int64, equal for poses of one recording of one person by one camera; in any order.

    Returns:
        metres; None where no clip has two poses.

    Raises:
        ValueError: shapes that do not fit.
    """
    if clip.shape != (len(poses),):
        raise ValueError(f"clip: expected ({len(poses)},), got {tuple(clip.shape)}")
    _, row, count = torch.unique(clip, return_inverse=True, return_counts=True)
    sums = poses.new_zeros(len(count), len(joint_set.bones), dtype=torch.float64)
    chunks = list(zip(in_chunks(poses, CHUNK), in_chunks(row, CHUNK), strict=True))
    for some, mine in chunks:
        sums.index_add_(0, mine, bone_lengths(some, joint_set))
    mean, square = sums / count[:, None], torch.zeros_like(sums)
    for some, mine in chunks:
        square.index_add_(0, mine, (bone_lengths(some, joint_set) - mean[mine]).square())
    several = count > 1
    if not several.any():
        return None
    weight = count[several, None]
    deviation = (square[several] / (weight - 1)).sqrt().mean(1, keepdim=True)
    return float((weight * deviation).sum() / weight.sum())


def pooled(reports: Sequence[tuple[int, dict[str, float]]]) -> dict[str, float]:
    """The `bone_report` of several clips together, from the number of poses and the report of each."""
    found = {}
    for name in ("mpsse_mm", "mpsce_mm"):
        parts = [(count, report[name]) for count, report in reports if name in report]
        if parts:
            found[name] = sum(count * value for count, value in parts) / sum(count for count, _ in parts)
    return found


def bone_report(poses: Tensor, joint_set: JointSet, clip: Tensor) -> dict[str, float]:
    """``mpsse_mm`` and ``mpsce_mm``, in millimetres, of predicted poses; one that is not defined is left out."""
    found = {"mpsse_mm": mpsse(poses, joint_set), "mpsce_mm": mpsce(poses, joint_set, clip)}
    return {name: 1000 * metres for name, metres in found.items() if metres is not None}
