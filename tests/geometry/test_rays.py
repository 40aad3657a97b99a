"""People before a camera: the pelvis is exact on exact data, honest on noise and robust; rays take error off joints."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import least_squares

from lifting.geometry import h36m
from lifting.geometry import rays as rays_file
from lifting.geometry.cameras import denormalise_screens, normalise_screens
from lifting.geometry.rays import Placed, place_people, ray_frame
from lifting.geometry.views import Views, rotation_to_ray
from lifting.inference.intrinsics import Intrinsics
from tests.drawing.people import people

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


def placed(
    joints: Array, deviation: Array | float, pixels: Array, *, camera: Intrinsics = PINHOLE, ray: bool = False,
    noise: float = 5.0,
) -> Placed:  # fmt: skip
    """`place_people` from pixels with this noise."""
    angle = np.full(len(joints), noise / camera.focal[0])
    deviation = deviation * (np.arange(17) > 0)[:, None] * np.ones_like(joints)
    return place_people(joints, deviation, camera.rays(pixels), angle, about_ray=ray)


def found(
    poses: Array, T: Array, camera: Intrinsics, *, ray: bool, deviation: float = 0.05, noise: float = 5.0
) -> Placed:
    turn = ray_frame(T) if ray else np.broadcast_to(np.eye(3), (len(T), 3, 3))
    joints = np.einsum("nab,njb->nja", turn, poses)
    return placed(joints, deviation, camera.project(poses + T[:, None]), camera=camera, ray=ray, noise=noise)


@pytest.mark.parametrize("camera", [PINHOLE, BENT])
@pytest.mark.parametrize("ray", [True, False])
def test_exact_data_give_the_exact_root(camera: Intrinsics, ray: bool) -> None:
    T = places()
    result = found(posed(), T, camera, ray=ray)
    np.testing.assert_allclose(result.root, T, atol=1e-4)
    if ray:
        np.testing.assert_allclose(result.turn, ray_frame(T), atol=1e-4)


def test_missing_joints_are_ignored_the_pelvis_too() -> None:
    poses, T = posed(), places()
    pixels = PINHOLE.project(poses + T[:, None])
    pixels[:, [0, 3, 10, 13]] = np.nan
    joints = np.einsum("nab,njb->nja", ray_frame(T), poses)
    joints[:, 13] = np.nan
    result = placed(joints, np.nan, pixels, ray=True)
    np.testing.assert_allclose(result.root, T, atol=1e-4)
    pixels[:, 3:] = np.nan
    assert np.isnan(placed(joints, 0.05, pixels, ray=True).root).all()


@pytest.mark.parametrize(("seen", "enough"), [(4, True), (3, False)])
def test_four_joints_are_enough(seen: int, enough: bool) -> None:
    poses, T = posed(), places()
    pixels = PINHOLE.project(poses + T[:, None])
    pixels[:, : 17 - seen] = np.nan
    result = placed(poses, 0.05, pixels)
    assert np.isfinite(result.root).all() if enough else np.isnan(result.root).all()
    if enough:
        np.testing.assert_allclose(result.root, T, atol=1e-4)


@pytest.mark.parametrize("ray", [True, False])
def test_nobody_depends_on_who_is_placed_beside_them(ray: bool) -> None:
    rng = np.random.default_rng(2)
    poses, T = posed(40), places(40)
    pixels = PINHOLE.project(poses + T[:, None]) + rng.normal(0, 8, (40, 17, 2))
    pixels[:4, 3:] = np.nan  # not placed
    joints = poses + rng.normal(0, 0.05, poses.shape) * (np.arange(17) > 0)[:, None]
    together = placed(joints, 0.05, pixels, ray=ray)
    for i in range(40):  # to the bit: NumPy multiplies and solves small matrices one by one
        alone = placed(joints[i : i + 1], 0.05, pixels[i : i + 1], ray=ray)
        for name, values in vars(alone).items():
            np.testing.assert_array_equal(values[0], getattr(together, name)[i], err_msg=name)


@pytest.mark.parametrize(("T", "stands"), [((2.0, 0, 0.3), True), ((2.0, 0, -0.3), False), ((0, 0, 0.1), False)])
def test_nobody_stands_behind_the_camera_or_in_it(T: tuple[float, float, float], stands: bool) -> None:
    poses = posed(50)
    rays = poses + T
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    result = place_people(poses, np.full(poses.shape, 0.05), rays, np.full(50, 0.004), about_ray=False)
    if stands:
        np.testing.assert_allclose(result.root, np.broadcast_to(T, (50, 3)), atol=1e-4)
    else:
        assert np.isnan(result.root).all()


def test_a_lifter_without_a_deviation_counts_as_one_of_50_mm() -> None:
    poses, T = posed(20), places(20)
    pixels = PINHOLE.project(poses + T[:, None]) + np.random.default_rng(0).normal(0, 5, (20, 17, 2))
    rays, angle = PINHOLE.rays(pixels), np.full(20, 0.004)
    without, given = (
        place_people(poses, np.full(poses.shape, deviation), rays, angle, about_ray=True)
        for deviation in (np.nan, 0.05)
    )
    for name in ("joints", "root", "covariance"):
        np.testing.assert_allclose(getattr(without, name), getattr(given, name))


@pytest.mark.parametrize("factor", [1e-9, 1.0, 1e9])
def test_whether_rays_differ_does_not_depend_on_their_weight(factor: float) -> None:
    rays = posed(3)
    rays[..., 2] += 4
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    rays[1] = rays[1, :1]
    assert rays_file._is_regular(rays_file._normal(np.full((3, 17), factor), rays)).tolist() == [True, False, True]


def test_all_keypoints_in_one_place_give_no_root() -> None:
    poses = posed(3)
    pixels = np.full((3, 17, 2), 600.0)
    assert np.isnan(placed(poses, 0.05, pixels).root).all()


def test_a_keypoint_elsewhere_hardly_pulls() -> None:
    poses, T = posed(), places()
    pixels = PINHOLE.project(poses + T[:, None])
    for joint in (0, 16):
        wrong = pixels.copy()
        wrong[:, joint] += (150, -120)
        result = placed(poses, 0.04, wrong, noise=3)
        off = np.linalg.norm(result.root - T, axis=-1) / T[:, 2]
        assert np.median(off) < 0.01
        assert off.max() < 0.06


def test_a_joint_more_than_two_deviations_off_pulls_by_the_logarithm() -> None:
    """The root minimises the module's sum of rho, here by its gradient, with each s_j as it is there."""
    rng = np.random.default_rng(7)
    poses, T = posed(60), places(60)
    wrong = poses + 0.04 * rng.standard_t(2, poses.shape) * (np.arange(17) > 0)[:, None]
    pixels = PINHOLE.project(poses + T[:, None])
    root, rays = placed(wrong, 0.04, pixels).root, PINHOLE.rays(pixels)
    far = np.linalg.norm(wrong + root[:, None], axis=-1)
    s = np.sqrt(np.square(0.04 * (np.arange(17) > 0)) + np.square(5 / PINHOLE.focal[0] * far))

    def pull(T: Array) -> Array:
        """(N, J): rho of each joint."""
        joints = wrong + T[:, None]
        across = joints - rays * (rays * joints).sum(-1, keepdims=True)
        t = np.linalg.norm(across, axis=-1) / s
        rho: Array = np.where(t <= 2, np.square(t), 4 + 8 * np.log(np.maximum(t, 2) / 2))
        return rho

    steps = 1e-5 * np.eye(3)
    gradient = np.stack([pull(root + step) - pull(root - step) for step in steps], -1)
    balance = np.linalg.norm(gradient.sum(1), axis=-1) / np.linalg.norm(gradient, axis=-1).sum(1)
    assert balance.max() < 1e-3


