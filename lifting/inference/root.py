"""Where a person stands: the pelvis in the camera frame, from 2D joints, lifted joints and the camera's intrinsics.

A lifted joint mu_j at T + mu_j should lie on the ray d_j of its keypoint. With A_j = I - d_j d_j^T, which takes a
vector to its part across the ray, T minimises::

    sum_j  rho( |A_j (mu_j + T)| / s_j ),      s_j^2 = var_j + (pixel noise * distance / focal)^2

where var_j is the variance of mu_j across the ray, by the lifter's deviation, and rho(t) is t^2 up to t = 2 and grows
only like log t from there, so a joint that was detected elsewhere hardly pulls. For fixed weights w_j this is linear,
sum_j w_j A_j (mu_j + T) = 0, three equations. Weights, distances and, for a lifter that predicts in the frame about the
pelvis' ray, that ray follow T in turns. It is the ray of T, not of the pelvis' keypoint, which may be missing or wrong.

How far T is off comes from the same equations, T = -M^-1 sum_j w_j A_j mu_j with M = sum_j w_j A_j, for three kinds of
errors: those of a joint alone, those that joints share (CORRELATION, since a joint moves with its neighbours), and the
stature. A picture shows a person's size only relative to the distance: somebody who is taken for 5 % taller than he is
seems 5 % farther away, and nothing in a picture tells. STATURE is the spread of that, and mostly the largest part of
the deviation of the depth. On held-out training subjects of the stand-in, with 5 px noise and the true intrinsics, the
90 % intervals of x, y and depth hold 92, 90 and 90 % of the truth; without the term for stature, depth's holds 57 %.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lifting.geometry.skeleton import H36M17
from lifting.inference.intrinsics import Intrinsics
from lifting.lifted import Lifted

Array = NDArray[np.float64]

STATURE = 0.05  # standard deviation of the stature of adults, as a fraction, when nothing is known about the person
CORRELATION = 0.15  # between the errors of two joints, chosen on held-out training subjects of the stand-in
PIXELS = 0.01  # standard deviation of a keypoint, as a fraction of the person's size in the picture
ASSUMED = 0.05  # metres, the deviation of a lifter that predicts none

_OUTLIER = 2.0  # standardised distance from which a joint counts less
_PLACE = 0.02  # metres by which detectors differ in where they put a joint, the pelvis too, which the lifter knows
_ROUNDS = 30
_FEWEST = 4  # joints that have to be seen
_STILL = 1e-6  # relative change of T at which the rounds stop
_NEAREST = 0.2  # metres


@dataclass(frozen=True)
class Root:
    """Pelvises in the camera frame; NaN where there is none.

    Attributes:
        position: (..., 3) metres.
        covariance: (..., 3, 3) square metres.
        turn: (..., 3, 3) rotation R of each person's ray frame: X_ray = R X_camera; the identity for camera axes.
    """

    position: Array
    covariance: Array
    turn: Array


def with_root(lifted: Lifted, camera: Intrinsics, *, pixel_noise: float | None = None) -> Lifted:
    """The same people with their root and in camera axes.

    Joints that were in ray axes are turned by the ray of the root that was found. Where no root was found (fewer than
    four joints were seen, or all in one place) the root is NaN, and so is a person in ray axes, whose axes are unknown
    too. Sigma and deviation become those along the new axes; correlations between the axes, which a turn brings about,
    are not kept.
    """
    root = locate(
        lifted.joints.astype(np.float64),
        lifted.deviation.astype(np.float64),
        lifted.keypoints.points,
        camera,
        about_ray=lifted.axes == "ray",
        pixel_noise=pixel_noise,
    )
    variances: Array = np.diagonal(root.covariance, axis1=-2, axis2=-1)
    found: dict[str, NDArray[np.floating]] = {"root": root.position, "root_deviation": np.sqrt(variances)}
    if lifted.axes == "ray":
        back = np.swapaxes(root.turn, -1, -2)  # ray -> camera
        found["joints"] = np.einsum("tpab,tpjb->tpja", back, lifted.joints)
        for name in ("sigma", "deviation"):
            squares = np.square(getattr(lifted, name).astype(np.float64))
            found[name] = np.sqrt(np.einsum("tpab,tpjb->tpja", np.square(back), squares))
        found["confidence"] = 1 - found["sigma"].mean(-1)
    dtype = lifted.joints.dtype
    arrays = {name: value.astype(dtype) for name, value in found.items()}
    return replace(lifted, axes="camera", **arrays)  # type: ignore[arg-type]


def locate(
    joints: Array,
    deviation: Array,
    pixels: Array,
    camera: Intrinsics,
    *,
    about_ray: bool,
    pixel_noise: float | None = None,
) -> Root:
    """Finds the pelvis of every person; any leading shape.

    Args:
        joints: (..., 17, 3) metres, relative to the pelvis.
        deviation: (..., 17, 3) metres; NaN counts as `ASSUMED`.
        pixels: (..., 17, 2), NaN for a missing joint, which is ignored.
        about_ray: whether joints are in the axes about the pelvis' ray, otherwise in those of the camera.
        pixel_noise: standard deviation of a keypoint's coordinate in pixels; None for one per cent of the person's size
            in the picture, the diagonal of the box of his keypoints.
    """
    leading = joints.shape[:-2]
    mu = joints.reshape(-1, len(H36M17), 3)
    variance = np.square(np.where(np.isfinite(deviation), deviation, ASSUMED)).reshape(mu.shape) + _PLACE**2
    pixels = pixels.reshape(*mu.shape[:2], 2)
    rays = camera.rays(pixels)
    seen: NDArray[np.bool_] = np.all(np.isfinite(rays) & np.isfinite(mu), axis=-1)
    usable = seen.sum(1) >= _FEWEST
    angle = _angular_noise(pixels, seen, camera, pixel_noise)
    rays, mu = np.where(seen[..., None], rays, [0.0, 0.0, 1.0]), np.where(seen[..., None], mu, 0)
    weight = seen / (variance.mean(-1) + ASSUMED**2)
    middle = (seen[..., None] * rays).sum(1)
    T = middle / np.maximum(np.linalg.norm(middle, axis=-1, keepdims=True), 1e-9)
    for _ in range(_ROUNDS):
        turn = ray_frame(T) if about_ray else np.broadcast_to(np.eye(3), (len(mu), 3, 3))
        X = mu @ turn
        before, T = T, _solve(_normal(weight, rays), -(weight[..., None] * _across(rays, X)).sum(1))
        in_camera = X + T[:, None]
        of_pixels = np.square(angle[:, None] * np.maximum(np.linalg.norm(in_camera, axis=-1), _NEAREST))
        s2 = of_pixels + _spread(variance, turn, rays)
        off = np.linalg.norm(_across(rays, in_camera), axis=-1) / np.sqrt(s2)
        weight = seen / s2 * np.minimum(1, np.square(_OUTLIER / np.maximum(off, 1e-9)))
        moved = np.abs(T - before).max(-1) > _STILL * np.linalg.norm(T, axis=-1)
        if not moved[usable].any():
            break
    covariance = _covariance(weight, rays, variance, turn, of_pixels, T)
    good = usable & (T[:, 2] > 0) & np.isfinite(covariance).all((1, 2)) & (np.linalg.norm(T, axis=-1) > _NEAREST)
    T = np.where(good[:, None], T, np.nan)
    covariance, turn = (np.where(good[:, None, None], x, np.nan) for x in (covariance, turn))
    return Root(T.reshape(*leading, 3), covariance.reshape(*leading, 3, 3), turn.reshape(*leading, 3, 3))


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


def _angular_noise(pixels: Array, seen: NDArray[np.bool_], camera: Intrinsics, noise: float | None) -> Array:
    """(N,) radians, the standard deviation of a ray about each axis across it."""
    focal = float(np.sqrt(np.prod(camera.focal)))
    if noise is not None:
        return np.full(len(pixels), noise / focal)
    low = np.where(seen[..., None], pixels, np.inf).min(1)
    high = np.where(seen[..., None], pixels, -np.inf).max(1)
    size = np.where(np.isfinite(low), high - low, 1.0)
    angle: Array = PIXELS * np.linalg.norm(size, axis=-1) / focal
    return angle


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
    part: Array = x - rays * (rays * x).sum(-1, keepdims=True)
    return part


def _normal(weight: Array, rays: Array) -> Array:
    """M = sum_j w_j A_j, (N, 3, 3)."""
    along = np.swapaxes(weight[..., None] * rays, -1, -2) @ rays
    M: Array = weight.sum(1)[:, None, None] * np.eye(3) - along
    return M


def _spread(variance: Array, turn: Array, rays: Array) -> Array:
    """(N, J) variance of a joint across its ray, a mean over the two directions: (tr C - d^T C d) / 2."""
    turned = rays @ np.swapaxes(turn, -1, -2)
    spread: Array = (variance * (1 - np.square(turned))).sum(-1) / 2
    return spread


def _covariance(weight: Array, rays: Array, variance: Array, turn: Array, of_pixels: Array, T: Array) -> Array:
    """Covariance of T (N, 3, 3): see the module's docstring."""
    W = weight[..., None, None] * (np.eye(3) - rays[..., :, None] * rays[..., None, :])
    # W C W = (W R^T D) (W R^T D)^T for joints with the deviations D along the axes that R turns the camera's to
    half = W @ np.swapaxes(turn, -1, -2)[:, None] * np.sqrt(variance)[:, :, None]
    alone = (1 - CORRELATION) * (half @ np.swapaxes(half, -1, -2)).sum(1)
    alone += (of_pixels[..., None, None] * (W @ W)).sum(1)
    shared = (half @ turn[:, None]).sum(1)
    total = alone + CORRELATION * shared @ np.swapaxes(shared, -1, -2)
    M = W.sum(1)
    regular = _is_regular(M)
    inverse = np.linalg.inv(np.where(regular[:, None, None], M, np.eye(3)))
    stature = STATURE**2 * T[:, :, None] * T[:, None, :]
    return np.where(regular[:, None, None], inverse @ total @ inverse, np.nan) + stature
