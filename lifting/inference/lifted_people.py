"""People's keypoints in, `Lifted` out: what `lift` does to a file of keypoints, and `estimate` to a picture."""

import numpy as np

from lifting.command import InputError
from lifting.inference.lifter import Lifter
from lifting.keypoints.detections import Keypoints
from lifting.lifted import Lifted


def lift_all(lifter: Lifter, keypoints: Keypoints, *, scores: bool = False) -> Lifted:
    """Lifts everybody in every frame; whoever is absent from a frame is NaN there.

    Args:
        scores: whether the lifter is given the detector's scores; otherwise it only knows which joints are missing.

    Raises:
        InputError: the lifter needs the size of the picture, which is unknown, or all joints, of which some are
            missing, or with ``scores``: there are none, or the lifter does not take any.
    """
    if scores and not keypoints.has_scores:
        raise InputError("lift: --scores: expected keypoints with scores, got none")
    if scores and not lifter.takes_missing:
        raise InputError(f"lift: --scores: expected a lifter that takes scores, got {lifter.checkpoint}")
    points = keypoints.to_h36m17()
    size = points.size
    if size is None:
        if not lifter.takes_missing:
            raise InputError(f"lift: expected the size of the picture, which {lifter.checkpoint} needs: add --size W H")
        size = (1000, 1000)  # any will do: the lifter sees people relative to themselves
    confidence = points.confidence if scores else np.isfinite(points.points[..., 0]).astype(np.float64)
    pose = lifter.lift(points.points, size, confidence)
    return Lifted(
        joints=pose.joints,
        sigma=pose.sigma,
        deviation=pose.deviation,
        confidence=1 - pose.sigma.mean(-1),
        names=lifter.names,
        axes=lifter.axes,
        checkpoint=lifter.checkpoint,
        keypoints=points,
    )
