"""Where the bones of a skeleton are over time: what every reader of motion files returns."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation


@dataclass(frozen=True)
class BoneFrames:
    """Positions and rotations of named bones over T frames, in the axes of the world that the file uses.

    Attributes:
        positions: name -> (T, 3) metres: a point of the bone, which one is the format's choice.
        rotations: name -> T rotations that take the bone's own axes to the world's; absent for points without axes.
    """

    positions: dict[str, np.ndarray]
    rotations: dict[str, Rotation]

    def stack(self, names: Sequence[str]) -> np.ndarray:
        """(T, number of names, 3) metres; KeyError for a name that is not there."""
        return np.stack([self.positions[name] for name in names], 1)

    def turned_up(self) -> "BoneFrames":
        """The same in a world with z up, where this one has y up: (x, y, z) -> (x, -z, y)."""
        turn = Rotation.from_matrix([[1, 0, 0], [0, 0, -1], [0, 1, 0]])
        positions = {name: np.stack([p[:, 0], -p[:, 2], p[:, 1]], 1) for name, p in self.positions.items()}
        return BoneFrames(positions, {name: turn * rotation for name, rotation in self.rotations.items()})
