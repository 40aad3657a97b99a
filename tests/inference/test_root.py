"""Lifted people in camera space, and camera files."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lifting.command import InputError
from lifting.geometry.cameras import Camera
from lifting.geometry.rays import ray_frame
from lifting.inference.intrinsics import Intrinsics, intrinsics_of_focal, read_intrinsics
from lifting.inference.root import with_root
from lifting.lifted import Lifted
from tests.drawing.people import FOCAL, SIZE, people
from tests.geometry.test_rays import BENT, places, posed


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
    ratio = (result.deviation**2).sum(-1)[there] / np.maximum((lifted.deviation**2).sum(-1)[there], 1e-12)
    assert ratio.max() < 1.05
    assert np.median(ratio) < 0.9  # rays tell something about most joints
    np.testing.assert_allclose(result.sigma, result.deviation)  # as it was before
    assert np.isnan(result.joints[5, 1]).all()
    assert np.isnan(result.root_deviation[5, 1]).all()
    np.testing.assert_allclose(result.confidence[there], 1 - result.sigma.mean(-1)[there])


def test_camera_joints_stay_where_there_is_no_root() -> None:
    lifted, truth = people(frames=4)
    lifted.keypoints.points[2] = np.nan
    result: Lifted = with_root(lifted, intrinsics_of_focal(FOCAL, SIZE))
    assert result.root is not None
    there = np.isfinite(result.root).all((1, 2))
    assert there.tolist() == [True, True, False, True]
    for name in ("joints", "sigma", "deviation"):
        before, after = getattr(lifted, name), getattr(result, name)
        np.testing.assert_array_equal(before[2], after[2])
    error, before = (np.linalg.norm(x - truth, axis=-1)[there].mean() for x in (result.joints, lifted.joints))
    assert error < 0.95 * before


def test_the_noise_of_a_keypoint_is_a_hundredth_of_its_person() -> None:
    lifted, _ = people(frames=25, count=3)
    points = lifted.keypoints.points
    size = np.linalg.norm(np.nanmax(points, axis=2) - np.nanmin(points, axis=2), axis=-1)
    noise = np.broadcast_to(0.01 * size[..., None], points.shape[:-1])
    camera = intrinsics_of_focal(FOCAL, SIZE)
    found, expected = with_root(lifted, camera), with_root(lifted, camera, pixel_noise=noise)
    one = with_root(people(frames=25, count=1)[0], camera, pixel_noise=4.0)
    same = with_root(people(frames=25, count=1)[0], camera, pixel_noise=np.full((25, 1, 17), 4.0))
    for this, that in ((found, expected), (one, same)):
        for name in ("joints", "deviation", "root", "root_deviation"):
            np.testing.assert_allclose(getattr(this, name), getattr(that, name), atol=1e-12)
    louder = with_root(people(frames=25, count=1)[0], camera, pixel_noise=16.0)
    assert (louder.root_deviation > one.root_deviation).all()  # type: ignore[operator]


def test_joints_without_a_deviation_follow_their_rays_and_still_have_none() -> None:
    lifted, truth = people(frames=20, sigma=False)
    result = with_root(lifted, intrinsics_of_focal(FOCAL, SIZE))
    assert np.isnan(result.deviation).all()
    assert np.isnan(result.sigma).all()
    error, before = (np.linalg.norm(x - truth, axis=-1).mean() for x in (result.joints, lifted.joints))
    assert error < 0.95 * before
    np.testing.assert_array_equal(result.joints[:, :, 0], 0)


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


@pytest.mark.parametrize(
    ("focal", "radial", "tangential"),
    [
        (700, (0.3, 0.0, 0.0), (0.0, 0.0)),  # a strong pincushion, where a fixed point diverges in the corners
        (1250, (-0.26, 0.09, -0.02), (0.0, 0.0)),
        (1100, (-0.2, 0.24, -0.002), (-0.001, 0.003)),
    ],
)
def test_rays_of_the_whole_picture_are_found(
    focal: float, radial: tuple[float, float, float], tangential: tuple[float, float]
) -> None:
    camera = Intrinsics((focal, focal), (960.0, 540.0), radial, tangential)
    pixels = np.stack(np.meshgrid(np.linspace(0, 1920, 33), np.linspace(0, 1080, 19)), -1)
    rays = camera.rays(pixels)
    assert np.isfinite(rays).all()
    np.testing.assert_allclose(camera.project(rays), pixels, atol=1e-3)
    h = 1e-6
    xy = np.random.default_rng(0).normal(0, 0.3, (50, 2))
    steps = [(camera.distort(xy + h * axis) - camera.distort(xy - h * axis)) / (2 * h) for axis in np.eye(2)]
    np.testing.assert_allclose(np.moveaxis(camera._slope(xy), -1, 0), np.stack(steps, 1), atol=1e-7)


def test_where_a_picture_folds_there_is_no_ray() -> None:
    """Beyond r^2 = 1 / (3 * 0.5), points farther out come back towards the centre."""
    camera = Intrinsics((1000.0, 1000.0), (0.0, 0.0), (-0.5, 0.0, 0.0))
    edge = 1000 * (2 / 3) ** 1.5  # r (1 - 0.5 r^2) at the fold
    assert np.isfinite(camera.rays(np.array([0.999 * edge, 0.0]))).all()
    assert np.isnan(camera.rays(np.array([1.001 * edge, 0.0]))).all()
    # with a second coefficient there is an answer again far outside, which is another point's
    wild = Intrinsics((1000.0, 1000.0), (0.0, 0.0), (-0.5, 0.05, 0.0))
    assert np.isnan(wild.rays(np.array([3000.0, 0.0]))).all()


def test_a_camera_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "camera.json"
    path.write_text(json.dumps({"focal": 1000, "size": [640, 480]}))
    assert read_intrinsics(path, None) == Intrinsics((1000.0, 1000.0), (320.0, 240.0), size=(640, 480))
    whole = {"focal": [1100, 1120], "center": [500, 480], "radial": BENT.radial, "tangential": BENT.tangential}
    path.write_text(json.dumps(whole))
    assert read_intrinsics(path, None) == BENT
    assert intrinsics_of_focal(900, (640, 480)) == Intrinsics((900.0, 900.0), (320.0, 240.0), size=(640, 480))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("focal: 3", "is not JSON"),
        ('{"center": [1, 2]}', "expected an object with focal"),
        ('{"focal": 5, "distorsion": [1]}', "got focal, distorsion"),
        ('{"focal": -5, "center": [1, 2]}', "focal: expected pixels above 0"),
        ('{"focal": [1, 2, 3], "center": [1, 2]}', "focal: expected 2 numbers"),
        ('{"focal": 500, "center": [1, NaN]}', "center: expected 2 numbers"),
        ('{"focal": 500, "center": "12"}', "center: expected 2 numbers"),
        ('{"focal": true}', "focal: expected 2 numbers"),
        ('{"focal": 26}', "focal: expected pixels, got 26 for a picture of 640 x 480, .* millimetres"),
        ('{"focal": 500, "center": [1, 2], "radial": [1, 2]}', "radial: expected 3 numbers"),
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
    with pytest.raises(InputError, match="expected pixels, got 26 for a picture of 1920 x 1080"):
        intrinsics_of_focal(26, (1920, 1080))
