"""The best similarity transform between two sets of points, for whole batches."""

import torch
from torch import Tensor


def similarity(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Least-squares similarity transform (Umeyama 1991), without reflections.

    Minimises sum_j |target_j - (s R source_j + t)|^2 over scale s >= 0, rotation R (det R = +1) and translation t.

    Degenerate poses: if all source points coincide, s = 0 and t is the target's mean, which is the optimum; if the
    points lie on a line or a plane, several R are equally good and one of them is returned.

    Args:
        source, target: (..., J, 3), one floating dtype.

    Returns:
        s (...,), R (..., 3, 3), t (..., 3); the aligned source is ``s * source @ R.mT + t``.

    Raises:
        ValueError: the shapes differ or the last dimension is not 3.
    """
    if source.shape != target.shape or source.shape[-1] != 3:
        raise ValueError(f"source, target: expected equal (..., J, 3), got {_shape(source)}, {_shape(target)}")
    source_mean, target_mean = source.mean(-2), target.mean(-2)
    source_0, target_0 = source - source_mean[..., None, :], target - target_mean[..., None, :]
    U, S, Vh = torch.linalg.svd(target_0.mT @ source_0)
    sign = torch.ones_like(S)
    sign[..., 2] = torch.linalg.det(U @ Vh).sign()
    R = (U * sign[..., None, :]) @ Vh
    variance = source_0.square().sum((-2, -1))
    safe = torch.where(variance > 0, variance, 1)
    scale = torch.where(variance > 0, ((S * sign).sum(-1) / safe).clamp(min=0), 0)
    t = target_mean - scale[..., None] * (R @ source_mean[..., None])[..., 0]
    return scale, R, t


def align(source: Tensor, target: Tensor) -> Tensor:
    """(..., J, 3) source aligned to target by `similarity`, as PA-MPJPE requires."""
    scale, R, t = similarity(source, target)
    return scale[..., None, None] * (source @ R.mT) + t[..., None, :]


def scale_align(source: Tensor, target: Tensor) -> Tensor:
    """(..., J, 3) root-relative source times the factor that brings it closest to target, as N-MPJPE requires."""
    norm = source.square().sum((-2, -1), keepdim=True)
    dot = (source * target).sum((-2, -1), keepdim=True)
    return source * torch.where(norm > 0, dot / torch.where(norm > 0, norm, 1), 0)


def _shape(x: Tensor) -> tuple[int, ...]:
    return tuple(x.shape)