def test_the_covariance_covers_planted_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    monkeypatch.setattr(rays_file, "CORRELATION", 0.0)
    poses, T = posed(3000), places(3000)
    deviation = rng.uniform(0.02, 0.06, poses.shape) * (1, 1, 2)
    tall = 1 + rng.normal(0, 0.05, (len(T), 1, 1))
    pixels = PINHOLE.project(poses + T[:, None]) + rng.normal(0, 4, (len(T), 17, 2))
    joints = (poses + rng.normal(0, deviation) * (np.arange(17) > 0)[:, None]) * tall
    deviation[:, 0] = 0
    result = placed(joints, deviation, pixels, noise=4)
    z = (result.root - T) / np.sqrt(np.diagonal(result.root_covariance, axis1=1, axis2=2))
    covered = (np.abs(z) < 1.645).mean(0)
    assert (np.abs(covered - 0.9) < 0.04).all(), covered
    whole = np.linalg.solve(result.root_covariance, (result.root - T)[..., None])[..., 0]
    assert (((result.root - T) * whole).sum(-1) < 6.25).mean() == pytest.approx(0.9, abs=0.04)  # chi^2, 3 degrees


def test_covariances_are_those_of_propagated_errors() -> None:
    """A slow twin: the covariance of all 51 errors, with the correlation between joints, through the linear maps."""
    rng = np.random.default_rng(7)
    turn, T = ray_frame(rng.normal((0, 0, 2), 1, (2, 3))), rng.normal((0, 0, 4), 1, (2, 3))
    rays = rng.normal(0, 1, (2, 17, 3))
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    variance, noise = rng.uniform(0.001, 0.01, (2, 17, 3)), rng.uniform(0.001, 0.01, (2, 17))
    weight, gains = rng.uniform(1, 9, (2, 17)), rng.normal(0, 1, (2, 17, 3, 3))
    of_root = rays_file._root_covariance(weight, rays, variance, turn, noise, T)
    of_joints = rays_file._joint_covariance(gains, variance, turn, noise, of_root)
    for n in range(2):
        W = np.hstack([w * (np.eye(3) - np.outer(d, d)) for w, d in zip(weight[n], rays[n], strict=True)])
        scaled = np.hstack([np.diag(np.sqrt(v)) @ turn[n] for v in variance[n]])
        correlation = np.kron(np.where(np.eye(17) > 0, 1, 0.15), np.ones((3, 3)))
        errors = correlation * (scaled.T @ scaled) + np.diag(np.repeat(noise[n], 3))
        to_root = np.linalg.inv(W @ np.tile(np.eye(3), 17).T) @ W
        stature = 0.05**2 * np.outer(T[n], T[n])
        np.testing.assert_allclose(of_root[n], to_root @ errors @ to_root.T + stature, rtol=1e-9)
        for j, K in enumerate(gains[n]):
            C = turn[n].T @ np.diag(variance[n, j]) @ turn[n]
            rest = np.eye(3) - K
            expected = rest @ C @ rest.T + K @ (noise[n, j] * np.eye(3) + of_root[n]) @ K.T
            np.testing.assert_allclose(of_joints[n, j], expected, rtol=1e-9)


