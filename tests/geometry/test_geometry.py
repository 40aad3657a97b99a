"""Cameras and joint sets: compared with OpenCV and slow twins, and by recovering planted answers."""

import hashlib
import math
from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from lifting.geometry import h36m
from lifting.geometry.cameras import Camera, denormalise_screen, matrix_from_quaternion, normalise_screen
from lifting.geometry.joint_maps import (
    coco17_to_h36m17,
    coco17_to_h36m18,
    flip,
    h36m17_to_h36m18,
    h36m18_to_mpii16,
    mirror_joints,
    mpii16_to_h36m18,
)
from lifting.geometry.skeleton import COCO17, H36M17, H36M18, MPII16, JointSet

D64 = torch.float64


def camera(factor: float) -> Camera:
    """The first camera of S9 with more distortion, so that every term matters."""
    found = h36m.cameras("S9")["54138969"]
    tangential = torch.tensor([0.01, -0.02], dtype=D64)
    return Camera(found.size, found.focal, found.center, found.radial, tangential, found.R, found.t, factor)


def points() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    xy = (torch.rand(200, 2, generator=generator, dtype=D64) - 0.5) * 0.8
    return torch.cat([xy, torch.ones(200, 1, dtype=D64)], 1) * torch.linspace(0.3, 8, 200, dtype=D64)[:, None]


def test_projection_is_opencvs() -> None:
    lens = camera(2.0)
    k1, k2, k3 = lens.radial.tolist()
    p_x, p_y = lens.tangential.tolist()
    matrix = np.diag([*lens.focal.tolist(), 1.0])
    matrix[:2, 2] = lens.center
    expected, _ = cv2.projectPoints(
        points().numpy(), np.zeros(3), np.zeros(3), matrix, np.array([k1, k2, p_y, p_x, k3])
    )
    np.testing.assert_allclose(lens.project(points()).numpy(), expected[:, 0], atol=1e-9)


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_projection_against_a_slow_twin(factor: float) -> None:
    lens = camera(factor)
    k1, k2, k3 = lens.radial.tolist()
    p_x, p_y = lens.tangential.tolist()
    for point, pixel in zip(points().tolist(), lens.project(points()).tolist(), strict=True):
        x, y = point[0] / point[2], point[1] / point[2]
        r2 = x * x + y * y
        scale = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3 + factor * (p_x * x + p_y * y)
        distorted = (x * scale + p_x * r2, y * scale + p_y * r2)
        expected = [f * d + c for f, d, c in zip(lens.focal.tolist(), distorted, lens.center.tolist(), strict=True)]
        assert pixel == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("subject", h36m.SUBJECTS)
def test_unprojection_inverts_projection_all_over_the_image(subject: str) -> None:
    for lens in h36m.cameras(subject).values():
        axes = [torch.linspace(0, side, 15, dtype=D64) for side in lens.size]
        uv = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
        depth = torch.full(uv.shape[:-1], 4.0, dtype=D64)
        torch.testing.assert_close(lens.project(lens.unproject(uv, depth)), uv, rtol=0, atol=1e-9)
        origin = lens.project(lens.world_to_camera(torch.tensor([[0.0, 0.0, 1.0]], dtype=D64)))[0]
        assert ((origin > 0) & (origin < torch.tensor(lens.size))).all()


def test_points_are_projected_in_batches_of_any_shape() -> None:
    one, X = camera(1.0), points()
    torch.testing.assert_close(one.project(X.view(4, 5, 10, 3)), one.project(X).view(4, 5, 10, 2))
    assert Camera(one.size, one.focal, one.center, one.radial, one.tangential, one.R, one.t).tangential_factor == 1


def test_world_and_camera_are_inverse_and_behind_is_nan() -> None:
    lens = camera(1.0)
    world = torch.randn(20, 3, dtype=D64)
    torch.testing.assert_close(lens.camera_to_world(lens.world_to_camera(world)), world)
    assert lens.project(torch.tensor([[0.1, 0.1, -1.0], [0.1, 0.1, 0.0]], dtype=D64)).isnan().all()
    assert lens.to(torch.float32).R.dtype == torch.float32


def test_quaternions_are_scipys_rotations() -> None:
    q = torch.randn(30, 4, dtype=D64)
    expected = Rotation.from_quat(q.numpy()[:, [1, 2, 3, 0]]).as_matrix()
    np.testing.assert_allclose(matrix_from_quaternion(q).numpy(), expected, atol=1e-12)


def test_screen_coordinates() -> None:
    size = (1000, 1002)
    uv = torch.tensor([[0.0, 0.0], [1000.0, 1002.0], [500.0, 501.0]], dtype=D64)
    expected = torch.tensor([[-1, -1.002], [1, 1.002], [0, 0]], dtype=D64)
    torch.testing.assert_close(normalise_screen(uv, size), expected)
    torch.testing.assert_close(denormalise_screen(normalise_screen(uv, size), size), uv)


@pytest.mark.parametrize(
    ("sequence", "action"),
    [
        ("Walking", "Walking"), ("Walking 1", "Walking"), ("Sitting 2", "Sitting"), ("SittingDown 2", "SittingDown"),
        ("TakingPhoto 1", "Photo"), ("WalkingDog", "WalkDog"), ("02_01", "02"), ("Swordplay 12", "Swordplay"),
    ],
)  # fmt: skip
def test_action_of(sequence: str, action: str) -> None:
    assert h36m.action_of(sequence) == action


