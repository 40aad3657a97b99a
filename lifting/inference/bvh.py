"""Writes lifted people as BVH, for animation programs: a skeleton of fixed bones, turned frame by frame.

A file is in centimetres and y up: its axes are those of the result turned half around x, (x, -y, -z). Rotations are in
degrees, R = Rz Rx Ry, applied to column vectors. The pelvis is where the root is, in the camera frame; without a root
it stays at the origin. The rest pose is a T-pose that faces +z.

- **Bones have one length**, the median over the person's frames, since a BVH file holds offsets once. What a file says
  is therefore not quite the lifted joints; `BvhFile.joints` has what it says. On docs/dance.npz the two are 13 mm apart
  in the mean and 27 cm at most, where the depth of an arm flips; after `smoothing.smooth` 3.4 mm and 14 cm.
- **Every bone can point anywhere.** The joints that bear several bones, pelvis and thorax, do not move rigidly with all
  of them. Each of their bones starts at a helper without length, such as ``pelvis_to_left_hip``.
- **Twist** is known where three joints span a plane: of the pelvis (hips and spine) and the thorax (shoulders and
  spine). Every other joint turns by the smallest rotation that points its bone in the right direction.
- **Frames** run from the first of the clip to the last in which the person was lifted, so that several people's files
  are in step. Before the person appears, the first pose stands still; a gap repeats the pose before it.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from lifting.command import InputError, whole_file
from lifting.geometry.skeleton import H36M17
from lifting.keypoints.checks import check_rate
from lifting.lifted import Lifted

Array = NDArray[np.float64]

CENTIMETRES = 100.0  # in a metre
TO_FILE = np.array([1.0, -1.0, -1.0])  # x right, y down, z forward -> x right, y up, z backward

_REST: dict[str, Array] = {
    "right": np.array([-1.0, 0.0, 0.0]),
    "left": np.array([1.0, 0.0, 0.0]),
    "up": np.array([0.0, 1.0, 0.0]),
    "down": np.array([0.0, -1.0, 0.0]),
}
_TIP = 0.05  # metres, the end site of a last joint along its bone
_LONGEST = 100  # letters of a person's name in that of a file
_CHANNELS = "Zrotation Xrotation Yrotation"


@dataclass(frozen=True)
class BvhFile:
    """What was written.

    Attributes:
        path: the file.
        person: name of the person.
        frames: index of the first frame in which the person was lifted, and of the frame after the last.
        joints: (T, 17, 3) metres, in the axes of the result: the joints of the file's skeleton, root included, for the
            frames of the file, which are those before ``frames[1]``.
    """

    path: Path
    person: str
    frames: tuple[int, int]
    joints: Array


@dataclass(frozen=True)
class _Node:
    """A joint of the file: where it stands, its parent among the nodes, and the joint that its bone leads to."""

    name: str
    joint: int
    parent: int
    child: int | None


def write_bvh(path: Path, lifted: Lifted, frame_rate: float | None = None) -> list[BvhFile]:
    """Writes one file a person: ``path`` if there is one person, otherwise ``STEM_PERSON.bvh`` beside it.

    Args:
        frame_rate: frames per second; None for that of the keypoints.

    Raises:
        InputError: no frame rate is known, no clip has it (`checks.RATES`), or nobody was lifted in any frame.
    """
    rate = lifted.keypoints.frame_rate if frame_rate is None else frame_rate
    if rate is None:
        raise InputError(f"{path}: expected a frame rate, which BVH needs, the keypoints have none: give one (--fps)")
    check_rate(rate, str(path))
    here = lifted.present if lifted.root is None else lifted.present & np.isfinite(lifted.root).all(-1)
    people = np.flatnonzero(here.any(0)).tolist()
    if not people:
        done = "lifted" if lifted.root is None else "placed in space"
        raise InputError(f"{path}: expected a person in at least one frame, nobody was {done}")
    written: list[BvhFile] = []
    for p in people:
        name = lifted.keypoints.people[p]
        plain = re.sub(r"[^\w-]", "_", name)[:_LONGEST]
        file = path if len(people) == 1 else path.with_name(f"{path.stem}_{plain}.bvh")
        taken, number = {other.path for other in written}, 2
        while file in taken:
            file, number = path.with_name(f"{path.stem}_{plain}_{number}.bvh"), number + 1
        joints, root, frames = _of_person(lifted, here[:, p], p)
        offsets, turns, places = _fit(joints * TO_FILE)
        with whole_file(file) as temporary:
            temporary.write_text(_text(offsets, turns, root * TO_FILE, 1 / rate), encoding="utf-8")
        written.append(BvhFile(file, name, frames, places * TO_FILE + root[:, None]))
    return written


def _of_person(lifted: Lifted, here: NDArray[np.bool_], person: int) -> tuple[Array, Array, tuple[int, int]]:
    """Joints (T, 17, 3) and root (T, 3) of the frames up to the last, those without the person filled, and `frames`."""
    root = np.zeros((len(here), 3)) if lifted.root is None else lifted.root[:, person].astype(np.float64)
    there = np.flatnonzero(here)
    first, stop = int(there[0]), int(there[-1]) + 1
    latest = np.maximum.accumulate(np.where(here, np.arange(len(here)), first))[:stop]
    return lifted.joints[latest, person].astype(np.float64), root[latest], (first, stop)


def _nodes() -> list[_Node]:
    """The file's joints, parents first: the 17, and a helper for each bone of a joint that bears several."""
    nodes: list[_Node] = []

    def add(joint: int, parent: int) -> None:
        children = [child for bearer, child in H36M17.bones if bearer == joint]
        nodes.append(_Node(H36M17.joints[joint], joint, parent, children[0] if len(children) == 1 else None))
        me = len(nodes) - 1
        for child in children:
            start = me
            if len(children) > 1:
                nodes.append(_Node(f"{H36M17.joints[joint]}_to_{H36M17.joints[child]}", joint, me, child))
                start = len(nodes) - 1
            add(child, start)

    add(H36M17.root, -1)
    return nodes


