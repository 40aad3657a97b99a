"""What every network of this package returns, and what it is trained on."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Prediction:
    """Where the joints are, and how far the network trusts itself.

    Attributes:
        mu: (B, J, D) predicted positions; metres for lifters.
        log_sigma: (B, J, D) logarithm of the scale of the error, in the units of mu, at most 0; -inf where a joint is
            known exactly (the root); None from a network that was trained by a loss without a scale.
    """

    mu: Tensor
    log_sigma: Tensor | None = None

    @property
    def sigma(self) -> Tensor | None:
        """(B, J, D) scale of the error, in [0, 1]."""
        return None if self.log_sigma is None else self.log_sigma.exp()


@dataclass(frozen=True)
class Batch:
    """What one training step sees.

    Attributes:
        input: what the network takes: (B, J, 2) keypoints, or (B, 3, S, S) uint8 RGB images.
        target: (B, J, D).
        weight: (B, J) in [0, 1], zero where there is no label; None where there are all.
        has_depth: (B, J) bool, whether the last coordinate of the target is a label; None where it is one everywhere.
    """

    input: Tensor
    target: Tensor
    weight: Tensor | None = None
    has_depth: Tensor | None = None
