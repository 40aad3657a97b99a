"""Frames in detectors' JSON: where a node of it is one, who made it, and the people in it."""

from typing import Any

from lifting.command import InputError
from lifting.keypoints.json_people import is_person, person_rows, track_of
from lifting.keypoints.people import Found

_FRAME_NAMES = ("image_id", "frame_id", "frame", "frame_index", "frame_idx", "file_name", "image_name", "image")


def is_frame(node: Any) -> bool:
    """Whether a node is one frame: its people in a list, or an object that holds such a list or their arrays."""
    if isinstance(node, list):
        return all(is_person(entry) and not _has_arrays(entry) for entry in node) or (
            len(node) == 1 and isinstance(node[0], list) and is_frame(node[0])
        )
    return isinstance(node, dict) and (_people(node) is not None or is_person(node))


def _has_arrays(entry: dict[str, Any]) -> bool:
    """Whether an entry's keypoints are those of several people, which makes it a frame."""
    return isinstance(entry.get("keypoints"), list) and depth(entry["keypoints"]) > 2


def _people(node: dict[str, Any]) -> list[Any] | None:
    people = next((node[key] for key in ("people", "bodies", "instances", "predictions") if key in node), None)
    return people if isinstance(people, list) and is_frame(people) else None


def add_frame(found: Found, frame: int, node: Any, where: str) -> None:
    """Adds the people of one frame."""
    if isinstance(node, dict):
        people = _people(node)
        node = [node] if people is None else people
    for entry in node:
        if isinstance(entry, list):
            add_frame(found, frame, entry, where)
            continue
        at = f"{where}, frame {found.frames[frame]}"
        rows = person_rows(entry, at)
        for row in rows:
            if found.rows and len(row) != len(found.rows[0]):
                raise InputError(f"{at}: expected {len(found.rows[0])} joints, as in the frames before, got {len(row)}")
            found.add(frame, row, track_of(entry) if len(rows) == 1 else None)


def frame_name(node: Any, where: str) -> str | None:
    """The name or number of a frame under the first key that has one, None if there is none.

    Raises:
        InputError: it is neither a text nor a whole number.
    """
    key = next((key for key in _FRAME_NAMES if node.get(key) is not None), None) if isinstance(node, dict) else None
    if key is None:
        return None
    name = node[key]
    if isinstance(name, float) and name.is_integer():
        name = int(name)
    if not isinstance(name, str | int):
        raise InputError(f"{where}: {key}: expected the name or the number of a frame, got {name!r:.60}")
    return str(name)


def kind_of(node: Any) -> str:
    """What made a frame, by the key that only it writes."""
    while isinstance(node, list) and node:
        node = node[0]
    if isinstance(node, dict):
        people = _people(node)
        if people:
            return "AlphaPose" if "AlphaPose" in str(node.get("version")) else kind_of(people)
        for key, kind in (("pose_keypoints_2d", "OpenPose"), ("people", "OpenPose"), ("bodies", "AlphaPose"),
                          ("joints", "AlphaPose"), ("keypoint_scores", "mmpose"), ("instances", "mmpose")):  # fmt: skip
            if key in node:
                return kind
        if isinstance(node.get("keypoints"), dict):
            return "Ultralytics"
        if "image_id" in node:
            return "AlphaPose" if "idx" in node or isinstance(node["image_id"], str) else "COCO results"
        if "keypoints" in node:
            return "rtmlib" if "scores" in node else "keypoints"
    return "JSON"


def depth(node: Any) -> int:
    """How deeply lists are nested, along their first entries that are not empty."""
    if not isinstance(node, list):
        return 0
    return 1 + depth(next((entry for entry in node if entry != []), None))


def leaf_of(node: Any) -> Any:
    while isinstance(node, list):
        node = next((entry for entry in node if entry != []), None)
    return node
