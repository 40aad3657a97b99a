"""What every network of this package returns, and the batches that it is trained on."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Prediction:
    """Positions of the joints, and how uncertain the network is about them.

    Attributes:
        mu: (B, J, D) predicted positions; metres for lifters.
        log_sigma: (B, J, D) logarithm of the scale of the error, in the units of mu, at most 0; -inf for a joint that
            is known exactly (the root); None if the network predicts no scale.
        turn: (B, 3, 3) the rotation R that takes the axes of mu to those in which errors are independent, for a density
            that asks for one (`PoseDensity.axes`); None if they are the same.
    """

    mu: Tensor
    log_sigma: Tensor | None = None
    turn: Tensor | None = None

    @property
    def sigma(self) -> Tensor | None:
        """(B, J, D) scale of the error, in [0, 1]."""
        return None if self.log_sigma is None else self.log_sigma.exp()

    @staticmethod
    def cat(parts: Sequence["Prediction"]) -> "Prediction":
        """The predictions of several parts one behind the other; all have sigma and turn, or none has."""

        def whole(column: list[Tensor | None]) -> Tensor | None:
            some = [x for x in column if x is not None]
            return torch.cat(some) if some else None

        mu = torch.cat([part.mu for part in parts])
        return Prediction(mu, whole([part.log_sigma for part in parts]), whole([part.turn for part in parts]))

    def rows(self, part: slice) -> "Prediction":
        """The predictions of some samples."""
        log_sigma = None if self.log_sigma is None else self.log_sigma[part]
        return Prediction(self.mu[part], log_sigma, None if self.turn is None else self.turn[part])


@dataclass(frozen=True)
class Batch:
    """The samples of one training step.

    Attributes:
        input: the network's input: (B, J, 2) keypoints, or (B, 3, S, S) uint8 RGB images.
        target: (B, J, D).
        weight: (B, J) in [0, 1], zero where there is no label; None if every joint has one.
        has_depth: (B, J) bool, whether the last coordinate of the target is a label; None if it always is.
    """

    input: Tensor
    target: Tensor
    weight: Tensor | None = None
    has_depth: Tensor | None = None
