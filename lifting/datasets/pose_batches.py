"""Batches of a `PoseSet`: shuffled, mirrored, hurt by noise, or changed by `pose_augment`, all of it on the device."""

from collections.abc import Iterator

import torch
from torch import Tensor

from lifting.command import InputError
from lifting.config import PoseAugmentConfig
from lifting.datasets.pose_augment import STATURE, detected, on_the_same_floor, other_cameras, other_people, seen_from
from lifting.datasets.poses import PoseSet
from lifting.geometry.cameras import normalise_screens
from lifting.geometry.joint_maps import flip
from lifting.geometry.views import rotation_to_ray
from lifting.prediction import Batch

UNCHANGED = PoseAugmentConfig()


class PoseBatches:
    """Shuffled batches of a `PoseSet`, made on its device: half of each batch mirrored, fresh noise on the keypoints.

    Every rank draws the same permutation and takes its own part of each batch. An incomplete last batch is dropped,
    since batch norm needs full ones. A set smaller than ``batch_size`` is one batch.

    Args:
        poses: the training set, on its device.
        batch_size: poses per batch, over all ranks.
        flip: mirror half of each batch.
        noise_px: standard deviation of the noise in pixels.
        missing: share of keypoints that are missing.
        augment: further changes, see `pose_augment`.
        rank, world: this rank, which selects its part of each batch, and the number of ranks.

    Raises:
        InputError: a rank would get fewer than two poses of a batch, too few for the variance that batch norm takes.
    """

    def __init__(
        self,
        poses: PoseSet,
        batch_size: int,
        *,
        flip: bool,
        noise_px: float = 0.0,
        missing: float = 0.0,
        augment: PoseAugmentConfig = UNCHANGED,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.poses, self.flip, self.noise_px, self.missing, self.augment = poses, flip, noise_px, missing, augment
        self.batch_size = min(batch_size, len(poses))
        self.rank, self.world = rank, world
        if self.batch_size < 2 * world:
            raise InputError(
                f"train.batch_size: expected {2 * world} poses or more, two for each rank, "
                f"got {self.batch_size} in a batch"
            )

    def __len__(self) -> int:
        return len(self.poses) // self.batch_size

    def epoch(self, seed: int, start: int = 0) -> Iterator[Batch]:
        """One pass over the poses, in an order that ``seed`` determines, from batch ``start`` on."""
        order = torch.randperm(len(self.poses), generator=torch.Generator().manual_seed(seed))
        for rows in torch.split(order.to(self.poses.target.device), self.batch_size)[start : len(self)]:
            yield self._batch(rows[self.rank :: self.world])

    def _batch(self, rows: Tensor) -> Batch:
        poses = self.poses
        # Copies whole rows: three times as fast as poses.keypoints[rows] on a CPU, which copies number by number.
        keypoints, target = poses.keypoints.index_select(0, rows), poses.target.index_select(0, rows)
        if self.augment.changes:
            share = self.augment.unchanged
            place = torch.arange(len(rows), device=target.device)[:, None, None]
            same = place * share % 1 < share  # spread over the batch: the first half of it is mirrored
            changed_keypoints, changed_target = self._augmented(rows, target)
            keypoints = torch.where(same, keypoints, changed_keypoints)
            target = torch.where(same, target, changed_target)
        if self.flip:
            half = len(rows) // 2
            keypoints[:half] = flip(keypoints[:half], poses.joint_set)
            target[:half] = flip(target[:half], poses.joint_set)
        if self.noise_px or self.missing:
            uv, confidence = keypoints[..., :2], keypoints[..., 2:]
            uv = uv + self.noise_px * poses.pixel[rows] * torch.randn_like(uv)
            confidence = confidence * (torch.rand_like(confidence) >= self.missing)
            keypoints = torch.cat([uv, confidence], -1)
        return Batch(keypoints, target)

    def _augmented(self, rows: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Keypoints and target of these rows as `pose_augment` changes them; ``target`` is the unchanged one."""
        poses, config, scene = self.poses, self.augment, self.poses.scene
        root, views = scene.root[rows], scene.views[scene.camera[rows]]
        before = target @ rotation_to_ray(root) if poses.has_mask else target
        points = other_people(before, config, poses.joint_set)
        if config.cameras:
            old, (views, root) = views, other_cameras(len(rows), config, points)
            points = points @ old.R @ views.R.mT
        else:
            up = views.R[..., 2]  # the world's z axis in the camera frame
            root = on_the_same_floor(root, up, before, points)
        placed, uv = seen_from(views, root, points)
        person = STATURE * views.focal.mean(1) / placed[:, poses.joint_set.root].norm(dim=1)
        uv, confidence = detected(uv, person, config, poses.joint_set)
        keypoints = normalise_screens(uv, views.size)
        if not poses.has_mask:
            return keypoints, placed - placed[:, poses.joint_set.root, None]
        inside = ((uv >= 0) & (uv < views.size[:, None])).all(-1)
        keypoints = torch.cat([keypoints, (confidence * inside)[..., None]], -1)
        return keypoints, points @ rotation_to_ray(root).mT
