"""From pictures to joints: applies a trained single-stage network to a user's own pictures."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from lifting.command import InputError, existing_file, whole_file, write_json
from lifting.config import SingleStageConfig
from lifting.datasets.augment import ROOT, warp
from lifting.datasets.decode import BrokenPictureError, decode, read_file
from lifting.geometry.crops import AROUND, DEPTH, camera_points, crop_matrix, picture_points
from lifting.geometry.skeleton import COCO17, H36M18, MPII16, JointSet
from lifting.prediction import Prediction
from lifting.reports.image_evaluation import deviation_of, predict_crops
from lifting.reports.keypoint_evaluation import pixel_deviation
from lifting.safe_json import read_json
from lifting.synthetic.proportions import RATIOS
from lifting.training.objective import ImageObjective

if TYPE_CHECKING:
    from lifting.drawing.pose_figures import DrawnPose

log = logging.getLogger(__name__)

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
STATURE = 1.7  # metres
ARRAYS = ("pixels", "confidence", "pixel_deviation", "metres", "deviation", "root")
Box = tuple[float, float, float, float]  # x, y, width, height in pixels
# The summed length of all bones of `motion.Body`, as a fraction of the stature.
_BONES = sum(RATIOS[name] for name in ("lumbar", "thorax", "neck", "head")) + 2 * sum(
    RATIOS[name] for name in ("hip", "thigh", "shank", "shoulder", "upper_arm", "forearm")
)


@dataclass(frozen=True)
class Estimate:
    """One person in one picture.

    Attributes:
        name: file name of the picture.
        box: x, y, width, height in pixels.
        joint_set: the J joints.
        pixels: (J, 2) joints in the picture.
        confidence: (J,) in [0, 1], see `Prediction.confidence`.
        pixel_deviation: (J, 2) pixels, the standard deviation of each coordinate; None from a network without sigma.
        metres: (J, 3) joints in space, camera axes, relative to the pelvis; None from a 2D network without a lifter.
        deviation: (J, 3) metres, the standard deviation of each coordinate; None from a network without sigma.
        root: (3,) metres, the pelvis in the camera frame, if a lifter was given the focal length; else None.
    """

    name: str
    box: Box
    joint_set: JointSet
    pixels: NDArray[np.float64]
    confidence: NDArray[np.float64]
    pixel_deviation: NDArray[np.float64] | None
    metres: NDArray[np.float64] | None = None
    deviation: NDArray[np.float64] | None = None
    root: NDArray[np.float64] | None = None


def pictures(source: Path, boxes: Path | None) -> Iterator[tuple[Path, Box | None]]:
    """Each picture with each of its boxes; without a file of boxes, each picture with None, for the whole picture.

    Raises:
        InputError: there is no picture; the file of boxes cannot be used, or has no entry for a picture.
    """
    if source.is_dir():
        files = sorted(path for path in source.iterdir() if path.suffix.lower() in ENDINGS)
        if not files:
            raise InputError(f"estimate: expected pictures ({', '.join(ENDINGS)}) in {source}, found none")
    else:
        files = [existing_file(source, "estimate: picture")]
    if boxes is None:
        yield from ((file, None) for file in files)
        return
    table = read_boxes(boxes)
    for file in files:
        if file.name not in table:
            raise InputError(f"estimate: {boxes}: expected boxes for {file.name}, found none")
        yield from ((file, box) for box in table[file.name])


def read_boxes(path: Path) -> dict[str, list[Box]]:
    """Reads ``{"name.jpg": [[x, y, width, height], ...]}``, in pixels.

    An empty list means that nobody is in the picture. A single box does not need the outer list.

    Raises:
        InputError: the file has another layout, or a box without a positive width and height.
    """
    content = read_json(path, "estimate: boxes")
    expected = '{"name.jpg": [[x, y, width, height], ...], ...}'
    if not isinstance(content, dict):
        raise InputError(f"estimate: {path}: expected {expected}, got a {type(content).__name__}")
    table = {}
    for name, value in content.items():
        try:
            rows = np.atleast_2d(np.asarray(value, dtype=np.float64)) if value != [] else np.empty((0, 4))
        except (TypeError, ValueError, OverflowError):
            rows = np.empty((0, 0))
        if rows.ndim != 2 or rows.shape[1] != 4 or not np.isfinite(rows).all() or (rows[:, 2:] <= 0).any():
            raise InputError(
                f"estimate: {path}: {name}: expected [x, y, width, height] with a size above zero, got {value!r:.60}"
            )
        table[name] = [(x, y, width, height) for x, y, width, height in rows.tolist()]
    return table


def estimate(
    objective: ImageObjective,
    config: SingleStageConfig,
    picture: NDArray[np.uint8],
    box: Box,
    name: str,
    *,
    around: float = 1.0,
    camera: tuple[float, float] | None = None,
    stature: float = STATURE,
) -> Estimate:
    """Estimates the joints of the person in a box.

    Args:
        picture: (H, W, 3) RGB.
        around: side of the crop over that of the box.
        camera: focal length in pixels and depth of the pelvis in metres, if they are known. Then ``metres`` take
            perspective into account, with the optical axis in the middle of the picture. Otherwise perspective is
            ignored, and the scale of x and y follows from ``stature``, see `across_scale`.
        stature: height of the person in metres; only used without a camera.
    """
    size = config.data.size
    matrix = crop_matrix(torch.tensor(box), size, around)
    crop = rearrange(torch.from_numpy(warp(picture, matrix.numpy(), size)), "h w c -> 1 c h w")
    device = next(objective.parameters()).device
    has_depth = torch.arange(len(objective.joint_set), device=device) != ROOT
    prediction = predict_crops(objective, crop.to(device), has_depth, config)
    prediction = prediction.to("cpu")
    spread = pixel_deviation(objective, prediction, matrix[None], config)
    one = Estimate(
        name,
        box,
        objective.joint_set,
        pixels=picture_points(prediction.mu[0].double(), matrix, size).numpy(),
        confidence=prediction.confidence[0].double().numpy(),
        pixel_deviation=None if spread is None else spread[0],
    )
    if objective.dims == 2:
        return one
    side = around * max(box[2:])
    metres, deviation = _in_space(objective, prediction, matrix, config, picture, side, camera, stature)
    return replace(one, metres=metres, deviation=deviation)


def _in_space(
    objective: ImageObjective,
    prediction: Prediction,
    matrix: Tensor,
    config: SingleStageConfig,
    picture: NDArray[np.uint8],
    side: float,
    camera: tuple[float, float] | None,
    stature: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """``metres`` and ``deviation`` of an `Estimate`, from a 3D network's prediction of a crop of ``side`` pixels."""
    uvd = prediction.mu[0].double()
    if camera is None:
        across = across_scale(uvd, stature)
        metres = uvd * torch.tensor([across, across, DEPTH], dtype=torch.float64)
    else:
        focal, root_depth = (torch.tensor(value, dtype=torch.float64) for value in camera)
        middle = torch.tensor([picture.shape[1] - 1, picture.shape[0] - 1], dtype=torch.float64) / 2
        metres = camera_points(uvd, matrix, config.data.size, focal.expand(2), middle, root_depth)
        across = side / camera[0] * camera[1]
    deviation = None
    if prediction.log_sigma is not None:
        units = torch.tensor([across, across, DEPTH], dtype=torch.float64)
        deviation = (deviation_of(objective, prediction)[0].double() * units).numpy()
        deviation[ROOT] = 0  # the pelvis is the origin by definition
    return (metres - metres[ROOT]).numpy(), deviation


