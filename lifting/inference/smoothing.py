"""Smooths lifted joints over time, with the predicted deviations as measurement noise.

Two steps, and both let a coordinate move the more, the larger its deviation is:

1. Bones keep their length. For each person it is a mean over the frames, and over left and right. Every frame is then
   corrected bone by bone, a Kalman update with the length as an exact measurement: an end that is uncertain moves far,
   a certain one hardly (`hold_lengths`).
2. A Rauch-Tung-Striebel smoother (1965) of each coordinate. Its state is position and velocity, driven by accelerations
   that are white noise of power q. It runs twice: first with q of an ordinary motion, then with the accelerations that
   the first pass found around each frame, so that a quiet joint is smoothed more than a fast one. Lengths vary a little
   again after it.

The error of a lifter is not white. On held-out training subjects of the stand-in with 5 px noise, errors 1, 10 and 40
frames (2/3 s) apart correlate by 0.96, 0.83 and 0.4. What changes from frame to frame is 12 to 16 mm where the
deviation is 50 mm, and grows only with the square root of the deviation's level; but where a deviation stands out from
its neighbours, as that of a missing joint does, all of the excess is of this kind. So the measurement noise is::

    r = (WHITE deviation)^2 * 0.05 m / level,   level: geometric mean of the deviation over a quarter of a second

The rest cannot be told from motion. It stays in the joints, and so it stays in the deviation that comes out.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d

from lifting.command import InputError
from lifting.geometry.skeleton import H36M17
from lifting.inference.rts import rts
from lifting.keypoints.checks import check_rate
from lifting.lifted import Lifted

Array = NDArray[np.float64]

# Chosen on held-out training subjects of the stand-in (S7, S8), see tests/studies/smoothing.py.
WHITE = np.array([0.25, 0.25, 0.43])  # x, y and depth: the share of a deviation of 50 mm that is smoothed away
LEVEL = 0.05  # metres
AROUND = 0.25  # seconds: for the level of a deviation and for the motion around a frame
ACCELERATION = 2.0  # m/s^2, of the first pass
STILL = 0.5  # m/s^2, whose square is added to the mean square of the accelerations in the second pass
PERSISTENCE = 0.04  # seconds that an acceleration lasts: q = PERSISTENCE acceleration^2, in m^2/s^3
MAX_GAP = 0.25  # seconds

ASSUMED = 0.05  # metres, the deviation of a lifter that predicts none
_SWEEPS = 6  # over all bones; lengths are then right within a few millimetres
_SMALLEST = 1e-4  # metres, of a deviation
_MIRROR = np.array(H36M17.mirror)


def smooth(lifted: Lifted, frame_rate: float | None = None, *, max_gap: float = MAX_GAP) -> Lifted:
    """Smooths joints and root of every person, and bridges short gaps.

    Args:
        frame_rate: frames per second; None for that of the keypoints.
        max_gap: seconds. A person who is absent for at most this time gets joints there, with a deviation that grows
            towards the middle of the gap; longer gaps stay NaN, and so do frames before the first and after the last.

    Returns:
        the same with other ``joints``, ``deviation``, ``sigma`` and ``confidence`` (both follow the deviation), and
        ``root`` and ``root_deviation`` if there are any. Deviations count the white part as smoothed and the slow part
        as it was; what held lengths gain is not counted.

    Raises:
        InputError: no frame rate is known, no clip has it (`checks.RATES`), or the gap is below zero.
    """
    rate = lifted.keypoints.frame_rate if frame_rate is None else frame_rate
    if rate is None:
        raise InputError("smoothing: expected a frame rate, the keypoints have none: give one (--fps)")
    check_rate(rate, "smoothing")
    if not 0 <= max_gap < np.inf:
        raise InputError(f"smoothing: expected a gap of 0 seconds or more, got {max_gap:g}")
    if not lifted.joints.size:
        return lifted
    gap = int(max_gap * rate + 1e-6)
    deviation = _deviation(lifted.deviation, lifted.joints, ASSUMED)
    joints = hold_lengths(lifted.joints.astype(np.float64), deviation)
    track = smooth_track(joints, deviation, rate, gap)
    track.values[..., H36M17.root, :] = np.where(np.isfinite(track.values[..., H36M17.root, :]), 0, np.nan)
    track.deviation[..., H36M17.root, :] = track.values[..., H36M17.root, :]
    known = np.isfinite(lifted.deviation).any()
    out = replace(lifted, joints=_like(track.values, lifted.joints))
    if known:
        sigma = track.deviation * _sigma_of_deviation(lifted)
        out = replace(
            out,
            deviation=_like(track.deviation, lifted.deviation),
            sigma=_like(sigma, lifted.sigma),
            confidence=_like(1 - sigma.mean(-1), lifted.confidence),
        )
    if lifted.root is not None and lifted.root_deviation is not None:
        root = smooth_track(
            lifted.root.astype(np.float64), _deviation(lifted.root_deviation, lifted.root, 1.0), rate, gap
        )
        out = replace(
            out,
            root=_like(root.values, lifted.root),
            root_deviation=_like(root.deviation, lifted.root_deviation),
        )
    return out


def _like(x: Array, other: NDArray[np.floating]) -> NDArray[np.floating]:
    return x.astype(other.dtype)


def _deviation(deviation: NDArray[np.floating], values: NDArray[np.floating], assumed: float) -> Array:
    """Deviations in float64, ``assumed`` where a value has none, NaN where there is no value."""
    known = np.where(np.isfinite(deviation), deviation, assumed).astype(np.float64)
    return np.where(np.isfinite(values), np.maximum(known, _SMALLEST), np.nan)


def _sigma_of_deviation(lifted: Lifted) -> Array:
    """(T, P, 17, 3) sigma over deviation, interpolated over gaps; 0 for the pelvis, which has neither.

    NaN from a lifter without sigma. In the axes of the lifter it is a constant of the density; in the axes of a camera
    it changes with a person's place.
    """
    deviation = lifted.deviation.astype(np.float64)
    if not np.isfinite(lifted.sigma).any():
        return np.full(deviation.shape, np.nan)
    ratio = np.divide(lifted.sigma, deviation, out=np.full(deviation.shape, np.nan), where=deviation > 0)
    ratio = _filled(ratio.reshape(len(ratio), -1)).reshape(ratio.shape)
    ratio[..., H36M17.root, :] = 0
    return ratio


def hold_lengths(joints: Array, deviation: Array) -> Array:
    """Gives each person bones of constant length, with the least change in units of the deviation.

    For a bone of length l and direction n from a to b, and L the length it should have::

        x_b += P_b n k,   x_a -= P_a n k,   k = (L - l) / (n^T (P_a + P_b) n),   P = diag(deviation^2)

    which is the Kalman update with the measurement l = L without noise. The pelvis does not move.

    Args:
        joints: (T, P, 17, 3) metres, relative to the pelvis; NaN where a person is absent.
        deviation: the same shape, metres, above zero.

    Returns:
        (T, P, 17, 3), with lengths that are right within a few millimetres.
    """
    x, variance = joints.copy(), np.square(deviation)
    variance[..., H36M17.root, :] = 0
    lengths = bone_lengths(joints, deviation)
    for _ in range(_SWEEPS):
        for a, b in H36M17.bones:
            bone = x[:, :, b] - x[:, :, a]
            length = np.linalg.norm(bone, axis=-1, keepdims=True)
            n = bone / np.maximum(length, 1e-9)
            total = ((variance[:, :, a] + variance[:, :, b]) * n * n).sum(-1, keepdims=True)
            push = n * (lengths[:, b, None] - length) / np.maximum(total, 1e-18)
            x[:, :, b] += variance[:, :, b] * push
            x[:, :, a] -= variance[:, :, a] * push
    return x


def bone_lengths(joints: Array, deviation: Array) -> Array:
    """The length of the bone that ends at each joint, (P, 17) metres: 0 for the pelvis, left and right alike.

    A mean over the frames, in which a frame counts by one over the deviation of the bone's two ends.
    """
    lengths = np.zeros(joints.shape[1:3])
    for a, b in H36M17.bones:
        length = np.linalg.norm(joints[:, :, b] - joints[:, :, a], axis=-1)
        spread = np.sqrt(np.square(deviation[:, :, [a, b]]).sum((-2, -1)))
        weight = np.where(np.isfinite(length), 1 / np.where(spread > 0, spread, 1), 0)
        total = (weight * np.where(weight > 0, length, 0)).sum(0)
        lengths[:, b] = total / np.maximum(weight.sum(0), 1e-9)
    mean: Array = (lengths + lengths[:, _MIRROR]) / 2
    return mean


@dataclass(frozen=True)
class Track:
    """Coordinates over time: ``values`` and ``deviation`` are (T, ..., 3) metres."""

    values: Array
    deviation: Array


def smooth_track(values: Array, deviation: Array, frame_rate: float, gap: int) -> Track:
    """Step 2 of the module's docstring.

    Args:
        values: (T, ..., 3) metres, NaN where there is no measurement.
        deviation: (T, ..., 3) metres, the standard deviation of each; ignored where ``values`` is NaN.
        gap: frames, how many in a row without a measurement are bridged.
    """
    y = values.reshape(len(values), -1)
    filled = _filled(np.where(np.isfinite(y), deviation.reshape(y.shape), np.nan))
    width = 2 * int(AROUND * frame_rate / 2) + 1
    level = np.exp(uniform_filter1d(np.log(filled), width, axis=0, mode="nearest"))
    share = np.broadcast_to(WHITE, values.shape).reshape(y.shape) ** 2 * LEVEL / level
    white = np.minimum(share, 1) * np.square(filled)
    x, _ = rts(y, white, np.full_like(y, PERSISTENCE * ACCELERATION**2), 1 / frame_rate)
    power = STILL**2 + uniform_filter1d(_power(x, values.shape, frame_rate), width, axis=0, mode="nearest")
    x, variance = rts(y, white, PERSISTENCE * power, 1 / frame_rate)
    keep = _bridged(np.isfinite(y), gap)
    total = np.sqrt(variance + np.square(filled) - white)
    return Track(*(np.where(keep, part, np.nan).reshape(values.shape) for part in (x, total)))


def _power(x: Array, shape: tuple[int, ...], frame_rate: float) -> Array:
    """Squared acceleration of each joint, a mean over its three coordinates: (T, N) m^2/s^4 from (T, N) metres."""
    power = np.full_like(x, ACCELERATION**2)
    if len(x) >= 3:
        power[1:-1] = np.square(np.diff(x, 2, axis=0) * frame_rate**2)
        power[0], power[-1] = power[1], power[-2]
    of_joint = power.reshape(shape).mean(-1, keepdims=True)
    spread: Array = np.broadcast_to(of_joint, shape).reshape(x.shape)
    return spread


def _filled(deviation: Array) -> Array:
    """Deviations with straight lines over the frames without one, (T, N); 1 where a column has none at all."""
    out = np.ones_like(deviation)
    frames = np.arange(len(deviation))
    for column in range(deviation.shape[1]):
        there = np.isfinite(deviation[:, column])
        if there.all():
            out[:, column] = deviation[:, column]
        elif there.any():
            out[:, column] = np.interp(frames, frames[there], deviation[there, column])
    return out


def _bridged(there: NDArray[np.bool_], gap: int) -> NDArray[np.bool_]:
    """Where there is a measurement, or a gap of at most this many frames between two: (T, N) bool."""
    frames = np.arange(len(there))[:, None]
    last = np.maximum.accumulate(np.where(there, frames, -1), axis=0)
    following = np.minimum.accumulate(np.where(there, frames, len(there))[::-1], axis=0)[::-1]
    inside = (last >= 0) & (following < len(there)) & (following - last - 1 <= gap)
    kept: NDArray[np.bool_] = there | inside
    return kept
