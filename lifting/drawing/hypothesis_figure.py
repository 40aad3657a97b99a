"""A figure of poses drawn from predicted densities, over the prediction and the truth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D

from lifting.drawing.pose_figures import (
    LEFT,
    MIDDLE,
    RIGHT,
    TEXT,
    TRUTH,
    DrawnPose,
    colours,
    draw_input,
    draw_skeleton,
    draw_space,
    draw_stage,
    new_figure,
    save_figure,
    set_title,
    viewer_axes,
)
from lifting.geometry.skeleton import H36M17, JointSet

_FAINT = 0.22  # opacity of a drawn pose


@dataclass(frozen=True)
class DrawnHypotheses:
    """One row of the figure.

    Attributes:
        pose: the input, the truth and the prediction.
        hypotheses: by the name of their density, (n, J, 3) metres, in the axes of the prediction.
    """

    pose: DrawnPose
    hypotheses: Mapping[str, np.ndarray]


def draw_hypotheses(path: str | Path, rows: Sequence[DrawnHypotheses], joint_set: JointSet = H36M17) -> None:
    """Draws a row for each pose: the keypoints, the prediction, and for each density its hypotheses.

    Raises:
        InputError: an ending that matplotlib does not write.
    """
    names = list(rows[0].hypotheses)
    ratios = (1, *[0.8] * (1 + len(names)))
    figure = new_figure(3.3 * sum(ratios), 3.55 * len(rows) + 0.4)
    panels = figure.subplots(len(rows), len(ratios), squeeze=False, width_ratios=ratios)
    for line, row in zip(panels, rows, strict=True):
        set_title(line[0], row.pose.title)
        draw_input(line[0], row.pose, joint_set)
        set_title(line[1], "prediction")
        draw_space(line[1], row.pose, row.pose.mu, joint_set)
        for axes, name in zip(line[2:], names, strict=True):
            set_title(axes, name)
            _draw_cloud(axes, row, row.hypotheses[name], joint_set)
    named = (("left", LEFT), ("right", RIGHT), ("middle", MIDDLE), ("ground truth", TRUTH))
    key = [Line2D([], [], color=colour, linewidth=2.5, label=name) for name, colour in named]
    figure.legend(handles=key, loc="outside lower center", ncols=4, frameon=False, fontsize=10, labelcolor=TEXT)
    save_figure(figure, path)


def _draw_cloud(axes: Axes, row: DrawnHypotheses, hypotheses: np.ndarray, joint_set: JointSet) -> None:
    draw_stage(axes, row.pose)
    flat = (hypotheses @ viewer_axes().T)[..., :2]
    paints = colours(joint_set)
    segments = [one[list(bone)] for one in flat for bone in joint_set.bones]
    strokes = [paints[child] for _ in flat for _, child in joint_set.bones]
    axes.add_collection(LineCollection(segments, colors=strokes, linewidths=1.2, alpha=_FAINT, zorder=3))
    if row.pose.target is not None:
        truth = row.pose.target @ viewer_axes().T
        draw_skeleton(axes, truth, joint_set, [TRUTH] * len(joint_set), width=2.0, zorder=4)