def across_scale(uvd: Tensor, stature: float) -> float:
    """The side of the crop in metres, such that all bones of (18, 3) add up to those of a person of this stature."""
    from scipy.optimize import brentq  # takes half a second to import, and training needs none

    bones = [(a, b) for a, b in H36M18.bones if b < 17]
    parts = torch.stack([uvd[a] - uvd[b] for a, b in bones])
    flat, deep = parts[:, :2].norm(dim=-1), DEPTH * parts[:, 2]

    def excess(side: float) -> float:
        return float(((side * flat).square() + deep.square()).sqrt().sum()) - _BONES * stature

    low, high = 0.5 * stature, 4 * stature  # the person is from twice to a quarter as tall as the crop
    if excess(low) > 0 or excess(high) < 0:
        return low if excess(low) > 0 else high
    return float(brentq(excess, low, high))


def estimate_all(
    objective: ImageObjective,
    config: SingleStageConfig,
    people: list[tuple[Path, Box | None]],
    figures: Path | None,
    camera: tuple[float, float] | None,
    stature: float,
    lift: Callable[[Estimate, tuple[int, int]], Estimate] | None = None,
    around: float | None = None,
) -> Iterator[Estimate]:
    """`estimate` for each of `pictures`; draws each person into the folder ``figures``, if one is given.

    With ``data.on_broken: skip`` in the configuration, a picture that cannot be read is left out with a warning.

    Args:
        lift: adds joints in space to what a 2D network found in a picture of this width and height.
        around: side of the crop over that of a box; by default `AROUND` for COCO's and MPII's joints, and otherwise 1.

    Raises:
        InputError: a picture cannot be read, or a box lies outside it.
    """
    if around is None:
        around = AROUND if objective.joint_set in (COCO17, MPII16) else 1.0
    drawn: Counter[str] = Counter()
    last, picture = None, None
    for file, box in tqdm(people, "estimating", unit="person", disable=None):
        if file != last:
            last, picture = file, _picture(file, config)
        if picture is None:
            continue
        height, width = picture.shape[:2]
        whole = (-0.5, -0.5, float(width), float(height))
        there = box or whole
        x, y, w, h = there
        if x + w <= 0 or y + h <= 0 or x >= width or y >= height:
            raise InputError(f"estimate: {file}: expected a box in the picture, {width} x {height}, got {box}")
        wider = around if box else 1.0
        one = estimate(objective, config, picture, there, file.name, around=wider, camera=camera, stature=stature)
        one = one if lift is None else lift(one, (width, height))
        if figures is not None:
            drawn[file.name] += 1
            name = f"{file.name}.png" if box is None else f"{file.name}_{drawn[file.name]}.png"
            _draw(figures / name, one, picture, objective.joint_set)
        yield one


