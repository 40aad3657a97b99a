"""Which joints of a BVH skeleton stand for Human3.6M's 17: a small YAML file, and what it makes of a recording.

A map looks like this::

    metres: 0.01                  # one unit of the file
    up: y                         # the world's axis that points up: y or z
    drop: 1                       # frames to leave out at the start
    subject: '^(\\d+)_'            # who it is: the group of this expression in the file's name, "folder", or a name
    offsets: {Neck: Spine1}       # Neck gets the offset of Spine1 (to mend a file)
    cmu: {chest: Spine1, ...}     # only for CMU's skeleton: a joint and the axes that `joint_places` needs
    joints:
      pelvis: Hips                          # a joint; an end site is called "Head.end"
      spine: [Spine, Spine1]                # the mean of some
      neck: {at: Head, offset: [0, 0.05, 0.1], frame: Head}  # moved by metres along the axes of a joint
      ...
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pydantic

from lifting.command import InputError
from lifting.geometry.skeleton import H36M17
from lifting.safe_yaml import read_yaml
from lifting.sources.bone_frames import BoneFrames
from lifting.sources.bvh import Bvh
from lifting.sources.joint_places import CHEST, Body
from lifting.sources.motion_files import MotionFile

FOLDER = "folder"
_PLAIN = re.compile(r"\w+")  # a name, no expression


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class Spot(_Strict):
    """The mean of joints, moved by metres along the axes of the joint ``frame``, which is the first of ``at`` if ""."""

    at: tuple[str, ...] = pydantic.Field(min_length=1)
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    frame: str = ""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: object) -> object:
        value = value if isinstance(value, dict) else {"at": value}
        return value | {"at": (value["at"],)} if isinstance(value.get("at"), str) else value

    @property
    def names(self) -> set[str]:
        return {*self.at, self.frame} - {""}

    def of(self, bones: BoneFrames) -> np.ndarray:
        """(T, 3) metres."""
        turn = bones.rotations[self.frame or self.at[0]]
        place: np.ndarray = bones.stack(self.at).mean(1) + turn.apply(np.array(self.offset))
        return place


class CmuNames(_Strict):
    """What `joint_places.Body` needs beyond the 17: the joint `CHEST`, and the joints with the axes."""

    chest: str
    pelvis_axes: str
    chest_axes: str
    head_axes: str


class BvhMap(_Strict):
    """The contents of a map file (see the module)."""

    metres: float = pydantic.Field(gt=0, le=1000)
    up: Literal["y", "z"] = "y"
    drop: int = pydantic.Field(0, ge=0)
    subject: str = FOLDER
    offsets: dict[str, str] = {}
    cmu: CmuNames | None = None
    joints: dict[str, Spot]

    @pydantic.model_validator(mode="after")
    def _whole(self) -> "BvhMap":
        if set(self.joints) != set(H36M17.joints):
            missing, unknown = set(H36M17.joints) - set(self.joints), set(self.joints) - set(H36M17.joints)
            parts = [f"missing {', '.join(sorted(missing))}"] * bool(missing)
            parts += [f"unknown {', '.join(sorted(unknown))}"] * bool(unknown)
            raise ValueError(f"joints: expected Human3.6M's 17: {'; '.join(parts)}")
        if not _PLAIN.fullmatch(self.subject) and re.compile(self.subject).groups < 1:
            raise ValueError(f"subject: expected {FOLDER!r}, a name or an expression with a group; got {self.subject}")
        return self

    def subject_of(self, file: MotionFile) -> str:
        """The person in a file; InputError if its name does not say."""
        if _PLAIN.fullmatch(self.subject):
            return file.folder or "person" if self.subject == FOLDER else self.subject
        match = re.search(self.subject, file.stem)
        if match is None or not match[1]:
            raise InputError(f"{file.where}: expected a name that fits {self.subject!r}, which names the person")
        return match[1]

    def bones(self, bvh: Bvh, step: int = 1) -> BoneFrames:
        """Positions and rotations of all joints of the file in metres, z up, of every ``step``-th frame after `drop`.

        Raises:
            InputError: a joint of the map is not in the file, or no frame is left.
        """
        used = {name for spot in self.joints.values() for name in spot.names}
        used |= {*self.offsets, *self.offsets.values(), *(self.cmu.model_dump().values() if self.cmu else ())}
        bvh.require(used)
        if len(bvh.motion) <= self.drop:
            raise InputError(f"{bvh.where}: expected more than the {self.drop} frames to drop, got {len(bvh.motion)}")
        joints = dict(bvh.joints)
        for name, other in self.offsets.items():
            joints[name] = replace(joints[name], offset=bvh.joints[other].offset)
        bvh = replace(bvh, joints=joints, motion=bvh.motion[self.drop :: step])
        bones = bvh.frames(self.metres)
        return bones if self.up == "z" else bones.turned_up()

    def positions(self, bones: BoneFrames) -> np.ndarray:
        """(T, 17, 3) metres: the map's own joints."""
        return np.stack([self.joints[name].of(bones) for name in H36M17.joints], 1)

    def body(self, bones: BoneFrames) -> Body:
        """The same for `joint_places`; InputError for a map of another skeleton than CMU's."""
        if self.cmu is None:
            raise InputError("this map has no section 'cmu', so its joints can only be had where the map puts them")
        joints = {name: spot.of(bones) for name, spot in self.joints.items()}
        names = {"pelvis": self.cmu.pelvis_axes, "chest": self.cmu.chest_axes, "head": self.cmu.head_axes}
        axes = {part: bones.rotations[name] for part, name in names.items()}
        return Body(joints | {CHEST: bones.positions[self.cmu.chest]}, axes)


def read_map(path: Path) -> BvhMap:
    """Reads a map; InputError in one line if it is not YAML or says something that a map does not."""
    try:
        content = read_yaml(path, "map")
        return BvhMap.model_validate(content)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{path}: {where}{': ' * bool(where)}{first['msg'].removeprefix('Value error, ')}; see data/README.md"
        ) from error
    except re.error as error:
        raise InputError(f"{path}: subject: expected a regular expression ({error})") from error
