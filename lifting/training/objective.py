"""What is optimised: a network and its likelihood as one module, for each of the two tracks."""

import math

import torch
from torch import Tensor, nn

from lifting.geometry.skeleton import H36M17, H36M18, JointSet
from lifting.likelihood import Likelihood, Mixed
from lifting.models.regressor import heatmap_losses
from lifting.prediction import Batch, Prediction
from lifting.training import ranks


class Objective(nn.Module):
    """Network and likelihood as one module, for both have weights: what the optimiser and DDP hold.

    Joints whose place is known (the root) are no data: their density would be a spike without bound. They are left
    out before the likelihood sees them. A network names them in its attribute ``known``, a tuple of joints; one
    without that attribute knows of none.

    Args:
        network: (B, J, 2) keypoints -> `Prediction`.
        likelihood: of the joints whose place is not known.
        joint_set: what the J joints are. A checkpoint records it, and data of another joint set is refused.

    Raises:
        ValueError: a network of another number of joints.
    """

    is_known: Tensor
    free_joints: Tensor

    def __init__(self, network: nn.Module, likelihood: Likelihood, joint_set: JointSet = H36M17) -> None:
        super().__init__()
        joints = getattr(network, "joints", len(joint_set))
        if joints != len(joint_set):
            raise ValueError(f"joint_set: expected {joints} joints, as the network has, got {len(joint_set)}")
        self.network, self.likelihood, self.joint_set = network, likelihood, joint_set
        self.known: tuple[int, ...] = getattr(network, "known", ())
        # Buffers: an index that is a Python list would be copied to the device in every step, which waits for it.
        is_known = torch.tensor([j in self.known for j in range(len(joint_set))])
        self.register_buffer("is_known", is_known[:, None], persistent=False)
        self.register_buffer("free_joints", (~is_known).nonzero()[:, 0], persistent=False)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss, a mean over poses and joints, and the median sigma (NaN where there is none)."""
        prediction, target = self.free(self.outputs(batch.input), batch.target)
        losses: Tensor = self.likelihood(prediction, target)
        return _mean(losses, torch.ones_like(losses)), _median_sigma(prediction)

    def outputs(self, keypoints: Tensor) -> Prediction:
        """All that the network computes in training."""
        prediction: Prediction = self.network(keypoints)
        return prediction

    def predict(self, keypoints: Tensor) -> Prediction:
        """Where the joints are, after what of the likelihood stays at test time; known joints stay where they are."""
        straight = self.network(keypoints)
        point = self.likelihood.point(straight)
        return Prediction(torch.where(self.is_known, straight.mu, point.mu), point.log_sigma)

    def free(self, prediction: Prediction, target: Tensor) -> tuple[Prediction, Tensor]:
        """Both without the joints whose place is known."""

        def free(x: Tensor) -> Tensor:
            return x.index_select(-2, self.free_joints)

        log_sigma = None if prediction.log_sigma is None else free(prediction.log_sigma)
        return Prediction(free(prediction.mu), log_sigma), free(target)


class ImageObjective(nn.Module):
    """The single-stage track's: labels with and without depth in one batch, joints without a label left out.

    Args:
        network: images -> `Prediction`, in the coordinates of `crops`.
        likelihood: of joints with depth and of those without.
        heatmap: weight of the auxiliary heatmap loss; above zero the network has heatmaps.
    """

    joint_set = H36M18  # what every network of this track predicts

    def __init__(self, network: nn.Module, likelihood: Mixed, heatmap: float = 0.0) -> None:
        super().__init__()
        self.network, self.likelihood, self.heatmap = network, likelihood, heatmap

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss, a mean over labelled joints, and the median sigma (NaN where there is none)."""
        assert batch.weight is not None and batch.has_depth is not None
        prediction, heatmaps = self.outputs(batch.input)
        loss = _mean(self.likelihood(prediction, batch.target, batch.has_depth, batch.weight), batch.weight)
        if heatmaps is not None:
            loss = loss + self.heatmap * _mean(*heatmap_losses(heatmaps, batch.target, batch.weight))
        return loss, _median_sigma(prediction)

    def outputs(self, images: Tensor) -> tuple[Prediction, Tensor | None]:
        """All that the network computes in training: joints, and heatmaps if there is a loss on them."""
        if not self.heatmap:
            return self.network(images), None
        prediction, heatmaps = self.network.forward_with_heatmaps(images)  # type: ignore[operator]
        return prediction, heatmaps

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


def _mean(losses: Tensor, weight: Tensor) -> Tensor:
    """The sum of the losses over the sum of their weights, those of all ranks.

    DDP averages the gradients of the ranks, however many labels each has. Divided by the labels of the mean rank, their
    average is the gradient of the mean over all labels.
    """
    count = weight.sum()
    ranks.average(count)
    return losses.sum() / torch.where(count > 0, count, 1)


def _median_sigma(prediction: Prediction) -> Tensor:
    """NaN where there is none."""
    if prediction.sigma is None:
        return torch.full((), math.nan, device=prediction.mu.device)
    return prediction.sigma.detach().median()
