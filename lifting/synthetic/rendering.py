"""Shaded pictures of round cones: a small CPU renderer with a depth buffer, exact under perspective.

A round cone is the union of spheres whose centres and radii change linearly with s in [0, 1]::

    c(s) = a + s b,    r(s) = r_a + s r_b

In the camera frame, a pixel sees the points t d with d = (x, y, 1), so t is the depth. A ray enters the envelope of the
spheres (the mantle) at a root of a quadratic in t, and the sphere that it touches there has an s that is linear in t.
If that s lies outside [0, 1], the ray meets one of the two end spheres or nothing.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np
from einops import rearrange
from numpy.typing import NDArray

Array = NDArray[np.float64]
Single = NDArray[np.float32]

OVERSAMPLING = 2  # pixels of the depth buffer per pixel of the picture, along each axis


@dataclass(frozen=True)
class View:
    """A pinhole camera without distortion; the centre of a pixel has integer coordinates.

    Attributes:
        R: (3, 3) world -> camera axes; x right, y down, z forward.
        position: (3,) metres, of the camera in the world: a point X is at R (X - position) in the camera frame.
        focal: pixels.
        center: (2,) pixels.
        size: width, height in pixels.
    """

    R: Array
    position: Array
    focal: float
    center: Array
    size: tuple[int, int]

    def to_camera(self, points: Array) -> Array:
        """(..., 3) world -> (..., 3) camera, metres."""
        moved: Array = (points - self.position) @ self.R.T
        return moved

    def project(self, points: Array) -> Array:
        """(..., 3) world, in front of the camera -> (..., 2) pixels."""
        seen = self.to_camera(points)
        pixels: Array = seen[..., :2] / seen[..., 2:] * self.focal + self.center
        return pixels

    def finer(self, times: int) -> "View":
        """The same view with each pixel divided into ``times`` x ``times``."""
        width, height = self.size
        center = times * self.center + (times - 1) / 2
        return replace(self, focal=times * self.focal, center=center, size=(times * width, times * height))

    def window(self, left: int, top: int, right: int, bottom: int) -> "View":
        """A part of the picture, from pixel (left, top) up to but not including (right, bottom)."""
        return replace(self, center=self.center - [left, top], size=(right - left, bottom - top))

    def rays(self) -> tuple[Single, Single]:
        """x of every column (W,) and y of every row (H, 1) at depth one."""
        x, y = ((np.arange(n) - c) / self.focal for n, c in zip(self.size, self.center, strict=True))
        return x.astype(np.float32), y[:, None].astype(np.float32)


def look_at(position: Array, target: Array, roll: float) -> Array:
    """Rotation (3, 3) of a camera that looks from one point to another, upright but for the roll in radians."""
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross(forward, [0, 0, 1])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    cos, sin = np.cos(roll), np.sin(roll)
    return np.stack([cos * right + sin * down, cos * down - sin * right, forward])


@dataclass(frozen=True)
class Cones:
    """P round cones in the world.

    Attributes:
        start, end: (P, 3) centres of the end spheres, metres.
        radii: (P, 2) of the end spheres, above zero.
        colour: (P, 3) red, green, blue, in [0, 1].
    """

    start: Array
    end: Array
    radii: Array
    colour: Array

    def bounds(self, view: View) -> tuple[Array, Array]:
        """The bounding box of each cone in the picture, pixels: (P, 2) least and (P, 2) greatest x and y."""
        ends = view.to_camera(np.stack([self.start, self.end]))  # (2, P, 3)
        across, depth, radius = ends[..., :2], ends[..., 2:], rearrange(self.radii, "p end -> end p 1")
        angle = np.arctan2(across, depth)
        half = np.arcsin(np.minimum(radius / np.hypot(across, depth), 1))
        low = np.tan(angle - half).min(0) * view.focal + view.center
        high = np.tan(angle + half).max(0) * view.focal + view.center
        return low, high


class Light(NamedTuple):
    """The light of a distant lamp, and ambient light."""

    towards: Array  # (3,) unit vector in the world, from the scene to the lamp
    lamp: float
    ambient: float
    tint: Array  # (3,) of the lamp


class Drawn(NamedTuple):
    """A rendered person without a background."""

    colour: Single  # (H, W, 3) in [0, 1], premultiplied by the coverage
    coverage: Single  # (H, W) in [0, 1]


class _Solids(NamedTuple):
    """Cones in the camera frame, as the equations need them; if one end sphere contains the other, only it remains."""

    start: Array  # (P, 3) a
    axis: Array  # (P, 3) b
    radius: Array  # (P,) r_a
    growth: Array  # (P,) r_b
    scale: Array  # (P,) 1 / (b.b - r_b^2), zero for a sphere


def _solids(cones: Cones, view: View) -> _Solids:
    start, end = view.to_camera(cones.start), view.to_camera(cones.end)
    first, last = cones.radii.T
    sphere = ((end - start) ** 2).sum(1) <= (last - first) ** 2 + 1e-8
    larger = last > first
    start = np.where((sphere & larger)[:, None], end, start)
    first = np.where(sphere & larger, last, first)
    axis, growth = np.where(sphere[:, None], 0, end - start), np.where(sphere, 0, last - first)
    height = (axis**2).sum(1) - growth**2
    return _Solids(start, axis, first, growth, np.where(sphere, 0, 1 / np.where(sphere, 1, height)))


def _entry_depth(solids: _Solids, p: int, x: Single, y: Single) -> Single:
    """Where the rays (W,), (H, 1) enter solid p: depths (H, W), infinite where they miss it."""
    a, b = solids.start[p], solids.axis[p]
    radius, growth, scale = (float(v[p]) for v in (solids.radius, solids.growth, solids.scale))
    dd = x * x + (y * y + 1)
    ad = np.float32(a[0]) * x + (np.float32(a[1]) * y + np.float32(a[2]))
    bd = np.float32(b[0]) * x + (np.float32(b[1]) * y + np.float32(b[2]))
    aa, ab, bb = float(a @ a) - radius**2, float(a @ b) - radius * growth, float(b @ b) - growth**2

    def sphere(s: Single | float) -> Single:
        towards = ad + s * bd
        below = towards * towards - dd * (aa + s * (2 * ab + s * bb))
        depth = (towards - np.sqrt(np.maximum(below, 0))) / dd
        depth[below < 0] = np.inf
        return depth.astype(np.float32, copy=False)

    quadratic = dd - bd * bd * scale
    half = ad - bd * (ab * scale)
    root = np.sqrt(np.maximum(half * half - quadratic * (aa - ab * ab * scale), 0))
    end_on = bool(quadratic.min() <= 1e-6)
    t = (half - root) / (np.where(np.abs(quadratic) < 1e-6, 1e-6, quadratic) if end_on else quadratic)
    depth = sphere(np.minimum(np.maximum((t * bd - ab) * scale, 0), 1))
    if end_on:  # rays may meet the narrow end before the mantle, or enter through the wide end
        depth = np.minimum(depth, np.minimum(sphere(0.0), sphere(1.0)))
    return depth


def depth_buffer(cones: Cones, view: View) -> tuple[Single, NDArray[np.int16]]:
    """The surface that every pixel of ``view`` sees first.

    Returns:
        (H, W) depths in metres, infinite where there is none; (H, W) indices of the cones, -1 where there is none.
    """
    width, height = view.size
    depth = np.full((height, width), np.inf, np.float32)
    owner = np.full((height, width), -1, np.int16)
    solids, (x, y) = _solids(cones, view), view.rays()
    low, high = cones.bounds(view)
    first = np.clip(np.floor(low), 0, view.size).astype(int)
    last = np.clip(np.ceil(high) + 1, 0, view.size).astype(int)
    for p, ((left, top), (right, bottom)) in enumerate(zip(first, last, strict=True)):
        if left < right and top < bottom:
            found = _entry_depth(solids, p, x[left:right], y[top:bottom])
            seen = depth[top:bottom, left:right]
            nearer = found < seen
            np.copyto(seen, found, where=nearer)
            np.copyto(owner[top:bottom, left:right], p, where=nearer, casting="unsafe")
    return depth, owner


def draw(cones: Cones, view: View, light: Light) -> Drawn:
    """The cones in diffuse light, with smooth borders; the ambient light is stronger from above."""
    width, height = view.size
    drawn = Drawn(np.zeros((height, width, 3), np.float32), np.zeros((height, width), np.float32))
    low, high = cones.bounds(view)
    left, top = np.clip(np.floor(low.min(0)), 0, view.size).astype(int).tolist()
    right, bottom = np.clip(np.ceil(high.max(0)) + 1, 0, view.size).astype(int).tolist()
    if left >= right or top >= bottom:
        return drawn
    near = view.window(left, top, right, bottom)
    fine = near.finer(OVERSAMPLING)
    depth, owner = depth_buffer(cones, fine)
    layers = cv2.resize(_shade(cones, fine, light, depth, owner), near.size, interpolation=cv2.INTER_AREA)
    drawn.colour[top:bottom, left:right] = layers[..., :3]
    drawn.coverage[top:bottom, left:right] = layers[..., 3]
    return drawn


def _shade(cones: Cones, view: View, light: Light, depth: Single, owner: NDArray[np.int16]) -> Single:
    """The colour of each pixel of a depth buffer, and a 1 where there is a surface: (H, W, 4)."""
    layers = np.zeros((*owner.shape, 4), np.float32)
    flat = np.flatnonzero(owner >= 0)
    s = _solids(cones, view)
    table = np.column_stack([s.start, s.axis, s.radius, s.growth, s.scale, cones.colour]).astype(np.float32)
    of = table[owner.ravel()[flat]].T
    start, axis, radius, growth, scale, colour = of[:3], of[3:6], of[6], of[7], of[8], of[9:]
    x, y = view.rays()
    rows, columns = np.divmod(flat, view.size[0])
    z = depth.ravel()[flat]
    from_start = np.stack([z * x[columns], z * y[rows, 0], z]) - start
    share = np.clip(((from_start * axis).sum(0) + radius * growth) * scale, 0, 1)
    normal = (from_start - share * axis) / (radius + share * growth)
    lamp, up = (view.R @ light.towards).astype(np.float32), view.R[:, 2].astype(np.float32)
    ambient = np.float32(light.ambient) * (0.75 + 0.25 * (up @ normal))
    diffuse = np.float32(light.lamp) * np.maximum(lamp @ normal, 0)
    shaded = colour * (ambient + light.tint[:, None].astype(np.float32) * diffuse)
    layers.reshape(-1, 4)[flat] = np.concatenate([np.minimum(shaded, 1), np.ones_like(share)[None]]).T
    return layers
