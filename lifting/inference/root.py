"""Lifted people in camera space: the pelvis from reprojection, and the joints given the rays of their keypoints."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lifting.geometry.rays import place_people
from lifting.geometry.skeleton import H36M17
from lifting.inference.intrinsics import Intrinsics
from lifting.lifted import Lifted

Array = NDArray[np.float64]

PIXELS = 0.01  # standard deviation of a keypoint, as a fraction of the person's size in the picture
PLACE = 0.02  # metres by which detectors differ in where they put a joint


def with_root(lifted: Lifted, camera: Intrinsics, *, pixel_noise: float | Array | None = None) -> Lifted:
    """The same people with their root, in camera axes, with their joints brought towards their rays.

    How far a joint moves depends on its deviation and on the noise of its keypoint (`geometry.rays`). Where no root was
    found (fewer than four joints were seen, or all in one place) the root is NaN and the joints stay; those in ray axes
    are NaN too, because their axes are unknown. Sigma and deviation become those along the new axes, given the rays;
    correlations between the axes are not kept.

    Args:
        pixel_noise: standard deviation of a keypoint's coordinate in pixels, one for all or (T, P, 17) one for each, as
            a 2D network with sigma predicts it; None for one per cent of the person's size in the picture, the diagonal
            of the box of his keypoints.
    """
    leading, count = lifted.joints.shape[:2], lifted.joints.shape[2]
    joints, sigma, deviation = (
        getattr(lifted, name).reshape(-1, count, 3).astype(np.float64) for name in ("joints", "sigma", "deviation")
    )
    known: NDArray[np.bool_] = np.isfinite(deviation)
    deviation[:, H36M17.root] = 0
    pixels = lifted.keypoints.points.reshape(-1, count, 2)
    noise = pixel_noise.reshape(-1, count) if isinstance(pixel_noise, np.ndarray) else pixel_noise
    angle = _angular_noise(pixels, camera, noise)
    in_ray_axes = lifted.axes == "ray"
    placed = place_people(joints, deviation, camera.rays(pixels), angle, about_ray=in_ray_axes, place=PLACE)
    squares = np.square(np.swapaxes(placed.turn, -1, -2))  # from the axes of the lifter to those of the camera
    turned_sigma, turned = (np.sqrt(np.einsum("nab,njb->nja", squares, np.square(x))) for x in (sigma, deviation))
    given_rays = np.where(known, _deviations(placed.covariance), np.nan)
    shrunk = np.divide(given_rays, turned, out=np.ones_like(turned), where=turned > 0)
    after = {"joints": placed.joints, "sigma": turned_sigma * shrunk, "deviation": given_rays}
    if not in_ray_axes:
        found = np.all(np.isfinite(placed.root), axis=-1)[:, None, None]
        before = {"joints": joints, "sigma": sigma, "deviation": deviation}
        after = {name: np.where(found, after[name], before[name]) for name in after}
    after["confidence"] = 1 - after["sigma"].mean(-1)
    after |= {"root": placed.root, "root_deviation": _deviations(placed.root_covariance)}
    dtype = lifted.joints.dtype
    arrays = {name: value.reshape(*leading, *value.shape[1:]).astype(dtype) for name, value in after.items()}
    return replace(lifted, axes="camera", **arrays)


def _deviations(covariance: Array) -> Array:
    """(..., 3, 3) -> (..., 3) standard deviations."""
    found: Array = np.sqrt(np.diagonal(covariance, axis1=-2, axis2=-1))
    return found


def _angular_noise(pixels: Array, camera: Intrinsics, noise: float | Array | None) -> Array:
    """(N,) or (N, J) radians, the standard deviation of a ray about each axis across it."""
    focal = float(np.sqrt(np.prod(camera.focal)))
    if noise is not None:
        return np.broadcast_to(np.asarray(noise, dtype=np.float64) / focal, pixels.shape[:-1])
    seen = np.isfinite(pixels).all(-1, keepdims=True)
    low, high = np.where(seen, pixels, np.inf).min(1), np.where(seen, pixels, -np.inf).max(1)
    size = np.where(np.isfinite(low), high - low, 1.0)
    angle: Array = PIXELS * np.linalg.norm(size, axis=-1) / focal
    return angle
