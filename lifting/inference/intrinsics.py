"""The intrinsics of a user's camera, from a focal length or from a file, and the rays of pixels."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lifting.command import InputError
from lifting.safe_json import read_json

Array = NDArray[np.float64]

_SIDES = (1, 100_000)  # pixels that a picture can be wide or high
_SHORTEST = 0.2  # focal length in longer sides of the picture: a view of 136 degrees
_LARGEST = 1e7  # pixels, of a focal length and of the centre's distance from the corner
_STEPS = 30  # of Newton's method, which undoes distortion
_TOLERANCE = 1e-6  # on the plane at distance 1


@dataclass(frozen=True)
class Intrinsics:
    """A pinhole camera with Brown's distortion, as in OpenCV.

    A point (X, Y, Z) of the camera frame (x right, y down, z forward) is at (x, y) = (X, Y) / Z, and its pixel is
    ``center + focal * distort(x, y)`` with r^2 = x^2 + y^2 and::

        distort(x, y) = (x, y) (1 + k1 r^2 + k2 r^4 + k3 r^6)
                        + (2 p1 x y + p2 (r^2 + 2 x^2), p1 (r^2 + 2 y^2) + 2 p2 x y)

    Attributes:
        focal: (f_x, f_y) pixels.
        center: (c_x, c_y) pixels from the top left corner.
        radial: k1, k2, k3.
        tangential: p1, p2.
        size: width and height in pixels of the camera's pictures, if they are known.
    """

    focal: tuple[float, float]
    center: tuple[float, float]
    radial: tuple[float, float, float] = (0.0, 0.0, 0.0)
    tangential: tuple[float, float] = (0.0, 0.0)
    size: tuple[int, int] | None = None

    def distort(self, xy: Array) -> Array:
        """(..., 2) ideal points of the plane at distance 1 -> (..., 2) distorted ones."""
        (k1, k2, k3), (p1, p2) = self.radial, self.tangential
        r2 = np.square(xy).sum(-1, keepdims=True)
        cross = xy.prod(-1, keepdims=True)
        along = r2 + 2 * np.square(xy)
        shift = np.concatenate([2 * p1 * cross + p2 * along[..., :1], p1 * along[..., 1:] + 2 * p2 * cross], -1)
        distorted: Array = xy * (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) + shift
        return distorted

    def _slope(self, xy: Array) -> Array:
        """(..., 2) ideal points -> (2, 2, ...): the derivative of `distort`, which is symmetric."""
        (k1, k2, k3), (p1, p2) = self.radial, self.tangential
        x, y = np.moveaxis(xy, -1, 0)
        r2 = x * x + y * y
        scale, grows = 1 + r2 * (k1 + r2 * (k2 + r2 * k3)), 2 * (k1 + r2 * (2 * k2 + 3 * r2 * k3))
        across = grows * x * y + 2 * (p1 * x + p2 * y)
        along_x = scale + grows * x * x + 2 * p1 * y + 6 * p2 * x
        along_y = scale + grows * y * y + 6 * p1 * y + 2 * p2 * x
        return np.stack([np.stack([along_x, across]), np.stack([across, along_y])])

    def project(self, points: Array) -> Array:
        """(..., 3) metres, camera frame -> (..., 2) pixels; NaN for a point that is not in front of the camera."""
        depth = np.where(points[..., 2:] > 0, points[..., 2:], np.nan)
        return self.distort(points[..., :2] / depth) * self.focal + self.center

    def rays(self, pixels: Array) -> Array:
        """(..., 2) pixels -> (..., 3) unit vectors of the camera frame.

        NaN where a pixel is NaN, or so far out that the distortion has no unique inverse on the way there.
        """
        xy = target = (pixels - self.center) / self.focal
        if any((*self.radial, *self.tangential)):
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                for _ in range(_STEPS):
                    (a, b), (_, d) = slope = self._slope(xy)
                    x, y = np.moveaxis(self.distort(xy) - target, -1, 0)
                    xy = xy - np.stack([d * x - b * y, a * y - b * x], -1) / _determinant(slope)[..., None]
                way = np.stack([_determinant(self._slope(part * xy)) for part in np.linspace(0, 1, 9)])
                off = np.abs(self.distort(xy) - target).max(-1)
                xy = np.where(((off < _TOLERANCE) & (way > 0).all(0))[..., None], xy, np.nan)
        ray = np.concatenate([xy, np.ones_like(xy[..., :1])], -1)
        unit: Array = ray / np.linalg.norm(ray, axis=-1, keepdims=True)
        return unit


def _determinant(slope: Array) -> Array:
    """(2, 2, ...) symmetric -> (...)."""
    determinant: Array = slope[0, 0] * slope[1, 1] - slope[0, 1] ** 2
    return determinant


def intrinsics_of_focal(focal: float, size: tuple[int, int] | None) -> Intrinsics:
    """A camera without distortion whose optical axis meets the middle of a picture of this size.

    Raises:
        InputError: the size is unknown, or the focal length is not above zero.
    """
    if not (np.isfinite(focal) and focal > 0):
        raise InputError(f"focal length: expected pixels, a number above 0, got {focal:g}")
    if size is None:
        raise InputError("focal length: expected the size of the picture too, the keypoints have none: add --size W H")
    _check_focal((focal, focal), size, "focal length")
    return Intrinsics((float(focal), float(focal)), (size[0] / 2, size[1] / 2), size=size)


def _check_focal(focal: tuple[float, float], size: tuple[float, float] | None, where: str) -> None:
    if max(focal) > _LARGEST:
        raise InputError(f"{where}: expected at most {_LARGEST:g} pixels, got {max(focal):g}")
    if size is not None and min(focal) < _SHORTEST * max(size):
        raise InputError(
            f"{where}: expected pixels, got {min(focal):g} for a picture of {size[0]:g} x {size[1]:g}, which would see "
            "more than 136 degrees; millimetres become pixels by the width in pixels over that of the sensor"
        )


def read_intrinsics(path: Path, size: tuple[int, int] | None) -> Intrinsics:
    """Reads a camera file, JSON::

        {"size": [1920, 1080], "focal": [1450.0, 1452.0], "center": [962.1, 540.3],
         "radial": [-0.21, 0.25, 0.0], "tangential": [-0.001, 0.0005]}

    ``focal`` may also be one number. Only ``focal`` is needed: the centre is otherwise that of the picture, and there
    is no distortion. OpenCV's five coefficients are k1 k2 p1 p2 k3: ``radial`` has k1 k2 k3, ``tangential`` p1 p2.

    Args:
        size: of the picture the keypoints are from; that of the file has to be the same, where both are known.

    Raises:
        InputError: no file, no JSON, an unknown key, a value that cannot be, or a camera of another size.
    """
    where = f"camera file: {path}"
    content = read_json(path, "camera file")
    known = ("size", "focal", "center", "radial", "tangential")
    if not isinstance(content, dict) or "focal" not in content or not set(content) <= set(known):
        found = ", ".join(content) if isinstance(content, dict) else type(content).__name__
        raise InputError(f"{where}: expected an object with focal and maybe {', '.join(known)}, got {found or 'none'}")
    of_file = _numbers(content, "size", 2, where) if "size" in content else None
    if of_file is not None and not all(_SIDES[0] <= side <= _SIDES[1] and side.is_integer() for side in of_file):
        raise InputError(f"{where}: size: expected width and height in pixels, got {content['size']}")
    if of_file is not None and size is not None and of_file != tuple(map(float, size)):
        raise InputError(f"{where}: expected a camera of pictures of {size[0]} x {size[1]}, got {content['size']}")
    if isinstance(content["focal"], int | float):
        content["focal"] = [content["focal"]] * 2
    focal = _numbers(content, "focal", 2, where)
    if min(focal) <= 0:
        raise InputError(f"{where}: focal: expected pixels above 0, got {content['focal']}")
    middle = of_file or size
    _check_focal(focal, middle, f"{where}: focal")
    if "center" not in content:
        if middle is None:
            raise InputError(f"{where}: expected a center or a size, got neither")
        content["center"] = [middle[0] / 2, middle[1] / 2]
    radial = _numbers(content, "radial", 3, where) if "radial" in content else (0.0, 0.0, 0.0)
    tangential = _numbers(content, "tangential", 2, where) if "tangential" in content else (0.0, 0.0)
    pictures = None if middle is None else (int(middle[0]), int(middle[1]))
    center = _numbers(content, "center", 2, where)
    if max(map(abs, center)) > _LARGEST:
        raise InputError(f"{where}: center: expected at most {_LARGEST:g} pixels, got {content['center']}")
    return Intrinsics(focal, center, radial, tangential, pictures)


def _numbers(content: dict[str, Any], key: str, count: int, where: str) -> Any:
    """``count`` finite numbers under a key, as a tuple."""
    listed = content[key] if isinstance(content[key], list) else []
    plain = all(isinstance(value, int | float) and not isinstance(value, bool) for value in listed)
    try:
        values = tuple(map(float, listed)) if plain else ()
    except OverflowError:
        values = ()
    if len(values) != count or not np.isfinite(values).all():
        raise InputError(f"{where}: {key}: expected {count} numbers, got {content[key]!r:.60}")
    return values
