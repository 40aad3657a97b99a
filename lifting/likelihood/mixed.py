"""One loss for joints with and without a depth label, so that Human3.6M and MPII can share a batch."""

import torch
from torch import Tensor, nn

from lifting.likelihood.scale import Likelihood
from lifting.prediction import Prediction


class Mixed(nn.Module):
    """One likelihood for joints whose depth is labelled, and another on (u, v) alone for the others (MPII).

    A joint without depth contributes neither a value nor a gradient to the third coordinate, whatever its label holds.

    Args:
        with_depth: D = 3.
        without_depth: D = 2, with a flow of its own.
    """

    def __init__(self, with_depth: Likelihood, without_depth: Likelihood) -> None:
        super().__init__()
        if (with_depth.dim, without_depth.dim) != (3, 2):
            raise ValueError(f"Mixed: expected likelihoods of D = 3 and 2, got {with_depth.dim}, {without_depth.dim}")
        self.with_depth, self.without_depth = with_depth, without_depth

    def forward(
        self, prediction: Prediction, target: Tensor, has_depth: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """Training loss of each joint, (B, J).

        Args:
            target: (B, J, 3); the third coordinate of a joint without depth may be anything.
            has_depth: (B, 1) or (B, J) bool.
        """
        if has_depth.dtype != torch.bool:
            raise ValueError(f"has_depth: expected bool, got {has_depth.dtype}")
        weight = prediction.mu.new_ones(()) if weight is None else weight
        deep: Tensor = self.with_depth(prediction, target, weight * has_depth)
        shallow: Tensor = self.without_depth(_flat(prediction), target[..., :2], weight * ~has_depth)
        return deep + shallow

    def point(self, prediction: Prediction, has_depth: Tensor) -> Prediction:
        """The single position that stands for the density, see `Likelihood.point`.

        Args:
            has_depth: (J,) or (B, J) bool; the depth of the others stays as it is.
        """
        deep, flat = self.with_depth.point(prediction), self.without_depth.point(_flat(prediction))
        chosen = has_depth[..., None]
        mu = torch.where(chosen, deep.mu, torch.cat([flat.mu, prediction.mu[..., 2:]], -1))
        if deep.log_sigma is None or flat.log_sigma is None or prediction.log_sigma is None:
            return Prediction(mu)
        rest = torch.cat([flat.log_sigma, prediction.log_sigma[..., 2:]], -1)
        return Prediction(mu, torch.where(chosen, deep.log_sigma, rest))


def _flat(prediction: Prediction) -> Prediction:
    """The first two coordinates of three."""
    log_sigma = None if prediction.log_sigma is None else prediction.log_sigma[..., :2]
    return Prediction(prediction.mu[..., :2], log_sigma)
