"""From motion files, which have no cameras, to a store: reads BVH by a map, and films each person with four cameras."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.spatial import ConvexHull, QhullError
from tqdm import tqdm

from lifting.command import InputError
from lifting.datasets.pose_checks import check_person, share_in_picture, thigh_lengths
from lifting.datasets.store import Sequence, checksum_of, write_store
from lifting.geometry import h36m
from lifting.geometry.cameras import Camera
from lifting.geometry.joint_maps import coco17_to_h36m17
from lifting.geometry.skeleton import COCO17, H36M17, JointSet
from lifting.sources.bvh import parse_bvh
from lifting.sources.bvh_map import BvhMap
from lifting.sources.joint_places import Body, place_joints
from lifting.sources.motion_files import find_motion_files

# The places of joints: where the recording has them; where Human3.6M and COCO have them; or, for Human3.6M's joints,
# where a detector of COCO's joints puts them.
OWN, H36M, COCO = "own", "h36m", "coco"
# What a store of motion can have.
JOINT_SETS = {joint_set.name: joint_set for joint_set in (H36M17, COCO17)}


@dataclass(frozen=True)
class Motion:
    """What was read: sequences of ``joint_set`` with ``frame_rate``, and the checksum of the files."""

    sequences: list[Sequence]
    joint_set: JointSet
    frame_rate: float
    checksum: str


def placing(places: str, joint_set: JointSet) -> Callable[[Body], np.ndarray]:
    """What makes (T, J, 3) metres of a body; InputError for a set of joints that the recording itself does not have."""
    if places == H36M:
        return lambda body: place_joints(body, joint_set)
    if joint_set != H36M17:
        raise InputError(
            f"{joint_set.name}: a recording has no such joints of its own; they need CMU's skeleton, placed as {H36M}"
        )
    return Body.own_places if places == OWN else _as_from_coco


def _as_from_coco(body: Body) -> np.ndarray:
    """Human3.6M's joints as `coco17_to_h36m17` makes them of COCO's: nose, middle of the eyes, of the shoulders, ..."""
    coco = torch.from_numpy(place_joints(body, COCO17))
    return np.asarray(coco17_to_h36m17(coco))


def read_bvh_motion(source: Path, bvh_map: BvhMap, places: str, joint_set: JointSet, fps: float | None) -> Motion:
    """All BVH files of a folder, a zip, or a single one.

    Args:
        places: `OWN`, the joints as the map has them, or `H36M` or `COCO`, see `joint_places`.
        fps: frames per second to keep, a divisor of the recordings' rate; None keeps all of them.

    Raises:
        InputError: a file is broken or of another skeleton; fps is no divisor; rates differ and fps is None; there is
            no ending ``.bvh``.
    """
    place = placing(places, joint_set)
    files = find_motion_files(source, ".bvh")
    sequences, rates = [], dict[float, str]()
    for file in tqdm(files, desc="reading", disable=None):
        bvh = parse_bvh(file.text(), file.where)
        step = _step(bvh.frame_rate, fps, file.where)
        rates.setdefault(bvh.frame_rate / step if fps is None else fps, file.where)
        bones = bvh_map.bones(bvh, step)
        positions = bvh_map.positions(bones) if places == OWN else place(bvh_map.body(bones))
        sequences.append(Sequence(bvh_map.subject_of(file), file.stem, positions.astype(np.float32)))
    if len(rates) > 1:
        found = "; ".join(f"{rate:g} in {where}" for rate, where in rates.items())
        raise InputError(f"{source}: expected one frame rate, got {found}; choose one with --fps")
    return Motion(sequences, joint_set, next(iter(rates)), checksum_of(dict.fromkeys(file.path for file in files)))


def _step(recorded: float, fps: float | None, where: str) -> int:
    step = recorded / fps if fps else 1.0
    if round(step) < 1 or abs(step - round(step)) > 0.01 * step:
        raise InputError(f"{where}: --fps: expected a divisor of {recorded:g}, the file's frame rate, got {fps:g}")
    return round(step)


def write_motion(path: Path, motion: Motion, source: str) -> list[str]:
    """Writes a store with virtual cameras, and returns a table of its people, one line each, with a head.

    Raises:
        InputError: somebody's thighs have no person's length in metres, left and right are exchanged, or `write_store`
            refuses the poses.
    """
    lines = [f"{'subject':<12}{'sequences':>10}{'frames':>9}{'thigh (mm)':>12}{'cameras':>9}{'distance (m)':>14}"]
    cameras = {}
    for subject in dict.fromkeys(sequence.subject for sequence in motion.sequences):
        parts = [sequence.positions for sequence in motion.sequences if sequence.subject == subject]
        positions = np.concatenate(parts)
        check_person(positions, f"subject {subject}", motion.joint_set)
        cameras[subject], distance = surround(positions)
        thigh = 1000 * np.median(thigh_lengths(positions, motion.joint_set))
        rest = f"{thigh:>12.0f}{len(cameras[subject]):>9}{distance:>14.1f}"
        lines.append(f"{subject:<12}{len(parts):>10}{len(positions):>9}{rest}")
    write_store(
        path,
        motion.sequences,
        cameras,
        frame_rate=motion.frame_rate,
        source=source,
        checksum=motion.checksum,
        joint_set=motion.joint_set,
    )
    return lines


def surround(positions: np.ndarray) -> tuple[dict[str, Camera], float]:
    """The four cameras of Human3.6M's S1 around the (T, J, 3) of a subject, and their mean distance in metres.

    As a rig they are carried to where the subject is and drawn apart about the point they look at until every joint
    of every frame is in every picture; directions and lenses stay.
    """
    rig = h36m.cameras("S1")
    centres = torch.stack([-camera.R.T @ camera.t for camera in rig.values()])
    axes = torch.stack([camera.R[2] for camera in rig.values()])
    across = torch.eye(3) - axes[:, :, None] * axes[:, None, :]  # what of a vector is not along the axis
    focus = torch.linalg.solve(across.sum(0), (across @ centres[:, :, None]).sum(0))[:, 0]
    points = positions.reshape(-1, 3)
    try:
        outermost = points[ConvexHull(points).vertices]  # a view is convex: where these are seen, all are
    except QhullError:  # they lie in a plane
        outermost = points
    target = focus.clone()
    target[:2] = torch.from_numpy(outermost[:, :2].min(0) + outermost[:, :2].max(0)) / 2
    spread = 1.0
    while True:
        moved = {
            name: replace(camera, t=-camera.R @ (target + spread * (centre - focus)))
            for (name, camera), centre in zip(rig.items(), centres, strict=True)
        }
        if all(share_in_picture(outermost, camera) == 1 for camera in moved.values()):
            return moved, float((spread * (centres - focus)).norm(dim=1).mean())
        spread *= 1.05
