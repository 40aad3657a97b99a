"""What a trained lifter predicts for every pose, and the numbers of these predictions."""

from typing import Any

import torch
from torch import Tensor

from lifting.chunks import rows_at_once
from lifting.datasets.poses import PoseSet
from lifting.geometry.joint_maps import flip, mirror_joints
from lifting.geometry.skeleton import JointSet
from lifting.metrics.bones import bone_report
from lifting.metrics.pose_errors import joint_errors, pearson, pose_report
from lifting.prediction import Prediction
from lifting.training import ranks
from lifting.training.objective import Objective


@torch.no_grad()
def predict(objective: Objective, poses: PoseSet, *, flip_test: bool, batch_size: int = 1024) -> Prediction:
    """Predicts every pose, (N, J, 3); with ``flip_test``, averages over the pose and its mirror image.

    ``batch_size`` is that of a CPU (`rows_at_once`). The ranks share the work, and each returns all predictions. The
    network is left in evaluation mode.
    """
    objective.eval()
    batch_size = rows_at_once(batch_size, poses.keypoints.device)
    parts: list[Prediction] = []
    mine = torch.split(poses.keypoints, batch_size)[ranks.rank() :: ranks.world()]
    for keypoints in mine or (poses.keypoints[:0],):
        one = objective.predict(keypoints)
        if flip_test:
            one = mean_of_mirrored(one, objective.predict(flip(keypoints, poses.joint_set)), poses.joint_set)
        parts.append(one)

    found, total = Prediction.cat(parts), len(poses)

    def gathered(rows: Tensor | None) -> Tensor | None:
        return None if rows is None else ranks.gather_rows(rows, total, batch_size)

    return Prediction(ranks.gather_rows(found.mu, total, batch_size), gathered(found.log_sigma), gathered(found.turn))


def mean_of_mirrored(straight: Prediction, mirrored: Prediction, joint_set: JointSet) -> Prediction:
    """Averages a prediction and the one made from the mirrored input, in mu, in sigma and in the peaks of heatmaps."""
    mu = (straight.mu + flip(mirrored.mu, joint_set)) / 2
    if straight.peak is not None and mirrored.peak is not None:
        return Prediction(mu, peak=(straight.peak + mirror_joints(mirrored.peak[..., None], joint_set)[..., 0]) / 2)
    if straight.sigma is None or mirrored.sigma is None:
        return Prediction(mu)
    log_sigma = ((straight.sigma + mirror_joints(mirrored.sigma, joint_set)) / 2).log()
    return Prediction(mu, log_sigma, straight.turn)


@torch.no_grad()
def evaluate_poses(objective: Objective, poses: PoseSet, prediction: Prediction) -> dict[str, Any]:
    """The numbers of `pose_errors.pose_report` and `bones.bone_report`, ``nll``, and ``sigma_error_r`` given a sigma.

    ``nll`` is the normalised negative log-likelihood per joint, in nats for positions in metres. ``sigma_error_r`` is
    Pearson's r between a joint's mean sigma and its error. Both leave out the joints whose position is known.
    """
    errors = joint_errors(prediction.mu, poses.target)
    report = pose_report(errors, poses.action, poses.actions, poses.joint_set.joints)
    frames = torch.tensor([clip.stop - clip.start for clip in poses.clips], device=prediction.mu.device)
    report |= bone_report(prediction.mu, poses.joint_set, torch.repeat_interleave(frames))
    free, target = objective.free(prediction, poses.target)
    report["nll"] = -float(objective.likelihood.log_prob(free, target).mean())
    if free.sigma is not None:
        report["sigma_error_r"] = pearson(free.sigma.mean(-1), (free.mu - target).norm(dim=-1))
    return report
