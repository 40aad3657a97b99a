"""The library: arrays of 2D keypoints in, arrays of 3D joints with a sigma each out.

``Lifter.load().lift(keypoints_px, image_size)``
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lifting.command import InputError, needing
from lifting.geometry.skeleton import H36M17
from lifting.inference.onnx_backend import About, Arrays, OnnxBackend
from lifting.keypoints.checks import FARTHEST
from lifting.keypoints.joint_sets import DETECTED, to_h36m17
from lifting.shipped import released

CHUNK = 512  # poses that are lifted at once; more would need more memory and no less time
RELEASED = "srnet_rle"


@dataclass(frozen=True)
class Pose:
    """Poses of any leading shape. All arrays are float32, in metres, in the axes of the lifter (`Lifter.axes`).

    Attributes:
        joints: (..., 17, 3) relative to the pelvis, in the order of `Lifter.names`. NaN for a pose without any joint.
        sigma: (..., 17, 3) scale of the error of each coordinate; NaN from a lifter that predicts none.
        deviation: (..., 17, 3) standard deviation of the predicted density; 0 for the pelvis, the origin.
    """

    joints: NDArray[np.float32]
    sigma: NDArray[np.float32]
    deviation: NDArray[np.float32]


class Backend(Protocol):
    """What computes: float32 arrays of N poses in and out, see `pixel_lifter.PixelLifter.forward`."""

    about: About

    def __call__(self, keypoints: Arrays, confidence: Arrays, image_size: Arrays) -> tuple[Arrays, Arrays, Arrays]: ...


class Lifter:
    """Lifts 2D keypoints to 3D joints; safe to call from several threads at once. Made by `Lifter.load`.

    Attributes:
        axes: "ray": camera axes (x right, y down, z forward), turned by the smallest rotation that takes the viewing
            ray of the person's pelvis to +z. "camera": the axes of the camera.
        takes_missing: whether joints may be missing.
        checkpoint: file name and the first 12 digits of the SHA-256 of the weights.
        licence: of the weights.
        names: the 17 joints, in their order.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        about = backend.about
        self.axes, self.takes_missing, self.names = about.axes, about.takes_missing, about.names
        self.checkpoint, self.licence = about.checkpoint, about.licence

    @classmethod
    def load(cls, path: str | Path | None = None, *, threads: int | None = None) -> "Lifter":
        """Loads a lifter.

        Args:
            path: a checkpoint of ``run_lifting.py train`` (.pt, which needs torch), or a file of ``run_lifting.py
                export`` (.onnx, which needs ONNX Runtime). None for the released weights, by ONNX Runtime if it is
                installed, otherwise by torch.
            threads: how many threads compute; with torch, in the whole process. None for the default of the library.

        Raises:
            InputError: the file is absent or none of these, or the library it needs is not installed.
        """
        if threads is not None and not (isinstance(threads, int) and threads >= 1):
            raise InputError(f"threads: expected a whole number of 1 or more, got {threads!r}")
        path = _released() if path is None else Path(path)
        if path.suffix == ".onnx":
            return cls(OnnxBackend(path, threads))
        with needing(f"checkpoint: {path}"):
            from lifting.inference.pixel_lifter import TorchBackend

            return cls(TorchBackend(path, threads))

    def lift(
        self,
        keypoints: ArrayLike,
        image_size: ArrayLike,
        confidence: ArrayLike | None = None,
        joints: str = "h36m17",
    ) -> Pose:
        """Lifts poses of any leading shape.

        Args:
            keypoints: (..., J, 2) pixels from the top left corner, y down; NaN for a missing joint, or masked in a
                masked array.
            image_size: (2,) width and height of the picture in pixels, or (..., 2), one for each pose.
            confidence: (..., J) in [0, 1], 0 for a missing joint; None for 1. Values between 0 and 1 have a meaning
                only to a lifter that was trained with detectors' scores.
            joints: the J joints of the keypoints, a name of `lifting.keypoints.joint_sets.DETECTED`.

        Returns:
            the poses, with the leading shape of ``keypoints``.

        Raises:
            InputError: a shape does not fit, a value is infinite or out of range, or a joint is missing that this
                lifter needs.
        """
        points, scores = _checked(keypoints, confidence, joints)
        sizes = _checked_sizes(image_size, points.shape[:-2])
        leading = points.shape[:-2]
        points, scores = points.reshape(-1, *points.shape[-2:]), scores.reshape(-1, scores.shape[-1])
        points, scores = to_h36m17(points, scores, joints)
        present: Arrays = np.any(scores > 0, -1)
        if not self.takes_missing:
            self._expect_whole(scores, present, leading)
        found = np.full((3, len(points), len(H36M17), 3), np.nan, dtype=np.float32)
        rows = np.flatnonzero(present)
        points = np.where((scores > 0)[..., None], points, 0)
        inputs = [x[rows].astype(np.float32) for x in (points, scores, sizes)]
        for start in range(0, len(rows), CHUNK):
            part = slice(start, start + CHUNK)
            found[:, rows[part]] = self._backend(*(x[part] for x in inputs))
        return Pose(*(x.reshape(*leading, len(H36M17), 3) for x in found))

    def _expect_whole(self, scores: Arrays, present: Arrays, leading: tuple[int, ...]) -> None:
        """Raises `InputError` if a pose has some of its joints, but not all."""
        partial = np.argwhere((scores == 0) & present[:, None])
        if len(partial):
            pose, joint = partial[0]
            at = ", ".join(map(str, np.unravel_index(pose, leading))) if leading else "0"
            raise InputError(
                f"keypoints: expected all 17 joints, which {self.checkpoint} needs, but {self.names[joint]} is missing "
                f"in pose ({at}), and {len(np.unique(partial[:, 0])):,} of {len(scores):,} poses miss a joint; lifters "
                "trained with model.input=person, such as the released ones, take missing joints"
            )


