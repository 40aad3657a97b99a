"""Figures of joints in pictures, with a circle of each joint's uncertainty."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse
from numpy.typing import NDArray

from lifting.drawing.pose_figures import QUIET, colours, draw_skeleton, new_figure, save_figure, set_title
from lifting.geometry.skeleton import JointSet

_COLUMNS = 4
_AROUND = 0.1  # of the box's sides, what is shown around it


@dataclass(frozen=True)
class DrawnKeypoints:
    """One person in one picture.

    Attributes:
        title: a line above the picture.
        picture: (H, W, 3) RGB.
        box: (4,) x, y, width, height, pixels; what is shown is a little more, as far as the picture goes.
        keypoints: (J, 2) pixels.
        deviation: (J, 2) pixels, the standard deviation of each coordinate; None if unknown.
        labels: (J, 2) pixels, NaN where there is none; None to draw none.
    """

    title: str
    picture: NDArray[np.uint8]
    box: NDArray[np.float64]
    keypoints: NDArray[np.float64]
    deviation: NDArray[np.float64] | None
    labels: NDArray[np.float64] | None


def draw_keypoint_figures(path: str | Path, people: Sequence[DrawnKeypoints], joint_set: JointSet) -> None:
    """A grid of pictures: skeletons, ellipses of two standard deviations, and the labels as small rings.

    Raises:
        InputError: the ending of ``path`` is not that of a picture.
    """
    rows, columns = -(-len(people) // _COLUMNS), min(_COLUMNS, len(people))
    figure = new_figure(3.1 * columns, 3.5 * rows + 0.4)
    panels = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for panel, person in zip(panels, people, strict=False):
        _draw(panel, person, joint_set)
    for panel in panels[len(people) :]:
        panel.set_axis_off()
    parts = ["predicted joints"]
    parts += ["ellipse: two standard deviations"] if any(person.deviation is not None for person in people) else []
    parts += ["ring: label"] if any(person.labels is not None for person in people) else []
    figure.supxlabel("; ".join(parts), fontsize=9, color=QUIET)
    save_figure(figure, path)


def _draw(panel: Axes, person: DrawnKeypoints, joint_set: JointSet) -> None:
    tints = colours(joint_set)
    panel.imshow(person.picture)
    low, sides = person.box[:2], person.box[2:]
    (left, top), (right, bottom) = low - _AROUND * sides, low + (1 + _AROUND) * sides
    high, wide = person.picture.shape[:2]
    panel.set(xlim=(max(left, 0), min(right, wide - 1)), ylim=(min(bottom, high - 1), max(top, 0)))
    draw_skeleton(panel, person.keypoints, joint_set, tints, width=2.0, zorder=3)
    if person.deviation is not None:
        for middle, (across, down), tint in zip(person.keypoints, person.deviation, tints, strict=True):
            circle = Ellipse((middle[0], middle[1]), 4 * across, 4 * down, facecolor=tint, alpha=0.28, zorder=2)
            panel.add_patch(circle)
    if person.labels is not None:
        x, y = person.labels.T
        panel.scatter(x, y, s=22, facecolors="none", edgecolors="white", linewidths=1.0, zorder=4)
    set_title(panel, person.title, 9)
    panel.set(xticks=[], yticks=[])
    panel.spines[:].set_color("#c8c8c8")
