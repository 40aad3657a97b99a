"""What is optimised: a network and its likelihood as one module, for each of the two tracks."""

import math

import torch
from torch import Tensor, nn

from lifting.likelihood import Likelihood, Mixed
from lifting.models.regressor import heatmap_loss
from lifting.prediction import Batch, Prediction


class Objective(nn.Module):
    """Network and likelihood as one module, for both have weights: what the optimiser and DDP hold.

    Joints whose place is known (the root) are no data: their density would be a spike without bound. They are left
    out before the likelihood sees them.
    """

    def __init__(self, network: nn.Module, likelihood: Likelihood, known: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.network, self.likelihood, self.known = network, likelihood, known

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss, a mean over poses and joints, and the median sigma (NaN where there is none)."""
        prediction, target = self.free(self.network(batch.input), batch.target)
        sigma = prediction.sigma
        median = target.new_tensor(math.nan) if sigma is None else sigma.detach().median()
        return self.likelihood(prediction, target).mean(), median

    def predict(self, keypoints: Tensor) -> Prediction:
        """Where the joints are, after what of the likelihood stays at test time; known joints stay where they are."""
        straight = self.network(keypoints)
        point = self.likelihood.point(straight)
        known = torch.zeros(point.mu.shape[1], 1, dtype=torch.bool, device=point.mu.device)
        known[list(self.known)] = True
        return Prediction(torch.where(known, straight.mu, point.mu), point.log_sigma)

    def free(self, prediction: Prediction, target: Tensor) -> tuple[Prediction, Tensor]:
        """Both without the joints whose place is known."""
        free = [j for j in range(target.shape[-2]) if j not in self.known]
        log_sigma = None if prediction.log_sigma is None else prediction.log_sigma[..., free, :]
        return Prediction(prediction.mu[..., free, :], log_sigma), target[..., free, :]


class ImageObjective(nn.Module):
    """The single-stage track's: labels with and without depth in one batch, joints without a label left out.

    Args:
        network: images -> `Prediction`, in the coordinates of `crops`.
        likelihood: of joints with depth and of those without.
        heatmap: weight of the auxiliary heatmap loss; above zero the network has heatmaps.
    """

    def __init__(self, network: nn.Module, likelihood: Mixed, heatmap: float = 0.0) -> None:
        super().__init__()
        self.network, self.likelihood, self.heatmap = network, likelihood, heatmap

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss, a mean over labelled joints, and the median sigma (NaN where there is none)."""
        assert batch.weight is not None and batch.has_depth is not None
        extra: Tensor | float = 0.0
        if self.heatmap:
            prediction, heatmaps = self.network.forward_with_heatmaps(batch.input)  # type: ignore[operator]
            extra = self.heatmap * heatmap_loss(heatmaps, batch.target, batch.weight)
        else:
            prediction = self.network(batch.input)
        losses: Tensor = self.likelihood(prediction, batch.target, batch.has_depth, batch.weight)
        sigma = prediction.sigma
        median = losses.new_tensor(math.nan) if sigma is None else sigma.detach().median()
        return losses.sum() / batch.weight.sum().clamp(min=1) + extra, median

    def predict(self, images: Tensor, has_depth: Tensor) -> Prediction:
        """Where the joints are, after what of the likelihood stays at test time.

        Args:
            images: (B, 3, S, S) uint8.
            has_depth: (J,) bool, the joints whose depth is asked for.
        """
        straight = self.network(images)
        with torch.autocast(images.device.type, enabled=False):  # millimetres do not survive bfloat16
            return self.likelihood.point(straight, has_depth)


AnyObjective = Objective | ImageObjective
