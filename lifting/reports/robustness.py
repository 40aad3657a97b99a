"""What a hidden joint costs: a grey square over joints, boxes that leave a part of the person out."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lifting.config import SingleStageConfig
from lifting.datasets.image_set import ImageSet
from lifting.geometry.crops import extent, transform
from lifting.metrics.pose_errors import joint_errors
from lifting.prediction import Prediction
from lifting.reports.image_evaluation import in_metres, predict, root_relative
from lifting.training.objective import ImageObjective

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The groups of the RLE paper's Tab. 15 and 16, joints of the right and of the left.
GROUPS = {
    "ankles": (3, 6),
    "knees": (2, 5),
    "hips": (1, 4),
    "wrists": (16, 13),
    "elbows": (15, 12),
    "shoulders": (14, 11),
    "head": (9, 10),
}
SQUARE = 0.15  # of the crop's side: 40 pixels of 256 about
GREY = 128
CUTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)


def occlusion_report(
    objective: ImageObjective, images: ImageSet, prediction: Prediction, matrix: Tensor, config: SingleStageConfig
) -> dict[str, Any]:
    """The error of every group of joints with a grey square over each joint of one group, for each group.

    Args:
        prediction, matrix: what `image_evaluation.predict` returned for the pictures as they are.

    Returns:
        ``clean``: group -> mm; ``occluded``: hidden group -> group -> mm; ``square``: its side over the crop's.
    """
    at = transform(matrix, torch.from_numpy(images.keypoints).double())
    half = SQUARE * extent(config.data.size)[0] / 2

    def hide(joints: tuple[int, ...]) -> dict[str, float]:
        def paint(crop: NDArray[np.uint8], row: int) -> None:
            for x, y in at[row, list(joints)].tolist():
                left, right, top, bottom = (max(0, round(edge)) for edge in (x - half, x + half, y - half, y + half))
                crop[top:bottom, left:right] = GREY

        return _by_group(_errors(images, *predict(objective, images, config, paint=paint), config))

    clean = _by_group(_errors(images, prediction, matrix, config))
    return {"square": SQUARE, "clean": clean, "occluded": {name: hide(joints) for name, joints in GROUPS.items()}}


def truncation_report(objective: ImageObjective, images: ImageSet, config: SingleStageConfig) -> list[dict[str, float]]:
    """The error of joints in and out of a frame that leaves a part of the person out below.

    The crop's side is shortened by each of `CUTS`; its upper edge stays, and so does its middle across.

    Returns:
        for each cut ``cut``, ``share_outside`` of the joints in percent, ``inside_mm``, ``outside_mm``, ``mpjpe_mm``.
    """
    rows = []
    for cut in CUTS:
        box = cut_box(images.box, cut)
        prediction, matrix = predict(objective, images, config, box=box)
        error = _errors(images, prediction, matrix, config)
        at = transform(matrix, torch.from_numpy(images.keypoints[:, :17]).double())
        inside = ((at >= -0.5) & (at <= extent(config.data.size)[0] - 0.5)).all(-1)
        row = {"cut": cut, "share_outside": 100 * float((~inside).double().mean()), "mpjpe_mm": float(error.mean())}
        if inside.any():
            row["inside_mm"] = float(error[inside].mean())
        if not inside.all():
            row["outside_mm"] = float(error[~inside].mean())
        rows.append(row)
    return rows


def cut_box(box: NDArray[np.float32], cut: float) -> NDArray[np.float32]:
    """Square boxes whose side is (1 - cut) times the longer one of (N, 4), with the same upper edge and middle."""
    side = box[:, 2:].max(1)
    middle = box[:, :2] + box[:, 2:] / 2
    kept = side * (1 - cut)
    return np.stack([middle[:, 0] - kept / 2, middle[:, 1] - side / 2, kept, kept], 1).astype(np.float32)


def _errors(images: ImageSet, prediction: Prediction, matrix: Tensor, config: SingleStageConfig) -> Tensor:
    """(N, 17) millimetres."""
    mu, _ = in_metres(prediction, matrix, images, config.data.size)
    return 1000 * joint_errors(mu[:, :17], root_relative(images)[:, :17])["mpjpe"]


def _by_group(error: Tensor) -> dict[str, float]:
    return {name: float(error[:, list(joints)].mean()) for name, joints in GROUPS.items()}


def format_occlusion(report: dict[str, Any]) -> str:
    """A row for each hidden group, a column for each group's error, millimetres."""
    head = f"{'hidden':<12}" + "".join(f"{name:>11}" for name in GROUPS)
    rows = {"nothing": report["clean"], **report["occluded"]}
    lines = [f"{hidden:<12}" + "".join(f"{row[name]:>11.1f}" for name in GROUPS) for hidden, row in rows.items()]
    return "\n".join(["MPJPE (mm) of a group of joints under a grey square over another", head, *lines])


def format_truncation(report: list[dict[str, float]]) -> str:
    lines = [f"{'cut':>5}{'joints outside':>16}{'inside (mm)':>13}{'outside (mm)':>14}{'all (mm)':>10}"]
    for row in report:
        inside, outside = (f"{row[name]:.1f}" if name in row else "" for name in ("inside_mm", "outside_mm"))
        lines.append(
            f"{row['cut']:>5.0%}{row['share_outside']:>14.1f} %{inside:>13}{outside:>14}{row['mpjpe_mm']:>10.1f}"
        )
    return "\n".join(["MPJPE where the box leaves a part of the person out below", *lines])


def draw_occlusion(path: Path, report: dict[str, Any]) -> None:
    """The table as a picture: how much a group's error grows, in millimetres."""
    from lifting.drawing.pose_figures import TEXT, new_figure, save_figure, set_title

    names = list(GROUPS)
    grown = np.array([[report["occluded"][h][n] - report["clean"][n] for n in names] for h in names])
    figure = new_figure(7.2, 5.6)
    panel: Axes = figure.subplots()
    reach = max(1.0, float(np.abs(grown).max()))
    panel.imshow(grown, cmap="RdBu_r", vmin=-reach, vmax=reach)
    for row, column in np.ndindex(grown.shape):
        dark = abs(grown[row, column]) > 0.6 * reach
        panel.text(column, row, f"{grown[row, column]:+.0f}", ha="center", va="center", fontsize=10,
                   color="white" if dark else TEXT)  # fmt: skip
    panel.set_xticks(range(len(names)), [f"{name}\n{report['clean'][name]:.0f}" for name in names], fontsize=9)
    panel.set_yticks(range(len(names)), names, fontsize=9)
    panel.set(xlabel="error of (below: with nothing hidden, mm)", ylabel="hidden")
    set_title(panel, "What hiding a joint adds to the errors, mm")
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    save_figure(figure, path)


def draw_truncation(path: Path, report: list[dict[str, float]]) -> None:
    from lifting.drawing.pose_figures import LEFT, QUIET, RIGHT, TEXT, new_figure, save_figure, set_title

    figure = new_figure(6.2, 4.2)
    panel: Axes = figure.subplots()
    for key, name, colour in (("inside_mm", "joints in the frame", RIGHT), ("outside_mm", "joints outside", LEFT)):
        rows = [row for row in report if key in row]
        panel.plot([100 * row["cut"] for row in rows], [row[key] for row in rows], "o-", color=colour, label=name)
    panel.set(xlabel="cut from the side of the box, %", ylabel="MPJPE, mm", ylim=(0, None))
    set_title(panel, "Boxes that leave a part of the person out below")
    panel.legend(frameon=False, fontsize=9, labelcolor=TEXT)
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(QUIET)
    save_figure(figure, path)
