"""Draws one frame of a film: keypoints on the left, people in space on the right, standard deviation over time below.

It paints at twice the size and shrinks the result, which takes some hundredths of a second; matplotlib takes ten times
as long.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from lifting.drawing.brush import PAPER, Colour, area, bubble, curve, disc, font, line, mixed, tube, words
from lifting.drawing.scene import Scene
from lifting.geometry.skeleton import H36M17
from lifting.keypoints.detections import Keypoints

_SHARP = 2  # pixels painted for each pixel shown, in both directions
_PITCH = 0.2  # radians, how far the eye looks down
_LENS = 2.3  # focal length over the height of the stage
_CELL = 0.5  # metres, a square of the floor
_SMALL, _BIG, _LINE = 19, 44, 30  # heights of letters, and of a line of the small ones, for a film 720 pixels high
_LEFT, _RIGHT, _MIDDLE, _TRUTH = (213, 94, 0), (0, 114, 178), (90, 97, 105), (172, 176, 180)
_DEVIATION, _ERROR, _INK, _QUIET = (0, 158, 115), (176, 70, 139), (29, 33, 37), (101, 108, 116)
_GLOW, _GRID = (255, 255, 255), (186, 181, 171)
# Metres at both ends of the bone that ends in a joint of this name, sides aside.
_RADII = {
    "hip": (0.021, 0.021), "knee": (0.022, 0.017), "ankle": (0.017, 0.012), "spine": (0.021, 0.021),
    "thorax": (0.021, 0.02), "neck": (0.016, 0.015), "head": (0.03, 0.037), "shoulder": (0.019, 0.016),
    "elbow": (0.016, 0.012), "wrist": (0.012, 0.009),
}  # fmt: skip


class Stage:
    """A film of one clip; see `paint`.

    Args:
        scene: the people.
        keypoints: what they were lifted from, as Human3.6M's 17 joints.
        size: width and height of the film in pixels.
        reach: how many standard deviations the ellipsoids reach.
    """

    def __init__(self, scene: Scene, keypoints: Keypoints, size: tuple[int, int], reach: float = 1.0) -> None:
        self.scene, self.keypoints, self.reach = scene, keypoints, reach
        self.width, self.height = size[0] * _SHARP, size[1] * _SHARP
        self.unit = self.height / 720
        self.fonts = {size: font(max(size * self.unit, 10.0 * _SHARP)) for size in (_SMALL, _BIG)}
        colours = dict.fromkeys(H36M17.left, _LEFT) | dict.fromkeys(H36M17.right, _RIGHT)
        self.colours = [colours.get(joint, _MIDDLE) for joint in range(len(H36M17))]
        self.joints = scene.joints + scene.place[..., None, :]
        self.truth = None if scene.truth is None else scene.truth + scene.place[..., None, :]
        self.deviation = np.full(len(self.joints), np.nan)  # of a joint: root of the sum of its three variances
        self.error = self.deviation.copy()
        if scene.deviation is not None:
            self.deviation = _mean(np.linalg.norm(scene.deviation, axis=-1))
        if scene.truth is not None:
            self.error = _mean(np.linalg.norm(scene.truth - scene.joints, axis=-1))
        present = np.isfinite(scene.joints).all((2, 3))
        self.some_missing = bool(np.isnan(keypoints.points[present]).any())
        self._lay_out()
        self._fit()
        self.background = self._background()

    def paint(self, frame: int, yaw: float) -> np.ndarray:
        """(H, W, 3) uint8 RGB: this frame, seen from ``yaw`` radians to the right of the camera."""
        cos, sin, cos_p, sin_p = np.cos(yaw), np.sin(yaw), np.cos(_PITCH), np.sin(_PITCH)
        self.view = np.array([[cos, 0, -sin], [-sin * sin_p, cos_p, -cos * sin_p], [sin * cos_p, sin_p, cos * cos_p]])
        self.canvas = self.background.copy()
        self._paint_grid()
        people = [p for p in range(self.joints.shape[1]) if np.isfinite(self.joints[frame, p]).all()]
        self._paint_shadows([self.joints[frame, p] for p in people])
        for person in sorted(people, key=lambda p: float(self._project(self.joints[frame, p, 0])[2])):
            self._paint_person(frame, person)
        for left, top, right, bottom in (self.picture, self.chart):  # the floor ends where these begin
            self.canvas[top:bottom, left:right] = self.background[top:bottom, left:right]
        self._paint_keypoints(frame)
        self._paint_time(frame)
        return cv2.resize(self.canvas, None, fx=1 / _SHARP, fy=1 / _SHARP, interpolation=cv2.INTER_AREA)

    def _lay_out(self) -> None:
        """Places of the parts as (left, top, right, bottom) in pixels drawn."""
        u, w, h = self.unit, self.width, self.height
        self.has_chart = np.isfinite([self.deviation, self.error]).any()
        floor = h - 110 * u if self.has_chart else h
        side = min(0.32 * w, floor - 190 * u)
        self.picture = (int(28 * u), int(64 * u), int(28 * u + side), int(64 * u + side))
        self.stage = (int(28 * u + side), int(_LINE * u * self.some_missing), w, int(floor))
        self.chart = (int(28 * u), int(h - 84 * u), int(w - 28 * u), int(h - 22 * u))

    def _fit(self) -> None:
        """The eye's distance and target, for which everybody is in the picture all the time, whatever the yaw."""
        points = self.joints[np.isfinite(self.joints).all(-1)]
        low, high = np.percentile(points, 1, axis=0), np.percentile(points, 99, axis=0)
        self.target = (low + high) / 2
        self.target[1] = (min(low[1], 0.0) + high[1]) / 2
        radius = np.hypot(*(high - low)[[0, 2]]) / 2
        left, top, right, bottom = self.stage
        self.focal = _LENS * (bottom - top)
        room = np.array([right - left, bottom - top]) - 150 * self.unit
        self.distance = radius + self.focal * max(2 * radius / room[0], (high[1] - min(low[1], 0.0)) / room[1])
        self.floor = max(1.6, radius + 0.9)
        self.centre = np.array([(left + right) / 2, (top + bottom) / 2])

    def _background(self) -> np.ndarray:
        """What never changes: the paper, the light on the floor, the titles, the chart."""
        canvas = np.full((self.height, self.width, 3), PAPER, np.uint8)
        self.view = np.array([[1, 0, 0], [0, np.cos(_PITCH), -np.sin(_PITCH)], [0, np.sin(_PITCH), np.cos(_PITCH)]])
        x, y, scale = self._project(np.array([self.target[0], 0.0, self.target[2]]))
        across = (np.arange(self.width) - x) / (self.floor * scale)
        down = (np.arange(self.height) - y) / (self.floor * scale * np.sin(_PITCH))
        glow = np.clip(1 - np.hypot(across[None], down[:, None]), 0, 1)[..., None]
        canvas = (canvas + glow * (np.array(_GLOW) - canvas)).astype(np.uint8)
        left, top, right, bottom = self.picture
        cv2.rectangle(canvas, (left, top), (right, bottom), _GLOW, -1)
        self.canvas = canvas
        self._write((left, top - 14 * self.unit), "2D input", _INK)
        if self.has_chart:
            self._paint_chart()
        self._paint_key()
        return self.canvas

    def _paint_key(self) -> None:
        key = [("left", _LEFT), ("right", _RIGHT)]
        key += [("ground truth", _TRUTH)] if self.truth is not None else []
        if self.scene.deviation is not None:
            key.append((f"ellipsoids: {self.reach:g} standard deviation{'s' * (self.reach != 1)}", _MIDDLE))
        x, u = self.width - 28 * self.unit, self.unit
        for text, colour in reversed(key):
            x -= self.fonts[_SMALL].getlength(text)
            self._write((x, 50 * u), text, _QUIET)
            x -= 30 * u
            mark = np.array([[x, 44 * u], [x + 16 * u, 44 * u]])
            if colour is _MIDDLE:
                bubble(self.canvas, mark.mean(0), np.diag([13 * u, 8 * u]), _LEFT, _SHARP)
            else:
                tube(self.canvas, mark, (4 * u, 4 * u), colour)
            x -= 26 * u
        if self.some_missing:
            text = "missing in the 2D input"
            x, y = self.width - 28 * u - self.fonts[_SMALL].getlength(text), (50 + _LINE) * u
            self._write((x, y), text, _QUIET)
            self._ring(np.array([x - 22 * u, y - 6 * u]))

    def _ring(self, pixel: np.ndarray) -> None:
        """Marks a joint that the 2D input does not show."""
        disc(self.canvas, pixel, 7 * self.unit, _INK)
        disc(self.canvas, pixel, 4.2 * self.unit, _GLOW)

    def _project(self, points: np.ndarray) -> np.ndarray:
        """(..., 3) metres -> (..., 3): pixels to the right, pixels down, pixels per metre there."""
        seen = (points - self.target) @ self.view.T
        scale = self.focal / np.maximum(self.distance - seen[..., 2:], 0.05)
        return np.concatenate([self.centre + scale * seen[..., :2] * (1, -1), scale], -1)

    def _paint_grid(self) -> None:
        count = int(np.ceil(self.floor / _CELL))
        middle = np.round(self.target[[0, 2]] / _CELL) * _CELL
        ticks = np.arange(-count, count + 1) * _CELL
        x, z = np.meshgrid(ticks + middle[0], ticks + middle[1], indexing="ij")
        nodes = np.stack([x, np.zeros_like(x), z], -1)
        pairs = np.concatenate([
            np.stack([nodes[:-1], nodes[1:]], -2).reshape(-1, 2, 3),
            np.stack([nodes[:, :-1], nodes[:, 1:]], -2).reshape(-1, 2, 3),
        ])  # fmt: skip
        away = np.linalg.norm((pairs.mean(1) - self.target)[:, [0, 2]], axis=-1) / self.floor
        near = away < 1
        for (start, end), share in zip(self._project(pairs[near])[..., :2], 1 - away[near], strict=True):
            colour = mixed(mixed(PAPER, _GLOW, share), _GRID, 0.6 * share**1.4)
            line(self.canvas, start, end, colour, _SHARP)

    def _paint_shadows(self, people: list[np.ndarray]) -> None:
        small = 4
        mask = np.zeros((self.height // small, self.width // small), np.uint8)
        for joints in people:
            flat = self._project(joints * (1, 0, 1)) / small
            for parent, child in H36M17.bones:
                line(mask, flat[parent], flat[child], (255,), 0.045 * flat[child, 2])
        mask[:] = cv2.GaussianBlur(mask, (0, 0), max(0.022 * self.focal / self.distance / small, 0.5))
        left, top, width, height = cv2.boundingRect(mask)
        if width:
            part = self.canvas[top * small : (top + height) * small, left * small : (left + width) * small]
            dark = cv2.resize(mask[top : top + height, left : left + width], part.shape[1::-1])
            part[:] = part * (1 - 0.17 / 255 * dark[..., None])

    def _paint_person(self, frame: int, person: int) -> None:
        if self.truth is not None and np.isfinite(self.truth[frame, person]).all():
            self._skeleton(self.truth[frame, person], [_TRUTH] * len(H36M17), 0.75)
        self._skeleton(self.joints[frame, person], self.colours, 1.0)
        pixels = self._project(self.joints[frame, person])
        for pixel in pixels[~self._seen(frame)[person]]:
            self._ring(pixel)
        if self.scene.deviation is None:
            return
        axes = self.scene.axes[0, 0] if len(self.scene.axes) == 1 else self.scene.axes[frame, person]
        for joint in np.argsort(pixels[:, 2]):
            half = self.reach * self.scene.deviation[frame, person, joint]
            if np.isfinite(half).all():
                outline = pixels[joint, 2] * (self.view[:2] @ axes * half)
                bubble(self.canvas, pixels[joint, :2], outline, self.colours[joint], _SHARP)

    def _skeleton(self, joints: np.ndarray, colours: Sequence[Colour], thickness: float) -> None:
        pixels = self._project(joints)
        for parent, child in sorted(H36M17.bones, key=lambda bone: float(pixels[list(bone), 2].sum())):
            ends = pixels[[parent, child]]
            first, second = thickness * np.array(_RADII[H36M17.joints[child].split("_")[-1]]) * ends[:, 2]
            tube(self.canvas, ends[:, :2], (first, second), colours[child], seam=1.6 * _SHARP)

    def _seen(self, frame: int) -> np.ndarray:
        """(P, 17), which joints the picture shows."""
        seen: np.ndarray = np.isfinite(self.keypoints.points[frame]).all(-1)
        return seen

    def _paint_keypoints(self, frame: int) -> None:
        left, top, right, bottom = self.picture
        points = self.keypoints.points
        there = points[np.isfinite(points).all(-1)]
        if not len(there):
            return
        middle, half = (there.min(0) + there.max(0)) / 2, 0.58 * max(np.ptp(there, axis=0).max(), 1.0)
        pixels = (points[frame] - middle) / half * (right - left) / 2 + ((left + right) / 2, (top + bottom) / 2)
        seen = self._seen(frame)
        for person, known in zip(pixels, seen, strict=True):
            for parent, child in (bone for bone in H36M17.bones if known[list(bone)].all()):
                line(self.canvas, person[parent], person[child], self.colours[child], max(3.4 * self.unit, 2))
            for joint in np.flatnonzero(known):
                disc(self.canvas, person[joint], max(4.2 * self.unit, 2.5), self.colours[joint])
        missing = int((np.isfinite(self.joints[frame, ..., 0]) & ~seen).sum())
        if missing:
            text = f"{missing} joint{'s' * (missing > 1)} missing"
            self._write((right - self.fonts[_SMALL].getlength(text), top - 14 * self.unit), text, _QUIET)

    def _paint_chart(self) -> None:
        left, top, right, bottom = self.chart
        largest = np.nanmax([self.deviation, self.error])
        x = np.linspace(left, right, len(self.error)) if len(self.error) > 1 else np.array([(left + right) / 2])
        for values, colour in ((self.deviation, _DEVIATION), (self.error, _ERROR)):
            known = np.flatnonzero(np.isfinite(values))
            for run in np.split(known, np.flatnonzero(np.diff(known) > 1) + 1) if len(known) else []:
                points = np.stack([x[run], bottom - values[run] / largest * (bottom - top)], -1)
                if colour is _DEVIATION:
                    below = [[points[-1, 0], bottom], [points[0, 0], bottom]]
                    area(self.canvas, np.concatenate([points, below]), mixed(PAPER, colour, 0.3))
                curve(self.canvas, points, colour, max(2 * self.unit, 2))

    def _paint_time(self, frame: int) -> None:
        u, (left, top, right, bottom) = self.unit, self.chart
        x = self.picture[0]
        for name, values, colour in (("standard deviation", self.deviation, _DEVIATION), ("error", self.error, _ERROR)):
            if np.isfinite(values[frame]):
                number = f"{1000 * values[frame]:.0f}"
                self._write((x, self.picture[3] + 58 * u), number, colour, _BIG)
                self._write((x + self.fonts[_BIG].getlength(number) + 7 * u, self.picture[3] + 58 * u), "mm", colour)
                self._write((x, self.picture[3] + 84 * u), name, _QUIET)
                x += int(self.fonts[_SMALL].getlength(name) + 28 * u)
        if self.has_chart:
            at = left + (right - left) * (frame / (len(self.error) - 1) if len(self.error) > 1 else 0.5)
            line(self.canvas, np.array([at, top - 8 * u]), np.array([at, bottom]), _INK, max(2 * u, 2))

    def _write(self, place: tuple[float, float], text: str, colour: Colour, size: int = _SMALL) -> None:
        words(self.canvas, place, text, self.fonts[size], colour)


def _mean(values: np.ndarray) -> np.ndarray:
    """(T, P, J) -> (T,): the mean of what is known, NaN where nothing is."""
    known = np.isfinite(values)
    count = known.sum((1, 2))
    total = np.where(known, values, 0.0).sum((1, 2))
    mean: np.ndarray = np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)
    return mean
