"""Other people, other cameras and a detector's mistakes: labels stay exact, and missing joints are told as missing."""

from dataclasses import fields
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from lifting.command import InputError
from lifting.config import DataConfig, PoseAugmentConfig, load_config
from lifting.datasets import pose_augment
from lifting.datasets.pose_augment import detected, on_the_same_floor, other_cameras, other_people, seen_from
from lifting.datasets.pose_batches import PoseBatches
from lifting.datasets.poses import PoseSet, load_poses, load_split
from lifting.datasets.store import PoseStore
from lifting.geometry.cameras import normalise_screens
from lifting.geometry.skeleton import COCO17, H36M17, JointSet
from lifting.geometry.views import Views, rotation_to_ray

CAMERAS = PoseAugmentConfig(cameras=True)
EVERYTHING = PoseAugmentConfig(
    cameras=True, bones=0.1, stature=0.05, noise=0.03, misses=0.02, swaps=0.1, missing=0.3, scores=0.5
)


@pytest.fixture
def poses(small_store: Path) -> PoseSet:
    with PoseStore(small_store) as store:
        return load_poses(store, ("S1", "S9"), stride=5)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def lengths(points: torch.Tensor, joint_set: JointSet) -> torch.Tensor:
    """(B, bones)."""
    parents, children = zip(*joint_set.bones, strict=True)
    bones = points[:, list(children)] - points[:, list(parents)]
    found: torch.Tensor = bones.norm(dim=-1)
    return found


@pytest.mark.parametrize("joint_set", [H36M17, COCO17], ids=lambda s: s.name)
def test_other_people_have_other_bones_and_the_same_directions(joint_set: JointSet) -> None:
    points = torch.randn(200, 17, 3, dtype=torch.float64)
    points -= points[:, joint_set.root, None].clone()
    changed = other_people(points, PoseAugmentConfig(bones=0.1, stature=0.05), joint_set)
    ratio = lengths(changed, joint_set) / lengths(points, joint_set)
    assert ratio.min() > 0.9 * 0.95
    assert ratio.max() < 1.1 * 1.05
    assert ratio.std(0).min() > 0.03  # every bone changes
    mirrored = [child for _, child in joint_set.bones]
    for at, child in enumerate(mirrored):
        torch.testing.assert_close(ratio[:, at], ratio[:, mirrored.index(joint_set.mirror[child])])
    for parent, child in joint_set.bones:
        before, after = (p[:, child] - p[:, parent] for p in (points, changed))
        torch.testing.assert_close(torch.linalg.cross(before, after), torch.zeros_like(before))
        assert ((before * after).sum(-1) > 0).all()


def test_other_people_stand_where_the_person_stood(poses: PoseSet) -> None:
    """Seen by the old cameras, the lowest joint keeps its height, and the root its place on the floor."""
    batches = PoseBatches(poses, 64, flip=False, augment=PoseAugmentConfig(bones=0.1, stature=0.1))
    rows = torch.arange(64)
    with mock.patch("lifting.datasets.pose_batches.seen_from", wraps=seen_from) as watched:
        _, target = batches._augmented(rows, poses.target[rows])
    to_world = poses.scene.views[poses.scene.camera[rows]].R
    old, root = poses.scene.root[rows], watched.call_args.args[1]
    lowest = [
        ((points + at[:, None]) @ to_world)[..., 2].amin(1)
        for points, at in ((poses.target[rows], old), (target, root))
    ]
    torch.testing.assert_close(lowest[1], lowest[0], atol=1e-5, rtol=0)
    moved = ((root - old)[:, None] @ to_world)[:, 0]
    torch.testing.assert_close(moved[:, :2], torch.zeros(64, 2), atol=1e-5, rtol=0)
    assert moved[:, 2].abs().max() > 0.03
    up = to_world[..., 2]
    same = on_the_same_floor(old, up, poses.target[rows], poses.target[rows])
    torch.testing.assert_close(same, old)