def _picture(file: Path, config: SingleStageConfig) -> NDArray[np.uint8] | None:
    """The picture, or None if it cannot be read and may be left out."""
    try:
        return decode(read_file(file), str(file), upright=True)
    except BrokenPictureError as error:
        if config.data.on_broken == "stop":
            raise
        with tqdm.external_write_mode():
            log.warning(f"{error}; left out")
        return None


def _draw(path: Path, one: Estimate, picture: NDArray[np.uint8], joint_set: JointSet) -> None:
    if one.metres is not None and np.isfinite(one.metres).all():
        from lifting.drawing.pose_figures import draw_poses  # with Matplotlib, which nothing else here needs

        draw_poses(path, [_drawn(one, picture)])
        return
    from lifting.drawing.keypoint_figures import DrawnKeypoints, draw_keypoint_figures

    box = np.array(one.box)
    person = DrawnKeypoints(one.name, picture, box, one.pixels, one.pixel_deviation, labels=None)
    draw_keypoint_figures(path, [person], joint_set)


def _drawn(one: Estimate, picture: NDArray[np.uint8]) -> "DrawnPose":
    from lifting.drawing.pose_figures import DrawnPose

    metres = one.metres
    assert metres is not None
    return DrawnPose(
        title=one.name,
        keypoints=one.pixels[:17],
        size=(picture.shape[1], picture.shape[0]),
        target=None,
        mu=metres[:17],
        sigma=None if one.deviation is None else one.deviation[:17],
        picture=picture,
    )


def save_estimates(path: Path, estimates: list[Estimate]) -> None:
    """Writes a JSON file if the name ends in .json, otherwise the same content as a file of `numpy.savez`.

    The arrays are those of `Estimate`; ``joints`` stands once, for all people. What is None is null in JSON, and left
    out of the other.
    """
    joints = estimates[0].joint_set.joints
    if path.suffix == ".json":
        people: list[dict[str, Any]] = [
            {"picture": one.name, "box": list(one.box)}
            | {name: None if (x := getattr(one, name)) is None else x.tolist() for name in ARRAYS}
            for one in estimates
        ]
        write_json(path, {"joints": list(joints), "people": people})
        return
    arrays = {
        "joints": np.array(joints),
        "picture": np.array([one.name for one in estimates]),
        "box": np.array([one.box for one in estimates]),
    }
    for name in ARRAYS:
        values = [getattr(one, name) for one in estimates]
        if all(value is not None for value in values):
            arrays[name] = np.stack(values)
    with whole_file(path) as temporary, temporary.open("wb") as file:  # a file, since savez adds .npz to other names
        np.savez(file, **arrays)  # type: ignore[arg-type]