@pytest.mark.parametrize("joint_set", [H36M17, COCO17, H36M18, MPII16])
def test_mirrors_and_trees(joint_set: JointSet) -> None:
    s = joint_set
    assert [s.mirror[m] for m in s.mirror] == list(range(len(s)))
    assert {s.mirror[j] for j in s.left} == set(s.right)
    assert len(s.bones) == len(s) - 1
    for joint in range(len(s)):
        while s.parents[joint] >= 0:
            joint = s.parents[joint]
        assert joint == s.parents.index(-1)


def test_human36m_sides_are_the_fields() -> None:
    assert set(H36M17.left) == {4, 5, 6, 11, 12, 13}
    assert set(H36M17.right) == {1, 2, 3, 14, 15, 16}
    x = torch.randn(4, 17, 3)
    torch.testing.assert_close(flip(flip(x, H36M17), H36M17), x)
    torch.testing.assert_close(flip(x, H36M17)[:, 1], x[:, 4] * torch.tensor([-1.0, 1, 1]))
    torch.testing.assert_close(mirror_joints(x, H36M17)[:, 1], x[:, 4])


def test_coco_to_human36m() -> None:
    coco = torch.randn(17, 3, dtype=D64)
    ours = coco17_to_h36m17(coco)
    torch.testing.assert_close(ours[[1, 2, 3, 4, 5, 6]], coco[[12, 14, 16, 11, 13, 15]])
    torch.testing.assert_close(ours[11:], coco[[5, 7, 9, 6, 8, 10]])
    pelvis, thorax = (coco[11] + coco[12]) / 2, (coco[5] + coco[6]) / 2
    for joint, expected in ((0, pelvis), (8, thorax), (7, (pelvis + thorax) / 2), (9, coco[0])):
        torch.testing.assert_close(ours[joint], expected)
    torch.testing.assert_close(ours[10], (coco[1] + coco[2]) / 2)
    coco[9] = math.nan
    assert coco17_to_h36m17(coco).isnan().any(1).nonzero().flatten().tolist() == [13]


def test_mpii_joints_go_to_the_18_and_back() -> None:
    points = torch.randn(5, 16, 2)
    visible = torch.rand(5, 16) > 0.3
    made, seen = mpii16_to_h36m18(points, visible)
    torch.testing.assert_close(h36m18_to_mpii16(made), points, rtol=0, atol=0)
    assert torch.equal(h36m18_to_mpii16(seen[..., None])[..., 0], visible)
    for name in ("spine", "neck"):  # MPII labels neither
        assert not seen[:, H36M18.joints.index(name)].any()
    same = [name for name in H36M18.joints if name in MPII16.joints and name not in ("thorax",)]
    assert len(same) == 13
    for name in same:
        assert torch.equal(made[:, H36M18.joints.index(name)], points[:, MPII16.joints.index(name)])
    # MPII's thorax is the middle of the shoulders; Human3.6M's thorax is where MPII has the upper neck
    assert torch.equal(made[:, H36M18.joints.index("shoulder_middle")], points[:, MPII16.joints.index("thorax")])
    assert torch.equal(made[:, H36M18.joints.index("thorax")], points[:, MPII16.joints.index("upper_neck")])


@pytest.mark.parametrize("convert", [coco17_to_h36m18, mpii16_to_h36m18])
def test_joints_are_converted_in_batches_of_any_shape(convert: Callable[..., tuple[Tensor, Tensor]]) -> None:
    joints = 16 if convert is mpii16_to_h36m18 else 17
    points, visible = torch.randn(2, 3, joints, 2), torch.rand(2, 3, joints) > 0.3
    made, seen = convert(points, visible)
    assert (made.shape, seen.shape) == ((2, 3, 18, 2), (2, 3, 18))
    for row in np.ndindex(2, 3):
        alone = convert(points[row], visible[row])
        assert torch.equal(made[row], alone[0])
        assert torch.equal(seen[row], alone[1])


def test_the_table_of_cameras_has_not_changed() -> None:
    """Where the stand-in is at hand, tests/sources/test_prepare_h36m.py finds its keypoints with it to 0.001 px."""
    table = repr((h36m._INTRINSICS, h36m._EXTRINSICS)).encode()
    assert hashlib.sha256(table).hexdigest().startswith("4f79d583039a7680")


def test_the_cameras_of_a_subject_stand_around_him_in_metres() -> None:
    one = h36m.cameras("S1")["54138969"]
    torch.testing.assert_close(-one.R.T @ one.t, torch.tensor([1841.10707, 4955.28466, 1563.44540], dtype=D64) / 1000,
                               rtol=0, atol=1e-4)  # fmt: skip


def test_what_human36m_says_of_itself() -> None:
    """Public code drops these of the 32 joints (VideoPose3D's `remove_static_joints`, by Pavllo et al.)."""
    dropped = {4, 5, 9, 10, 11, 16, 20, 21, 22, 23, 24, 28, 29, 30, 31}
    assert tuple(sorted(set(range(32)) - dropped)) == h36m.KEEP_17_OF_32
    assert (h36m.FRAME_RATE, len(h36m.ACTIONS)) == (50, 15)
    assert h36m.ACTIONS[14 - h36m.FIRST_ACTION] == "Walking"  # act 14 of the release


def test_the_18th_joint_is_between_the_shoulders() -> None:
    points = torch.randn(4, 17, 3)
    made = h36m17_to_h36m18(points)
    assert torch.equal(made[:, :17], points)
    left, right = (H36M17.joints.index(f"{side}_shoulder") for side in ("left", "right"))
    torch.testing.assert_close(made[:, 17], (points[:, left] + points[:, right]) / 2)
