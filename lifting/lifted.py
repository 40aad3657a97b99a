"""What lifting returns, and its files: 3D joints with their uncertainty, and the 2D joints they were lifted from."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lifting.command import InputError, existing_file, whole_file
from lifting.geometry.skeleton import H36M17
from lifting.keypoints.detections import Keypoints
from lifting.safe_json import read_json
from lifting.safe_npz import npz_keys, read_npz

FORMAT = "lifting-joints"
VERSION = 1
UNITS = "metres"
AXES = ("ray", "camera")
ENDINGS = (".npz", ".json")

_DECIMALS = 6  # of every number in a JSON file: micrometres, millionths of a pixel
_ARRAYS = ("joints", "sigma", "deviation", "confidence")
_ROOT = ("root", "root_deviation")
_PREFIX = "keypoints_"


@dataclass(frozen=True)
class Lifted:
    """3D joints of P people over T frames. Everything about a person who is absent from a frame is NaN.

    Attributes:
        joints: (T, P, 17, 3) metres, relative to the pelvis, in ``axes``.
        sigma: (T, P, 17, 3) scale of the error, metres; NaN from a lifter that predicts none.
        deviation: (T, P, 17, 3) standard deviation of the predicted density, metres; 0 for the pelvis. A lifter
            without sigma has one deviation for all poses.
        confidence: (T, P, 17) 1 - mean over the coordinates of sigma in metres (Eq. 9 of the RLE paper, per joint).
        names: the 17 joints, those of `skeleton.H36M17`.
        axes: "camera": x right, y down, z forward. "ray": camera axes turned by the smallest rotation that takes the
            viewing ray of the person's pelvis to +z.
        checkpoint: file name and the first 12 digits of the SHA-256 of the weights.
        keypoints: the input, as Human3.6M's 17 joints.
        root: (T, P, 3) the pelvis in metres in the camera frame, if intrinsics were given.
        root_deviation: (T, P, 3) its standard deviation, metres.

    Raises:
        ValueError: a shape does not fit, a value is infinite, or ``axes`` or ``names`` are others.
    """

    joints: NDArray[Any]
    sigma: NDArray[Any]
    deviation: NDArray[Any]
    confidence: NDArray[Any]
    names: tuple[str, ...]
    axes: str
    checkpoint: str
    keypoints: Keypoints
    root: NDArray[Any] | None = None
    root_deviation: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        T, P, J = *self.keypoints.points.shape[:2], len(H36M17)
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(_ARRAYS[:3], (T, P, J, 3))
        shapes |= {"confidence": (T, P, J), "root": (T, P, 3), "root_deviation": (T, P, 3)}
        for name, shape in shapes.items():
            value = getattr(self, name)
            if value is None and name in _ROOT:
                continue
            if np.shape(value) != shape or not np.issubdtype(value.dtype, np.floating):
                raise ValueError(f"{name}: expected numbers {shape}, got {value.dtype} {np.shape(value)}")
            if np.isinf(value).any():
                raise ValueError(f"{name}: expected finite numbers or NaN, got an infinite one")
        if (self.root is None) != (self.root_deviation is None):
            raise ValueError("root, root_deviation: expected both or none, got one of them")
        if self.axes not in AXES:
            raise ValueError(f"axes: expected one of {', '.join(AXES)}, got {self.axes!r}")
        if self.names != H36M17.joints:
            raise ValueError(f"names: expected {', '.join(H36M17.joints)}, got {', '.join(self.names) or 'none'}")

    @property
    def present(self) -> NDArray[np.bool_]:
        """(T, P), whether a person was lifted in a frame."""
        present: NDArray[np.bool_] = np.isfinite(self.joints).all((2, 3))
        return present

    def save(self, path: str | Path) -> None:
        """Writes the file, whole or not at all; its ending says which kind.

        ``.npz`` holds plain arrays (no pickle) under the names of the attributes; those of the keypoints begin with
        ``keypoints_``, and what is None is left out. ``.json`` holds the same as nested lists, with the keypoints as an
        object, null for NaN, and six decimals: micrometres. Both also have ``format``, ``version`` and ``units``.

        Raises:
            InputError: another ending.
        """
        path = Path(path)
        if path.suffix not in ENDINGS:
            raise InputError(f"{path}: expected an ending of {' or '.join(ENDINGS)}, got {path.suffix or 'none'}")
        entries, keypoints = _entries(self)
        with whole_file(path) as temporary:
            if path.suffix == ".npz":
                entries |= {f"{_PREFIX}{name}": value for name, value in keypoints.items()}
                with temporary.open("wb") as file:
                    arrays: dict[str, Any] = {name: np.asarray(value) for name, value in entries.items()}
                    np.savez(file, **arrays)
            else:
                lines = [_line(name, value) for name, value in entries.items()]
                inner = ",\n  ".join(_line(name, value) for name, value in keypoints.items())
                lines.append(f'"keypoints": {{\n  {inner}\n }}')
                temporary.write_text("{\n " + ",\n ".join(lines) + "\n}\n", encoding="utf-8")


def _entries(lifted: Lifted) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a file holds: of the result, and of its keypoints."""
    of_result = {"format": FORMAT, "version": VERSION, "units": UNITS, "axes": lifted.axes, "names": lifted.names}
    of_result["checkpoint"] = lifted.checkpoint
    of_result |= {name: getattr(lifted, name) for name in (*_ARRAYS, *_ROOT)}
    return tuple({k: v for k, v in part.items() if v is not None} for part in (of_result, vars(lifted.keypoints)))  # type: ignore[return-value]


