"""Checks that the converters make before anything is written: shapes, units, left and right, cameras that see a person.

All but the first take Human3.6M's 17 joints in metres.
"""

import numpy as np
import torch

from lifting.command import InputError
from lifting.geometry.cameras import Camera
from lifting.geometry.skeleton import H36M17, mirror_joints

PELVIS, THORAX = 0, 8
HIPS, KNEES, ANKLES = [1, 4], [2, 5], [3, 6]  # right, left
THIGH_RANGE = (0.2, 0.8)  # metres


def check_array(values: np.ndarray, shape: tuple[int, ...], what: str) -> None:
    """InputError, beginning with ``what``, unless values are finite numbers of that shape (-1: any side but zero)."""
    sides = zip(values.shape, shape, strict=False)
    if values.ndim != len(shape) or not all(side == wanted or (wanted == -1 and side) for side, wanted in sides):
        expected = ", ".join("T" if side == -1 else str(side) for side in shape)
        raise InputError(f"{what}: expected ({expected}{',' * (len(shape) == 1)}), got {values.shape}")
    if values.dtype.kind not in "fiu":
        raise InputError(f"{what}: expected numbers, got {values.dtype}")
    if not np.isfinite(values).all():
        where = np.argwhere(~np.isfinite(values))[0].tolist()
        raise InputError(f"{what}: expected finite values, got {values[tuple(where)]} at {where}")


def thigh_lengths(positions: np.ndarray) -> np.ndarray:
    """(T, 17, 3) -> (T, 2): right, left; in the unit of the positions."""
    return np.asarray(np.linalg.norm(positions[:, KNEES] - positions[:, HIPS], axis=-1))


def left_of_body(positions: np.ndarray) -> np.ndarray:
    """(T, 17, 3) in a right-handed world -> (T,): above zero where the left hip is at the body's left.

    Knees bend forward: f, the sum of both knees' offsets from the line hip-ankle, points ahead whatever the names of
    the legs. With u from pelvis to thorax, u x f points to the left; the value is its product with (left - right hip).
    Exchanged names or a mirrored world change the sign; a straight leg makes it zero, and a single frame says little.
    """
    hip, knee, ankle = (positions[:, joints].astype(np.float64) for joints in (HIPS, KNEES, ANKLES))
    leg = ankle - hip
    share = ((knee - hip) * leg).sum(-1, keepdims=True) / np.maximum((leg**2).sum(-1, keepdims=True), 1e-12)
    forward = (knee - hip - share * leg).sum(1)
    up = positions[:, THORAX] - positions[:, PELVIS]
    return np.asarray(((hip[:, 1] - hip[:, 0]) * np.cross(up, forward)).sum(-1))


def check_person(positions: np.ndarray, where: str) -> None:
    """InputError unless (T, 17, 3) are metres of a human body with its left on the left; for all frames of a person."""
    thigh = float(np.median(thigh_lengths(positions)))
    low, high = THIGH_RANGE
    if not low <= thigh <= high:
        guess = ": millimetres in place of metres" if low <= thigh / 1000 <= high else ""
        guess = guess or (": metres in place of millimetres" if low <= thigh * 1000 <= high else "")
        raise InputError(f"{where}: expected thighs of {low} to {high} m, got {thigh:.4g} m{guess}")
    share = float((left_of_body(positions) >= 0).mean())
    if share < 0.5:
        raise InputError(
            f"{where}: left and right are exchanged, or the world is mirrored"
            f" (knees bend forward in only {share:.0%} of the frames)"
        )


def share_in_picture(positions: np.ndarray, camera: Camera) -> float:
    """How many of the (..., 3) points are in front of the camera and within its picture, from 0 to 1."""
    pixels = _project(positions, camera)
    inside = (pixels >= 0) & (pixels < torch.tensor(camera.size, dtype=pixels.dtype))  # NaN behind the camera: False
    return float(inside.all(-1).double().mean())


def reprojection_errors(positions: np.ndarray, pixels: np.ndarray, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Distances in pixels, (T, 17), of projected positions from the given (T, 17, 2), and from their mirror names."""
    projected, given = _project(positions, camera), torch.from_numpy(pixels).double()
    as_named, exchanged = (torch.linalg.norm(projected - p, dim=-1) for p in (given, mirror_joints(given, H36M17)))
    return as_named.float().numpy(), exchanged.float().numpy()


def _project(positions: np.ndarray, camera: Camera) -> torch.Tensor:
    return camera.project(camera.world_to_camera(torch.from_numpy(positions).double()))
