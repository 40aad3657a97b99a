"""What every network of this package returns, and the batches that it is trained on."""

from collections.abc import Callable, Sequence
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
        peak: (B, J) height of each joint's heatmap, in [0, 1]; None from a network without heatmaps.
    """

    mu: Tensor
    log_sigma: Tensor | None = None
    turn: Tensor | None = None
    peak: Tensor | None = None

    @property
    def sigma(self) -> Tensor | None:
        """(B, J, D) scale of the error, in [0, 1]."""
        return None if self.log_sigma is None else self.log_sigma.exp()

    @property
    def confidence(self) -> Tensor:
        """(B, J) in [0, 1], of each joint: 1 minus the mean sigma (Eq. 9); the heatmap's peak; 1 without either."""
        if self.sigma is not None:
            return 1 - self.sigma.mean(-1)
        return torch.ones_like(self.mu[..., 0]) if self.peak is None else self.peak

    @staticmethod
    def cat(parts: Sequence["Prediction"]) -> "Prediction":
        """The predictions of several parts one behind the other; all have sigma, turn and peak, or none has."""

        def whole(column: list[Tensor | None]) -> Tensor | None:
            some = [x for x in column if x is not None]
            return torch.cat(some) if some else None

        mu = torch.cat([part.mu for part in parts])
        optional = ([getattr(part, name) for part in parts] for name in ("log_sigma", "turn", "peak"))
        return Prediction(mu, *map(whole, optional))

    def rows(self, part: slice | Tensor) -> "Prediction":
        """The predictions of some samples."""
        return self._each(lambda x: x[part])

    def to(self, device: torch.device | str) -> "Prediction":
        """The same on a device."""
        return self._each(lambda x: x.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Prediction":
        optional = (None if x is None else change(x) for x in (self.log_sigma, self.turn, self.peak))
        return Prediction(change(self.mu), *optional)


@dataclass(frozen=True)
class Batch:
    """The samples of one training step.

    Attributes:
        input: the network's input: (B, J, 2) keypoints, or (B, 3, H, W) uint8 RGB images.
        target: (B, J, D); of images always (B, J, 3).
        weight: (B, J) in [0, 1], zero where there is no label; None if every joint has one.
        has_depth: (B, J) bool, whether the last coordinate of the target is a label; None if it always is.
    """

    input: Tensor
    target: Tensor
    weight: Tensor | None = None
    has_depth: Tensor | None = None