def test_other_cameras_are_within_their_ranges() -> None:
    views, root = other_cameras(5000, CAMERAS, torch.zeros(1))
    eye = torch.eye(3).expand(5000, 3, 3)
    torch.testing.assert_close(views.R @ views.R.mT, eye, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(views.R), torch.ones(5000))
    looks_down = torch.rad2deg(torch.asin(-views.R[:, 2, 2]))  # the last row is where the camera looks; z is up
    low, high = CAMERAS.elevation
    usual = (looks_down >= low - 0.1) & (looks_down <= high + 0.1)
    assert 0.9 < usual.float().mean() < 0.98  # some of those from anywhere are in the usual range, too
    ahead = views.R[:, 2]
    azimuth = torch.atan2(ahead[:, 1], ahead[:, 0])
    assert torch.histc(azimuth, 8, -torch.pi, torch.pi).min() > 500
    focal = views.focal / views.size[:, :1]
    assert focal.min() >= CAMERAS.focal[0] - 1e-4
    assert focal.max() <= CAMERAS.focal[1] + 1e-4
    distance = root.norm(dim=1)
    assert distance.min() >= CAMERAS.distance[0] - 1e-4
    assert distance.max() <= CAMERAS.distance[1] + 1e-3
    pixel = views.project(root[:, None])[:, 0]
    assert ((pixel > 0) & (pixel < views.size)).all()  # a person's pelvis is in the picture


@pytest.mark.parametrize("cameras", [True, False], ids=["new", "old"])
@pytest.mark.parametrize("person", [True, False], ids=["person", "screen"])
def test_keypoints_are_projections_of_the_changed_joints(poses: PoseSet, cameras: bool, person: bool) -> None:
    """With people and cameras changed and no detector, the 3D joints project onto the keypoints."""
    chosen = poses.relative_to_rays() if person else poses
    config = PoseAugmentConfig(cameras=cameras, bones=0.1, stature=0.05)
    batches = PoseBatches(chosen, 64, flip=False, augment=config)
    seen: list[tuple[Views, torch.Tensor]] = []
    original = seen_from
    with pytest.MonkeyPatch.context() as patch:

        def watched(views: Views, root: torch.Tensor, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            placed, uv = original(views, root, points)
            seen.append((views, placed))
            return placed, uv

        patch.setattr("lifting.datasets.pose_batches.seen_from", watched)
        batch = next(batches.epoch(0))
    views, placed = seen[0]
    target = placed - placed[:, :1]
    if person:
        target = target @ rotation_to_ray(placed[:, 0]).mT
        torch.testing.assert_close(
            batch.input[..., 2], torch.ones_like(batch.input[..., 2]) * batch.input[..., 2].round()
        )
    torch.testing.assert_close(batch.target, target, atol=1e-5, rtol=0)
    again = normalise_screens(views.project(placed), views.size)
    torch.testing.assert_close(batch.input[..., :2], again)
    before = lengths(poses.target, H36M17).mean(0)
    assert not torch.allclose(lengths(batch.target, H36M17).mean(0), before, atol=1e-4)


def test_without_changes_old_cameras_give_the_keypoints_of_the_set(poses: PoseSet) -> None:
    """The slow twin: the batched projection is that of each clip's own camera."""
    nothing = PoseAugmentConfig(stature=1e-9)  # goes through the whole path and changes nothing
    straight = next(PoseBatches(poses, 64, flip=True).epoch(0))
    through = next(PoseBatches(poses, 64, flip=True, augment=nothing).epoch(0))
    torch.testing.assert_close(through.input, straight.input, atol=1e-5, rtol=0)
    torch.testing.assert_close(through.target, straight.target, atol=1e-5, rtol=0)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5])
def test_a_share_of_the_poses_stays_as_it_is_mirrored_or_not(poses: PoseSet, share: float) -> None:
    rays = poses.relative_to_rays()
    straight = next(PoseBatches(rays, 200, flip=True).epoch(0))
    config = EVERYTHING.model_copy(update={"unchanged": share})
    batch = next(PoseBatches(rays, 200, flip=True, augment=config).epoch(0))
    same = (batch.input == straight.input).all(-1).all(-1)
    torch.testing.assert_close(same, (batch.target == straight.target).all(-1).all(-1))
    assert same.float().mean() == pytest.approx(share, abs=0.01)
    assert same[:100].float().mean() == pytest.approx(share, abs=0.02)  # the first half is mirrored


