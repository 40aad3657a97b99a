"""Checks made before a store is written: shapes, units, left and right, cameras that see people.

`check_recording` and the functions that it calls take any joint set. Apart from `check_reach`, they look at no more
than `SAMPLE` frames.
`check_person` takes any set with hips, knees, ankles and shoulders, in metres.
"""

from collections.abc import Mapping

import numpy as np
import torch

from lifting.command import InputError
from lifting.geometry.cameras import Camera
from lifting.geometry.joint_maps import mirror_joints
from lifting.geometry.skeleton import H36M17, JointSet

THIGH_RANGE = (0.2, 0.8)  # metres
EXTENT_RANGE = (0.4, 4.0)  # metres, the diagonal of a pose's bounding box: from a crouching child to outstretched arms
ABSURD = 1e9  # nothing that is measured in metres, millimetres or pixels is as large, and its square is a float32
FARTHEST, FARTHEST_PIXEL = 100.0, 1e5  # metres and pixels from a joint to the others, in any frame at all
SAMPLE = 200  # frames of a recording that are checked at most
BENT = 0.1  # metres, how far both knees together are out of line in a frame that `check_bent_sides` counts
ENOUGH_BENT, LEAST_LEFT = 100, 0.2  # such frames, and the share of them that must have the left side on the left


def check_array(values: np.ndarray, shape: tuple[int, ...], what: str) -> None:
    """InputError, beginning with ``what``, unless values are finite numbers of this shape (-1: any length but 0)."""
    sides = zip(values.shape, shape, strict=False)
    if values.ndim != len(shape) or not all(side == wanted or (wanted == -1 and side) for side, wanted in sides):
        expected = ", ".join("T" if side == -1 else str(side) for side in shape)
        raise InputError(f"{what}: expected ({expected}{',' * (len(shape) == 1)}), got {values.shape}")
    if values.dtype.kind not in "fiu":
        raise InputError(f"{what}: expected numbers, got {values.dtype}")
    if not (usable := np.abs(values) < ABSURD).all():
        where = np.argwhere(~usable)[0].tolist()
        raise InputError(f"{what}: expected finite values, got {values[tuple(where)]} at {where}")


def check_recording(
    positions: np.ndarray, keypoints: Mapping[str, Mapping[str, np.ndarray]], cameras: Mapping[str, Camera], where: str
) -> None:
    """Checks whether the numbers are plausible in the units of a store. Medians decide, so a few wild frames pass.

    Args:
        positions: (T, J, 3), world.
        keypoints: detector -> camera -> (T, J, 2).
        cameras: of this person, by name.

    Raises:
        InputError: positions are not those of a person in metres; keypoints are not pixels of a person in or near the
            picture; no camera sees the person in most frames. Each has it behind, as a dot, or far outside the picture.
    """
    some = sampled(positions)
    check_extent(some, f"{where}: positions")
    problems = []
    for name, camera in cameras.items():
        try:
            check_sees(some, camera, f"{where}: camera {name}")
        except InputError as problem:  # a person may walk out of the view of one camera
            problems.append(problem)
    if len(problems) == len(cameras):
        raise problems[0]
    for detector, views in keypoints.items():
        for name, points in views.items():
            hint = "keypoints are in pixels, not normalised"
            check_pixels(sampled(points), cameras[name].size, f"{where}: keypoints {detector}, {name}", hint)
            check_reach(points, FARTHEST_PIXEL, f"{where}: keypoints {detector}, {name}", "pixels")
    check_reach(positions, FARTHEST, f"{where}: positions", "m")


def check_reach(points: np.ndarray, farthest: float, where: str, unit: str) -> None:
    """InputError if a joint of any frame, (T, J, D), is farther than this from the median joint: no noise, but poison.

    A wild frame costs a training little. A single label that is millions off costs it all.
    """
    off = np.abs(points - np.median(points, axis=1, keepdims=True)).max(-1)
    if (off > farthest).any():
        frame, joint = np.argwhere(off > farthest)[0].tolist()
        far = f"{off[frame, joint]:.3g} {unit} from the other joints"
        raise InputError(f"{where}: expected joints of one person, got one {far} at [{frame}, {joint}]")


def check_sees(positions: np.ndarray, camera: Camera, where: str) -> None:
    """InputError if most of the (T, J, 3) are behind the camera, or what it sees are not people (`check_pixels`)."""
    hint = "R X + t takes the world to the camera in metres, focal and center are in pixels"
    pixels = _project(positions, camera).numpy()
    seen = pixels[np.isfinite(pixels).all((1, 2))]
    if 2 * len(seen) < len(pixels):
        share = 1 - len(seen) / len(pixels)
        raise InputError(f"{where}: expected people in front, got {share:.0%} behind it; {hint}")
    check_pixels(seen, camera.size, where, hint)