def _rest(joint: int) -> Array:
    """The direction, in the rest pose, of the bone that ends at a joint."""
    side, _, part = H36M17.joints[joint].partition("_")
    return _REST["down" if part in ("knee", "ankle") else side if part else "up"]


def _fit(joints: Array) -> tuple[Array, Array, Array]:
    """A skeleton of fixed lengths in the pose of the joints.

    Args:
        joints: (T, 17, 3) metres relative to the pelvis, in the axes of the file.

    Returns:
        offsets (17, 3) metres from each joint's parent in the rest pose; (N, T, 3, 3) the turn of each node against its
        parent's; (T, 17, 3) where the joints are.
    """
    bones = joints - joints[:, list(H36M17.parents)]  # the pelvis has parent -1: a bone that nobody asks for
    length = np.linalg.norm(bones, axis=-1)
    rest = np.stack([_rest(joint) for joint in range(len(H36M17))])
    there = length[..., None] > 1e-6  # where two joints coincide, any direction will do
    direction = np.where(there, bones / np.where(there, length[..., None], 1), rest)
    medians = np.median(length, axis=0)
    offsets, places = np.zeros((len(H36M17), 3)), np.zeros_like(joints)
    for parent, child in H36M17.bones:
        offsets[child] = medians[child] * rest[child]
        places[:, child] = places[:, parent] + medians[child] * direction[:, child]
    nodes = _nodes()
    world = np.empty((len(nodes), len(joints), 3, 3))
    local = np.empty_like(world)
    for index, node in enumerate(nodes):
        before = world[node.parent] if node.parent >= 0 else np.broadcast_to(np.eye(3), world.shape[1:])
        if node.child is not None:
            world[index] = _swing(before @ _rest(node.child), direction[:, node.child]) @ before
        elif node.name in ("pelvis", "thorax"):
            world[index] = _trunk(joints, node.name, before)
        else:
            world[index] = before
        local[index] = np.swapaxes(before, -1, -2) @ world[index]
    return offsets, local, places


