"""People for the tests of drawings, made of numpy alone: they stand, swing their limbs, and are seen by a camera."""

import numpy as np

from lifting.geometry.skeleton import H36M17
from lifting.keypoints.detections import Keypoints
from lifting.lifted import Lifted

FOCAL, SIZE = 1145.0, (1000, 1002)
_X = [0, -0.13, -0.13, -0.13, 0.13, 0.13, 0.13, 0, 0, 0, 0, 0.17, 0.25, 0.3, -0.17, -0.25, -0.3]
_Y = [0, 0, 0.45, 0.9, 0, 0.45, 0.9, -0.25, -0.5, -0.6, -0.75, -0.48, -0.2, 0.05, -0.48, -0.2, 0.05]
_SWING = {"knee": 0.06, "ankle": 0.2, "elbow": 0.05, "wrist": 0.15}  # metres, forwards and backwards


def people(
    frames: int = 40,
    count: int = 1,
    *,
    root: bool = False,
    sigma: bool = True,
    pitch: float = 0.0,
    frame_rate: float | None = 25.0,
    size: tuple[int, int] | None = SIZE,
    seed: int = 0,
) -> tuple[Lifted, np.ndarray]:
    """Lifted people in the camera frame and their ground truth, (T, P, 17, 3).

    Errors are Gaussian with the deviation that is given. The first person stands on the right of the picture, the next
    further left; the camera is pitched by ``pitch`` radians. In frames 10 to 19 the first person's left wrist is
    missing.
    """
    random = np.random.default_rng(seed)
    time = np.arange(frames)[:, None] / 25
    truth = np.tile(np.stack([_X, _Y, np.zeros(17)], -1), (frames, count, 1, 1))
    for joint, name in enumerate(H36M17.joints):
        part = name.split("_")[-1]
        phase = 0.0 if name.startswith("left") == (part in ("knee", "ankle")) else np.pi
        truth[:, :, joint, 2] += _SWING.get(part, 0.0) * np.sin(4 * time + phase + np.arange(count))
    cos, sin = np.cos(pitch), np.sin(pitch)
    truth = truth @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]).T
    place = np.zeros((frames, count, 3))
    place[..., 0] = 0.8 - 1.3 * np.arange(count)
    place[..., 2] = 5.0 + 0.5 * time
    seen = truth + place[:, :, None]
    points = FOCAL * seen[..., :2] / seen[..., 2:] + np.array(SIZE) / 2
    points[10:20, 0, H36M17.joints.index("left_wrist")] = np.nan
    deviation = np.broadcast_to(0.01 + 0.002 * np.arange(17)[:, None] * (1, 1, 2), truth.shape).copy()
    deviation[10:20, 0, H36M17.joints.index("left_wrist")] *= 3
    deviation[:, :, 0] = 0
    joints = truth + deviation * random.normal(size=truth.shape)
    if not sigma:
        deviation[:] = np.nan
    keypoints = Keypoints(
        points, np.isfinite(points).all(-1).astype(float), "h36m17", size, tuple(map(str, range(frames))),
        tuple(map(str, range(count))), frame_rate, source="made by a test",
    )  # fmt: skip
    lifted = Lifted(
        joints, deviation, deviation, 1 - deviation.mean(-1), H36M17.joints, "camera", "test.pt 0123456789ab",
        keypoints,
        place if root else None,
        np.full_like(place, 0.1) if root else None,
    )  # fmt: skip
    return lifted, truth


def absent(lifted: Lifted, frames: slice, person: int) -> None:
    """Takes a person out of some frames, in place."""
    for array in (lifted.joints, lifted.sigma, lifted.deviation, lifted.confidence, lifted.keypoints.points):
        array[frames, person] = np.nan
    lifted.keypoints.confidence[frames, person] = 0
