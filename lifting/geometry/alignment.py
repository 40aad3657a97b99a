"""The best similarity transform between two sets of points, for whole batches."""

from math import prod

import torch
from torch import Tensor

# Laguerre's steps in `_best_rotation`. A usual pose needs three; one that does not resemble its target may need five.
_STEPS = 4
# A pose is left to an SVD if its last step was longer than this, for the next would be about its cube, or if its zeta
# is below _CLEAR. Somebody who stands has a zeta of 0.1, and a stick 45 times as long as wide one of 0.001.
_LAST_STEP = 1e-6
_CLEAR = 1e-3
# A matrix with its first two rows and columns repeated, of which cofactors are plain slices.
_CYCLE = [0, 1, 2, 0, 1]


def similarity(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Least-squares similarity transform (Umeyama 1991), without reflections.

    Minimises sum_j |target_j - (s R source_j + t)|^2 over scale s >= 0, rotation R (det R = +1) and translation t.

    Degenerate poses: if all source points coincide, s = 0 and t is the target's mean, which is the optimum; if the
    points lie on a line or a plane, several R are equally good and one of them is returned.

    On a GPU, this waits for the device (see `_best_rotation`).

    Args:
        source, target: (..., J, 3), one floating dtype.

    Returns:
        s (...,), R (..., 3, 3), t (..., 3); the aligned source is ``s * source @ R.mT + t``.

    Raises:
        ValueError: the shapes differ or the last dimension is not 3.
    """
    scale, R, source_0, target_mean = _fit(source, target)
    source_mean = source[..., 0, :].reshape(-1, 3).T - source_0[:, 0]
    t = target_mean - scale * (R * source_mean).sum(1)
    batch = source.shape[:-2]
    return scale.view(batch), R.permute(2, 0, 1).reshape(*batch, 3, 3), t.T.reshape(*batch, 3)


def align(source: Tensor, target: Tensor) -> Tensor:
    """(..., J, 3) source aligned to target by `similarity`, as PA-MPJPE requires."""
    scale, R, source_0, target_mean = _fit(source, target)
    moved = ((scale * R)[:, :, None] * source_0).sum(1) + target_mean[:, None]
    return moved.permute(2, 1, 0).contiguous().view(source.shape)


def scale_align(source: Tensor, target: Tensor) -> Tensor:
    """(..., J, 3) root-relative source times the factor that brings it closest to target, as N-MPJPE requires."""
    norm = source.square().sum((-2, -1), keepdim=True)
    dot = (source * target).sum((-2, -1), keepdim=True)
    return source * (dot / torch.where(norm > 0, norm, 1))


def _poses_last(points: Tensor) -> Tensor:
    """(..., J, 3) -> (3, J, N): whatever is computed for each pose then runs along memory, eight at a time."""
    return points.reshape(prod(points.shape[:-2]), *points.shape[-2:]).permute(2, 1, 0).contiguous()


def _fit(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`similarity` with poses last: s (N,), R (3, 3, N), the source about its mean (3, J, N), target's mean (3, N)."""
    if source.shape != target.shape or source.shape[-1] != 3:
        raise ValueError(f"source, target: expected equal (..., J, 3), got {_shape(source)}, {_shape(target)}")
    x, y = _poses_last(source), _poses_last(target)
    x = x - x[:, :1]  # points that coincide are exactly at zero, which the rounding of their mean would prevent
    x, target_mean = x - x.mean(1, keepdim=True), y.mean(1)
    y = y - target_mean[:, None]
    R, trace = _best_rotation((y[:, None] * x).sum(2))
    variance = x.square().sum((0, 1))
    scale = trace / torch.where(variance > 0, variance, 1)  # the trace is 0 where the variance is
    return scale, R, x, target_mean


def _best_rotation(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """The rotation R that maximises tr(R^T K), and this maximum: FOAM (Markley 1993), which needs no SVD.

    Let K have the norm 1, and singular values s1 >= s2 >= |s3|, where s3 has the sign of det K. The maximum is
    lambda = s1 + s2 + s3, the largest root of (lambda^2 - 1)^2 - 8 lambda det K - 4 |cof K|^2. With
    kappa = (lambda^2 - 1) / 2 = s1 s2 + s2 s3 + s3 s1 and zeta = kappa lambda - det K = (s1 + s2) (s2 + s3) (s3 + s1),

        zeta R = kappa K + lambda cof K + (|K|^2 K - K K^T K).

    All four roots are real, being eigenvalues of Davenport's symmetric matrix, so that Laguerre's iteration falls from
    a bound onto the largest, and cubes its error with each step. R is ambiguous where zeta = 0, and close to that
    rounding grows with 1 / zeta^2; those poses, which are looked for on the host, are left to LAPACK.

    Args:
        covariance: (3, 3, N) K. The work is done in float64.

    Returns:
        R (3, 3, N) and lambda (N,) for K as it came.
    """
    K = covariance.double()
    norm = K.square().sum((0, 1)).sqrt()
    K = K / torch.where(norm > 0, norm, 1)
    rows = _repeat(K)
    cofactors = _mixed_cofactors(rows, rows)
    det, size = (K[0] * cofactors[0]).sum(0), cofactors.square().sum((0, 1))
    # kappa^2 = |cof K|^2 + 2 lambda det K is at most 3 |cof K|^2
    root = (1 + 12**0.5 * size.sqrt()).sqrt()
    step = root
    for _ in range(_STEPS):
        kappa = (root * root - 1) / 2
        zeta = kappa * root - det
        value = kappa * kappa - 2 * det * root - size
        slope = zeta + (9 * zeta * zeta - 6 * value * (1 + 3 * kappa)).clamp(min=0).sqrt()
        step = 2 * value / slope.clamp(min=_CLEAR)
        root = root - step
    kappa = (root * root - 1) / 2
    zeta = kappa * root - det
    more = _repeat(cofactors)
    R = (kappa * K + root * cofactors + _mixed_cofactors(rows, more) + _mixed_cofactors(more, rows)) / zeta
    unclear = ((zeta < _CLEAR) | (step.abs() > _LAST_STEP)).nonzero()[:, 0]
    if len(unclear):
        R[:, :, unclear], root[unclear] = _by_svd(K[:, :, unclear])
    return R.to(covariance.dtype), (root * norm).to(covariance.dtype)


def _by_svd(K: Tensor) -> tuple[Tensor, Tensor]:
    """What `_best_rotation` returns, by the singular value decomposition (Umeyama 1991), for any K."""
    U, S, Vh = torch.linalg.svd(K.permute(2, 0, 1))
    sign = torch.ones_like(S)
    sign[:, 2] = torch.linalg.det(U @ Vh).sign()
    return ((U * sign[:, None]) @ Vh).permute(1, 2, 0), (S * sign).sum(-1)


def _repeat(matrix: Tensor) -> Tensor:
    return matrix[_CYCLE][:, _CYCLE]


def _mixed_cofactors(a: Tensor, b: Tensor) -> Tensor:
    """(3, 3, N): row i is the cross product of row i + 1 of a and row i + 2 of b; of one matrix, its cofactors.

    That of K with its cofactors, and of the cofactors with K, add up to |K|^2 K - K K^T K, without cancellation.
    """
    return a[1:4, 1:4] * b[2:, 2:] - a[1:4, 2:] * b[2:, 1:4]


def _shape(x: Tensor) -> tuple[int, ...]:
    return tuple(x.shape)
