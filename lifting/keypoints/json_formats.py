"""Detectors' JSON files and folders, recognised by content.

A frame is recognised wherever it stands, so that one frame in a file, all frames in a file, and a folder with a file
for each frame are read alike:

=============  =======================================================================================================
OpenPose       {"people": [{"pose_keypoints_2d": [x, y, score, ...], "person_id": [id]}]}
AlphaPose      [{"image_id", "keypoints": [x, y, score, ...], "score", "idx"}]; its forms "open" (as OpenPose) and
               "cmu" ({"bodies": [{"joints": [...]}]}), for one picture or as {name of the picture: ...}
COCO results   [{"image_id", "keypoints": [x, y, score, ...], "score"}]
COCO           {"images": [...], "annotations": [{"image_id", "keypoints": [x, y, flag, ...]}], "categories"}
mmpose         [{"frame_id", "instances": [person]}], {"meta_info", "instance_info": the same or [person]}, [person]
               for one picture, {"predictions": [[person]]}; person: {"keypoints": [[x, y], ...], "keypoint_scores"}
Ultralytics    `Results.to_json`: [{"name", "box", "keypoints": {"x", "y", "visible"}, "track_id"}]; a list of these
               for several frames
rtmlib         {"keypoints": (P, J, 2), "scores": (P, J)} or a list of these; (T, P, J, 2) and (T, P, J)
=============  =======================================================================================================
"""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from lifting.command import InputError
from lifting.geometry.skeleton import COCO17
from lifting.keypoints.array_formats import with_time
from lifting.keypoints.joint_sets import DETECTED
from lifting.keypoints.json_frames import add_frame, depth, frame_name, is_frame, kind_of, leaf_of
from lifting.keypoints.json_people import is_person, numbers
from lifting.keypoints.people import Found, Reading, follow
from lifting.safe_json import read_json

_NO_BODY = "a detector's boxes without keypoints; use a pose model (Ultralytics: one whose name ends in -pose)"


def read_json_folder(folder: Path) -> Reading:
    """A folder with a JSON file for each frame, as OpenPose, AlphaPose and mmpose write it.

    Raises:
        InputError: there is no JSON file, or one of them holds no frame.
    """
    names = sorted(entry.name for entry in os.scandir(folder) if entry.name.lower().endswith(".json"))
    names = [name for name in names if name.lower().endswith("_keypoints.json")] or names
    if not names:
        raise InputError(
            f"{folder}: expected a folder with a JSON file for each frame (OpenPose: *_keypoints.json), found no JSON"
        )
    if len(names) == 1:
        return read_json_file(folder / names[0])
    found, kinds = Found(), set()
    for name in names:
        content = read_json(folder / name, "keypoints")
        kinds.add(kind_of(content))
        frame = found.frame(Path(name).stem.removesuffix("_keypoints"))
        if not is_frame(content):
            _refuse(content, str(folder / name))
        if isinstance(content, list) and len({frame_name(entry, str(folder / name)) for entry in content}) > 1:
            raise InputError(
                f"{folder}: expected a frame in each JSON file, but {name} has several; give that file alone"
            )
        add_frame(found, frame, content, str(folder / name))
    return Reading(found, f"{_made_by(kinds)}, a folder of {len(names)} frames")


def read_json_file(path: Path) -> Reading:
    """One JSON file with one frame or all of them.

    Raises:
        InputError: it is no JSON of a known layout; the message says what it seems to be.
    """
    content, where = read_json(path, "keypoints"), str(path)
    if isinstance(content, dict) and isinstance(content.get("annotations"), list) and "images" in content:
        return _coco(content, where)
    joint_set = None
    if isinstance(content, dict) and "instance_info" in content:
        joint_set = _named_set(content.get("meta_info"))
        content = content["instance_info"]
    elif isinstance(content, dict) and isinstance(content.get("predictions"), list):
        content = content["predictions"]
    if isinstance(content, dict) and isinstance(content.get("keypoints"), list) and depth(content["keypoints"]) > 2:
        return _arrays(content, where)
    if isinstance(content, list) and depth(content) > 2 and isinstance(leaf_of(content), int | float):
        arrays: list[Any] = content
        return _arrays({"keypoints": arrays}, where)
    frames = _frames(content, where)
    found, kinds = Found(), set()
    for name, frame in frames:
        kinds.add(kind_of(frame))
        add_frame(found, found.frame(name), frame, where)
    if set(found.tracks) == {"0"} and "AlphaPose" in kinds:  # without tracking, it calls everybody 0
        found.tracks = [None] * len(found.tracks)
    count = len(found.frames)
    coco = joint_set is None and kinds <= {"COCO results", "Ultralytics", "AlphaPose", "JSON"}
    coco = coco and _joints(found) == len(COCO17)
    what = f"{_made_by(kinds)}, {count} frame{'s' * (count > 1)}"
    return Reading(found, what, COCO17.name if coco else joint_set)


