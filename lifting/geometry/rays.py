"""People in front of a camera with known intrinsics: where the pelvis is, and what the rays say about the joints.

A lifted joint mu_j at T + mu_j should lie on the ray d_j of its keypoint. With A_j = I - d_j d_j^T, which takes a
vector to its part across the ray, the place T of the pelvis minimises::

    sum_j  rho( |A_j (mu_j + T)| / s_j ),      s_j^2 = v_j + (a |mu_j + T|)^2 + place^2

where v_j is the variance of mu_j across the ray, by the lifter's deviation, a the angular noise of the rays, and place
the noise of where a detector puts a joint. rho(t) is t^2 up to t = 2 and grows only like log t from there, so a joint
that was detected elsewhere hardly pulls. For fixed weights w_j this is linear, sum_j w_j A_j (mu_j + T) = 0, three
equations. Weights, distances and, for a lifter that predicts in the frame about the pelvis' ray, that ray follow T in
turns, for each person until T is at rest. It is the ray of T, not of the pelvis' keypoint, which may be missing or
wrong.

**The camera as evidence.** A lifter ignores part of what its keypoints say. Given T, the likeliest place of a joint is
between its prediction and its ray, the nearer to the ray the less certain the prediction is::

    x_j = mu_j - v_j w_j A_j (mu_j + T)

With exact rays it is the point of the ray next to the prediction. The pelvis stays: it is the origin. No ground truth
enters.

How far T is off comes from the same equations, T = -M^-1 sum_j w_j A_j mu_j with M = sum_j w_j A_j, for three kinds of
errors: those of a joint alone, those that joints share (CORRELATION, since a joint moves with its neighbours), and the
stature. A picture shows a person's size only relative to the distance: somebody who is taken for 5 % taller than he is
seems 5 % farther away, and nothing in a picture tells. STATURE is the spread of that, and mostly the largest part of
the deviation of the depth. On held-out training subjects of the stand-in, with 5 px noise and the true intrinsics, the
90 % intervals of x, y and depth hold 92, 91 and 91 % of the truth; without the term for stature, depth's holds 57 %.

NumPy alone, because lifting works without torch. Shape letters: N people, J joints.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

STATURE = 0.05  # standard deviation of the stature of adults, as a fraction, when nothing is known about the person
CORRELATION = 0.15  # between the errors of two joints, chosen on held-out training subjects of the stand-in
ASSUMED = 0.05  # metres, the deviation of a lifter that predicts none

_OUTLIER = 2.0  # standardised distance from which a joint counts less
_ROUNDS = 30
_FEWEST = 4  # joints that have to be seen
_STILL = 1e-6  # relative change of T at which the rounds stop
_NEAREST = 0.2  # metres
_SMALLEST = 1e-8  # square metres, of a joint's variance and noise: an exact ray would leave nothing to the others


@dataclass(frozen=True)
class Placed:
    """People in the camera frame; NaN where nothing tells where somebody stands.

    Attributes:
        root: (N, 3) metres, the pelvis.
        root_covariance: (N, 3, 3) square metres.
        turn: (N, 3, 3) rotation R of each person's ray frame: X_ray = R X_camera; the identity for camera axes.
        joints: (N, J, 3) metres, relative to the pelvis, given their rays.
        covariance: (N, J, 3, 3) square metres, of the joints.
    """

    root: Array
    root_covariance: Array
    turn: Array
    joints: Array
    covariance: Array


def place_people(
    joints: Array, deviation: Array, rays: Array, angle: Array, *, about_ray: bool, place: float = 0.0
) -> Placed:
    """Finds the pelvis of every person, and brings the joints towards their rays.

    Args:
        joints: (N, J, 3) metres, relative to the pelvis; NaN for one that is unknown.
        deviation: (N, J, 3) metres, along the same axes: 0 for the pelvis, which stays; NaN counts as `ASSUMED`.
        rays: (N, J, 3) unit vectors, camera frame; NaN for a missing keypoint, which is ignored.
        angle: (N,) or (N, J) radians, the standard deviation of a ray about each axis across it.
        about_ray: whether joints are in the axes about the pelvis' ray, otherwise in those of the camera.
        place: metres, the standard deviation of where a detector puts a joint, the pelvis too.
    """
    variance = np.square(np.where(np.isfinite(deviation), deviation, ASSUMED))
    angle = angle.reshape(len(joints), -1)  # (N, 1) or (N, J)
    seen: NDArray[np.bool_] = np.all(np.isfinite(rays) & np.isfinite(joints), axis=-1)
    usable = seen.sum(1) >= _FEWEST
    rays, mu = np.where(seen[..., None], rays, [0.0, 0.0, 1.0]), np.where(seen[..., None], joints, 0)
    weight = seen / (variance.mean(-1) + ASSUMED**2)
    middle = (seen[..., None] * rays).sum(1)
    T = middle / np.maximum(_length(middle), 1e-9)[:, None]
    turn = np.tile(np.eye(3), (len(mu), 1, 1))
    moving = np.flatnonzero(usable)  # whoever has come to rest leaves the rounds
    for _ in range(_ROUNDS):
        before, d, w = T[moving], rays[moving], weight[moving]
        if about_ray:
            turn[moving] = ray_frame(before)
        X = mu[moving] @ turn[moving]
        T[moving] = _solve(_normal(w, d), -(w[..., None] * _across(d, X)).sum(1))
        in_camera = X + T[moving, None]
        s2 = np.maximum(_spread(variance[moving], turn[moving], d) + _noise(angle[moving], in_camera, place), _SMALLEST)
        off = _length(_across(d, in_camera)) / np.sqrt(s2)
        weight[moving] = seen[moving] / s2 * np.minimum(1, np.square(_OUTLIER / np.maximum(off, 1e-9)))
        moving = moving[np.abs(T[moving] - before).max(-1) > _STILL * _length(T[moving])]
        if not len(moving):
            break
    in_camera = mu @ turn + T[:, None]
    spread, noise = _spread(variance, turn, rays), _noise(angle, in_camera, place)
    of_root = _root_covariance(weight, rays, variance, turn, noise, T)
    good = usable & (T[:, 2] > 0) & np.isfinite(of_root).all((1, 2)) & (_length(T) > _NEAREST)
    gain = (spread * weight)[..., None, None] * (np.eye(3) - rays[..., :, None] * rays[..., None, :])
    found = joints @ turn - (gain @ in_camera[..., None])[..., 0]
    covariance = _joint_covariance(gain, variance, turn, noise, of_root)

    def where_good(x: Array) -> Array:
        return np.where(good.reshape(-1, *[1] * (x.ndim - 1)), x, np.nan)

    return Placed(*map(where_good, (T, of_root, turn, found, covariance)))


def ray_frame(direction: Array) -> Array:
    """(..., 3) of any length above zero -> (..., 3, 3): the smallest rotation R that takes the direction to +z.

    R = I + K + K^2 / (1 + d_z) with K the cross-product matrix of d x z (Rodrigues); d must not be -z.
    """
    length = np.linalg.norm(direction, axis=-1, keepdims=True)
    d = direction / np.where(length > 0, length, np.nan)
    x, y, z = d[..., 0], d[..., 1], d[..., 2]
    k = 1 / (1 + z)
    rows = [[1 - k * x * x, -k * x * y, -x], [-k * x * y, 1 - k * y * y, -y], [x, y, z]]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def _solve(M: Array, b: Array) -> Array:
    """M^-1 b, NaN where M is singular, as it is where all rays are one."""
    eye = np.eye(3)
    regular = _is_regular(M)
    x = np.linalg.solve(np.where(regular[:, None, None], M, eye), b[..., None])[..., 0]
    solved: Array = np.where(regular[:, None], x, np.nan)
    return solved


def _is_regular(M: Array) -> NDArray[np.bool_]:
    """(N,), whether the rays differ by more than rounding."""
    with np.errstate(invalid="ignore"):
        regular: NDArray[np.bool_] = np.linalg.det(M) > 1e-9 * np.trace(M, axis1=-2, axis2=-1) ** 3
    return regular


def _across(rays: Array, x: Array) -> Array:
    """A_j x_j = x_j - d_j (d_j . x_j), (N, J, 3)."""
    part: Array = x - rays * np.einsum("njd,njd->nj", rays, x)[..., None]
    return part


def _length(x: Array) -> Array:
    """(..., 3) -> (...,), as `numpy.linalg.norm`, which is slow along a last axis of three."""
    length: Array = np.sqrt(np.einsum("...d,...d->...", x, x))
    return length


def _noise(angle: Array, in_camera: Array, place: float) -> Array:
    """(N, J) variance of where the rays say that the joints are, in one direction across them."""
    noise: Array = np.square(angle * np.maximum(_length(in_camera), _NEAREST)) + place**2
    return noise


def _normal(weight: Array, rays: Array) -> Array:
    """M = sum_j w_j A_j, (N, 3, 3)."""
    along = np.swapaxes(weight[..., None] * rays, -1, -2) @ rays
    M: Array = weight.sum(1)[:, None, None] * np.eye(3) - along
    return M


def _spread(variance: Array, turn: Array, rays: Array) -> Array:
    """(N, J) variance of a joint across its ray, a mean over the two directions: (tr C - d^T C d) / 2."""
    turned = rays @ np.swapaxes(turn, -1, -2)
    spread: Array = np.einsum("njd,njd->nj", variance, 1 - np.square(turned)) / 2
    return spread


def _root_covariance(weight: Array, rays: Array, variance: Array, turn: Array, noise: Array, T: Array) -> Array:
    """Covariance of T (N, 3, 3): see the module's docstring."""
    W = weight[..., None, None] * (np.eye(3) - rays[..., :, None] * rays[..., None, :])
    # W C W = (W R^T D) (W R^T D)^T for joints with the deviations D along the axes that R turns the camera's to
    half = W @ np.swapaxes(turn, -1, -2)[:, None] * np.sqrt(variance)[:, :, None]
    alone = (1 - CORRELATION) * (half @ np.swapaxes(half, -1, -2)).sum(1)
    alone += (noise[..., None, None] * (W @ W)).sum(1)
    shared = (half @ turn[:, None]).sum(1)
    total = alone + CORRELATION * shared @ np.swapaxes(shared, -1, -2)
    M = W.sum(1)
    regular = _is_regular(M)
    inverse = np.linalg.inv(np.where(regular[:, None, None], M, np.eye(3)))
    stature = STATURE**2 * T[:, :, None] * T[:, None, :]
    return np.where(regular[:, None, None], inverse @ total @ inverse, np.nan) + stature


def _joint_covariance(gain: Array, variance: Array, turn: Array, noise: Array, of_root: Array) -> Array:
    """(I - K) C (I - K)^T + K (noise I + C_T) K^T of each joint, (N, J, 3, 3), with C the lifter's, in camera axes.

    The root's error counts as independent of the joint's, though it is made of all joints.
    """
    kept = (np.eye(3) - gain) @ np.swapaxes(turn, -1, -2)[:, None] * np.sqrt(variance)[:, :, None]
    of_rays = noise[..., None, None] * np.eye(3) + of_root[:, None]
    return kept @ np.swapaxes(kept, -1, -2) + gain @ of_rays @ np.swapaxes(gain, -1, -2)
