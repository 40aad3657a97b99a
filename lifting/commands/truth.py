"""True 3D joints beside lifted ones: the file of ``lift --truth``, brought to the axes of the prediction."""

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lifting.command import InputError, existing_file
from lifting.geometry.rays import ray_frame
from lifting.lifted import Lifted
from lifting.safe_npz import npz_keys, read_npy, read_npz

_FAR = 50.0  # metres; nothing that a person is lifted from is farther away, so larger numbers are millimetres
_NEAR = 0.1  # metres; nobody is that close to a camera, so a nearer pelvis is the origin of relative joints


def read_truth(path: Path, lifted: Lifted) -> NDArray[np.float64]:
    """Reads true joints of the same people and frames.

    Args:
        path: .npy, or .npz with the one array or one called ``joints``: (T, 17, 3) of one person or (T, P, 17, 3),
            metres, Human3.6M's joints, camera axes; NaN where unknown. If ``lifted`` is in ray axes, they must not be
            relative to the pelvis, whose place says where the ray is.

    Returns:
        (T, P, 17, 3) metres in ``lifted.axes``, relative to the pelvis.

    Raises:
        InputError: no such file, array or shape; millimetres; nothing says where the ray is.
    """
    truth = _array(existing_file(path, "lift: --truth"))
    if truth.ndim == 3:
        truth = truth[:, None]
    if truth.shape != lifted.joints.shape:
        raise InputError(f"lift: --truth: {path}: expected {lifted.joints.shape}, as lifted, got {truth.shape}")
    if np.isinf(truth).any() or np.nanmax(np.abs(truth), initial=0) > _FAR:
        raise InputError(f"lift: --truth: {path}: expected metres, got {np.nanmax(np.abs(truth)):g}; millimetres?")
    pelvis = truth[:, :, :1]
    relative = truth - pelvis
    if lifted.axes == "camera":
        return relative
    if not (np.linalg.norm(pelvis, axis=-1) > _NEAR).any():
        raise InputError(
            f"lift: --truth: {path}: expected joints that are not relative to the pelvis, or --focal, since "
            f"{lifted.checkpoint} predicts about the viewing ray of the pelvis"
        )
    turned: NDArray[np.float64] = np.einsum("tpab,tpjb->tpja", ray_frame(pelvis[:, :, 0]), relative)
    return turned


def _array(path: Path) -> NDArray[np.float64]:
    try:
        if zipfile.is_zipfile(path):
            names = npz_keys(path)
            content = read_npz(path, "joints" if "joints" in names or len(names) != 1 else names[0])
        else:
            content = read_npy(path)
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(content, dtype=np.float64)
    except (InputError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"lift: --truth: {path}: expected .npy, or .npz with joints ({error})") from None


def error_line(lifted: Lifted, truth: NDArray[np.float64]) -> str:
    """The mean error per joint over all poses whose truth is known, for the screen."""
    errors = np.linalg.norm(lifted.joints - truth, axis=-1)
    if not np.isfinite(errors).any():
        return "no pose has a truth"
    return f"MPJPE {1000 * np.nanmean(errors):.1f} mm over {np.isfinite(errors).all(-1).sum():,} poses (frame mean)"