def _released() -> Path:
    """The released weights in the form that an installed library can run.

    Raises:
        InputError: there are none.
    """
    order = (".onnx", ".pt") if find_spec("onnxruntime") else (".pt", ".onnx")
    files = [released(RELEASED + ending) for ending in order]
    for file in files:
        if file.is_file():
            return file
    raise InputError(f"checkpoint: expected the released weights at {files[0]}, found none; name a checkpoint instead")


def _checked(keypoints: ArrayLike, confidence: ArrayLike | None, joints: str) -> tuple[Arrays, Arrays]:
    """(..., J, 2) keypoints and (..., J) confidences as float64: NaN and 0 where a joint is missing."""
    if not isinstance(joints, str) or joints not in DETECTED:
        raise InputError(f"joints: expected one of {', '.join(DETECTED)}, got {joints!r}")
    points, count = _numbers(keypoints, "keypoints"), len(DETECTED[joints])
    if points.ndim < 2 or points.shape[-2:] != (count, 2):
        raise InputError(f"keypoints: expected (..., {count}, 2) for the joints {joints}, got {points.shape}")
    if (np.abs(points) > FARTHEST).any():
        farthest = np.nanmax(np.abs(points))
        raise InputError(
            f"keypoints: expected pixels, none beyond {FARTHEST:,}, or NaN for a missing joint, got {farthest:g}"
        )
    scores = np.ones(points.shape[:-1]) if confidence is None else _numbers(confidence, "confidence")
    if scores.shape != points.shape[:-1]:
        raise InputError(f"confidence: expected {points.shape[:-1]}, one for each keypoint, got {scores.shape}")
    missing = np.isnan(points).any(-1) | np.isnan(scores)
    scores = np.where(missing, 0, scores)
    if scores.size and not (scores.min() >= 0 and scores.max() <= 1):
        raise InputError(f"confidence: expected numbers in [0, 1], got {scores.min():g} to {scores.max():g}")
    return np.where((scores > 0)[..., None], points, np.nan), scores


def _checked_sizes(image_size: ArrayLike, leading: tuple[int, ...]) -> Arrays:
    """(N, 2) a size for each pose."""
    size = _numbers(image_size, "image_size")
    if size.shape != (2,) and size.shape != (*leading, 2):
        raise InputError(f"image_size: expected (2,) or {(*leading, 2)}, width and height, got {size.shape}")
    if not ((size > 0) & (size <= FARTHEST)).all():
        raise InputError(
            f"image_size: expected pixels above zero, at most {FARTHEST:,}, got {size.min():g} to {size.max():g}"
        )
    return np.broadcast_to(size, (*leading, 2)).reshape(-1, 2)


def _numbers(values: ArrayLike, what: str) -> Arrays:
    """float64; NaN where a masked array is masked."""
    try:
        if isinstance(values, np.ma.MaskedArray):
            values = np.ma.filled(values.astype(np.float64), np.nan)
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError):  # the last, of a tensor with a gradient or on a GPU
        raise InputError(f"{what}: expected an array of numbers, got {type(values).__name__}") from None