def _line(name: str, value: Any) -> str:
    if isinstance(value, np.ndarray):  # from float64, because a rounded float32 has many decimals again
        text = json.dumps(value.astype(np.float64).round(_DECIMALS).tolist()).replace("NaN", "null")
    else:
        text = json.dumps(value, allow_nan=False)
    return f"{json.dumps(name)}: {text}"


def read_lifted(path: str | Path) -> Lifted:
    """Reads a file that `Lifted.save` wrote; its content, not its ending, says which kind it is.

    Arrays have float32 for metres and float64 for keypoints, whatever the file has.

    Raises:
        InputError: no file; neither npz nor JSON; another format, version or unit; an entry is missing or does not fit.
    """
    path = existing_file(path, "lifted joints")
    with path.open("rb") as file:
        start = file.read(64).lstrip()
    if not start.startswith((b"PK", b"{", b"[")):
        raise InputError(f"{path}: expected an npz or a JSON file that `lift` wrote")
    content = _read_npz(path) if start.startswith(b"PK") else _read_json(path)
    for name, expected in (("format", FORMAT), ("version", VERSION), ("units", UNITS)):
        found = content.get(name)
        if type(found) is not type(expected) or found != expected:
            raise InputError(f"{path}: expected {name} {expected!r}, as `lift` writes it, got {found!r:.40}")
    try:
        return Lifted(
            **{name: _numbers(content, name) for name in _ARRAYS},
            **{name: _numbers(content, name) for name in _ROOT if name in content},
            names=tuple(map(str, content["names"])),
            axes=str(content["axes"]),
            checkpoint=str(content["checkpoint"]),
            keypoints=_keypoints(content),
        )
    except KeyError as error:
        raise InputError(f"{path}: expected an entry {error}, found none") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: {error}") from error


def _keypoints(content: Mapping[str, Any]) -> Keypoints:
    entries = {name.removeprefix(_PREFIX): value for name, value in content.items() if name.startswith(_PREFIX)}
    points, confidence = (_numbers(content, f"{_PREFIX}{name}", np.float64) for name in ("points", "confidence"))
    if points.ndim != 4 or points.shape[2:] != (len(H36M17), 2) or confidence.shape != points.shape[:3]:
        raise ValueError(
            f"keypoints: expected points (T, P, 17, 2) with confidence (T, P, 17), got {points.shape}, "
            f"{confidence.shape}"
        )
    names = {name: tuple(map(str, entries[name])) for name in ("frames", "people")}
    if (len(names["frames"]), len(names["people"])) != points.shape[:2]:
        found = f"{len(names['frames'])} frames, {len(names['people'])} people"
        raise ValueError(
            f"keypoints: expected names for {points.shape[0]} frames, {points.shape[1]} people, got {found}"
        )
    if (joint_set := str(entries["joint_set"])) != H36M17.name:
        raise ValueError(f"joint_set: expected {H36M17.name!r}, got {joint_set!r}")
    rate, sides = entries.get("frame_rate"), entries.get("size")
    size = None if sides is None else tuple(int(side) for side in sides)
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise ValueError(f"size: expected width and height, got {size}")
    if rate is not None and not 0 < float(rate) < float("inf"):
        raise ValueError(f"frame_rate: expected a number above 0, got {rate}")
    return Keypoints(
        points=points,
        confidence=confidence,
        joint_set=joint_set,
        size=size,
        frames=names["frames"],
        people=names["people"],
        frame_rate=None if rate is None else float(rate),
        has_scores=bool(entries["has_scores"]),
        source=str(entries["source"]),
        sequence=bool(entries.get("sequence", True)),
        one_size=bool(entries.get("one_size", True)),
    )


def _numbers(content: Mapping[str, Any], name: str, dtype: type = np.float32) -> NDArray[Any]:
    """An entry as an array; None, which JSON has for NaN, becomes NaN."""
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # too large for the type: infinite, which is refused
            array: NDArray[Any] = np.asarray(content[name], dtype=dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name}: expected equal lists of numbers ({error})") from error
    if array.size or array.ndim > 2:
        return array
    # Lists without people, or without frames, do not say how many joints there would be.
    tails = {
        "confidence": (17,),
        "keypoints_confidence": (17,),
        "keypoints_points": (17, 2),
        **dict.fromkeys(_ROOT, (3,)),
    }
    T, P = (len(content[f"{_PREFIX}{axis}"]) for axis in ("frames", "people"))
    return array.reshape(T, P, *tails.get(name, (17, 3)))


def _read_json(path: Path) -> dict[str, Any]:
    content = read_json(path, "lifted joints")
    if not isinstance(content, dict) or not isinstance(content.get("keypoints", {}), dict):
        raise InputError(f"{path}: expected a JSON object with format {FORMAT!r}, got another layout")
    inner = content.pop("keypoints", {})
    return content | {f"{_PREFIX}{name}": value for name, value in inner.items()}


def _read_npz(path: Path) -> dict[str, Any]:
    """The entries of a zip of arrays; numbers and texts without axes become Python's own."""
    arrays = {key: np.asarray(read_npz(path, key)) for key in npz_keys(path)}
    return {key: array if array.ndim else array.item() for key, array in arrays.items()}
