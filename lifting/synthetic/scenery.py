"""The scene around a rendered person: camera, lamp, wall, floor with the person's shadow, and the picture's grain."""

from functools import lru_cache

import cv2
import numpy as np
from einops import rearrange

from lifting.geometry.skeleton import H36M17
from lifting.synthetic.rendering import Array, Cones, Drawn, Light, Single, View, look_at


def random_light(rng: np.random.Generator) -> Light:
    """A lamp on any side, 25 to 75 degrees above the horizon."""
    azimuth, height = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(25, 75))
    towards = np.array([np.cos(height) * np.cos(azimuth), np.cos(height) * np.sin(azimuth), np.sin(height)])
    return Light(towards, rng.uniform(0.4, 0.8), rng.uniform(0.45, 0.75), rng.uniform(0.88, 1.06, 3))


def random_view(rng: np.random.Generator, cones: Cones, size: tuple[int, int], margin: float, wild: bool) -> View:
    """A camera 3 to 6 m away that sees the whole person.

    Args:
        size: width, height in pixels; the person fills 55 to 85 % of the shorter side.
        margin: the picture also contains a square box of ``margin`` times the person's longer side.
        wild: whether the camera may be higher, lower, and rolled further.
    """
    middle = (cones.start.min(0) + cones.start.max(0)) / 2
    azimuth, distance = rng.uniform(0, 2 * np.pi), rng.uniform(3, 6)
    height = rng.uniform(0.2, 3.5) if wild else rng.uniform(0.5, 2.5)
    position = np.array([*(middle[:2] + distance * np.array([np.cos(azimuth), np.sin(azimuth)])), height])
    roll = np.radians(rng.normal(0, 8 if wild else 4))
    R = look_at(position, middle + rng.normal(0, 0.1, 3), roll)
    lows, highs = cones.bounds(View(R, position, 1.0, np.zeros(2), size))
    low, high = lows.min(0), highs.max(0)
    fill = rng.uniform(0.55, 0.85)
    focal = fill * min(size) / float((high - low).max())
    free = (1 - margin * fill) / 2 * min(size)
    center = (np.array(size) - 1) / 2 - focal * (low + high) / 2 + rng.uniform(-free, free, 2)
    return View(R, position, focal, center, size)


def backdrop(rng: np.random.Generator, view: View, joints: Array, light: Light, wild: bool) -> Single:
    """Wall and floor: (H, W, 3) in [0, 1].

    Args:
        joints: (17, 3) metres, of the person whose shadow falls on the floor.
        wild: whether there is more on the wall, in stronger colours, and sometimes no floor.
    """
    picture = _gradient(rng, view.size, strength=1.0 if wild else 0.6)
    kinds = (_noise, _stripes, _rectangles, _strokes)
    for kind in rng.choice(len(kinds), rng.integers(2, 5) if wild else rng.integers(1, 4)):
        kinds[kind](rng, picture)
    if not wild or rng.random() < 0.6:
        _floor(rng, picture, view, joints, light)
    return np.clip(picture, 0, 1)


def develop(rng: np.random.Generator, drawn: Drawn, behind: Single) -> np.ndarray:
    """The person in front of the backdrop, with blur, exposure and noise: (H, W, 3) uint8 RGB."""
    picture = drawn.colour + (1 - drawn.coverage[..., None]) * behind
    if rng.random() < 0.5:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 0.8))
    height, width = drawn.coverage.shape
    row, column = rng.integers(0, _GRAIN - np.array([height, width]))
    picture = picture * (255 * rng.uniform(0.8, 1.12)) + rng.uniform(-12, 12)
    picture += _grain()[row : row + height, column : column + width] * rng.uniform(0.5, 7)
    return np.clip(picture, 0, 255).astype(np.uint8)


_GRAIN = 1024


@lru_cache(maxsize=1)
def _grain() -> Single:
    """Noise of unit variance; each picture takes a piece of it, because new noise would cost more than the person."""
    return np.random.default_rng(0).standard_normal((_GRAIN, _GRAIN, 3), dtype=np.float32)


def _paint(rng: np.random.Generator, strength: float = 1.0) -> Single:
    """The colour of a wall: grey at strength 0, any colour at 1."""
    return (rng.uniform(0.15, 0.95) + strength * rng.uniform(-0.3, 0.3, 3)).clip(0, 1).astype(np.float32)


def _ramp(rng: np.random.Generator, size: tuple[int, int]) -> Single:
    """(H, W) from -1/2 to 1/2 over the picture, rising in a random direction."""
    width, height = size
    angle = rng.uniform(0, 2 * np.pi)
    x, y = np.linspace(-0.5, 0.5, width, dtype=np.float32), np.linspace(-0.5, 0.5, height, dtype=np.float32)
    return np.float32(np.cos(angle)) * x + (np.float32(np.sin(angle)) * y)[:, None]