def test_depth_is_no_better_known_than_stature() -> None:
    T = places()
    result = found(posed(), T, PINHOLE, ray=False, deviation=1e-3, noise=0.1)
    depth = np.sqrt(result.root_covariance[:, 2, 2])
    assert (depth > 0.0499 * T[:, 2]).all()
    assert (depth < 0.06 * T[:, 2]).all()


def test_exact_rays_take_joints_to_their_nearest_points() -> None:
    rng = np.random.default_rng(4)
    poses, T = posed(50), places(50)
    joints = poses + rng.normal(0, 0.03, poses.shape) * (np.arange(17) > 0)[:, None]
    pixels = PINHOLE.project(poses + T[:, None])
    result = placed(joints, 0.09, pixels, noise=1e-4)  # no joint is farther off than two deviations
    rays, there = PINHOLE.rays(pixels), result.joints + result.root[:, None]
    np.testing.assert_allclose(np.cross(there, rays)[:, 1:], 0, atol=1e-3)
    moved = (result.joints - joints)[:, 1:]
    np.testing.assert_allclose((moved * rays[:, 1:]).sum(-1), 0, atol=1e-5)  # across the ray alone
    np.testing.assert_array_equal(result.joints[:, 0], 0)  # the pelvis is the origin
    joints[:, 5] = np.nan
    assert np.isnan(placed(joints, 0.09, pixels).joints).any(-1).sum(0).tolist() == [0] * 5 + [50] + [0] * 11


def test_joints_and_root_are_the_likeliest_ones() -> None:
    """The slow twin: the 51 numbers that minimise sum |x_j - mu_j|^2 / v_j + |A_j (x_j + T)|^2 / r_j^2."""
    rng = np.random.default_rng(5)
    poses, T = posed(3), places(3)
    deviation = rng.uniform(0.02, 0.06, (3, 17, 1)) * (np.arange(17) > 0)[:, None]
    pixels = PINHOLE.project(poses + T[:, None]) + rng.normal(0, 2, (3, 17, 2))
    joints = poses + 0.5 * rng.normal(0, 1, poses.shape) * deviation  # small enough that no joint counts as elsewhere
    result = placed(joints, deviation, pixels, noise=6)
    rays = PINHOLE.rays(pixels)
    for n in range(3):
        distance = np.linalg.norm(joints[n] + result.root[n], axis=-1, keepdims=True)

        def residuals(x: Array, n: int = n, distance: Array = distance) -> Array:
            moved = np.concatenate([np.zeros((1, 3)), x[3:].reshape(16, 3)])
            there = joints[n] + moved + x[:3]
            across = there - rays[n] * (there * rays[n]).sum(-1, keepdims=True)
            off = across / (6 / PINHOLE.focal[0] * distance)
            return np.concatenate([(moved[1:] / deviation[n, 1:]).ravel(), off.ravel()])

        best = least_squares(residuals, np.concatenate([result.root[n], np.zeros(48)]), xtol=1e-12, ftol=1e-12).x
        np.testing.assert_allclose(best[:3], result.root[n], atol=1e-4)
        np.testing.assert_allclose(joints[n, 1:] + best[3:].reshape(16, 3), result.joints[n, 1:], atol=1e-4)


