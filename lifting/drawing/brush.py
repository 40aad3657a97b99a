"""What a film is painted with: lines, discs, limbs, bubbles and words on an RGB array, with OpenCV and Pillow.

Every function paints on a (H, W, 3) uint8 array in place. Places are (x, y) in its pixels, with fractions.
"""

from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, ...]

PAPER: Colour = (239, 237, 232)
_SHIFT = 4  # OpenCV takes coordinates in sixteenths of a pixel
_LIGHT = np.array([-0.5, -0.85])  # towards the light, in the picture
# Layers of a limb, from the dark edge to the gleam: width, how far aside towards the light, shade (below 0: darker).
_LAYERS = ((1.0, 0.0, -0.3), (0.82, 0.16, 0.0), (0.5, 0.34, 0.16), (0.2, 0.42, 0.42))


def mixed(start: Colour, end: Colour, share: float) -> Colour:
    return tuple(int(a + share * (b - a)) for a, b in zip(start, end, strict=True))


def line(canvas: np.ndarray, start: np.ndarray, end: np.ndarray, colour: Colour, width: float) -> None:
    cv2.line(canvas, _fixed(start), _fixed(end), colour, max(round(width), 1), cv2.LINE_AA, _SHIFT)


def disc(canvas: np.ndarray, centre: np.ndarray, radius: float, colour: Colour) -> None:
    cv2.circle(canvas, _fixed(centre), int(radius * 2**_SHIFT), colour, -1, cv2.LINE_AA, _SHIFT)


def area(canvas: np.ndarray, corners: np.ndarray, colour: Colour) -> None:
    cv2.fillPoly(canvas, [np.rint(corners * 2**_SHIFT).astype(np.int32)], colour, cv2.LINE_AA, _SHIFT)


def curve(canvas: np.ndarray, points: np.ndarray, colour: Colour, width: float) -> None:
    curves = [np.rint(points * 2**_SHIFT).astype(np.int32)]
    cv2.polylines(canvas, curves, False, colour, max(round(width), 1), cv2.LINE_AA, _SHIFT)


def tube(canvas: np.ndarray, ends: np.ndarray, radii: tuple[float, float], colour: Colour, seam: float = 0.0) -> None:
    """A round limb between two places, in a seam of the paper's colour that sets it off from what is behind it."""
    along = ends[1] - ends[0]
    normal = np.array([-along[1], along[0]]) / max(np.hypot(*along), 1e-6)
    normal *= 1 if normal @ _LIGHT > 0 else -1
    if seam:
        _capsule(canvas, ends, normal, [radius + seam for radius in radii], PAPER)
    for width, aside, shade in _LAYERS:
        tone = mixed(colour, (255, 255, 255), shade) if shade >= 0 else mixed(colour, (0, 0, 0), -shade)
        middle = ends + aside * np.array(radii)[:, None] * normal
        _capsule(canvas, middle, normal, [max(width * radius, 0.8) for radius in radii], tone)


def _capsule(canvas: np.ndarray, ends: np.ndarray, normal: np.ndarray, radii: list[float], colour: Colour) -> None:
    (a, b), (r, s) = ends, radii
    corners = np.rint(np.array([a + r * normal, b + s * normal, b - s * normal, a - r * normal]) * 2**_SHIFT)
    cv2.fillConvexPoly(canvas, corners.astype(np.int32), colour, cv2.LINE_AA, _SHIFT)
    disc(canvas, a, r, colour)
    disc(canvas, b, s, colour)


def bubble(canvas: np.ndarray, centre: np.ndarray, half_axes: np.ndarray, colour: Colour, rim: int) -> None:
    """The translucent outline of an ellipsoid, as in `pose_figures`; (2, N) ``half_axes`` in pixels are its columns."""
    squares, directions = np.linalg.eigh(half_axes @ half_axes.T)
    short, long = np.sqrt(np.maximum(squares, 0))
    if long < 1:
        return
    angle = -np.degrees(np.arctan2(directions[1, 1], directions[0, 1]))  # pixels count downwards
    height, width = canvas.shape[:2]
    left, top = np.maximum(np.floor(centre - long - 4), 0).astype(int)
    right, bottom = np.minimum(np.ceil(centre + long + 4), (width, height)).astype(int)
    part = canvas[top:bottom, left:right]
    if not part.size:
        return
    middle, sizes = _fixed(centre - (left, top)), (int(long * 2**_SHIFT), int(short * 2**_SHIFT))
    for thickness, alpha in ((-1, 0.2), (rim, 0.6)):
        painted = part.copy()
        cv2.ellipse(painted, middle, sizes, angle, 0, 360, colour, thickness, cv2.LINE_AA, _SHIFT)
        cv2.addWeighted(painted, alpha, part, 1 - alpha, 0, part)


def font(size: float) -> ImageFont.FreeTypeFont:
    """The sans-serif font that comes with matplotlib."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)


def words(
    canvas: np.ndarray, place: tuple[float, float], text: str, face: ImageFont.FreeTypeFont, colour: Colour
) -> None:
    """Writes to the right of ``place``, which is on the base line."""
    left, top = max(int(place[0]), 0), max(int(place[1] - 1.2 * face.size), 0)
    part = canvas[top : top + int(1.7 * face.size), left : left + int(face.getlength(text)) + 4]
    image = Image.fromarray(part)
    ImageDraw.Draw(image).text((place[0] - left, place[1] - top), text, fill=colour, font=face, anchor="ls")
    part[:] = np.asarray(image)


def _fixed(point: np.ndarray) -> tuple[int, int]:
    """The nearest place that OpenCV can draw at."""
    x, y = float(point[0]), float(point[1])
    scale = 2**_SHIFT
    return round(min(max(x, -1e5), 1e5) * scale), round(min(max(y, -1e5), 1e5) * scale)