def _frames(content: Any, where: str) -> list[tuple[str, Any]]:
    """(name, frame) of everything in a file."""
    if isinstance(content, dict) and content and not is_frame(content) and all(map(is_frame, content.values())):
        return list(content.items())
    if isinstance(content, list) and content and all(map(is_person, content)):
        named = [(name, [entry]) for entry in content if (name := frame_name(entry, where)) is not None]
        if 0 < len(named) < len(content):
            raise InputError(f"{where}: expected a frame's name in each entry, {len(content) - len(named)} have none")
        if named:
            return named
    if is_frame(content):
        return [(Path(where).stem.removesuffix("_keypoints"), content)]
    if isinstance(content, list) and all(map(is_frame, content)):
        names = [frame_name(entry, where) for entry in content]
        if None in names:
            names = [str(number) for number in range(len(content))]
        return [(name or "", entry) for name, entry in zip(names, content, strict=True)]
    _refuse(content, where)
    return []


def _coco(content: dict[str, Any], where: str) -> Reading:
    """COCO's annotations: every picture is a frame."""
    found, sizes, frames = Found(), set(), {}
    try:
        named = Counter(image.get("file_name") for image in content["images"])
        for image in content["images"]:
            name = image.get("file_name", image["id"])
            frames[image["id"]] = found.frame(f"{name} ({image['id']})" if named[name] > 1 else str(name))
            sizes.add((int(image["width"]), int(image["height"])))
        for entry in content["annotations"]:
            if entry.get("num_keypoints", 1) and "keypoints" in entry:
                add_frame(found, frames[entry["image_id"]], [entry], where)
    except (TypeError, KeyError, AttributeError, ValueError, OverflowError) as error:
        raise InputError(f"{where}: expected COCO's annotations, but an entry lacks something ({error!r})") from error
    several = f" in {len(sizes)} sizes" if len(sizes) > 1 else ""
    joint_set = COCO17.name if _joints(found) == len(COCO17) else None
    what = f"COCO's annotations of {len(found.frames)} pictures{several}"
    one_size = len(sizes) < 2
    return Reading(found, what, joint_set, sizes.pop() if len(sizes) == 1 else None, one_size=one_size)


def _arrays(content: dict[str, Any], where: str) -> Reading:
    """Arrays of all frames, (T, P, J, 2), where P may change, or (N, J, 2): frames of one person or people of a frame.

    The N of the last are frames if they go on from one to the next as one person does.
    """
    scores = next((content[key] for key in ("scores", "keypoint_scores") if content.get(key) is not None), None)
    nested, found = content["keypoints"], Found()
    if depth(nested) > 3:
        if scores is not None and not (isinstance(scores, list) and len(scores) == len(nested)):
            raise InputError(f"{where}: expected scores for each of {len(nested)} frames, got something else")
        for number, people in enumerate(nested):
            entry = {"keypoints": people, "scores": None if scores is None else scores[number]}
            add_frame(found, found.frame(str(number)), entry, where)
        return Reading(found, f"rtmlib, arrays of {len(found.frames)} frames")
    arranged = with_time(numbers(nested, where), None if scores is None else numbers(scores, where), where)
    rows = arranged.values[:, 0]
    points = np.where((rows[..., :2] == 0).all(-1, keepdims=True), np.nan, rows[..., :2])
    points = points[~np.isnan(points).all((1, 2))]
    if len(points) and follow(np.arange(len(points)), points).max() + 1 <= max(1, len(points) // 5):
        return Reading(arranged, f"an array of {len(rows)} frames with one person")
    for row in rows:
        found.add(found.frame("0"), row, None)
    return Reading(found, f"rtmlib, one frame with {len(rows)} people")


def _named_set(meta: Any) -> str | None:
    """The joint set that mmpose's ``meta_info`` names."""
    name = str(meta.get("dataset_name", "")).lower() if isinstance(meta, dict) else ""
    return {"coco": COCO17.name, "h36m": "h36m17", "halpe26": "halpe26"}.get(name)


def _made_by(kinds: set[str]) -> str:
    return " and ".join(sorted(kinds - {"JSON"} or kinds))  # "JSON": frames without people show nothing


def _joints(found: Found) -> int:
    return len(found.rows[0]) if found.rows else 0


def _refuse(content: Any, where: str) -> None:
    """Raises the InputError that helps best."""
    leaf = leaf_of(content)
    if isinstance(leaf, dict) and ({"bbox", "score"} <= set(leaf) or {"box", "confidence"} <= set(leaf)):
        raise InputError(f"{where}: expected keypoints, got {_NO_BODY}")
    what = (
        f"an object with {', '.join(list(map(str, leaf))[:5]) or 'nothing in it'}"
        if isinstance(leaf, dict)
        else ("an empty list" if content == [] else f"{type(leaf).__name__}s")
    )
    known = "OpenPose, AlphaPose, mmpose, Ultralytics, rtmlib or COCO"
    raise InputError(f"{where}: expected the JSON of {known} ({', '.join(DETECTED)}), got {what}")
