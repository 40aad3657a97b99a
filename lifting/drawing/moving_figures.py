"""Films and strips of lifted people, for talks, pages and papers that cannot hold the viewer."""

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from lifting.command import InputError, RunError, whole_file
from lifting.drawing.pose_figures import DrawnPose, check_ending, draw_strip
from lifting.drawing.scene import build_scene
from lifting.drawing.stage import Stage
from lifting.drawing.viewer import ASSUMED_RATE
from lifting.lifted import Lifted

ENDINGS = (".mp4", ".gif")
# MPEG-4 part 2. OpenCV's packages hold no encoder of H.264, and their encoder of VP9 takes half a second for a frame.
_CODEC = "mp4v"
_DURATIONS = (6, 65_535)  # of a GIF's frame, 1/100 s; viewers slow down what is much faster, and the file grows
_RATES = (0.01, 65_535)  # of an MP4, frames per second
_COLOURS = 128  # of a GIF, for all of its frames
_SAMPLED = 8  # frames from which these colours are chosen
_TURN = 12.0  # seconds, about one turn of the eye


def check_video_ending(path: str | Path) -> None:
    """Raises `InputError` if `write_video` cannot write a file with this ending. Call it before the work is done."""
    if Path(path).suffix.lower() not in ENDINGS:
        raise InputError(f"{path}: expected the ending of a film, {' or '.join(ENDINGS)}")


def write_video(
    path: str | Path,
    lifted: Lifted,
    truth: np.ndarray | None = None,
    *,
    size: tuple[int, int] | None = None,
    turns: float | None = None,
    reach: float = 1.0,
) -> None:
    """Writes a film: keypoints, people in space, each joint's standard deviation as an ellipsoid and over time.

    The film lasts as long as the clip (25 frames per second where the input has no frame rate). An MP4 is coded as
    MPEG-4 part 2, which players show and browsers do not. A GIF has at most 17 frames per second and is meant for clips
    of seconds: it grows by about a megabyte in three.

    Args:
        path: ends in ``.mp4`` or ``.gif``.
        truth: (T, P, 17, 3) metres in `Lifted.axes`, relative to the pelvis; NaN where it is unknown.
        size: width and height in pixels, even; 1280 by 720, or 640 by 360 for a GIF.
        turns: how often the eye goes round; by default about once in twelve seconds, and a whole number, so that a
            film that starts again does not jump.
        reach: how many standard deviations the ellipsoids reach.

    Raises:
        InputError: another ending; nobody is in any frame.
        RunError: OpenCV has no encoder for MP4.
        ValueError: ``truth`` does not have the shape of `Lifted.joints`; a side of ``size`` is odd
            or too small.
    """
    check_video_ending(path)
    if not lifted.present.any():
        raise InputError(f"{path}: nobody to show: no frame has a person")
    gif = Path(path).suffix.lower() == ".gif"
    size = size or ((640, 360) if gif else (1280, 720))
    if size[0] % 2 or size[1] % 2 or size[0] < 320 or size[1] < 180:
        raise ValueError(f"size: expected even numbers, at least 320 by 180, got {size}")
    rate = lifted.keypoints.frame_rate or ASSUMED_RATE

    if not gif and not _RATES[0] <= rate <= _RATES[1]:
        most = f"{_RATES[0]:g} to {_RATES[1]:,}"
        raise InputError(f"{path}: expected {most} frames per second, got {rate:g}: write a .gif")
    duration = int(np.clip(round(100 / rate), *_DURATIONS))
    step = rate * duration / 100 if gif else 1.0  # a GIF then lasts as long as the clip, if its frames may last so long
    frames = np.arange(0, len(lifted.joints), step if step > 0.9 else 1.0).astype(int)
    if turns is None:
        turns = max(1, round(len(lifted.joints) / rate / _TURN))
    stage = Stage(build_scene(lifted, truth), lifted.keypoints, size, reach)
    painted = (
        stage.paint(frame, -0.6 + 2 * np.pi * turns * number / len(frames)) for number, frame in enumerate(frames)
    )
    bar = tqdm(painted, total=len(frames), desc="film", unit="frame", disable=None, leave=False)
    with whole_file(path) as temporary:
        if gif:
            _write_gif(temporary, bar, duration)
        else:
            _write_mp4(temporary, bar, rate, size)


