"""The root from reprojection: exact on exact data, honest on noise, robust, and its camera files."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lifting.command import InputError
from lifting.geometry.cameras import Camera
from lifting.geometry.views import rotation_to_ray
from lifting.inference import root as root_file
from lifting.inference.intrinsics import Intrinsics, intrinsics_of_focal, read_intrinsics
from lifting.inference.root import Root, locate, ray_frame, with_root
from lifting.lifted import Lifted
from tests.drawing.people import FOCAL, SIZE, people

Array = NDArray[np.float64]
PINHOLE = Intrinsics((1100.0, 1120.0), (500.0, 480.0))
BENT = replace(PINHOLE, radial=(-0.2, 0.24, -0.003), tangential=(-0.001, 0.0014))


def posed(count: int = 400) -> Array:
    """(count, 17, 3) metres: people in random poses, relative to the pelvis."""
    rng = np.random.default_rng(0)
    still = people(frames=1)[1][0, 0]
    poses: Array = still + rng.normal(0, 0.08, (count, 17, 3)) * (np.arange(17) > 0)[:, None]
    return poses


def places(count: int = 400) -> Array:
    """(count, 3) metres: pelvises 2 to 8 m away, up to 40 degrees off the axis."""
    rng = np.random.default_rng(1)
    depth = rng.uniform(2, 8, count)
    sides = rng.uniform(-0.55, 0.55, (count, 2))
    return np.stack([sides[:, 0] * depth, sides[:, 1] * depth, depth], -1)


def found(poses: Array, T: Array, camera: Intrinsics, *, ray: bool, deviation: float = 0.05, **more: float) -> Root:
    turn = ray_frame(T) if ray else np.broadcast_to(np.eye(3), (len(T), 3, 3))
    joints = np.einsum("nab,njb->nja", turn, poses)
    pixels = camera.project(poses + T[:, None])
    return locate(joints, np.full_like(poses, deviation), pixels, camera, about_ray=ray, **more)


@pytest.mark.parametrize("camera", [PINHOLE, BENT])
@pytest.mark.parametrize("ray", [True, False])
def test_exact_data_give_the_exact_root(camera: Intrinsics, ray: bool) -> None:
    T = places()
    result = found(posed(), T, camera, ray=ray)
    np.testing.assert_allclose(result.position, T, atol=1e-4)
    if ray:
        np.testing.assert_allclose(result.turn, ray_frame(T), atol=1e-4)


def test_missing_joints_are_ignored_the_pelvis_too() -> None:
    poses, T = posed(), places()
    pixels = PINHOLE.project(poses + T[:, None])
    pixels[:, [0, 3, 10, 13]] = np.nan
    joints = np.einsum("nab,njb->nja", ray_frame(T), poses)
    joints[:, 13] = np.nan
    result = locate(joints, np.full_like(poses, np.nan), pixels, PINHOLE, about_ray=True)
    np.testing.assert_allclose(result.position, T, atol=1e-4)
    pixels[:, 3:] = np.nan
    assert np.isnan(locate(joints, np.full_like(poses, 0.05), pixels, PINHOLE, about_ray=True).position).all()


def test_all_keypoints_in_one_place_give_no_root() -> None:
    poses = posed(3)
    pixels = np.full((3, 17, 2), 600.0)
    assert np.isnan(locate(poses, np.full_like(poses, 0.05), pixels, PINHOLE, about_ray=False).position).all()


def test_a_keypoint_elsewhere_hardly_pulls() -> None:
    poses, T = posed(), places()
    pixels = PINHOLE.project(poses + T[:, None])
    for joint in (0, 16):
        wrong = pixels.copy()
        wrong[:, joint] += (150, -120)
        result = locate(poses, np.full_like(poses, 0.04), wrong, PINHOLE, about_ray=False, pixel_noise=3)
        off = np.linalg.norm(result.position - T, axis=-1) / T[:, 2]
        assert np.median(off) < 0.01
        assert off.max() < 0.06


def test_the_covariance_covers_planted_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    monkeypatch.setattr(root_file, "CORRELATION", 0.0)
    monkeypatch.setattr(root_file, "_PLACE", 0.0)
    poses, T = posed(3000), places(3000)
    deviation = rng.uniform(0.02, 0.06, poses.shape) * (1, 1, 2)
    tall = 1 + rng.normal(0, 0.05, (len(T), 1, 1))
    pixels = PINHOLE.project(poses + T[:, None]) + rng.normal(0, 4, (len(T), 17, 2))
    joints = (poses + rng.normal(0, deviation) * (np.arange(17) > 0)[:, None]) * tall
    deviation[:, 0] = 0
    result = locate(joints, deviation, pixels, PINHOLE, about_ray=False, pixel_noise=4)
    z = (result.position - T) / np.sqrt(np.diagonal(result.covariance, axis1=1, axis2=2))
    covered = (np.abs(z) < 1.645).mean(0)
    assert (np.abs(covered - 0.9) < 0.04).all(), covered
    whole = np.linalg.solve(result.covariance, (result.position - T)[..., None])[..., 0]
    assert (((result.position - T) * whole).sum(-1) < 6.25).mean() == pytest.approx(0.9, abs=0.04)  # chi^2, 3 degrees


def test_depth_is_no_better_known_than_stature() -> None:
    T = places()
    result = found(posed(), T, PINHOLE, ray=False, deviation=1e-3, pixel_noise=0.1)
    depth = np.sqrt(result.covariance[:, 2, 2])
    assert (depth > 0.0499 * T[:, 2]).all()
    assert (depth < 0.06 * T[:, 2]).all()


def test_ray_joints_become_camera_joints() -> None:
    lifted, truth = people(frames=30, count=3, root=True, pitch=0.2)
    assert lifted.root is not None
    turn = ray_frame(lifted.root)
    squares = np.einsum("tpab,tpjb->tpja", np.square(turn), np.square(lifted.deviation))
    in_ray = replace(
        lifted,
        joints=np.einsum("tpab,tpjb->tpja", turn, truth),
        deviation=np.sqrt(squares),
        sigma=np.sqrt(squares),
        axes="ray",
        root=None,
        root_deviation=None,
    )
    in_ray.joints[5, 1] = np.nan
    result = with_root(in_ray, intrinsics_of_focal(FOCAL, SIZE))
    assert result.axes == "camera"
    there = np.isfinite(truth).all((2, 3))
    there[5, 1] = False
    assert result.root is not None
    assert result.root_deviation is not None
    np.testing.assert_allclose(result.root[there], lifted.root[there], atol=1e-4)
    np.testing.assert_allclose(result.joints[there], truth[there], atol=1e-5)
    np.testing.assert_allclose((result.deviation**2).sum(-1)[there], (lifted.deviation**2).sum(-1)[there], rtol=1e-6)
    assert np.isnan(result.joints[5, 1]).all()
    assert np.isnan(result.root_deviation[5, 1]).all()
    np.testing.assert_allclose(result.confidence[there], 1 - result.sigma.mean(-1)[there])


def test_camera_joints_stay_without_a_root() -> None:
    lifted, _ = people(frames=4)
    lifted.keypoints.points[2] = np.nan
    result: Lifted = with_root(lifted, intrinsics_of_focal(FOCAL, SIZE))
    np.testing.assert_array_equal(result.joints, lifted.joints)
    assert result.root is not None
    assert np.isnan(result.root[2]).all()
    assert np.isfinite(result.root[[0, 1, 3]]).all()


def test_the_ray_frame_is_the_smallest_turn() -> None:
    T = places(20)
    R = ray_frame(T)
    np.testing.assert_allclose(R @ np.swapaxes(R, 1, 2), np.broadcast_to(np.eye(3), R.shape), atol=1e-12)
    d = T / np.linalg.norm(T, axis=-1, keepdims=True)
    np.testing.assert_allclose(np.einsum("nab,nb->na", R, d), np.broadcast_to([0, 0, 1], d.shape), atol=1e-12)
    angle = np.arccos((np.trace(R, axis1=1, axis2=2) - 1) / 2)
    np.testing.assert_allclose(angle, np.arccos(d[:, 2]), atol=1e-9)
    np.testing.assert_allclose(R, rotation_to_ray(torch.from_numpy(T)), atol=1e-12)  # that of training


def test_rays_go_where_pixels_come_from_and_distortion_is_brown_s() -> None:
    points = posed(50) + places(50)[:, None]
    points = points[points[..., 2] > 1]
    rays = BENT.rays(BENT.project(points))
    np.testing.assert_allclose(rays, points / np.linalg.norm(points, axis=-1, keepdims=True), atol=1e-6)
    p1, p2 = BENT.tangential
    tensors = {"R": torch.eye(3), "t": torch.zeros(3), "radial": torch.tensor(BENT.radial)}
    one = {"focal": torch.tensor(BENT.focal), "center": torch.tensor(BENT.center), "tangential": torch.tensor((p2, p1))}
    brown = Camera((1, 1), **{k: v.double() for k, v in {**tensors, **one}.items()}, tangential_factor=2)
    np.testing.assert_allclose(brown.project(torch.from_numpy(points)).numpy(), BENT.project(points), atol=1e-3)
    assert np.isnan(BENT.rays(np.array([1e5, 0.0]))).all()


def test_a_camera_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "camera.json"
    path.write_text(json.dumps({"focal": 1000, "size": [640, 480]}))
    assert read_intrinsics(path, None) == Intrinsics((1000.0, 1000.0), (320.0, 240.0))
    whole = {"focal": [1100, 1120], "center": [500, 480], "radial": BENT.radial, "tangential": BENT.tangential}
    path.write_text(json.dumps(whole))
    assert read_intrinsics(path, (1, 2)) == BENT
    assert intrinsics_of_focal(900, (640, 480)) == Intrinsics((900.0, 900.0), (320.0, 240.0))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("focal: 3", "expected JSON"),
        ('{"center": [1, 2]}', "expected an object with focal"),
        ('{"focal": 5, "distorsion": [1]}', "got focal, distorsion"),
        ('{"focal": -5, "center": [1, 2]}', "focal: expected pixels above 0"),
        ('{"focal": [1, 2, 3], "center": [1, 2]}', "focal: expected 2 numbers"),
        ('{"focal": 5, "center": [1, NaN]}', "center: expected 2 numbers"),
        ('{"focal": 5, "center": [1, 2], "radial": [1, 2]}', "radial: expected 3 numbers"),
        ('{"focal": 5, "size": [10, 20]}', "a camera of pictures of 640 x 480"),
        ('{"focal": 5, "size": [0, 20]}', "size: expected width and height"),
    ],
)
def test_a_camera_file_that_cannot_be_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "camera.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_intrinsics(path, (640, 480))


def test_a_camera_needs_a_middle(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text('{"focal": 5}')
    with pytest.raises(InputError, match="expected a center or a size"):
        read_intrinsics(tmp_path / "c.json", None)
    with pytest.raises(InputError, match="add --size W H"):
        intrinsics_of_focal(1000, None)
    with pytest.raises(InputError, match="a number above 0"):
        intrinsics_of_focal(0, (1, 1))
