"""People for the tests: every joint that any detector knows, by name, and the files that detectors make of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from lifting.keypoints.joint_sets import DETECTED

SIZE = (1280, 720)

# A person from the front, so his right is at the left of the picture: shares of a height, from the top of the head.
_HALF = {"eye": (0.02, 0.06), "ear": (0.04, 0.07), "shoulder": (0.11, 0.19), "elbow": (0.16, 0.35),
         "wrist": (0.18, 0.5), "hip": (0.06, 0.52), "knee": (0.07, 0.74), "ankle": (0.06, 0.95),
         "heel": (0.06, 0.98), "big_toe": (0.07, 1.0), "small_toe": (0.1, 0.99)}  # fmt: skip
_PLACES = {
    f"{side}_{name}": (sign * x, y) for name, (x, y) in _HALF.items() for side, sign in (("right", -1), ("left", 1))
}
_PLACES |= {"nose": (0.005, 0.08), "head": (0.0, 0.0)}


def places() -> dict[str, np.ndarray]:
    """Name -> (2,), in heights of the person."""
    made = {name: np.array(place) for name, place in _PLACES.items()}
    made["pelvis"] = (made["left_hip"] + made["right_hip"]) / 2
    made["thorax"] = (made["left_shoulder"] + made["right_shoulder"]) / 2
    made["spine"] = (made["pelvis"] + made["thorax"]) / 2
    return made


def people(joint_set: str, frames: int = 6, count: int = 2, seed: int = 0) -> np.ndarray:
    """(T, P, J, 3) of people who walk to the right, with the limbs of each a little different, and scores."""
    rng, where = np.random.default_rng(seed), places()
    if joint_set == "h36m17":  # its neck and head are what COCO's nose and eyes stand for
        where |= {"neck": where["nose"], "head": (where["left_eye"] + where["right_eye"]) / 2}
    else:
        where |= {"neck": where["thorax"]}
    body = np.stack([where[name] for name in DETECTED[joint_set].joints])
    bodies = body * 400 + rng.normal(0, 4, (count, *body.shape))
    start = np.stack([200 + 350 * np.arange(count), np.full(count, 150)], -1)
    steps = np.stack([8 * np.arange(frames), np.zeros(frames)], -1)
    xy = bodies[None] + start[None, :, None] + steps[:, None, None]
    return np.concatenate([xy, rng.uniform(0.5, 1, (*xy.shape[:-1], 1))], -1).round(3)


def flat(row: np.ndarray) -> list[float]:
    """(J, 3) -> x, y, score, x, y, score, ..."""
    return [float(value) for value in np.nan_to_num(row).reshape(-1)]


def openpose(folder: Path, values: np.ndarray, ids: bool = False) -> Path:
    """A folder as OpenPose's ``--write_json`` makes it."""
    folder.mkdir(parents=True, exist_ok=True)
    for t, frame in enumerate(values):
        found = [{"person_id": [p if ids else -1], "pose_keypoints_2d": flat(row), "face_keypoints_2d": []}
                 for p, row in enumerate(frame) if not np.isnan(row[:, 0]).all()]  # fmt: skip
        (folder / f"video_{t:012d}_keypoints.json").write_text(json.dumps({"version": 1.3, "people": found}))
    return folder


def mmpose(values: np.ndarray) -> list[list[dict[str, Any]]]:
    """Per frame, the instances as mmpose's `split_instances` makes them."""
    return [[{"keypoints": row[:, :2].tolist(), "keypoint_scores": row[:, 2].tolist(), "bbox": [[0, 0, 9, 9]],
              "bbox_score": 0.9} for row in frame] for frame in values]  # fmt: skip


def ultralytics(values: np.ndarray, tracks: bool) -> list[list[dict[str, Any]]]:
    """Per frame, `Results.summary`."""
    made: list[list[dict[str, Any]]] = []
    for frame in values:
        made.append([])
        for p, row in enumerate(frame):
            x, y, visible = np.nan_to_num(row).T.tolist()
            entry = {"name": "person", "class": 0, "confidence": 0.9, "box": {"x1": 0, "y1": 0, "x2": 9, "y2": 9},
                     "keypoints": {"x": x, "y": y, "visible": visible}}  # fmt: skip
            made[-1].append(entry | ({"track_id": p + 1} if tracks else {}))
    return made


def results(values: np.ndarray, name: str = "{}") -> list[dict[str, Any]]:
    """COCO's results; with ``name`` of a picture, AlphaPose's."""
    return [{"image_id": name.format(t) if name != "{}" else t, "category_id": 1, "keypoints": flat(row), "score": 2.9}
            for t, frame in enumerate(values) for row in frame if not np.isnan(row[:, 0]).all()]  # fmt: skip


def save(path: Path, content: Any) -> Path:
    """Writes JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path
