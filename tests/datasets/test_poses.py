"""Poses on the device: projection, batches, noise, mirror images, ranks."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from lifting.command import InputError
from lifting.config import DataConfig
from lifting.datasets.pose_batches import PoseBatches
from lifting.datasets.poses import PoseSet, load_poses, load_split, trained_on
from lifting.datasets.store import PoseStore
from lifting.geometry.cameras import normalise_screen
from lifting.geometry.joint_maps import flip
from lifting.geometry.skeleton import H36M17
from lifting.geometry.views import rotation_to_ray


@pytest.fixture
def poses(small_store: Path) -> PoseSet:
    with PoseStore(small_store) as store:
        return load_poses(store, ("S1", "S9"), stride=50)


def test_rows_are_the_frames_of_the_store(small_store: Path, poses: PoseSet) -> None:
    with PoseStore(small_store) as store:
        for clip in poses.clips:
            camera = store.cameras(clip.subject)[clip.camera]
            frames = store.positions(clip.subject, clip.sequence)
            for row, frame in zip(range(clip.start, clip.stop), range(0, len(frames), 50), strict=True):
                point = camera.world_to_camera(torch.from_numpy(frames[frame]).double())
                torch.testing.assert_close(poses.target[row], (point - point[0]).float())
                uv = normalise_screen(camera.project(point), camera.size).float()
                torch.testing.assert_close(poses.keypoints[row], uv)
                assert poses.actions[int(poses.action[row])] == clip.sequence.split()[0]
    assert len(poses) == poses.clips[-1].stop
    assert {clip.subject for clip in poses.clips} == {"S1", "S9"}


def of_all_clips(stores: list[PoseStore], poses: PoseSet) -> dict[str, torch.Tensor]:
    """The slow twin of `load_poses`: every clip alone, then all of them joined."""
    parts: dict[str, list[torch.Tensor]] = {name: [] for name in ("keypoints", "target", "root", "pixel", "R")}
    for store in stores:
        for subject, sequence in dict.fromkeys((clip.subject, clip.sequence) for clip in poses.clips):
            world = torch.from_numpy(store.positions(subject, sequence)[:: poses.stride]).double()
            for camera in store.cameras(subject).values():
                points = camera.world_to_camera(world)
                parts["keypoints"].append(normalise_screen(camera.project(points), camera.size).float())
                parts["target"].append((points - points[:, :1]).float())
                parts["root"].append(points[:, 0].float())
                parts["pixel"].append(torch.full((len(points), 1, 1), 2 / camera.size[0]))
                parts["R"].append(camera.R.float().expand(len(points), 3, 3))
    return {name: torch.cat(tensors) for name, tensors in parts.items()}


@pytest.mark.parametrize("stride", [1, 7])
def test_a_set_has_the_bits_of_its_clips(small_store: Path, stride: int) -> None:
    with PoseStore(small_store) as one, PoseStore(small_store) as two:
        poses = load_poses([one, two], ("S1",), stride)
        expected = of_all_clips([one, two], poses)
    found = {name: getattr(poses, name) for name in ("keypoints", "target", "pixel")}
    found |= {"root": poses.scene.root, "R": poses.scene.views.R[poses.scene.camera]}
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
        assert found[name].dtype == tensor.dtype and found[name].is_contiguous(), name
    for clip in poses.clips:
        actions = {poses.actions[i] for i in poses.action[clip.start : clip.stop].tolist()}
        assert actions == {clip.sequence.split()[0]}


def test_turning_a_part_at_a_time_to_the_rays_changes_no_bit(poses: PoseSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lifting.datasets.poses.ROWS", 7)
    rays = poses.relative_to_rays()
    assert torch.equal(rays.target, poses.target @ rotation_to_ray(poses.scene.root).mT)
    ones = torch.ones_like(poses.keypoints[..., :1])
    assert torch.equal(rays.keypoints, torch.cat([poses.keypoints, ones], -1))


@pytest.mark.parametrize("size", [10, 11])
def test_a_batch_has_the_bits_of_its_rows(poses: PoseSet, size: int) -> None:
    """The slow twin: rows by plain indexing, mirrored and joined; the set itself stays as it was."""
    before = poses.keypoints.clone(), poses.target.clone()
    order = torch.randperm(len(poses), generator=torch.Generator().manual_seed(5))
    batches = list(PoseBatches(poses, size, flip=True).epoch(seed=5))
    for batch, rows in zip(batches, torch.split(order, size), strict=False):
        for found, whole in ((batch.input, poses.keypoints), (batch.target, poses.target)):
            mirrored, straight = whole[rows[: size // 2]], whole[rows[size // 2 :]]
            assert torch.equal(found, torch.cat([flip(mirrored, H36M17), straight]))
    assert torch.equal(poses.keypoints, before[0]) and torch.equal(poses.target, before[1])


def test_an_epoch_sees_each_pose_once(poses: PoseSet) -> None:
    batches = PoseBatches(poses, 10, flip=False)
    seen = torch.cat([batch.target for batch in batches.epoch(seed=3)])
    assert len(seen) == len(batches) * 10
    assert len(poses) - 10 < len(seen) <= len(poses)
    assert len(torch.unique(seen.flatten(1), dim=0)) == len(seen)
    again = torch.cat([batch.target for batch in batches.epoch(seed=3)])
    other = torch.cat([batch.target for batch in batches.epoch(seed=4)])
    assert torch.equal(seen, again)
    assert not torch.equal(seen, other)


def test_half_of_a_batch_is_mirrored(poses: PoseSet) -> None:
    plain = next(PoseBatches(poses, 10, flip=False).epoch(seed=0))
    mirrored = next(PoseBatches(poses, 10, flip=True).epoch(seed=0))
    for name in ("input", "target"):
        one, other = getattr(plain, name), getattr(mirrored, name)
        torch.testing.assert_close(flip(other[:5], H36M17), one[:5])
        torch.testing.assert_close(other[5:], one[5:])
        assert not torch.allclose(other[:5], one[:5])


def test_ranks_share_a_batch(poses: PoseSet) -> None:
    whole = next(PoseBatches(poses, 10, flip=False).epoch(seed=0)).target
    parts = [next(PoseBatches(poses, 10, flip=False, rank=r, world=2).epoch(seed=0)).target for r in (0, 1)]
    torch.testing.assert_close(torch.stack(parts, 1).flatten(0, 1), whole)


def test_noise_is_in_pixels_and_fresh_in_training(poses: PoseSet) -> None:
    torch.manual_seed(0)
    batches = PoseBatches(poses, len(poses), flip=False, noise_px=5)
    plain = next(PoseBatches(poses, len(poses), flip=False).epoch(seed=0)).input
    one, two = (next(batches.epoch(seed=0)).input for _ in range(2))
    assert ((one - plain) * 500).std().item() == pytest.approx(5, rel=0.05)
    assert ((one - two) * 500).std().item() == pytest.approx(5 * 2**0.5, rel=0.05)


def test_noise_on_test_poses_is_fixed(small_store: Path) -> None:
    config = DataConfig(test_subjects=("S9",), test_stride=50, noise_px=5)
    one, two = (load_split(config, str(small_store), train=False).keypoints for _ in range(2))
    clean = load_split(config.model_copy(update={"noise_px": 0.0}), str(small_store), train=False).keypoints
    assert torch.equal(one, two)
    assert ((one - clean) * 500).std().item() == pytest.approx(5, rel=0.1)


def test_a_set_smaller_than_a_batch_is_one_batch(poses: PoseSet) -> None:
    batches = PoseBatches(poses, 10_000, flip=True)
    assert [len(batch.target) for batch in batches.epoch(seed=0)] == [len(poses)]


def test_an_error_names_what_is_absent(small_store: Path) -> None:
    with PoseStore(small_store) as store:
        with pytest.raises(InputError, match="S7"):
            load_poses(store, ("S7",), stride=1)
        with pytest.raises(InputError, match="cpn"):
            load_poses(store, ("S9",), stride=1, keypoints="cpn")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 40.0])  # at 40 m, it is behind some of the cameras
def test_joints_that_are_not_finite_or_not_in_view_are_refused(small_store: Path, tmp_path: Path, value: float) -> None:
    path = Path(shutil.copy(small_store, tmp_path))
    with h5py.File(path, "r+") as file:
        file["poses/S1/Walking/positions"][3, 5, 1] = value
    with PoseStore(path) as store:
        with pytest.raises(InputError, match=r"small.h5: S1 Walking, camera \d+: expected finite keypoints"):
            load_poses(store, ("S1",), 1)
        assert len(load_poses(store, ("S1",), 2))  # which skips the frame


def seen(poses: PoseSet) -> set[tuple[str, str, str]]:
    return {(clip.subject, clip.sequence, clip.camera) for clip in poses.clips}


def test_actions_and_cameras_are_chosen_or_left_out(small_store: Path, poses: PoseSet) -> None:
    everything = seen(poses)
    action, camera = poses.actions[0], poses.clips[0].camera
    with PoseStore(small_store) as store:
        some = load_poses(store, ("S1", "S9"), 50, actions=(action,), cameras=(camera,))
        rest = load_poses(store, ("S1", "S9"), 50, actions=("-" + action,), cameras=("-" + camera,))
    assert some.actions == [action]
    assert len(some) == some.clips[-1].stop
    assert seen(some) == {row for row in everything if row[1].split()[0] == action and row[2] == camera}
    assert seen(rest) == {row for row in everything if row[1].split()[0] != action and row[2] != camera}
    assert seen(some) and seen(rest)


def test_training_and_test_choose_actions_and_cameras_separately(small_store: Path, poses: PoseSet) -> None:
    """The cross-action and cross-camera protocols train on one and test on the others."""
    action, camera = poses.actions[0], poses.clips[0].camera
    config = DataConfig(
        train_subjects=("S1",),
        test_subjects=("S9",),
        stride=50,
        test_stride=50,
        train_actions=(action,),
        test_actions=("-" + action,),
        train_cameras=(camera,),
        test_cameras=("-" + camera,),
    )
    training, test = (load_split(config, str(small_store), train=train) for train in (True, False))
    assert training.actions == [action] and {row[2] for row in seen(training)} == {camera}
    assert action not in test.actions and len({row[2] for row in seen(test)}) == 3


@pytest.mark.parametrize(
    ("choice", "shared"),
    [
        ({}, 16),
        ({"train_subjects": ("S1",)}, 0),
        ({"train_actions": ("Walking",), "test_actions": ("-Walking",)}, 0),
        ({"train_cameras": ("54138969",), "test_cameras": ("-54138969",)}, 0),
        ({"train_actions": ("-Greeting",), "train_cameras": ("-54138969", "-55011271")}, 4),
        ({"train_actions": ("Walking", "Greeting", "-Greeting"), "test_cameras": ("54138969",)}, 2),
    ],
)
def test_training_recordings_in_the_test_are_found_by_name(
    small_store: Path, choice: dict[str, tuple[str, ...]], shared: int
) -> None:
    """The configuration alone gives the same answer as the recordings of both parts."""
    subjects = {"train_subjects": ("S1", "S9"), "test_subjects": ("S5", "S9")}
    config = DataConfig.model_validate({**subjects, "stride": 50, "test_stride": 50, **choice})
    training, test = (load_split(config, str(small_store), train=train) for train in (True, False))
    found = trained_on(config, test.clips)
    assert {(clip.subject, clip.sequence, clip.camera) for clip in found} == seen(training) & seen(test)
    assert len(found) == shared


def test_a_switch_drops_the_wrong_recordings_of_s9(small_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with PoseStore(small_store) as store:
        wrong = store.sequences("S9")[0]
        monkeypatch.setattr("lifting.datasets.poses.WRONG_S9", (wrong,))
        whole = seen(load_poses(store, ("S1", "S9"), 50))
        dropped = seen(load_poses(store, ("S1", "S9"), 50, drop_wrong_s9=True))
    assert dropped == {row for row in whole if row[:2] != ("S9", wrong)}
    assert len(dropped) == len(whole) - 4


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"actions": ("Wlking",)}, "S9: actions: expected one of .*Walking.*, got 'Wlking'"),
        ({"cameras": ("-1",)}, "S9: cameras: expected one of 54138969, .*, got '-1'"),
        ({"cameras": ("54138969", "-54138969")}, "no sequence has the chosen"),
    ],
)
def test_an_impossible_choice_is_refused(small_store: Path, choice: dict[str, tuple[str, ...]], message: str) -> None:
    with PoseStore(small_store) as store, pytest.raises(InputError, match=message):
        load_poses(store, ("S9",), 50, **choice)  # type: ignore[arg-type]
