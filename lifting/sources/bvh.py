"""Biovision's motion capture files (.bvh): a tree of joints with offsets, and the values of their channels over time.

A joint with offset o from its parent and rotation M, the product of its rotation channels in the file's order, has::

    R = R_parent M        p = p_parent + R_parent o

(Meredith and Maddock, "Motion Capture File Formats Explained", 2001). So with channels "Zrotation Xrotation Yrotation"
M = M_z M_x M_y, each about an axis that the ones before it have turned. Position channels replace the offset, or those
of its components that have a channel. The end site of joint A is the joint "A.end" here, without channels.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from lifting.command import InputError, existing_file
from lifting.sources.bone_frames import BoneFrames

END = ".end"  # what is added to a joint's name to name its end site
FARTHEST = 1e9  # of degrees and of the file's units; what is farther would become infinite
_TOKEN = re.compile(r"[{}]|[^\s{}]+")
_CHANNEL = re.compile(r"([XYZ])(position|rotation)", re.IGNORECASE)
_MOTION = re.compile(r"^\s*MOTION\s*$", re.MULTILINE | re.IGNORECASE)
_HEADER = re.compile(r"\s*Frames:[ \t]*(\S+)\s+Frame[ \t]+Time:[ \t]*(\S+)", re.IGNORECASE)


@dataclass(frozen=True)
class BvhJoint:
    """A joint: its name, its parent's ("" for the root), its offset (3,) in the file's units, and its channels.

    Channels are pairs such as ("X", "rotation") in the file's order; the first is column ``first`` of the motion.
    """

    name: str
    parent: str
    offset: np.ndarray
    channels: tuple[tuple[str, str], ...]
    first: int


@dataclass(frozen=True)
class Bvh:
    """One recording.

    Attributes:
        where: names the file in messages.
        joints: by name, parents before children.
        motion: (T, number of channels) float64, the file's units and degrees.
        frame_rate: frames per second, rounded to two decimals (files hold the time of a frame to a few digits).
    """

    where: str
    joints: dict[str, BvhJoint]
    motion: np.ndarray
    frame_rate: float

    def require(self, names: set[str]) -> None:
        """InputError that names the joints that are not there, and those that are."""
        if missing := sorted(names - set(self.joints)):
            there = ", ".join(name for name in self.joints if not name.endswith(END))
            raise InputError(f"{self.where}: joints not found: {', '.join(missing)}; the file has {there}")

    def frames(self, scale: float = 1.0) -> BoneFrames:
        """World positions and rotations of every joint, axes as in the file.

        Args:
            scale: metres for one unit of the file.
        """
        positions: dict[str, np.ndarray] = {}
        rotations: dict[str, Rotation] = {}
        for name, joint in self.joints.items():
            offset, turn = self._local(joint)
            if joint.parent:
                parent = rotations[joint.parent]
                positions[name] = positions[joint.parent] + parent.apply(offset * scale)
                turn = parent if turn is None else parent * turn
            else:
                positions[name] = offset * scale
                turn = Rotation.identity(len(self.motion)) if turn is None else turn
            rotations[name] = turn
        return BoneFrames(positions, rotations)

    def rest(self, scale: float = 1.0) -> dict[str, np.ndarray]:
        """Positions (3,) of all joints with every rotation at zero and the root at its offset."""
        rest: dict[str, np.ndarray] = {}
        for name, joint in self.joints.items():
            rest[name] = joint.offset * scale + (rest[joint.parent] if joint.parent else 0)
        return rest

    def _local(self, joint: BvhJoint) -> tuple[np.ndarray, Rotation | None]:
        """(T, 3) translation against the parent in file units, and T rotations, or None for a joint that is fixed."""
        offset = np.tile(joint.offset, (len(self.motion), 1))
        turns = []
        for column, (axis, kind) in enumerate(joint.channels, joint.first):
            if kind == "position":
                offset[:, "XYZ".index(axis)] = self.motion[:, column]
            else:
                turns.append((axis, column))
        if not turns:
            return offset, None
        angles = self.motion[:, [column for _, column in turns]]
        return offset, Rotation.from_euler("".join(axis for axis, _ in turns), angles, degrees=True)


def read_bvh(path: Path) -> Bvh:
    """Reads a file; InputError in one line if it is absent, empty, broken or cut off (see `parse_bvh`)."""
    return parse_bvh(existing_file(path, "motion").read_text(encoding="latin1"), str(path))


def parse_bvh(text: str, where: str) -> Bvh:
    """Reads the text of a file.

    Raises:
        InputError: beginning with ``where``: there is no hierarchy or no motion; the hierarchy is broken, has two
            skeletons, a name twice or a channel that is not known; the motion has more or fewer numbers than frames
            times channels, or one that is not finite.
    """
    if not text.lstrip("\ufeff \t\r\nï»¿").upper().startswith("HIERARCHY"):
        raise InputError(f"{where} is no BVH file: expected HIERARCHY at its start, got {text[:20]!r}")
    motion = _MOTION.search(text)
    if motion is None:
        raise InputError(f"{where}: expected MOTION after the hierarchy, found none: is the file cut off?")
    joints = _Hierarchy(text[: motion.start()], where).joints
    channels = sum(len(joint.channels) for joint in joints.values())
    values, frame_rate = _motion(text[motion.end() :], channels, where)
    return Bvh(where, joints, values, frame_rate)


class _Hierarchy:
    """Reads the tree of joints, with a stack of the joints that are open."""

    def __init__(self, text: str, where: str) -> None:
        self.where = where
        self.joints: dict[str, BvhJoint] = {}
        self.columns = 0
        self.tokens: list[str] = _TOKEN.findall(text)[1:]
        self.at = 0
        open_joints: list[str] = []
        while self.at < len(self.tokens):
            word = self._next().upper()
            if word in ("ROOT", "JOINT", "END"):
                open_joints.append(self._open(word, open_joints))
            elif word == "}" and open_joints:
                open_joints.pop()
            else:
                raise self._broken(f"expected JOINT, End Site or a closing brace, got {word!r}")
        if open_joints or not self.joints:
            raise self._broken(f"joint {open_joints[-1]!r} is not closed" if open_joints else "it has no joints")

    def _open(self, kind: str, open_joints: list[str]) -> str:
        """Reads a joint up to its children, notes it, and returns its name."""
        words = []
        while (word := self._next()) != "{":
            words.append(word)
        parent = open_joints[-1] if open_joints else ""
        name = parent + END if kind == "END" else " ".join(words)
        if (kind == "ROOT") == bool(open_joints) or parent.endswith(END) or not name:
            raise self._broken(f"{kind} {' '.join(words)!r} is out of place")
        if kind == "ROOT" and self.joints:
            raise self._broken(f"expected one skeleton, got a second ROOT {name!r}")
        if name in self.joints:
            raise self._broken(f"two joints are called {name!r}")
        self._expect("OFFSET", name)
        offset = np.array([self._number(name) for _ in range(3)])
        channels = self._channels(name) if kind != "END" else ()
        self.joints[name] = BvhJoint(name, parent, offset, channels, self.columns)
        self.columns += len(channels)
        return name

    def _channels(self, name: str) -> tuple[tuple[str, str], ...]:
        if self.at >= len(self.tokens) or self.tokens[self.at].upper() != "CHANNELS":
            return ()
        self._next()
        count, channels = self._next(), []
        while self.at < len(self.tokens) and (match := _CHANNEL.fullmatch(self.tokens[self.at])):
            channels.append((match[1].upper(), match[2].lower()))
            self._next()
        turns = "".join(axis for axis, kind in channels if kind == "rotation")
        if count != str(len(channels)) or len(turns) > 3 or len(set(channels)) < len(channels):
            found = " ".join(axis + kind for axis, kind in channels)
            raise self._broken(f"joint {name!r} is to have {count} channels, got {found or 'none that is known'}")
        return tuple(channels)

    def _next(self) -> str:
        if self.at >= len(self.tokens):
            raise self._broken("it ends within a joint")
        self.at += 1
        return self.tokens[self.at - 1]

    def _expect(self, word: str, name: str) -> None:
        if (found := self._next()).upper() != word:
            raise self._broken(f"joint {name!r}: expected {word}, got {found!r}")

    def _number(self, name: str) -> float:
        word = self._next()
        try:
            value = float(word)
        except ValueError:
            value = float("nan")
        if not abs(value) < FARTHEST:
            raise self._broken(f"joint {name!r}: expected three numbers after OFFSET, got {word!r}")
        return value

    def _broken(self, problem: str) -> InputError:
        return InputError(f"{self.where}: broken hierarchy: {problem}")


def _motion(text: str, channels: int, where: str) -> tuple[np.ndarray, float]:
    """The (T, channels) values behind MOTION, and the frame rate."""
    header = _HEADER.match(text)
    if header is None:
        raise InputError(f"{where}: expected 'Frames: N' and 'Frame Time: S' after MOTION, got {text[:40]!r}")
    try:
        frames, seconds = int(header[1]), float(header[2])
    except ValueError:
        frames, seconds = 0, 0.0
    if frames < 1 or not 1e-4 <= seconds <= 10:
        raise InputError(f"{where}: expected frames and seconds a frame above 0, got {header[1]!r} and {header[2]!r}")
    words = text[header.end() :].split()
    if len(words) != frames * channels:
        hint = ": is the file cut off?" if len(words) < frames * channels else ""
        got = f"{len(words)} numbers ({len(words) / max(channels, 1):.1f} frames)"
        raise InputError(f"{where}: expected {frames} frames of {channels} channels, got {got}{hint}")
    try:
        values = np.array(words, dtype=np.float64).reshape(frames, channels)
    except ValueError as error:
        raise InputError(f"{where}: expected numbers in the motion ({error})") from error
    if not (usable := np.abs(values) < FARTHEST).all():
        frame, column = np.argwhere(~usable)[0]
        raise InputError(f"{where}: expected finite numbers, got {values[frame, column]} in frame {frame + 1}")
    return values, round(1 / seconds, 2)