def sampled(frames: np.ndarray) -> np.ndarray:
    """At most `SAMPLE` of the frames, evenly spread."""
    return frames[:: -(-len(frames) // SAMPLE)]


def check_extent(positions: np.ndarray, where: str) -> None:
    """InputError unless poses, (T, J, 3) metres, are as large as people, by the median over the frames."""
    extent = float(np.median(np.linalg.norm(np.ptp(positions, axis=1), axis=-1)))
    low, high = EXTENT_RANGE
    if not low <= extent <= high:
        units = {"millimetres": 1000, "centimetres": 100}
        guess = next((f": {unit} in place of metres" for unit, n in units.items() if low <= extent / n <= high), "")
        raise InputError(f"{where}: expected poses {low} to {high} m across, got {extent:.4g} m{guess}")


def check_pixels(points: np.ndarray, size: tuple[int, int], where: str, hint: str) -> None:
    """InputError, ending with ``hint``, unless (T, J, 2) are pixels of people, by medians over the frames.

    In a picture of this (width, height), people are at least a hundredth of its longer side across, and their middle
    is at most half a picture outside it.
    """
    across, least = float(np.median(np.ptp(points, axis=1).max(-1))), max(size) / 100
    outside = np.abs(np.median(points.mean(1), axis=0) / size - 0.5).max()
    if across < least or outside > 1:
        expected = f"people at least {least:g} pixels across in or near a picture of {size[0]} x {size[1]}"
        x, y = np.median(points.mean(1), axis=0)
        raise InputError(f"{where}: expected {expected}, got {across:.3g} pixels at ({x:.4g}, {y:.4g}); {hint}")


def thigh_lengths(positions: np.ndarray, joint_set: JointSet = H36M17) -> np.ndarray:
    """(T, J, 3) -> (T, 2): right and left, in the unit of the positions."""
    hips, knees = ([joint_set.joints.index(f"{s}_{name}") for s in ("right", "left")] for name in ("hip", "knee"))
    return np.asarray(np.linalg.norm(positions[:, knees] - positions[:, hips], axis=-1))


def left_of_body(positions: np.ndarray, joint_set: JointSet = H36M17) -> np.ndarray:
    """(T, J, 3) in a right-handed world -> (T,) in the unit of the positions: above zero where left is on the left.

    Knees bend forward: f, the sum of both knees' offsets from the line between hip and ankle, points forward, whichever
    leg is called left. With u from the hips to the shoulders, u x f points to the left; the value is its component
    along (left hip - right hip), over |u|: how far the knees are bent. Exchanged names or a mirrored world change its
    sign, and straight legs make it zero. A single frame says little.
    """
    hip, knee, ankle, shoulder = (
        positions[:, [joint_set.joints.index(f"{side}_{joint}") for side in ("right", "left")]].astype(np.float64)
        for joint in ("hip", "knee", "ankle", "shoulder")
    )
    leg = ankle - hip
    share = ((knee - hip) * leg).sum(-1, keepdims=True) / np.maximum((leg**2).sum(-1, keepdims=True), 1e-12)
    forward = (knee - hip - share * leg).sum(1)
    up, left = shoulder.mean(1) - hip.mean(1), hip[:, 1] - hip[:, 0]
    size = np.linalg.norm(up, axis=-1) * np.linalg.norm(left, axis=-1)
    return np.asarray((left * np.cross(up, forward)).sum(-1) / np.maximum(size, 1e-12))


def check_person(positions: np.ndarray, where: str, joint_set: JointSet = H36M17) -> None:
    """InputError unless all frames of a person, (T, J, 3), are a human body in metres with its left on the left."""
    thigh = float(np.median(thigh_lengths(positions, joint_set)))
    low, high = THIGH_RANGE
    if not low <= thigh <= high:
        guess = ": millimetres in place of metres" if low <= thigh / 1000 <= high else ""
        guess = guess or (": metres in place of millimetres" if low <= thigh * 1000 <= high else "")
        raise InputError(f"{where}: expected thighs of {low} to {high} m, got {thigh:.4g} m{guess}")
    check_sides(left_of_body(positions, joint_set) >= 0, 0.5, where)


def check_bent_sides(sides: np.ndarray, where: str) -> None:
    """InputError if all frames of a person, (T,) of `left_of_body`, leave no doubt that left and right are exchanged.

    Straight legs say nothing, and seated people mislead in more than half of their frames. So only frames with clearly
    bent knees count, there have to be enough of them, and far fewer than half must be right.
    """
    bent = sides[np.abs(sides) > BENT]
    if len(bent) >= ENOUGH_BENT:
        check_sides(bent > 0, LEAST_LEFT, where)


def check_sides(left: np.ndarray, least: float, where: str) -> None:
    """InputError unless at least this share of ``left`` is true: (T,) bool, whether the left side is on the left."""
    share = float(left.mean())
    if share < least:
        raise InputError(
            f"{where}: left and right are exchanged, or the world is mirrored"
            f" (knees bend forward in only {share:.0%} of the frames)"
        )


def share_in_picture(positions: np.ndarray, camera: Camera) -> float:
    """The share, from 0 to 1, of the (..., 3) points that are in front of the camera and within its picture."""
    pixels = _project(positions, camera)
    inside = (pixels >= 0) & (pixels < torch.tensor(camera.size, dtype=pixels.dtype))  # NaN behind the camera: False
    return float(inside.all(-1).double().mean())


def reprojection_errors(positions: np.ndarray, pixels: np.ndarray, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Distances in pixels from the projected (T, 17, 3) positions to (T, 17, 2) pixels, (T, 17) each.

    The first are to the pixels as they are named, the second to those with left and right exchanged.
    """
    projected, given = _project(positions, camera), torch.from_numpy(pixels).double()
    as_named, exchanged = (torch.linalg.norm(projected - p, dim=-1) for p in (given, mirror_joints(given, H36M17)))
    return as_named.float().numpy(), exchanged.float().numpy()


def _project(positions: np.ndarray, camera: Camera) -> torch.Tensor:
    return camera.project(camera.world_to_camera(torch.from_numpy(positions).double()))