@pytest.mark.parametrize("noise", [0.5, 4.0])
def test_rays_take_error_off_and_the_intervals_stay_right(noise: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rays_file, "STATURE", 0.0)  # of these people
    monkeypatch.setattr(rays_file, "CORRELATION", 0.0)
    rng = np.random.default_rng(6)
    poses, T = posed(2000), places(2000)
    deviation = rng.uniform(0.01, 0.08, (2000, 17, 1)) * (np.arange(17) > 0)[:, None]
    joints = poses + rng.normal(0, 1, poses.shape) * deviation
    pixels = PINHOLE.project(poses + T[:, None]) + rng.normal(0, noise, (2000, 17, 2))

    def error(found: Array) -> float:
        return float(np.linalg.norm(found - poses, axis=-1).mean())

    by_sigma, equal = placed(joints, deviation, pixels, noise=noise), placed(joints, 0.045, pixels, noise=noise)
    assert error(by_sigma.joints) < 0.75 * error(joints)
    assert error(by_sigma.joints) < error(equal.joints)
    spread = np.sqrt(np.diagonal(by_sigma.covariance, axis1=-2, axis2=-1))[:, 1:]
    inside = np.abs((by_sigma.joints - poses)[:, 1:]) < 1.645 * spread
    np.testing.assert_allclose(inside.mean((0, 1)), 0.9, atol=0.03)
    assert (spread[..., :2] < deviation[:, 1:]).mean() > 0.95


def test_the_ray_frame_is_the_smallest_turn() -> None:
    T = places(20)
    R = ray_frame(T)
    np.testing.assert_allclose(R @ np.swapaxes(R, 1, 2), np.broadcast_to(np.eye(3), R.shape), atol=1e-12)
    d = T / np.linalg.norm(T, axis=-1, keepdims=True)
    np.testing.assert_allclose(np.einsum("nab,nb->na", R, d), np.broadcast_to([0, 0, 1], d.shape), atol=1e-12)
    angle = np.arccos((np.trace(R, axis1=1, axis2=2) - 1) / 2)
    np.testing.assert_allclose(angle, np.arccos(d[:, 2]), atol=1e-9)
    np.testing.assert_allclose(R, rotation_to_ray(torch.from_numpy(T)), atol=1e-12)  # that of training


def test_views_give_the_rays_that_cameras_project() -> None:
    cameras = list(h36m.cameras("S1").values())
    views = Views.of(cameras)
    points = torch.from_numpy(posed(4) + places(4)[:, None]).float()
    rays = views.rays(views.project(points))
    torch.testing.assert_close(rays, torch.nn.functional.normalize(points.double(), dim=-1), atol=1e-6, rtol=0)
    for row, camera in enumerate(cameras):  # the slow twin, one camera at a time
        uv = camera.to(torch.float64).project(points[row].double())
        ahead = camera.to(torch.float64).unproject(uv, torch.ones(17, dtype=torch.float64))
        torch.testing.assert_close(rays[row], torch.nn.functional.normalize(ahead, dim=-1), atol=1e-6, rtol=0)


def test_screens_go_back_to_pixels() -> None:
    uv, size = 900 * torch.rand(3, 17, 2, dtype=torch.float64), torch.tensor([[1000, 1002], [640, 480], [1080, 1920]])
    torch.testing.assert_close(denormalise_screens(normalise_screens(uv, size), size), uv)


def test_each_joint_may_have_a_noise_of_its_own() -> None:
    """The same noise for all is that of the person; a ray that is trusted less draws its joint less."""
    rng = np.random.default_rng(0)
    joints = rng.normal(0, 0.4, (3, 17, 3))
    joints[:, 0] = 0
    deviation = np.full((3, 17, 3), 0.05)
    deviation[:, 0] = 0
    off = joints + np.where(np.arange(17)[:, None] == 5, 0.08, rng.normal(0, 0.01, (3, 17, 3))) + [0, 0, 4.0]
    rays = off / np.linalg.norm(off, axis=-1, keepdims=True)
    one = place_people(joints, deviation, rays, np.full(3, 0.004), about_ray=False)
    each = place_people(joints, deviation, rays, np.full((3, 17), 0.004), about_ray=False)
    for name in ("root", "joints", "covariance"):
        np.testing.assert_array_equal(getattr(one, name), getattr(each, name))
    noise = np.full((3, 17), 0.004)
    noise[:, 5] = 0.1
    less = place_people(joints, deviation, rays, noise, about_ray=False)
    moved, moved_less = (np.linalg.norm(placed.joints - joints, axis=-1)[:, 5] for placed in (one, less))
    assert (moved_less < moved / 2).all()