def test_the_ray_frame_is_the_smallest_turn_to_the_ray(poses: PoseSet) -> None:
    rays = poses.relative_to_rays()
    assert rays.keypoints.shape[-1] == 3
    torch.testing.assert_close(rays.in_camera_frame(rays.target), poses.target, atol=1e-5, rtol=0)
    ray = torch.nn.functional.normalize(torch.randn(100, 3, dtype=torch.float64), dim=-1)
    ray[:, 2] = ray[:, 2].abs()
    ray = torch.nn.functional.normalize(ray, dim=-1)
    R = rotation_to_ray(3 * ray)
    ahead = torch.tensor([0.0, 0, 1], dtype=torch.float64)
    torch.testing.assert_close((R @ ray[..., None])[..., 0], ahead.expand(100, 3))
    torch.testing.assert_close(torch.linalg.det(R), torch.ones(100, dtype=torch.float64))
    angle = torch.arccos((torch.diagonal(R, dim1=1, dim2=2).sum(1) - 1) / 2)
    torch.testing.assert_close(angle, torch.arccos(ray[:, 2]))  # no turn about the ray itself


def test_a_person_too_close_is_moved_back_along_his_ray() -> None:
    config = PoseAugmentConfig(cameras=True, distance=(0.5, 0.5))
    views, root = other_cameras(200, config, torch.zeros(1))
    points = torch.randn(200, 17, 3)
    points[:, 0] = 0
    placed, uv = seen_from(views, root, points)
    assert placed[..., 2].min() >= pose_augment.NEAREST - 1e-4
    assert uv.isfinite().all()
    torch.testing.assert_close(torch.linalg.cross(placed[:, 0], root), torch.zeros(200, 3), atol=1e-4, rtol=0)