def _gradient(rng: np.random.Generator, size: tuple[int, int], strength: float) -> Single:
    """A gradient between four similar colours, one in each corner."""
    first, *others = (_paint(rng, strength) for _ in range(4))
    share = np.float32(rng.uniform(0.1, 0.8))
    colours = [first, *(first + share * (other - first) for other in others)]
    corners = rearrange(colours, "(h w) rgb -> h w rgb", h=2)
    return np.asarray(cv2.resize(corners, size, interpolation=cv2.INTER_LINEAR), dtype=np.float32)


def _noise(rng: np.random.Generator, picture: Single) -> None:
    height, width = picture.shape[:2]
    coarse = rng.uniform(-1, 1, (int(rng.integers(3, 24)),) * 2 + (3,)).astype(np.float32)
    coarse = rng.uniform(0, 1) * coarse + coarse[..., :1]
    picture += rng.uniform(0.04, 0.2) * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def _stripes(rng: np.random.Generator, picture: Single) -> None:
    height, width = picture.shape[:2]
    dark = _fraction(_ramp(rng, (width, height)) * rng.uniform(3, 20) + rng.random()) < rng.uniform(0.2, 0.8)
    picture += dark[..., None] * (rng.uniform(0.05, 0.3) * (_paint(rng) - 0.5))


def _rectangles(rng: np.random.Generator, picture: Single) -> None:
    height, width = picture.shape[:2]
    for _ in range(rng.integers(2, 8)):
        corner = rng.uniform(-0.1, 0.9, 2) * [width, height]
        other = corner + rng.uniform(0.05, 0.5, 2) * [width, height]
        cv2.rectangle(picture, _pixel(corner), _pixel(other), _paint(rng).tolist(), -1)


def _strokes(rng: np.random.Generator, picture: Single) -> None:
    """Distractors: strokes as thick as limbs and as round as heads."""
    height, width = picture.shape[:2]
    for _ in range(rng.integers(2, 9)):
        start = rng.random(2) * [width, height]
        end = start + rng.normal(0, 0.2, 2) * [width, height]
        thick = int(rng.integers(3, max(4, height // 12)))
        cv2.line(picture, _pixel(start), _pixel(end), _paint(rng).tolist(), thick, cv2.LINE_AA)


def _fraction(values: Single) -> Single:
    """The fractional part; several times faster than ``% 1``."""
    return values - np.floor(values)


def _pixel(point: Array) -> tuple[int, int]:
    return round(float(point[0])), round(float(point[1]))


def _floor(rng: np.random.Generator, picture: Single, view: View, joints: Array, light: Light) -> None:
    """Draws the plane z = 0 up to the wall: plain, planks or tiles, darker in the person's shadow."""
    x, y = view.rays()
    R, position = view.R.astype(np.float32), view.position.astype(np.float32)
    falling = -(R[0, 2] * x + (R[1, 2] * y + R[2, 2]))
    depth = position[2] / np.maximum(falling, 0.02)
    far = float(view.to_camera(joints[0])[2]) + rng.uniform(1.0, 5.0)
    odd = np.zeros(depth.shape, bool)
    tile, angle, pattern = rng.uniform(0.25, 1.2), rng.uniform(0, np.pi), rng.integers(3)
    for turn in range(pattern):  # no seams, planks, or tiles
        along = np.array([np.cos(angle + turn * np.pi / 2), np.sin(angle + turn * np.pi / 2), 0]) @ R.T / tile
        place = depth * (np.float32(along[0]) * x + (np.float32(along[1]) * y + np.float32(along[2])))
        odd ^= _fraction(place + np.float32(rng.random())) < 0.5
    shade = np.where(odd, np.float32(rng.uniform(0.75, 0.97)), np.float32(1))
    shade *= 1 - _shadow(view, joints, light)
    np.copyto(picture, shade[..., None] * _paint(rng, 0.5), where=(depth < far)[..., None])


def _shadow(view: View, joints: Array, light: Light) -> Single:
    """(H, W) share of the lamp's light that the limbs block from the floor, with soft edges."""
    width, height = view.size
    cast = joints - light.towards * (joints[:, 2:] / light.towards[2])
    mask = np.zeros((height, width), np.float32)
    depth = view.to_camera(cast)[:, 2]
    if depth.min() > 0.3:
        pixels = view.project(cast).clip(-5000, 5000)
        for parent, child in H36M17.bones:
            thick = max(1, round(0.14 * view.focal / float(depth[child])))
            cv2.line(mask, _pixel(pixels[parent]), _pixel(pixels[child]), 1.0, thick)
    soft = np.asarray(cv2.GaussianBlur(mask, (0, 0), 0.012 * width), dtype=np.float32)
    return soft * np.float32(0.8 * light.lamp / (light.lamp + light.ambient))
