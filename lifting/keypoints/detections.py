"""2D joints of several people over time: what every reader of this room returns and every lifter takes."""

from dataclasses import dataclass, replace

import numpy as np

from lifting.geometry.skeleton import H36M17
from lifting.keypoints.joint_sets import DETECTED, to_h36m17


@dataclass(frozen=True)
class Keypoints:
    """2D joints of P people over T frames.

    Attributes:
        points: (T, P, J, 2) float64, pixels from the top left corner, y down; NaN where a joint is missing.
        confidence: (T, P, J) float64 in [0, 1]; 0 where a joint is missing, 1 where the source has no scores.
        joint_set: "coco17", "h36m17", "coco18", "body25" or "halpe26".
        size: width and height of the picture in pixels; None if unknown.
        frames: T names of frames: file names, image ids, or "0", "1", ...
        people: P names: track ids where the source has them, otherwise "0", "1", ...
        frame_rate: frames a second, if known.
        has_scores: whether the confidences come from a detector.
        sequence: whether the frames follow each other in time; otherwise they are pictures of a collection.
        one_size: whether all pictures have one size, as far as the source says.
        source: what was recognised and why, in one sentence for the user.
    """

    points: np.ndarray
    confidence: np.ndarray
    joint_set: str
    size: tuple[int, int] | None
    frames: tuple[str, ...]
    people: tuple[str, ...]
    frame_rate: float | None = None
    has_scores: bool = False
    source: str = ""
    sequence: bool = True
    one_size: bool = True

    def __post_init__(self) -> None:
        shape = (len(self.frames), len(self.people), len(DETECTED[self.joint_set]))
        if self.points.shape != (*shape, 2) or self.confidence.shape != shape:
            raise ValueError(
                f"{self.joint_set}: expected points {(*shape, 2)} and confidence {shape},"
                f" got {self.points.shape} and {self.confidence.shape}"
            )

    def to_h36m17(self) -> "Keypoints":
        """The same people with Human3.6M's 17 joints (`lifting.keypoints.joint_sets.to_h36m17`)."""
        points, confidence = to_h36m17(self.points, self.confidence, self.joint_set)
        return replace(self, points=points, confidence=confidence, joint_set=H36M17.name)
