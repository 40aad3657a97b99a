"""Cameras: world to camera, camera to pixels, and back.

World axes of Human3.6M: z up. Camera axes: x right, y down, z forward. Lengths in metres, image points in pixels.
A world point X is at ``R X + t`` in the camera frame. If (x, y) is that point divided by its depth, its pixel is
``center + focal * distort(x, y)``.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Camera:
    """A pinhole camera with three radial and two tangential terms.

    With r^2 = x^2 + y^2 and tangential terms (p_x, p_y)::

        distort(x, y) = (x, y) * (1 + k1 r^2 + k2 r^4 + k3 r^6 + c (p_x x + p_y y)) + (p_x, p_y) r^2

    c = 2 is Brown's model, as in OpenCV, where (p_x, p_y) = (p2, p1). c = 1 is the model of the code released with
    Human3.6M, and so of every 2D file of that data set; VideoPose3D lists the pair as (p_x, p_y), Martinez et al. as
    (p_y, p_x).
    """

    size: tuple[int, int]  # width, height in pixels
    focal: Tensor  # (2,)
    center: Tensor  # (2,)
    radial: Tensor  # (3,)
    tangential: Tensor  # (2,): p_x, p_y
    R: Tensor  # (3, 3) world -> camera
    t: Tensor  # (3,) metres
    tangential_factor: float = 1.0

    def to(self, dtype: torch.dtype) -> "Camera":
        """The same camera with its tensors cast."""
        cast: dict[str, Any] = {f.name: getattr(self, f.name).to(dtype) for f in fields(self) if f.type is Tensor}
        return replace(self, **cast)

    def world_to_camera(self, X: Tensor) -> Tensor:
        """(..., 3) world -> (..., 3) camera."""
        return X @ self.R.T + self.t

    def camera_to_world(self, X: Tensor) -> Tensor:
        """(..., 3) camera -> (..., 3) world."""
        return (X - self.t) @ self.R

    def project(self, X: Tensor) -> Tensor:
        """(..., 3) camera -> (..., 2) pixels. A point behind the camera (z <= 0) gives NaN."""
        z = X[..., 2:]
        xy = torch.where(z > 0, X[..., :2] / z, torch.nan)
        return self.distort(xy) * self.focal + self.center

    def unproject(self, uv: Tensor, depth: Tensor) -> Tensor:
        """(..., 2) pixels and (...,) depth along z -> (..., 3) camera: the inverse of `project`."""
        xy = self.undistort((uv - self.center) / self.focal)
        return torch.cat([xy, torch.ones_like(xy[..., :1])], -1) * depth[..., None]

    def distort(self, xy: Tensor) -> Tensor:
        """(..., 2) ideal image-plane points -> (..., 2) distorted ones."""
        return distort(xy, self.radial, self.tangential, self.tangential_factor)

    def undistort(self, xy: Tensor) -> Tensor:
        """Inverse of `distort`."""
        return undistort(xy, self.radial, self.tangential, self.tangential_factor)


def distort(xy: Tensor, radial: Tensor, tangential: Tensor, factor: Tensor | float) -> Tensor:
    """The distortion of `Camera`, whose terms may differ from point to point.

    Args:
        xy: (..., 2) ideal image-plane points.
        radial: (3,), or (..., 3) with an axis for each of the points or 1.
        tangential: (2,) or (..., 2).
        factor: c, a number or (..., 1).
    """
    r2 = (xy * xy).sum(-1, keepdim=True)
    k1, k2, k3 = torch.split(radial, 1, -1)
    along = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    cross = factor * (xy * tangential).sum(-1, keepdim=True)
    distorted: Tensor = xy * (along + cross) + tangential * r2
    return distorted


def undistort(xy: Tensor, radial: Tensor, tangential: Tensor, factor: Tensor | float, iterations: int = 50) -> Tensor:
    """Inverse of `distort`, by the fixed point xy <- xy - (distort(xy) - target).

    Converges where distortion is mild (|distort(xy) - xy| grows more slowly than |xy|), which holds everywhere in a
    Human3.6M image; fifty steps reach float64 precision there.
    """
    guess = xy
    for _ in range(iterations):
        guess = guess - (distort(guess, radial, tangential, factor) - xy)
    return guess


def matrix_from_quaternion(q: Tensor) -> Tensor:
    """(..., 4) quaternion w, x, y, z of any length above zero -> (..., 3, 3) rotation."""
    w, x, y, z = (q / q.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def normalise_screen(uv: Tensor, size: tuple[int, int]) -> Tensor:
    """Pixels -> a lifter's screen coordinates: x in [-1, 1] over the width, y at the same scale, centre at zero."""
    width, height = size
    return uv * (2 / width) - uv.new_tensor([1.0, height / width])


def normalise_screens(uv: Tensor, size: Tensor) -> Tensor:
    """`normalise_screen` for pictures of different sizes: (B, J, 2) pixels and (B, 2) widths and heights."""
    return (2 * uv - size[:, None]) / size[:, None, :1]


def denormalise_screen(xy: Tensor, size: tuple[int, int]) -> Tensor:
    """Inverse of `normalise_screen`."""
    width, height = size
    return (xy + xy.new_tensor([1.0, height / width])) * (width / 2)


def denormalise_screens(xy: Tensor, size: Tensor) -> Tensor:
    """Inverse of `normalise_screens`."""
    return (xy * size[:, None, :1] + size[:, None]) / 2
