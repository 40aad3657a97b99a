"""Keypoints and their 3D joints as tensors that live on the training device; a batch is an index into them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lifting.command import InputError
from lifting.config import DataConfig
from lifting.datasets.store import GROUND_TRUTH, PoseStore
from lifting.geometry.cameras import Camera, normalise_screen
from lifting.geometry.h36m import WRONG_S9, action_of
from lifting.geometry.joint_maps import flip
from lifting.geometry.skeleton import JointSet
from lifting.prediction import Batch


@dataclass(frozen=True)
class Clip:
    """One sequence seen by one camera: rows ``start`` to ``stop`` of a `PoseSet`."""

    subject: str
    sequence: str
    camera: str
    start: int
    stop: int

    def __str__(self) -> str:
        return f"{self.subject} {self.sequence}, camera {self.camera}"


@dataclass(frozen=True)
class PoseSet:
    """Every chosen frame of the chosen subjects, seen by each of their cameras.

    Attributes:
        keypoints: (N, J, 2) float32, normalised screen coordinates.
        target: (N, J, 3) float32, metres, camera frame, relative to the root.
        pixel: (N, 1, 1) float32, the size of one pixel in the units of ``keypoints``.
        action: (N,) int64, index into ``actions``.
        actions: names of sequences without their number.
        clips: in the order of their rows.
        joint_set: the J joints.
        stride: frames of the file from one row of a clip to the next.
    """

    keypoints: Tensor
    target: Tensor
    pixel: Tensor
    action: Tensor
    actions: list[str]
    clips: list[Clip]
    joint_set: JointSet
    stride: int

    def __len__(self) -> int:
        return len(self.target)

    def to(self, device: torch.device) -> "PoseSet":
        moved = {name: getattr(self, name).to(device) for name in ("keypoints", "target", "pixel", "action")}
        return replace(self, **moved)

    def with_noise(self, pixels: float, generator: torch.Generator) -> "PoseSet":
        """The same poses with Gaussian noise of this many pixels on every keypoint."""
        noise = torch.randn(self.keypoints.shape, generator=generator).to(self.keypoints.device)
        return replace(self, keypoints=self.keypoints + pixels * self.pixel * noise)


def load_poses(
    store: PoseStore,
    subjects: tuple[str, ...],
    stride: int,
    keypoints: str = GROUND_TRUTH,
    *,
    actions: tuple[str, ...] = (),
    cameras: tuple[str, ...] = (),
    drop_wrong_s9: bool = False,
) -> PoseSet:
    """Reads poses and, for ``gt``, projects them. A frame with a 2D or 3D joint that is not finite is an error.

    Args:
        stride: read every ``stride``-th frame.
        keypoints: ``gt`` (projected positions), or a detector of the store.
        actions, cameras: see `chosen_names`; an action is the name of a sequence without its number.
        drop_wrong_s9: leave out `h36m.WRONG_S9`.

    Raises:
        InputError: the store does not have a subject, detector, action or camera; nothing is left; a joint is not
            finite, or behind a camera.
    """
    there = {subject: (store.sequences(subject), store.cameras(subject)) for subject in subjects}
    where = f"{store.path}: {', '.join(subjects)}"
    all_actions = {action_of(sequence) for sequences, _ in there.values() for sequence in sequences}
    kept_actions = chosen_names(actions, all_actions, f"{where}: actions")
    kept_cameras = chosen_names(cameras, {name for _, named in there.values() for name in named}, f"{where}: cameras")
    chosen = [
        (subject, sequence, kept)
        for subject, (sequences, named) in there.items()
        if (kept := {name: camera for name, camera in named.items() if name in kept_cameras})
        for sequence in sequences
        if action_of(sequence) in kept_actions
        if not (drop_wrong_s9 and subject == "S9" and sequence in WRONG_S9)
    ]
    if not chosen:
        raise InputError(f"{where}: no sequence has the chosen actions and cameras")
    return _read(store, chosen, stride, keypoints)


def chosen_names(wanted: tuple[str, ...], there: set[str], where: str) -> set[str]:
    """The names in ``there`` that ``wanted`` selects.

    Entries such as ``name`` select that name only; entries such as ``-name`` exclude it. Without any of the first kind,
    all names are selected but the excluded ones.

    Raises:
        InputError: an entry names something that is not in ``there``.
    """
    for name in wanted:
        if name.removeprefix("-") not in there:
            raise InputError(f"{where}: expected one of {', '.join(sorted(there))}, got {name!r}")
    return {name for name in there if _is_chosen(name, wanted)}


def _is_chosen(name: str, wanted: tuple[str, ...]) -> bool:
    named = {other for other in wanted if not other.startswith("-")}
    return (not named or name in named) and f"-{name}" not in wanted


def trained_on(config: DataConfig, clips: Iterable[Clip]) -> list[Clip]:
    """The clips whose subject, action and camera the configuration trains on. Only names are compared."""
    return [
        clip
        for clip in clips
        if clip.subject in config.train_subjects
        and _is_chosen(action_of(clip.sequence), config.train_actions)
        and _is_chosen(clip.camera, config.train_cameras)
    ]


def _read(store: PoseStore, chosen: list[tuple[str, str, dict[str, Camera]]], stride: int, keypoints: str) -> PoseSet:
    uvs, targets, pixels, actions, clips = [], [], [], [], []
    names: dict[str, int] = {}
    start, root = 0, store.joint_set.root
    for subject, sequence, cameras in chosen:
        world = torch.from_numpy(store.positions(subject, sequence)[::stride]).double()
        action = names.setdefault(action_of(sequence), len(names))
        for name, camera in cameras.items():
            points = camera.world_to_camera(world)
            if keypoints == GROUND_TRUTH:
                uv = camera.project(points)
            else:
                uv = torch.from_numpy(store.keypoints(subject, sequence, name, keypoints)[::stride]).double()
            where = f"{store.path}: {subject} {sequence}, camera {name}"
            if not (uv.isfinite().all() and points.isfinite().all()):
                raise InputError(f"{where}: expected finite keypoints of people in front of the camera, got others")
            n = len(world)
            uvs.append(normalise_screen(uv, camera.size).float())
            targets.append((points - points[:, root : root + 1]).float())
            pixels.append(torch.full((n, 1, 1), 2 / camera.size[0]))
            actions.append(torch.full((n,), action))
            clips.append(Clip(subject, sequence, name, start, start + n))
            start += n
    return PoseSet(
        keypoints=torch.cat(uvs),
        target=torch.cat(targets),
        pixel=torch.cat(pixels),
        action=torch.cat(actions),
        actions=list(names),
        clips=clips,
        joint_set=store.joint_set,
        stride=stride,
    )


def load_split(config: DataConfig, path: str, *, train: bool) -> PoseSet:
    """The training or the test poses of a configuration. Test poses already have their noise, which is always the same.

    Raises:
        InputError: see `load_poses`.
    """
    if train:
        subjects, actions, cameras = config.train_subjects, config.train_actions, config.train_cameras
    else:
        subjects, actions, cameras = config.test_subjects, config.test_actions, config.test_cameras
    with PoseStore(path) as store:
        poses = load_poses(
            store,
            subjects,
            config.stride if train else config.test_stride,
            config.keypoints,
            actions=actions,
            cameras=cameras,
            drop_wrong_s9=config.drop_wrong_s9,
        )
    if config.noise_px and not train:
        poses = poses.with_noise(config.noise_px, torch.Generator().manual_seed(0))
    return poses


class PoseBatches:
    """Shuffled batches of a `PoseSet`, made on its device: half of each batch mirrored, fresh noise on the keypoints.

    Every rank draws the same permutation and takes its own part of each batch. An incomplete last batch is dropped,
    since batch norm needs full ones. A set smaller than ``batch_size`` is one batch.

    Args:
        poses: the training set, on its device.
        batch_size: poses per batch, over all ranks.
        flip: mirror half of each batch.
        noise_px: standard deviation of the noise in pixels.
        rank, world: this rank, which selects its part of each batch, and the number of ranks.

    Raises:
        InputError: a rank would get fewer than two poses of a batch, too few for the variance that batch norm takes.
    """

    def __init__(
        self, poses: PoseSet, batch_size: int, *, flip: bool, noise_px: float = 0.0, rank: int = 0, world: int = 1
    ) -> None:
        self.poses, self.flip, self.noise_px = poses, flip, noise_px
        self.batch_size = min(batch_size, len(poses))
        self.rank, self.world = rank, world
        if self.batch_size < 2 * world:
            raise InputError(
                f"train.batch_size: expected {2 * world} poses or more, two for each rank, "
                f"got {self.batch_size} in a batch"
            )

    def __len__(self) -> int:
        return len(self.poses) // self.batch_size

    def epoch(self, seed: int) -> Iterator[Batch]:
        """One pass over the poses, in an order that ``seed`` determines."""
        order = torch.randperm(len(self.poses), generator=torch.Generator().manual_seed(seed))
        for rows in torch.split(order.to(self.poses.target.device), self.batch_size)[: len(self)]:
            yield self._batch(rows[self.rank :: self.world])

    def _batch(self, rows: Tensor) -> Batch:
        poses = self.poses
        uv, target = poses.keypoints[rows], poses.target[rows]
        if self.flip:
            half = len(rows) // 2
            uv = torch.cat([flip(uv[:half], poses.joint_set), uv[half:]])
            target = torch.cat([flip(target[:half], poses.joint_set), target[half:]])
        if self.noise_px:
            uv = uv + self.noise_px * poses.pixel[rows] * torch.randn_like(uv)
        return Batch(uv, target)
