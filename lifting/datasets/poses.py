"""Keypoints and their 3D joints as tensors that live on the training device, and how they are chosen and loaded."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lifting.command import InputError
from lifting.config import DataConfig, LifterInput
from lifting.datasets.store import GROUND_TRUTH, PoseStore
from lifting.geometry.cameras import Camera, normalise_screen
from lifting.geometry.h36m import WRONG_S9, action_of
from lifting.geometry.skeleton import JointSet
from lifting.geometry.views import Views, rotation_to_ray

ROWS = 8192  # poses that are changed at once where memory matters: what a million of them need in between is too much


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
class Scene:
    """Where the people of a `PoseSet` were, and who saw them.

    Attributes:
        root: (N, 3) float32, metres, camera frame.
        camera: (N,) int64, index into ``views``.
        views: the cameras.
    """

    root: Tensor
    camera: Tensor
    views: Views

    def to(self, device: torch.device) -> "Scene":
        return Scene(self.root.to(device), self.camera.to(device), self.views.to(device))


@dataclass(frozen=True)
class PoseSet:
    """Every chosen frame of the chosen subjects, seen by each of their cameras.

    Attributes:
        keypoints: (N, J, C) float32, normalised screen coordinates; with C = 3 also the confidence, 0 where a joint is
            missing.
        target: (N, J, 3) float32, metres, relative to the root: camera frame with C = 2, ray frame
            (`views.rotation_to_ray`) with C = 3.
        pixel: (N, 1, 1) float32, the size of one pixel in the units of ``keypoints``.
        action: (N,) int64, index into ``actions``.
        actions: names of sequences without their number.
        clips: in the order of their rows.
        joint_set: the J joints.
        stride: frames of the file from one row of a clip to the next.
        scene: where the people were.
    """

    keypoints: Tensor
    target: Tensor
    pixel: Tensor
    action: Tensor
    actions: list[str]
    clips: list[Clip]
    joint_set: JointSet
    stride: int
    scene: Scene

    def __len__(self) -> int:
        return len(self.target)

    def to(self, device: torch.device) -> "PoseSet":
        names = ("keypoints", "target", "pixel", "action", "scene")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    @property
    def has_mask(self) -> bool:
        """Whether keypoints have a confidence, and the target is in the ray frame."""
        return self.keypoints.shape[-1] == 3

    def in_camera_frame(self, points: Tensor) -> Tensor:
        """(N, J, 3) in the frame of ``target`` -> in the camera frame."""
        if not self.has_mask:
            return points
        return points @ rotation_to_ray(self.scene.root)

    def relative_to_rays(self) -> "PoseSet":
        """The same poses with a confidence, all of it one, and their target in the ray frame."""
        target = torch.empty_like(self.target)
        for new, old, root in zip(*(torch.split(x, ROWS) for x in (target, self.target, self.scene.root)), strict=True):
            torch.matmul(old, rotation_to_ray(root).mT, out=new)
        return replace(self, keypoints=nn.functional.pad(self.keypoints, (0, 1), value=1.0), target=target)

    def with_noise(self, pixels: float, generator: torch.Generator) -> "PoseSet":
        """The same poses with Gaussian noise of this many pixels on every keypoint."""
        uv = self.keypoints[..., :2]
        noise = torch.randn(uv.shape, generator=generator).to(uv.device)
        return replace(self, keypoints=torch.cat([uv + pixels * self.pixel * noise, self.keypoints[..., 2:]], -1))

    def without(self, share: float, generator: torch.Generator) -> "PoseSet":
        """The same poses with this share of all keypoints missing, chosen at random."""
        missing = (torch.rand(self.keypoints.shape[:2], generator=generator) < share).to(self.keypoints.device)
        confidence = self.keypoints[..., 2].masked_fill(missing, 0)
        return replace(self, keypoints=torch.cat([self.keypoints[..., :2], confidence[..., None]], -1))


def load_poses(
    stores: PoseStore | Sequence[PoseStore],
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
        stores: one or several, of the same joints. A subject comes from every store that has one of this name.
        stride: read every ``stride``-th frame.
        keypoints: ``gt`` (projected positions), or a detector of the store.
        actions, cameras: see `is_chosen`; an action is the name of a sequence with or without its number.
        drop_wrong_s9: leave out `h36m.WRONG_S9`.

    Raises:
        InputError: no store has a subject, detector, action or camera; the stores' joints differ; nothing is left; a
            joint is not finite, or behind a camera.
    """
    stores = [stores] if isinstance(stores, PoseStore) else list(stores)
    joints = {store.joint_set.name: store.path for store in stores}
    if len(joints) > 1:
        found = ", ".join(f"{name} in {path}" for name, path in joints.items())
        raise InputError(f"data.path: expected files of the same joints, got {found}")
    there = []
    for subject in subjects:
        having = [store for store in stores if subject in store.subjects] or stores[:1]  # the first says what is there
        there += [(store, subject, store.sequences(subject), store.cameras(subject)) for store in having]
    where = f"{' and '.join(str(store.path) for store in stores)}: {', '.join(subjects)}"
    all_sequences = {sequence for _, _, sequences, _ in there for sequence in sequences}
    check_names(actions, {action_of(sequence) for sequence in all_sequences}, f"{where}: actions", all_sequences)
    check_names(cameras, {name for *_, named in there for name in named}, f"{where}: cameras")
    chosen = [
        _Chosen(store, subject, sequence, kept)
        for store, subject, sequences, named in there
        if (kept := {name: camera for name, camera in named.items() if is_chosen((name,), cameras)})
        for sequence in sequences
        if is_chosen((action_of(sequence), sequence), actions)
        if not (drop_wrong_s9 and subject == "S9" and sequence in WRONG_S9)
    ]
    if not chosen:
        raise InputError(f"{where}: no sequence has the chosen actions and cameras")
    return _read(chosen, stride, keypoints)


