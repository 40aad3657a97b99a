"""A page that shows lifted people in space: one HTML file that needs no network and no other file."""

import base64
import html
import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from lifting.command import whole_file
from lifting.drawing.scene import Scene, build_scene
from lifting.geometry.skeleton import H36M17
from lifting.lifted import Lifted

ASSUMED_RATE = 25.0  # frames per second, where the input has none
_LENGTH_UNIT = 1e-4  # metres, a step of joints, standard deviations and truth
_PLACE_UNIT = 1e-3  # metres, a step of places and their standard deviations
_PIXEL_UNIT = 0.05
_TITLE = "3D pose"
_MISSING = -32768  # the int16 that stands for NaN
_LARGEST = 32767
# The page's parts, in the order in which the template needs them.
_SCRIPTS = ("data.js", "scene.js", "figure.js", "panels.js", "app.js")


def write_page(
    path: str | Path, lifted: Lifted, truth: np.ndarray | None = None, *, title: str = _TITLE, input_name: str = ""
) -> None:
    """Writes one HTML page: turning skeletons, each joint's standard deviation as an ellipsoid, keypoints, a timeline.

    Numbers are embedded as 16-bit integers in base64: lengths in steps of 0.1 mm (larger if somebody is more than 3.2 m
    from his own pelvis), places in steps of 1 mm (larger beyond 32 m), pixels in steps of 0.05 (larger beyond 1638).
    10,000 frames of one person take about 4 MB, 5.5 MB with ground truth. Texts from files are escaped, and the page's
    own security policy forbids it to load anything.

    Args:
        truth: (T, P, 17, 3) metres in `Lifted.axes`, relative to the pelvis; NaN where it is unknown. The page then
            shows a pale skeleton beside the prediction, and errors in millimetres.
        title: stands on top of the page.
        input_name: what the keypoints were read from; stands below the title, with the number of people and frames.

    Raises:
        ValueError: ``truth`` does not have the shape of `Lifted.joints`.
        OSError: the file could not be written.
    """
    scene = build_scene(lifted, truth)
    folder = files("lifting.drawing") / "page"
    parts = {
        "title": html.escape(title),
        "style": (folder / "viewer.css").read_text(encoding="utf-8"),
        "script": "\n".join((folder / name).read_text(encoding="utf-8") for name in _SCRIPTS),
        "data": _in_script(
            json.dumps(_content(lifted, scene, title, input_name), allow_nan=False, separators=(",", ":"))
        ),
    }
    template = (folder / "viewer.html").read_text(encoding="utf-8")
    # In one pass, so that a text from a file is never taken for a part of the template.
    page = re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)
    with whole_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _in_script(text: str) -> str:
    """JSON that is safe inside a script element: nothing in it can end the element or start a comment."""
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")


def _content(lifted: Lifted, scene: Scene, title: str, input_name: str) -> dict[str, Any]:
    keypoints = lifted.keypoints
    frames, people = keypoints.points.shape[:2]
    numbered = keypoints.frames == tuple(map(str, range(frames)))
    sides = dict.fromkeys(H36M17.left, "left") | dict.fromkeys(H36M17.right, "right")
    arrays = {
        "joints": _packed(scene.joints, _LENGTH_UNIT),
        "place": _packed(scene.place, _PLACE_UNIT),
        "axes": _packed(scene.axes, 1 / _LARGEST),
        "points": _packed(keypoints.points, _PIXEL_UNIT),
    }
    if keypoints.has_scores:
        arrays["scores"] = _packed(keypoints.confidence, 1e-3)
    if scene.deviation is not None:
        arrays["deviation"] = _packed(scene.deviation, _LENGTH_UNIT)
    if scene.truth is not None:
        arrays["truth"] = _packed(scene.truth, _LENGTH_UNIT)
    if scene.camera is not None and lifted.root_deviation is not None:
        arrays["placeDeviation"] = _packed(lifted.root_deviation, _PLACE_UNIT)
    return {
        "title": title,
        "input": input_name,
        "checkpoint": lifted.checkpoint,
        "counts": [frames, people],
        "frames": None if numbered else list(keypoints.frames),
        "people": list(keypoints.people),
        "joints": [name.replace("_", " ") for name in H36M17.joints],
        "parents": list(H36M17.parents),
        "sides": [sides.get(joint, "middle") for joint in range(len(H36M17))],
        "size": keypoints.size,
        "rate": keypoints.frame_rate or ASSUMED_RATE,
        "rateKnown": bool(keypoints.frame_rate),
        "frame": lifted.axes,
        "tilt": round(scene.tilt, 1),
        "camera": None if scene.camera is None else [round(float(x), 4) for x in scene.camera],
        "cameraAxes": scene.camera_axes.round(6).tolist(),
        "arrays": arrays,
    }


def _packed(values: np.ndarray, unit: float) -> dict[str, Any]:
    """Whole multiples of ``unit``, or of the smallest larger unit that the largest value needs, as int16."""
    values = np.asarray(values, dtype=np.float64)
    largest = float(np.nanmax(np.abs(values), initial=0.0, where=np.isfinite(values)))
    unit = max(unit, largest / _LARGEST)
    steps = np.where(np.isfinite(values), np.rint(np.nan_to_num(values) / unit), _MISSING).astype("<i2")
    return {"shape": list(values.shape), "unit": unit, "data": base64.b64encode(steps.tobytes()).decode("ascii")}