def _write_mp4(path: Path, frames: Iterable[np.ndarray], rate: float, size: tuple[int, int]) -> None:
    rate = round(rate, 2 if rate < 650 else 0)  # FFmpeg takes fractions of numbers up to 65,535
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*_CODEC), rate, size)
    if not writer.isOpened():
        raise RunError(f"{path.suffix}: this OpenCV has no encoder for it; write a .gif")
    try:
        for frame in frames:
            writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    finally:
        writer.release()


def _write_gif(path: Path, frames: Iterable[np.ndarray], duration: int) -> None:
    """``duration`` is that of a frame, 1/100 s.

    All frames share their colours and are not dithered, because noise would not compress.
    """
    pictures = [Image.fromarray(frame) for frame in frames]
    sampled = [np.asarray(picture) for picture in pictures[:: max(1, len(pictures) // _SAMPLED)]]
    # A shade counts by the root of its area: by the area itself, the paper would take nearly all colours.
    red, green, blue = np.concatenate([picture.reshape(-1, 3) for picture in sampled]).astype(np.int64).T
    shades, areas = np.unique(red << 16 | green << 8 | blue, return_counts=True)
    weighted = np.repeat(shades, np.ceil(np.sqrt(areas)).astype(int))
    weighted = np.stack([weighted >> 16, weighted >> 8 & 255, weighted & 255], -1).astype(np.uint8)
    palette = Image.fromarray(weighted[None]).quantize(_COLOURS, kmeans=1)
    flat = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    flat[0].save(path, save_all=True, append_images=flat[1:], duration=10 * duration, loop=0, optimize=False)


def write_figure(path: str | Path, lifted: Lifted, truth: np.ndarray | None = None, *, count: int = 5) -> None:
    """Draws a strip of poses from the surest to the least sure: the keypoints, and below them the joints in space.

    They are taken at equal steps of rank in mean standard deviation, without the extremes; without sigma, at equal
    steps in time.
    The shaded ellipses reach two standard deviations. The ending of the name decides the format (.png, .pdf, ...).

    Args:
        truth: (T, P, 17, 3) metres in `Lifted.axes`, relative to the pelvis; NaN where it is unknown.
        count: how many poses, fewer if there are fewer.

    Raises:
        InputError: nobody is in any frame, or an ending that matplotlib does not write.
        ValueError: ``truth`` does not have the shape of `Lifted.joints`.
    """
    check_ending(path)
    poses = np.argwhere(lifted.present)
    if not len(poses):
        raise InputError(f"{path}: nobody to show: no frame has a person")
    if truth is not None and truth.shape != lifted.joints.shape:
        raise ValueError(f"truth: expected {lifted.joints.shape}, got {truth.shape}")
    doubt = np.linalg.norm(lifted.deviation[tuple(poses.T)], axis=-1).mean(-1)
    order = np.argsort(doubt, kind="stable") if np.isfinite(doubt).all() else np.arange(len(poses))
    if truth is not None:  # compare like with like: only poses whose truth is known
        order = order[np.isfinite(truth[tuple(poses[order].T)]).all((1, 2))]
        truth = truth if len(order) else None
        order = order if len(order) else np.arange(len(poses))
    ranks = np.unique(np.rint(np.linspace(0.02, 0.98, count) * (len(order) - 1)).astype(int))
    draw_strip(path, [_drawn(lifted, truth, *poses[pose]) for pose in order[ranks]])


def _drawn(lifted: Lifted, truth: np.ndarray | None, frame: int, person: int) -> DrawnPose:
    keypoints = lifted.keypoints
    name = keypoints.frames[frame]
    title = f"frame {name}" if name.isdigit() else name
    if len(keypoints.people) > 1:
        title += f", person {keypoints.people[person]}"
    deviation = lifted.deviation[frame, person]
    known = np.isfinite(deviation).all()
    points = keypoints.points[frame, person]
    size = keypoints.size or tuple(int(side) + 1 for side in np.nanmax(keypoints.points, axis=(0, 1, 2)))
    target = None if truth is None else truth[frame, person] - truth[frame, person, :1]
    return DrawnPose(
        title, points, (size[0], size[1]), target, lifted.joints[frame, person], deviation if known else None
    )