def _trunk(joints: Array, name: str, before: Array) -> Array:
    """(T, 3, 3) orientation of pelvis or thorax: x from the right hip or shoulder to the left one, y up the spine.

    Where the two are parallel there is no orientation, and the part turns with ``before``.
    """
    ends, (low, high) = {"pelvis": ("hip", ("pelvis", "spine")), "thorax": ("shoulder", ("spine", "thorax"))}[name]
    at = {joint: joints[:, index] for index, joint in enumerate(H36M17.joints)}
    x, up = at[f"left_{ends}"] - at[f"right_{ends}"], at[high] - at[low]
    z = np.cross(x, up)
    sizes = np.stack([np.linalg.norm(part, axis=-1) for part in (x, z)], -1)
    good: NDArray[np.bool_] = np.all(sizes > 1e-6, axis=-1)
    safe = np.where(good[:, None], sizes, 1)
    x, z = x / safe[:, :1], z / safe[:, 1:]
    axes = np.stack([x, np.cross(z, x), z], -1)
    return np.where(good[:, None, None], axes, before)


def _swing(a: Array, b: Array) -> Array:
    """The smallest rotation (T, 3, 3) from unit vectors a to b, (T, 3); half a turn where they are opposite."""
    axis, cosine = np.cross(a, b), (a * b).sum(-1)
    x, y, z = np.moveaxis(axis, -1, 0)
    o = np.zeros_like(x)
    K = np.stack([np.stack(row, -1) for row in ([o, -z, y], [z, o, -x], [-y, x, o])], -2)
    opposite = cosine < -1 + 1e-9
    turned = np.eye(3) + K + K @ K / np.where(opposite, 1, 1 + cosine)[:, None, None]
    least = np.eye(3)[np.abs(a).argmin(-1)]
    side = np.cross(a, least)
    side /= np.linalg.norm(side, axis=-1, keepdims=True)
    half = 2 * side[:, :, None] * side[:, None, :] - np.eye(3)
    return np.where(opposite[:, None, None], half, turned)


def _text(offsets: Array, turns: Array, root: Array, frame_time: float) -> str:
    """The file: offsets (17, 3) and root (T, 3) in metres, turns (N, T, 3, 3)."""
    nodes = _nodes()
    degrees = [np.unwrap(Rotation.from_matrix(R).as_euler("ZXY", degrees=True), axis=0, period=360) for R in turns]
    rows = np.concatenate([root * CENTIMETRES, *degrees], axis=1)
    frame = " ".join(["%.4f"] * rows.shape[1])
    motion = [frame % tuple(row) for row in rows.tolist()]
    head = ["MOTION", f"Frames: {len(rows)}", f"Frame Time: {frame_time:.8f}"]
    return "\n".join(["HIERARCHY", *_hierarchy(nodes, offsets, 0), *head, *motion]) + "\n"


def _hierarchy(nodes: list[_Node], offsets: Array, index: int) -> list[str]:
    """The lines of a node and of all below it."""
    node = nodes[index]
    helper = node.parent >= 0 and nodes[node.parent].joint == node.joint
    offset = np.zeros(3) if helper else offsets[node.joint]
    below = [line for i, other in enumerate(nodes) if other.parent == index for line in _hierarchy(nodes, offsets, i)]
    if not below:
        below = ["End Site", "{", _offset(_TIP * _rest(node.joint)), "}"]
    places = "Xposition Yposition Zposition "
    channels = f"CHANNELS 6 {places}{_CHANNELS}" if node.parent < 0 else f"CHANNELS 3 {_CHANNELS}"
    kind = "ROOT" if node.parent < 0 else "JOINT"
    return [f"{kind} {node.name}", "{", *(f"\t{line}" for line in [_offset(offset), channels, *below]), "}"]


def _offset(metres: Array) -> str:
    return "OFFSET " + " ".join(f"{value:.6f}" for value in metres * CENTIMETRES)
