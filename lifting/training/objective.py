"""The training objective of each track: a network and its likelihood as one module."""

import math
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from lifting.geometry.skeleton import H36M17, H36M18, JointSet
from lifting.likelihood import Likelihood, Mixed
from lifting.models.regressor import heatmap_losses
from lifting.prediction import Batch, Prediction
from lifting.training import ranks


class Objective(nn.Module):
    """A network and its likelihood as one module: both have weights, which the optimiser and DDP need together.

    A joint whose position is known in advance (the root) carries no information, and its likelihood would be
    unbounded. Such joints are left out before the likelihood sees them. A network lists them in its attribute
    ``known``, a tuple of joint indices; a network without that attribute has none.

    Args:
        network: (B, J, 2) keypoints -> `Prediction`.
        likelihood: scores the joints whose position is not known.
        joint_set: the J joints. A checkpoint records it, and data of another joint set is refused.

    Raises:
        ValueError: the network has another number of joints.
    """

    is_known: Tensor
    free_joints: Tensor

    def __init__(self, network: nn.Module, likelihood: Likelihood, joint_set: JointSet = H36M17) -> None:
        super().__init__()
        joints = getattr(network, "joints", len(joint_set))
        if joints != len(joint_set):
            raise ValueError(f"joint_set: expected {joints} joints, as the network has, got {len(joint_set)}")
        self.network, self.likelihood, self.joint_set = network, pooling(likelihood), joint_set
        self.known: tuple[int, ...] = getattr(network, "known", ())
        # Buffers, because indexing with a Python list copies it to the device in every step, and waits for the copy.
        is_known = torch.tensor([j in self.known for j in range(len(joint_set))])
        self.register_buffer("is_known", is_known[:, None], persistent=False)
        free = [j for j in range(len(joint_set)) if j not in self.known]
        self.register_buffer("free_joints", torch.tensor(free, dtype=torch.int64), persistent=False)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss, a mean over poses and joints, and the median sigma (NaN without a sigma)."""
        prediction, target = self.free(self.outputs(batch.input), batch.target)
        weight = self.labelled(batch).weight
        with ranks.shared_draws(target.device):
            losses: Tensor = self.likelihood(prediction, target, weight)
        return _mean(losses, torch.ones_like(losses) if weight is None else weight), _median_sigma(prediction)

    def labelled(self, batch: Batch) -> Batch:
        """The batch with the weights of the joints whose position is not known."""
        return batch if batch.weight is None else replace(batch, weight=batch.weight[..., self.free_joints])

    def outputs(self, keypoints: Tensor) -> Prediction:
        """Everything that the network computes in training."""
        prediction: Prediction = self.network(keypoints)
        return prediction

    def predict(self, keypoints: Tensor) -> Prediction:
        """The predicted joints at test time (`Likelihood.point`); known joints stay where the network puts them."""
        straight = self.network(keypoints)
        point = self.likelihood.point(straight)
        mu = torch.where(self.is_known, straight.mu, point.mu)
        return Prediction(mu, point.log_sigma, self.likelihood.axes(keypoints))

    def free(self, prediction: Prediction, target: Tensor) -> tuple[Prediction, Tensor]:
        """Prediction and target without the joints whose position is known."""

        def free(x: Tensor) -> Tensor:
            return x.index_select(-2, self.free_joints)

        log_sigma = None if prediction.log_sigma is None else free(prediction.log_sigma)
        return Prediction(free(prediction.mu), log_sigma, prediction.turn), free(target)


class ImageObjective(nn.Module):
    """The objective of the single-stage track: labels with and without depth may be mixed, and some joints have none.

    Args:
        network: images -> `Prediction`, in the coordinates of `crops`.
        likelihood: of a 3D network, `Mixed` scores joints with depth and joints without; of a 2D network, a likelihood
            of D = 2; None for a network that learns from its heatmaps alone.
        heatmap: weight of the loss on heatmaps; if it is above zero, the network must have ``forward_with_heatmaps``.
        joint_set: the J joints. A checkpoint records it, and data of another joint set is refused.
    """

    def __init__(
        self,
        network: nn.Module,
        likelihood: Mixed | Likelihood | None,
        heatmap: float = 0.0,
        joint_set: JointSet = H36M18,
    ) -> None:
        super().__init__()
        self.network, self.heatmap, self.joint_set = network, heatmap, joint_set
        self.likelihood = nn.Identity() if likelihood is None else pooling(likelihood)

    @property
    def dims(self) -> int:
        """D of the predictions."""
        return 3 if isinstance(self.likelihood, Mixed) else 2

    @property
    def density(self) -> Likelihood | None:
        """The likelihood of a joint in all D coordinates; None if there is none."""
        found = self.likelihood.with_depth if isinstance(self.likelihood, Mixed) else self.likelihood
        return found if isinstance(found, Likelihood) else None

    @property
    def has_sigma(self) -> bool:
        """Whether predictions have a sigma."""
        return self.density is not None and self.density.has_sigma

    @property
    def has_peaks(self) -> bool:
        """Whether predictions have the peaks of heatmaps."""
        return self.density is None

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss, a mean over labelled joints, and the median sigma (NaN without a sigma)."""
        prediction, heatmaps = self.outputs(batch.input)
        weight = torch.ones_like(batch.target[..., 0]) if batch.weight is None else batch.weight
        loss = batch.target.new_zeros(())
        if self.density is not None:
            with ranks.shared_draws(batch.target.device):
                loss = _mean(self._losses(prediction, batch, weight), weight)
        if heatmaps is not None:
            loss = loss + self.heatmap * _mean(*heatmap_losses(heatmaps, batch.target, weight))
        return loss, _median_sigma(prediction)

    def _losses(self, prediction: Prediction, batch: Batch, weight: Tensor) -> Tensor:
        """(B, J)."""
        if isinstance(self.likelihood, Mixed):
            has_depth = torch.ones_like(weight, dtype=torch.bool) if batch.has_depth is None else batch.has_depth
            losses: Tensor = self.likelihood(prediction, batch.target, has_depth, weight)
        else:
            losses = self.likelihood(prediction, batch.target[..., :2], weight)
        return losses

    def outputs(self, images: Tensor) -> tuple[Prediction, Tensor | None]:
        """Everything that the network computes in training: joints, and heatmaps if they have a loss."""
        if not self.heatmap:
            return self.network(images), None
        prediction, heatmaps = self.network.forward_with_heatmaps(images)  # type: ignore[operator]
        return prediction, heatmaps

    def predict(self, images: Tensor, has_depth: Tensor) -> Prediction:
        """The predicted joints at test time (`Mixed.point`, `Likelihood.point`).

        Args:
            images: (B, 3, H, W) uint8.
            has_depth: (J,) bool, the joints whose depth is wanted; of no consequence in 2D.
        """
        straight: Prediction = self.network(images)
        with torch.autocast(images.device.type, enabled=False):  # millimetres do not survive bfloat16
            if isinstance(self.likelihood, Mixed):
                return self.likelihood.point(straight, has_depth)
            return straight if self.density is None else self.density.point(straight)


AnyObjective = Objective | ImageObjective
Scoring = TypeVar("Scoring", bound=nn.Module)


def pooling(likelihood: Scoring) -> Scoring:
    """The same likelihood, whose means over a batch are now those over the parts of all ranks."""
    for part in likelihood.modules():
        if isinstance(part, Likelihood):
            part.pooled = ranks.pooled
    return likelihood


def _mean(losses: Tensor, weight: Tensor) -> Tensor:
    """The sum of the losses, divided by the sum of their weights, which is averaged over the ranks.

    DDP averages the gradients of all ranks, however many labels each rank has. With one divisor for all ranks, their
    mean number of labels, that average is the gradient of the mean loss over all labels.
    """
    count = weight.sum()
    ranks.average(count)
    return losses.sum() / torch.where(count > 0, count, 1)


def _median_sigma(prediction: Prediction) -> Tensor:
    """The median sigma, NaN without a sigma."""
    if prediction.sigma is None:
        return torch.full((), math.nan, device=prediction.mu.device)
    return prediction.sigma.detach().median()
