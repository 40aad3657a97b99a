"""Crop geometry: round trips in both precisions, and back into the camera frame."""

import math

import pytest
import torch
from torch import Tensor

from lifting.geometry.crops import DEPTH, camera_points, crop_labels, crop_matrix, inverse, picture_points, transform

SIZE = 256


def random_crops(n: int = 200) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (n, 4), matrices (n, 2, 3) of every kind, and joints (n, 18, 2), some of them outside the crop; float64."""
    generator = torch.Generator().manual_seed(0)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)

    box = torch.cat([uniform(-50, 500, n, 2), uniform(100, 600, n, 2)], -1)
    matrix = crop_matrix(box, SIZE, uniform(0.7, 1.3, n), uniform(-0.6, 0.6, n), uniform(0, 1, n) < 0.5)
    joints = box[:, None, :2] + uniform(-0.3, 1.3, n, 18, 2) * box[:, None, 2:]
    return box, matrix, joints


@pytest.mark.parametrize(("dtype", "pixels"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
def test_labels_come_back_to_the_picture(dtype: torch.dtype, pixels: float) -> None:
    _, matrix, joints = random_crops()
    depth = torch.linspace(-1, 1, 18, dtype=torch.float64).expand(len(joints), 18)
    labels = crop_labels(joints, depth, matrix, SIZE).to(dtype)
    assert float((picture_points(labels.double(), matrix, SIZE) - joints).abs().max()) < pixels
    torch.testing.assert_close(labels[..., 2].double() * DEPTH, depth, rtol=0, atol=1e-6)


def test_float32_all_the_way_is_exact_enough_too() -> None:
    _, matrix, joints = random_crops()
    labels = crop_labels(joints.float(), torch.zeros(joints.shape[:2]), matrix, SIZE)
    assert labels.dtype == torch.float32
    assert float((picture_points(labels, matrix, SIZE) - joints.float()).abs().max()) < 2e-4


def test_planted_joints_are_recovered_in_the_camera() -> None:
    _, matrix, joints = random_crops()
    generator = torch.Generator().manual_seed(1)
    focal = torch.tensor([1145.0, 1143.8], dtype=torch.float64).expand(len(joints), 2)
    center = torch.tensor([512.5, 515.4], dtype=torch.float64).expand(len(joints), 2)
    z = 5 + torch.randn(joints.shape[:2], generator=generator, dtype=torch.float64) / 3
    points = torch.cat([(joints - center[:, None]) / focal[:, None] * z[..., None], z[..., None]], -1)
    labels = crop_labels(joints, z - z[:, :1], matrix, SIZE)
    for predicted, metres in ((labels, 1e-11), (labels.float(), 1e-6)):
        found = camera_points(predicted.double(), matrix, SIZE, focal, center, z[:, 0])
        assert float((found - points).abs().max()) < metres


def test_scale_and_turn_leave_depth_alone() -> None:
    _, matrix, joints = random_crops()
    depth = torch.randn(joints.shape[:2], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(crop_labels(joints, depth, matrix, SIZE)[..., 2], depth / DEPTH)


def test_the_box_fills_the_crop() -> None:
    box = torch.tensor([30.0, 40.0, 100.0, 200.0])
    matrix = crop_matrix(box, SIZE)
    middle_top_bottom_left = torch.tensor([[80.0, 140.0], [80.0, 40.0], [80.0, 240.0], [30.0, 140.0]])
    labels = crop_labels(middle_top_bottom_left, torch.zeros(4), matrix, SIZE)
    torch.testing.assert_close(labels[:, :2], torch.tensor([[0.0, 0.0], [0.0, -0.5], [0.0, 0.5], [-0.25, 0.0]]))
    wider = crop_labels(middle_top_bottom_left, torch.zeros(4), crop_matrix(box, SIZE, scale=2.0), SIZE)
    torch.testing.assert_close(wider, labels / 2)


def test_the_turn_is_clockwise_and_before_the_mirror() -> None:
    box = torch.tensor([0.0, 0.0, 100.0, 100.0])
    above = torch.tensor([[50.0, 0.0]])
    for mirrored, u in ((False, 0.5), (True, -0.5)):  # a point above moves to the right, and to the left if mirrored
        matrix = crop_matrix(box, SIZE, angle=math.pi / 2, mirrored=mirrored)
        labels = crop_labels(above, torch.zeros(1), matrix, SIZE)
        torch.testing.assert_close(labels[0, :2], torch.tensor([u, 0.0]), rtol=0, atol=1e-6)


def test_a_mirrored_crop_negates_u_and_nothing_else() -> None:
    box, _, joints = random_crops()
    angle, depth = torch.tensor(0.4, dtype=torch.float64), torch.ones(joints.shape[:2], dtype=torch.float64)
    straight, mirrored = (
        crop_labels(joints, depth, crop_matrix(box, SIZE, 0.9, angle, m), SIZE) for m in (False, True)
    )
    torch.testing.assert_close(mirrored, straight * torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64))


def test_the_inverse_undoes_the_map() -> None:
    _, matrix, joints = random_crops()
    torch.testing.assert_close(transform(inverse(matrix), transform(matrix, joints)), joints, rtol=0, atol=1e-9)


def test_a_box_without_extent() -> None:
    for sides in ((0.5, 0.25), (0.0, 2.0), (2.0, 0.0)):
        assert crop_matrix(torch.tensor([1.0, 2.0, *sides]), SIZE).isfinite().all()
    for side in (0.0, -1.0):
        with pytest.raises(ValueError, match=f"box: expected a side above zero, got {side:g}"):
            crop_matrix(torch.tensor([[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, side, side]]), SIZE)