class _Chosen(NamedTuple):
    store: PoseStore
    subject: str
    sequence: str
    cameras: dict[str, Camera]


def check_names(wanted: tuple[str, ...], there: set[str], where: str, also: Iterable[str] = ()) -> None:
    """Raises `InputError` if an entry, such as ``name`` or ``-name``, is neither in ``there`` nor in ``also``."""
    for name in wanted:
        if name.removeprefix("-") not in there.union(also):
            raise InputError(f"{where}: expected one of {', '.join(sorted(there))}, got {name!r}")


def is_chosen(names: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    """Whether ``wanted`` selects what has these names.

    Entries such as ``name`` select what has that name; entries such as ``-name`` exclude it. Without any of the first
    kind, everything is selected but what is excluded.
    """
    named = {other for other in wanted if not other.startswith("-")}
    return (not named or not named.isdisjoint(names)) and not any(f"-{name}" in wanted for name in names)


def trained_on(config: DataConfig, clips: Iterable[Clip]) -> list[Clip]:
    """The clips whose subject, action and camera the configuration trains on. Only names are compared."""
    return [
        clip
        for clip in clips
        if clip.subject in config.train_subjects
        and is_chosen((action_of(clip.sequence), clip.sequence), config.train_actions)
        and is_chosen((clip.camera,), config.train_cameras)
    ]


def _read(chosen: list[_Chosen], stride: int, keypoints: str) -> PoseSet:
    clips, joint_set = _clips(chosen, stride), chosen[0].store.joint_set
    rows, joints = clips[-1].stop, len(joint_set)
    # Filled clip by clip: to join the clips at the end would take the memory twice.
    uvs, targets, roots = torch.empty(rows, joints, 2), torch.empty(rows, joints, 3), torch.empty(rows, 3)
    following = iter(clips)
    for one in chosen:
        world = torch.from_numpy(one.store.positions(one.subject, one.sequence)[::stride]).double()
        for name, camera in one.cameras.items():
            points = camera.world_to_camera(world)
            if keypoints == GROUND_TRUTH:
                uv = camera.project(points)
            else:
                detected = one.store.keypoints(one.subject, one.sequence, name, keypoints)
                uv = torch.from_numpy(detected[::stride]).double()
            clip, root = next(following), points[:, joint_set.root]
            part = slice(clip.start, clip.stop)
            uvs[part], targets[part], roots[part] = normalise_screen(uv, camera.size), points - root[:, None], root
            if not (uvs[part].sum() + targets[part].sum()).isfinite():  # a sum is finite if all of its terms are
                where = f"{one.store.path}: {clip}"
                raise InputError(f"{where}: expected finite keypoints of people in front of the camera, got others")
    views = {(one.store, one.subject, name): camera for one in chosen for name, camera in one.cameras.items()}
    place = {view: i for i, view in enumerate(views)}
    camera_of = torch.tensor([place[one.store, one.subject, name] for one in chosen for name in one.cameras])
    width_of = torch.tensor([camera.size[0] for one in chosen for camera in one.cameras.values()])
    actions = list(dict.fromkeys(action_of(clip.sequence) for clip in clips))
    action_index = torch.tensor([actions.index(action_of(clip.sequence)) for clip in clips])
    frames = torch.tensor([clip.stop - clip.start for clip in clips])
    return PoseSet(
        keypoints=uvs,
        target=targets,
        pixel=(2 / width_of).repeat_interleave(frames)[:, None, None],
        action=action_index.repeat_interleave(frames),
        actions=actions,
        clips=clips,
        joint_set=joint_set,
        stride=stride,
        scene=Scene(roots, camera_of.repeat_interleave(frames), Views.of(list(views.values()))),
    )


def _clips(chosen: list[_Chosen], stride: int) -> list[Clip]:
    """A clip for each camera of each sequence, in the order of their rows."""
    clips: list[Clip] = []
    for one in chosen:
        frames = -(-one.store.frames(one.subject, one.sequence) // stride)
        for name in one.cameras:
            start = clips[-1].stop if clips else 0
            clips.append(Clip(one.subject, one.sequence, name, start, start + frames))
    return clips


def load_split(
    config: DataConfig, paths: str | Sequence[str], *, train: bool, model_input: LifterInput = "screen"
) -> PoseSet:
    """The training or the test poses of a configuration, as a network with this ``model.input`` sees them.

    Test poses already have their noise and their missing joints, which are always the same.

    Raises:
        InputError: see `load_poses`; missing joints for a network that cannot be told of them.
    """
    if model_input != "person" and (config.missing or config.augment.missing or config.augment.scores):
        raise InputError(
            f"config: data.missing and data.augment.missing, scores: expected 0 for model.input {model_input}, which "
            "is not told of missing joints; model.input person is"
        )
    if train and config.augment.changes and config.keypoints != GROUND_TRUTH:
        raise InputError(
            f"config: data.augment projects the changed joints: expected data.keypoints {GROUND_TRUTH} in training, "
            f"got {config.keypoints}; fc_rle.yaml has no augmentation"
        )
    if train and config.noise_px and (config.augment.cameras or config.augment.noise):
        raise InputError(
            "config: data.augment.cameras has pixels of its own, and data.augment.noise takes the place of "
            f"data.noise_px: with them, expected data.noise_px 0 in training, got {config.noise_px:g}"
        )
    if train:
        subjects, actions, cameras = config.train_subjects, config.train_actions, config.train_cameras
    else:
        subjects, actions, cameras = config.test_subjects, config.test_actions, config.test_cameras
    with ExitStack() as stack:
        stores = [stack.enter_context(PoseStore(path)) for path in ([paths] if isinstance(paths, str) else paths)]
        poses = load_poses(
            stores,
            subjects,
            config.stride if train else config.test_stride,
            config.keypoints,
            actions=actions,
            cameras=cameras,
            drop_wrong_s9=config.drop_wrong_s9,
        )
    if model_input == "person":
        poses = poses.relative_to_rays()
    if not train:
        generator = torch.Generator().manual_seed(0)
        poses = poses.with_noise(config.noise_px, generator) if config.noise_px else poses
        poses = poses.without(config.missing, generator) if config.missing else poses
    return poses
