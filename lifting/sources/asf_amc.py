"""Acclaim's motion capture files: the skeleton (.asf), its motion (.amc), and where that puts every bone.

A bone of length l and rest direction d (in the world) hangs on its parent's end and carries its own frame, turned by
the fixed rotation C against the world. With the joint angles of a frame in the rotation M, world rotation and end are::

    R = R_parent C M C^-1        end = end_parent + R l d

(Lander, "Working with Motion Capture File Formats", Game Developer, January 1998). Angles are in degrees, about x
first, then y, then z, all in fixed axes: M = M_z M_y M_x. The root's end is its own position.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from lifting.command import InputError, existing_file
from lifting.sources.bone_frames import BoneFrames

INCH = 0.0254  # metres
_FARTHEST = 1e9  # of degrees, units of a file and metres; what is farther would become infinite
_CHANNELS = ("tx", "ty", "tz", "rx", "ry", "rz")


@dataclass(frozen=True)
class Bone:
    """A bone: its parent's name, its rest vector in metres (3,), its frame C, and its channels in the file's order."""

    parent: str | None
    vector: np.ndarray
    frame: Rotation
    channels: tuple[str, ...]


@dataclass(frozen=True)
class Skeleton:
    """Bones by name, parents before children; the root is ``bones["root"]``. ``scale`` turns file units to metres."""

    path: Path
    bones: dict[str, Bone]
    scale: float

    def ends(self, motion: dict[str, np.ndarray], names: Iterable[str]) -> np.ndarray:
        """World positions of the ends of the named bones, in metres, axes as in the file (y up).

        Args:
            motion: bone name -> (T, its channels), degrees and file units, as `read_amc` returns.

        Returns:
            (T, number of names, 3) float64.
        """
        return self.frames(motion).stack(list(names))

    def frames(self, motion: dict[str, np.ndarray]) -> BoneFrames:
        """The end of every bone, and its rotation R, which is the identity in the rest pose; axes as in the file."""
        frames = len(motion["root"])
        rotation: dict[str, Rotation] = {}
        end: dict[str, np.ndarray] = {}
        for name, bone in self.bones.items():
            values = np.zeros((frames, 6))
            if bone.channels:
                values[:, [_CHANNELS.index(channel) for channel in bone.channels]] = motion[name]
            turned = bone.frame * Rotation.from_euler("xyz", values[:, 3:], degrees=True) * bone.frame.inv()
            rotation[name] = turned if bone.parent is None else rotation[bone.parent] * turned
            start = values[:, :3] * self.scale if bone.parent is None else end[bone.parent]
            end[name] = start + rotation[name].apply(bone.vector)
        return BoneFrames(end, rotation)


def read_asf(path: Path) -> Skeleton:
    """Reads a skeleton; InputError if it is broken or of a kind that CMU does not use (radians, another axis order)."""
    sections = _sections(existing_file(path, "skeleton"))
    try:
        units = dict(line.split(maxsplit=1) for line in sections["units"])
        if units.get("angle", "deg").strip() != "deg":
            raise InputError(f"{path}: expected angles in degrees, got {units['angle']!r}")
        scale = INCH / float(units["length"])
        root = dict(line.split(maxsplit=1) for line in sections["root"])
        frame = _frame(f"{root['orientation']} {root['axis']}", path)
        bones = {"root": Bone(None, np.zeros(3), frame, tuple(root["order"].lower().split()))}
        parents = {child: line.split()[0] for line in sections["hierarchy"] for child in line.split()[1:]}
        unplaced = _bone_blocks(sections["bonedata"])
        for name in parents:
            block = unplaced.pop(name)
            direction = np.array(block["direction"].split(), dtype=float)
            norm, length = float(np.linalg.norm(direction)), float(block["length"]) * scale
            channels = tuple(block.get("dof", "").lower().split())
            usable = direction.shape == (3,) and 0 < norm < _FARTHEST and abs(length) < _FARTHEST
            if parents[name] not in bones or not usable:
                raise InputError(f"{path}: bone {name!r} has no direction and length or hangs on a bone below it")
            vector = direction / norm * length
            bones[name] = Bone(parents[name], vector, _frame(block["axis"], path), channels)
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        raise InputError(f"{path} is no ASF skeleton, or a broken one ({error!r})") from error
    for name, bone in bones.items():
        if unknown := set(bone.channels) - set(_CHANNELS if name == "root" else _CHANNELS[3:]):
            raise InputError(f"{path}: bone {name!r} has channels that are not read: {', '.join(sorted(unknown))}")
    return Skeleton(path, bones, scale)


def _sections(path: Path) -> dict[str, list[str]]:
    """ ":units" and what follows it, and so on; without comments."""
    sections: dict[str, list[str]] = {}
    current: list[str] = []
    for raw in path.read_text(encoding="latin1").splitlines():
        line = raw.split("#")[0].strip()
        if line.startswith(":"):
            current = sections.setdefault(line[1:].split()[0].lower() if line[1:].split() else "", [])
        elif line and line not in ("begin", "end"):
            current.append(line)
    return sections


def _bone_blocks(lines: list[str]) -> dict[str, dict[str, str]]:
    """Name -> key -> rest of the line. A block opens with its id; lines of limits go on under a key nobody reads."""
    blocks: dict[str, dict[str, str]] = {}
    block: dict[str, str] = {}
    for line in lines:
        key, _, rest = line.partition(" ")
        if key == "id":
            block = {}
        if key == "name":
            blocks[rest.strip()] = block
        block[key] = rest
    return blocks


def _frame(axis: str, path: Path) -> Rotation:
    *angles, order = axis.split()
    if order.upper() != "XYZ":
        raise InputError(f"{path}: expected axis order XYZ, got {order!r}")
    values = np.array(angles, dtype=float)
    if values.shape != (3,) or not (np.abs(values) < _FARTHEST).all():
        raise InputError(f"{path}: expected three angles in degrees, got {' '.join(angles)!r:.60}")
    return Rotation.from_euler("xyz", values, degrees=True)


def read_amc(path: Path, skeleton: Skeleton, step: int = 1) -> dict[str, np.ndarray]:
    """Every ``step``-th frame of a motion: bone name -> (T, its channels); InputError if it is not whole.

    Frames are numbered 1, 2, ... and each has a line for every bone that has channels.
    """
    moving = {name: len(bone.channels) for name, bone in skeleton.bones.items() if bone.channels}
    lines = existing_file(path, "motion").read_text(encoding="latin1").splitlines()
    if any(line.strip().upper() == ":RADIANS" for line in lines[:20]):
        raise InputError(f"{path}: expected angles in degrees, got radians")
    lines = [line for line in lines if line.strip() and line[0] not in "#:"]
    block = len(moving) + 1
    if not lines or len(lines) % block:
        raise InputError(f"{path}: expected blocks of {block} lines a frame, got {len(lines)} lines: is it cut off?")
    values: dict[str, list[list[str]]] = {name: [] for name in moving}
    for start in range(0, len(lines), block * step):
        number, *bones = lines[start : start + block]
        if number.strip() != str(start // block + 1):
            raise InputError(f"{path}: expected frame {start // block + 1}, got {number[:40]!r}")
        for line in bones:
            name, *numbers = line.split()
            if len(numbers) != moving.get(name) or len(values[name]) != start // block // step:
                raise InputError(f"{path}: frame {number}: {line[:40]!r} does not fit {skeleton.path.name}")
            values[name].append(numbers)
    try:
        found = {name: np.array(rows, dtype=float) for name, rows in values.items()}
    except ValueError as error:
        raise InputError(f"{path}: expected numbers ({error})") from error
    for name, angles in found.items():
        if not (usable := np.abs(angles) < _FARTHEST).all():
            frame = int(np.argwhere(~usable)[0][0]) * step + 1
            raise InputError(f"{path}: frame {frame}: {name}: expected finite numbers, got others")
    return found
