"""Figures of poses: the keypoints, the ground truth, and the prediction with its sigma."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import EllipseCollection, LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Polygon, Rectangle

from lifting.command import InputError, whole_file
from lifting.geometry.skeleton import H36M17, JointSet

# Okabe and Ito's colours, which people with any colour vision can tell apart.
LEFT, RIGHT, MIDDLE = "#d55e00", "#0072b2", "#3a3a3a"
TRUTH, TEXT, QUIET = "#9a9a9a", "#222222", "#777777"

# The 3D panels are seen from beside and above the camera: a lifter errs most in depth, which the camera's own view
# does not show.
_AZIMUTH, _ELEVATION = np.radians(42), np.radians(16)
_NARROW = 0.8  # width of a 3D panel for a height of 1
_STAGE = 0.75  # metres, the radius of the disc that a person stands on
_LONGEST_TITLE = 34  # characters
_SIGMAS = 2  # how many standard deviations the shaded ellipses reach
_HOLLOW: dict[str, Any] = {"marker": "o", "markersize": 5, "markerfacecolor": "white", "markeredgewidth": 1.4}


@dataclass(frozen=True)
class DrawnPose:
    """One row of the figure.

    Attributes:
        title: what the row shows, such as "S9 Walking, frame 120".
        keypoints: (J, 2) pixels, the input; NaN where a joint is missing.
        size: width and height of the image in pixels.
        target: (J, 3) metres, camera axes, root-relative, or None if it is not known.
        mu: (J, 3) metres, the prediction.
        sigma: (J, 3) metres, its standard deviation in each coordinate, or None.
        picture: (H, W, 3) uint8 RGB, the picture that the keypoints belong to, or None.
    """

    title: str
    keypoints: np.ndarray
    size: tuple[int, int]
    target: np.ndarray | None
    mu: np.ndarray
    sigma: np.ndarray | None = None
    picture: np.ndarray | None = None


def draw_poses(path: str | Path, poses: Sequence[DrawnPose], joint_set: JointSet = H36M17) -> None:
    """Draws a row for each pose: the keypoints, the ground truth, and the prediction with its sigma over the truth.

    If the first pose has no ground truth, no row has a panel for it. The ending of the name decides the format (.png,
    .pdf, .svg, ...).

    Raises:
        InputError: no poses, or an ending that matplotlib does not write.
        ValueError: an array of the wrong shape, or target, mu or sigma not finite.
    """
    if not poses:
        raise InputError(f"{path}: no poses to draw")
    with_truth = poses[0].target is not None
    ratios = (1, _NARROW, _NARROW) if with_truth else (1, _NARROW)
    figure = new_figure(9 if with_truth else 6.4, 3.55 * len(poses) + 0.4)
    panels = figure.subplots(len(poses), len(ratios), squeeze=False, width_ratios=ratios)
    for row, pose in zip(panels, poses, strict=True):
        _check(pose, len(joint_set))
        _draw_row(row, pose, joint_set)
    _draw_key(figure, poses, with_truth)
    save_figure(figure, path)


def draw_strip(path: str | Path, poses: Sequence[DrawnPose], joint_set: JointSet = H36M17) -> None:
    """Draws a column for each pose: above the keypoints, below the prediction with its sigma, over the truth if known.

    Raises:
        InputError, ValueError: as `draw_poses`.
    """
    if not poses:
        raise InputError(f"{path}: no poses to draw")
    figure = new_figure(max(2.3 * len(poses), 5.2), 5.6)
    panels = figure.subplots(2, len(poses), squeeze=False, height_ratios=(1, 1 / _NARROW))
    for column, pose in zip(panels.T, poses, strict=True):
        _check(pose, len(joint_set))
        set_title(column[0], _shortened(pose.title, _LONGEST_TITLE * 2 // 3), 10)
        draw_input(column[0], pose, joint_set)
        column[0].set(xticks=[], yticks=[])
        _draw_prediction(column[1], pose, joint_set)
        set_title(column[1], _numbers(pose), 10)
    _draw_key(figure, poses, any(pose.target is not None for pose in poses))
    save_figure(figure, path)


def _numbers(pose: DrawnPose) -> str:
    """Means over the joints: error, and standard deviation (root of the sum of its three variances), where known."""
    error = None if pose.target is None else pose.mu - pose.target
    known = {"error": error, "standard deviation": pose.sigma}
    return "\n".join(
        f"{name} {1000 * np.linalg.norm(value, axis=-1).mean():.0f} mm"
        for name, value in known.items()
        if value is not None
    )


def _draw_key(figure: Figure, poses: Sequence[DrawnPose], with_truth: bool) -> None:
    named = (("left", LEFT), ("right", RIGHT), *([("ground truth", TRUTH)] if with_truth else []))
    key: list[Line2D | Patch] = [Line2D([], [], color=colour, linewidth=2.5, label=name) for name, colour in named]
    if any(pose.sigma is not None for pose in poses):
        key.append(Patch(facecolor=MIDDLE, alpha=0.25, label=f"prediction ± {_SIGMAS} standard deviations"))
    if any(np.isnan(pose.keypoints).any() for pose in poses):
        key.append(Line2D([], [], **_HOLLOW, color="none", markeredgecolor=MIDDLE, label="missing in the 2D input"))
    columns = _columns([str(part.get_label()) for part in key], figure.get_figwidth())
    figure.legend(handles=key, loc="outside lower center", ncols=columns, frameon=False, fontsize=10, labelcolor=TEXT)


def _columns(labels: list[str], inches: float) -> int:
    """How many columns of a legend fit beside each other."""
    widths = [0.65 + 0.072 * len(label) for label in labels]  # in 10 points: the mark and the gap, and each letter
    for columns in range(len(labels), 1, -1):
        if sum(part.max() for part in np.array_split(widths, columns)) <= inches:  # as Matplotlib fills them
            return columns
    return 1


def _draw_row(row: Sequence[Axes], pose: DrawnPose, joint_set: JointSet) -> None:
    set_title(row[0], _shortened(pose.title))
    set_title(row[-1], "prediction")
    draw_input(row[0], pose, joint_set)
    _draw_prediction(row[-1], pose, joint_set)
    if pose.target is not None:
        set_title(row[1], "ground truth")
        draw_space(row[1], pose, pose.target, joint_set)
        error = 1000 * np.linalg.norm(pose.mu - pose.target, axis=-1).mean()
        set_title(row[-1], f"prediction, MPJPE {error:.0f} mm")


def _draw_prediction(axes: Axes, pose: DrawnPose, joint_set: JointSet) -> None:
    draw_space(axes, pose, pose.mu, joint_set)
    if pose.sigma is not None:
        _draw_sigma(axes, pose.mu, pose.sigma, colours(joint_set))
    if pose.target is not None:
        truth = pose.target @ viewer_axes().T
        draw_skeleton(axes, truth, joint_set, [TRUTH] * len(joint_set), width=1.6, zorder=2)
    for joint in np.flatnonzero(np.isnan(pose.keypoints).any(1)):
        x, y = (pose.mu[joint] @ viewer_axes().T)[:2]
        axes.plot(x, y, **_HOLLOW, markeredgecolor=colours(joint_set)[joint], zorder=5)


def _shortened(title: str, longest: int = _LONGEST_TITLE) -> str:
    """Cuts the middle out of a title that would not fit above its panel, such as a long file name."""
    half = longest // 2
    return title if len(title) <= longest else f"{title[: half - 1]}…{title[-half:]}"


def _check(pose: DrawnPose, joints: int) -> None:
    expected = {"keypoints": (joints, 2), "target": (joints, 3), "mu": (joints, 3), "sigma": (joints, 3)}
    for name, shape in expected.items():
        value = getattr(pose, name)
        if value is not None and value.shape != shape:
            raise ValueError(f"{pose.title}: {name}: expected {shape}, got {value.shape}")
        if value is not None and name != "keypoints" and not np.isfinite(value).all():
            raise ValueError(f"{pose.title}: {name}: expected finite numbers, got NaN or infinity")


def draw_input(axes: Axes, pose: DrawnPose, joint_set: JointSet) -> None:
    """The part of the image around the person; outside the image it is white."""
    seen = pose.keypoints[np.isfinite(pose.keypoints).all(1)]
    low, high = (seen.min(0), seen.max(0)) if len(seen) else (np.zeros(2), np.array(pose.size))
    middle, half = (low + high) / 2, 0.62 * max((high - low).max(), 0.1 * max(pose.size))
    if pose.picture is None:
        axes.add_patch(Rectangle((0, 0), *pose.size, facecolor="#f4f4f4", edgecolor="none"))
    else:
        axes.imshow(pose.picture)
    axes.set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] + half, middle[1] - half), aspect="equal")
    axes.locator_params(nbins=4)
    axes.tick_params(labelsize=8, labelcolor=QUIET, color="#c8c8c8")
    axes.spines[:].set_color("#c8c8c8")
    axes.xaxis.set_major_formatter("{x:.0f} px")
    draw_skeleton(axes, pose.keypoints, joint_set, colours(joint_set), width=2.4, zorder=3)


def draw_space(axes: Axes, pose: DrawnPose, joints: np.ndarray, joint_set: JointSet) -> None:
    """A skeleton and its shadow on the disc of `draw_stage`."""
    floor, view = draw_stage(axes, pose), viewer_axes()
    shadow = np.stack([joints[:, 0], np.full(len(joints), floor), joints[:, 2]], -1) @ view.T
    axes.add_collection(LineCollection([shadow[[a, b], :2] for a, b in joint_set.bones], colors="#d2d2d2",
                                       linewidths=2.6, capstyle="round", zorder=1))  # fmt: skip
    draw_skeleton(axes, joints @ view.T, joint_set, colours(joint_set), width=2.4, zorder=3)


def draw_stage(axes: Axes, pose: DrawnPose) -> float:
    """A disc at the height of the lowest joint of the truth (else of mu), and the panel's limits; returns the height.

    The height is along the camera's y axis, metres.
    """
    known = pose.mu if pose.target is None else pose.target
    view, floor = viewer_axes(), known[:, 1].max()
    x, _, z = known.mean(0)
    turn = np.linspace(0, 2 * np.pi, 100)
    rim = np.stack([x + _STAGE * np.cos(turn), np.full(100, floor), z + _STAGE * np.sin(turn)], -1)
    axes.add_patch(Polygon((rim @ view.T)[:, :2], facecolor="#f1f1f1", edgecolor="none", zorder=0))
    ticks = np.arange(-0.6, 0.61, 0.2)
    chords = np.sqrt(_STAGE**2 - ticks**2)
    grid = [[(x + t, floor, z - c), (x + t, floor, z + c)] for t, c in zip(ticks, chords, strict=True)]
    grid += [[(x - c, floor, z + t), (x + c, floor, z + t)] for t, c in zip(ticks, chords, strict=True)]
    axes.add_collection(LineCollection((np.array(grid) @ view.T)[..., :2], colors="white", linewidths=1, zorder=0))
    shown = (np.concatenate([rim, known, pose.mu]) @ view.T)[:, :2]
    low, high = shown.min(0), shown.max(0)
    middle = (low + high) / 2
    half = max(0.515 * ((high - low) / (_NARROW, 1)).max(), 0.95) * np.array([_NARROW, 1])
    (left, bottom), (right, top) = middle - half, middle + half
    axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
    axes.set_axis_off()
    return float(floor)


def draw_skeleton(axes: Axes, points: np.ndarray, joint_set: JointSet, colours: list[str], *, width: float,
                   zorder: float) -> None:  # fmt: skip
    """Draws the bones between (J, 2) points. If a third coordinate is given, nearness, near bones cover far ones."""
    bones = joint_set.bones
    if points.shape[1] == 3:
        bones = sorted(bones, key=lambda bone: points[list(bone), 2].mean())
    # Every bone is drawn twice, first wider and white, to show which of two crossing bones is in front.
    segments = [points[list(bone), :2] for bone in bones for _ in range(2)]
    strokes = [colour for _, child in bones for colour in ("white", colours[child])]
    axes.add_collection(LineCollection(segments, colors=strokes, linewidths=[width + 1.6, width] * len(bones),
                                       capstyle="round", zorder=zorder))  # fmt: skip
    axes.scatter(points[:, 0], points[:, 1], s=(width + 1.6) ** 2, c=colours, linewidths=0, zorder=zorder)


def _draw_sigma(axes: Axes, mu: np.ndarray, sigma: np.ndarray, colours: list[str]) -> None:
    """Outlines of the ellipsoids whose half-axes are `_SIGMAS` sigma along the camera's axes.

    If V projects the ellipsoid x' C^-1 x = 1 to a plane, its outline is y' (V C V')^-1 y = 1. The half-axes of the
    outline are the square roots of the eigenvalues of V C V', along its eigenvectors. Here C is diagonal.
    """
    view = viewer_axes()[:2]
    squares, directions = np.linalg.eigh(np.einsum("ai,ji,bi->jab", view, (_SIGMAS * sigma) ** 2, view))
    diameters = 2 * np.sqrt(squares)
    angles = np.degrees(np.arctan2(directions[:, 1, 1], directions[:, 0, 1]))
    ellipses = EllipseCollection(diameters[:, 1], diameters[:, 0], angles, units="xy", offsets=mu @ view.T,
                                 offset_transform=axes.transData, facecolors=colours, alpha=0.25,
                                 linewidths=0, zorder=4)  # fmt: skip
    axes.add_collection(ellipses)  # clipped to the panel, so that large ones do not hide the title


def viewer_axes() -> np.ndarray:
    """(3, 3) rotation: camera axes, y down -> the viewer's right, up, and towards the viewer."""
    sin_a, cos_a, sin_e, cos_e = np.sin(_AZIMUTH), np.cos(_AZIMUTH), np.sin(_ELEVATION), np.cos(_ELEVATION)
    right = np.array([cos_a, 0, sin_a])
    up = np.array([-sin_a * sin_e, -cos_e, cos_a * sin_e])
    return np.stack([right, up, np.cross(right, up)])


def colours(joint_set: JointSet) -> list[str]:
    """A colour for each joint; a bone has the colour of its child joint."""
    sides = {**dict.fromkeys(joint_set.left, LEFT), **dict.fromkeys(joint_set.right, RIGHT)}
    return [sides.get(joint, MIDDLE) for joint in range(len(joint_set))]


def new_figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def set_title(axes: Axes, text: str, size: float = 11) -> None:
    """A title right above its panel. Where Matplotlib looks for a place itself, it lays out all ticks to find it."""
    axes.set_title(text, fontsize=size, color=TEXT, y=1.0)


def check_ending(path: str | Path) -> None:
    """Raises `InputError` if matplotlib cannot write a file with this ending. Call it before the work is done."""
    known = FigureCanvasAgg.filetypes
    if Path(path).suffix[1:].lower() not in known:
        raise InputError(f"{path}: expected the ending of a picture file, one of {', '.join(sorted(known))}")


def save_figure(figure: Figure, path: str | Path) -> None:
    check_ending(path)
    figure.draw_without_rendering()  # panels of fixed aspect need a second layout pass, or titles are cut off
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=200)
