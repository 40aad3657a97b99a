"""What every network of this package returns."""

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