def detect(count: int = 4000, **changes: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The true pixels, the detected ones and the confidence of people 500 pixels tall."""
    uv = 500 * torch.rand(count, 17, 2)
    return uv, *detected(uv, torch.full((count,), 500.0), PoseAugmentConfig(**changes), H36M17)


def test_a_perfect_detector_changes_nothing() -> None:
    uv, found, confidence = detect()
    assert torch.equal(found, uv)
    assert (confidence == 1).all()


def test_noise_has_a_level_for_each_pose() -> None:
    uv, found, _ = detect(noise=0.03)
    spread = (found - uv).pow(2).mean((1, 2)).sqrt() / 500
    assert spread.mean().item() == pytest.approx(0.03 / 3, rel=0.1)  # the mean of a squared uniform number
    assert spread.std().item() > 0.005
    assert ((found - uv).flatten()).abs().mean() < 500 * 0.015


def test_misses_are_far_and_few_and_the_score_tells_most() -> None:
    uv, found, confidence = detect(misses=0.1, scores=1.0)
    far = (found != uv).any(-1)
    assert far.float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert (confidence[far] < 0.5).float().mean().item() == pytest.approx(pose_augment.TELLING, abs=0.05)
    assert (confidence[~far] > 0.5).all()


def test_swaps_exchange_arms_or_legs_or_both() -> None:
    uv, found, _ = detect(swaps=0.5)
    moved = (found != uv).any(-1)
    mirrored = uv[:, list(H36M17.mirror)]
    assert torch.equal(found[moved], mirrored[moved])
    arms, legs = moved[:, H36M17.joints.index("left_wrist")], moved[:, H36M17.joints.index("left_ankle")]
    assert (arms | legs).float().mean().item() == pytest.approx(0.5, abs=0.03)
    for kind in (arms & ~legs, legs & ~arms, arms & legs):
        assert kind.float().mean().item() == pytest.approx(1 / 6, abs=0.03)
    midline = [j for j, m in enumerate(H36M17.mirror) if j == m]
    assert not moved[:, midline].any()


def test_half_of_the_poses_miss_joints() -> None:
    _, _, confidence = detect(missing=0.4)
    missing = (confidence == 0).float().mean(1)
    assert (missing == 0).float().mean().item() == pytest.approx(0.55, abs=0.05)
    legs = [j for j, name in enumerate(H36M17.joints) if name.endswith(("knee", "ankle"))]
    legless = (confidence[:, legs] == 0).all(1).float().mean().item()
    assert legless == pytest.approx(0.5 * pose_augment.LEGLESS, abs=0.02)


def test_an_augmented_batch_is_finite_and_masks_what_is_outside(poses: PoseSet) -> None:
    batches = PoseBatches(poses.relative_to_rays(), 256, flip=True, augment=EVERYTHING)
    one, two = (next(batches.epoch(0)) for _ in range(2))
    assert one.input.isfinite().all()
    assert one.target.isfinite().all()
    assert not torch.equal(one.input, two.input)  # new in each epoch
    uv, confidence = one.input[..., :2], one.input[..., 2]
    assert (uv[..., 0][confidence > 0].abs() <= 1).all()
    assert 0.05 < (confidence == 0).float().mean() < 0.5
    assert (one.target[:, 0] == 0).all()


def test_missing_joints_of_a_test_set_are_fixed(small_store: Path) -> None:
    config = DataConfig(test_subjects=("S9",), test_stride=20, missing=0.2)
    one, two = (load_split(config, str(small_store), train=False, model_input="person").keypoints for _ in range(2))
    assert torch.equal(one, two)
    assert (one[..., 2] == 0).float().mean().item() == pytest.approx(0.2, abs=0.03)


def test_a_network_without_a_mask_cannot_be_told_of_missing_joints(small_store: Path) -> None:
    for config in (DataConfig(missing=0.1), DataConfig(augment=PoseAugmentConfig(missing=0.1))):
        with pytest.raises(InputError, match=r"missing.*model.input person"):
            load_split(config, str(small_store), train=False)


def test_several_files_are_one_set(small_store: Path) -> None:
    with PoseStore(small_store) as one, PoseStore(small_store) as two:
        alone, both = load_poses(one, ("S1",), 20), load_poses([one, two], ("S1",), 20)
    assert len(both) == 2 * len(alone)
    assert both.clips[-1].stop == len(both)
    for field in fields(alone.scene.views):
        again = getattr(both.scene.views, field.name)[both.scene.camera]
        np.testing.assert_array_equal(again[: len(alone)], again[len(alone) :])
    with PoseStore(small_store) as store, pytest.raises(InputError, match="S77"):
        load_poses([store, store], ("S1", "S77"), 20)


def test_augmentation_is_not_mixed_with_detections(small_store: Path) -> None:
    """It projects the changed joints, so a detector's keypoints would be ignored in silence."""
    config = DataConfig(augment=PoseAugmentConfig(stature=0.05), train_subjects=("S1",), keypoints="cpn")
    with pytest.raises(InputError, match=r"expected data.keypoints gt in training, got cpn"):
        load_split(config, str(small_store), train=True)


def test_noise_in_pixels_is_that_of_cameras_that_stay(small_store: Path, poses: PoseSet) -> None:
    for augment in (CAMERAS, PoseAugmentConfig(stature=0.05, noise=0.01)):
        config = DataConfig(augment=augment, train_subjects=("S1",), noise_px=5.0)
        with pytest.raises(InputError, match=r"expected data.noise_px 0 in training, got 5"):
            load_split(config, str(small_store), train=True)
    people = PoseAugmentConfig(stature=0.05, bones=0.05)
    load_split(DataConfig(augment=people, train_subjects=("S1",), noise_px=5.0), str(small_store), train=True)
    batches = []
    for noise_px in (0.0, 5.0):
        torch.manual_seed(0)
        (batch,) = PoseBatches(poses, len(poses), flip=False, noise_px=noise_px, augment=people).epoch(0)
        batches.append(batch)
    clean, noisy = batches
    assert torch.equal(noisy.target, clean.target)
    assert ((noisy.input - clean.input) * 500).std().item() == pytest.approx(5, rel=0.05)  # pictures 1000 pixels wide


@pytest.mark.parametrize(
    "override", ["distance=[0, 5]", "height=[-1, 5]", "focal=[0, 0]", "elevation=[-90, 500]", "distance=[5, 2]"]
)
def test_ranges_that_no_camera_has_are_refused(override: str) -> None:
    with pytest.raises(InputError, match=f"data.augment.{override.partition('=')[0]}"):
        load_config(None, [f"data.augment.{override}"])
