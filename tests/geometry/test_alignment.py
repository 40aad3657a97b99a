"""Alignment: against a singular value decomposition pose by pose, by planted answers, and where it is ambiguous."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from lifting.geometry import alignment
from lifting.geometry.alignment import align, scale_align, similarity
from lifting.geometry.cameras import matrix_from_quaternion

D64 = torch.float64
PERSON = torch.tensor([0.15, 0.5, 0.08], dtype=D64)  # metres, standard deviations of the joints of somebody who stands
MIRROR = torch.tensor([-1.0, 1, 1], dtype=D64)
# Six points of which `similarity` fits those of a matrix K to K itself.
OCTAHEDRON = torch.cat([torch.eye(3, dtype=D64), -torch.eye(3, dtype=D64)])


def rotations(n: int) -> Tensor:
    return matrix_from_quaternion(torch.randn(n, 4, dtype=D64))


def slow_twin(source: Tensor, target: Tensor) -> tuple[NDArray[np.float64], ...]:
    """s, R, t of one pose, (J, 3), by the textbook."""
    x, y = source.double().numpy(), target.double().numpy()
    x0, y0 = x - x.mean(0), y - y.mean(0)
    U, S, Vt = np.linalg.svd(y0.T @ x0)
    D = np.diag([1, 1, np.sign(np.linalg.det(U @ Vt))])
    R = U @ D @ Vt
    scale = np.trace(np.diag(S) @ D) / np.sum(x0 * x0)
    return scale, R, y.mean(0) - scale * R @ x.mean(0)


def person(n: int) -> Tensor:
    return torch.randn(n, 17, 3, dtype=D64) * PERSON @ rotations(n)


def pairs(kind: str, n: int = 200) -> tuple[Tensor, Tensor]:
    """Sources and targets that a lifter, or a bad one, could have to do with."""
    torch.manual_seed(0)
    source = person(n)
    noise = 0.03 * torch.randn_like(source)
    if kind == "good":
        return source, source @ rotations(1) + noise + 0.3
    if kind == "planar":
        flat = torch.randn(n, 17, 3, dtype=D64) * torch.tensor([0.3, 0.4, 1e-9], dtype=D64)
        return flat @ rotations(n), flat @ rotations(n) + 0.1 * noise
    if kind == "mirrored":
        return source, source * MIRROR + noise
    if kind == "nonsense":
        return source, person(n) + 5
    assert kind == "far"
    return source + 40, source @ rotations(1) + noise - 30


@pytest.mark.parametrize("kind", ["good", "planar", "mirrored", "nonsense", "far"])
@pytest.mark.parametrize("factor", [1.0, 1e-10, 1e10])
def test_any_pose_is_aligned_as_by_its_slow_twin(kind: str, factor: float) -> None:
    source, target = pairs(kind)
    source = factor * source
    for row, (scale, R, t) in enumerate(zip(*similarity(source, target), strict=True)):
        slow_scale, slow_R, slow_t = slow_twin(source[row], target[row])
        np.testing.assert_allclose(scale, slow_scale, rtol=1e-10)
        np.testing.assert_allclose(R, slow_R, atol=1e-10)
        np.testing.assert_allclose(t, slow_t, atol=1e-10 * 40)
    expected = [s * x @ R.T + t for x, (s, R, t) in zip(source.numpy(), map(slow_twin, source, target), strict=True)]
    np.testing.assert_allclose(align(source, target), np.stack(expected), atol=1e-10)


@pytest.mark.parametrize("kind", ["good", "planar", "mirrored", "nonsense", "far"])
@pytest.mark.parametrize("factor", [1.0, 1e-10, 1e10])
def test_float32_loses_no_more_than_float32_has(kind: str, factor: float) -> None:
    source, target = (x.float() for x in pairs(kind))
    source = factor * source
    aligned, (scale, R, t) = align(source, target), similarity(source, target)
    assert {x.dtype for x in (aligned, scale, R, t)} == {torch.float32}
    torch.testing.assert_close(R @ R.mT, torch.eye(3).expand_as(R), atol=1e-6, rtol=0)
    for row, got in enumerate(aligned):
        slow_scale, slow_R, slow_t = slow_twin(source[row], target[row])
        expected = slow_scale * source[row].double().numpy() @ slow_R.T + slow_t
        best, reached = (np.linalg.norm(x - target[row].double().numpy()) for x in (expected, got.double().numpy()))
        assert reached <= best + 2e-6 * (40 if kind == "far" else 1)
        np.testing.assert_allclose(scale[row], slow_scale, rtol=1e-5 if kind == "far" else 2e-6)


def test_a_planted_similarity_is_recovered() -> None:
    torch.manual_seed(0)
    source, R, t = torch.randn(50, 17, 3, dtype=D64), rotations(50), torch.randn(50, 3, dtype=D64)
    scale = torch.rand(50, dtype=D64) + 0.1
    target = scale[:, None, None] * source @ R.mT + t[:, None]
    for found, planted in zip(similarity(source, target), (scale, R, t), strict=True):
        torch.testing.assert_close(found, planted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(align(source, target), target)


def test_alignment_against_scipy_and_no_reflection() -> None:
    torch.manual_seed(0)
    source, target = torch.randn(2, 40, 17, 3, dtype=D64)
    target[:20] = source[:20] * MIRROR  # which no rotation can produce
    aligned = align(source, target)
    _, R, _ = similarity(source, target)
    torch.testing.assert_close(torch.linalg.det(R), torch.ones(40, dtype=D64))
    for x, y, got in zip(source.numpy(), target.numpy(), aligned.numpy(), strict=True):
        x0, y0 = x - x.mean(0), y - y.mean(0)
        rotation, _ = Rotation.align_vectors(y0, x0)
        turned = rotation.apply(x0)
        expected = turned * (turned * y0).sum() / (turned**2).sum() + y.mean(0)
        np.testing.assert_allclose(got, expected, atol=1e-6)
    assert (aligned[:20] - target[:20]).norm(dim=-1).mean() > 0.1


sizes = st.one_of(st.just(0.0), st.just(1.0), st.floats(-8, 0).map(lambda power: 10**power))


@settings(deadline=None, max_examples=300)
@given(values=st.tuples(sizes, sizes, sizes), mirrored=st.booleans(), power=st.integers(-9, 9), seed=st.integers(0, 99))
def test_the_best_rotation_for_any_singular_values(
    values: tuple[float, float, float], mirrored: bool, power: int, seed: int
) -> None:
    """Also where it is ambiguous, a rotation is returned, and none is better."""
    torch.manual_seed(seed)
    U, V = rotations(2)
    s1, s2, s3 = sorted(values, reverse=True)
    signed = torch.tensor([s1, s2, -s3 if mirrored else s3], dtype=D64) * 10.0**power
    target = OCTAHEDRON @ (U * signed @ V.mT / 2).mT
    scale, R, t = similarity(OCTAHEDRON, target)
    torch.testing.assert_close(R @ R.mT, torch.eye(3, dtype=D64), atol=1e-10, rtol=0)
    torch.testing.assert_close(torch.linalg.det(R), torch.ones((), dtype=D64))
    size = s1 * 10.0**power
    assert abs(float(scale) - float(signed.sum()) / 6) <= 1e-10 * size
    assert (R * (U * signed @ V.mT)).sum() >= signed.sum() - 1e-10 * size
    assert t.abs().max() <= 1e-10 * size
    if s2 + float(signed[2]) * 10.0**-power > 0.01 * s1:
        torch.testing.assert_close(R, U @ V.mT, atol=1e-10, rtol=0)


def test_poses_that_coincide_or_lie_on_a_line_are_aligned_as_well_as_can_be() -> None:
    torch.manual_seed(0)
    target = torch.randn(1, 17, 3, dtype=D64)
    assert scale_align(torch.zeros_like(target), target).abs().max() == 0
    line = torch.linspace(-1, 1, 17, dtype=D64)[None, :, None] * torch.tensor([1.0, 2, 3], dtype=D64)
    turned = line @ rotations(1).mT * 0.3 + 1
    torch.testing.assert_close(align(line, turned), turned)
    torch.testing.assert_close(torch.linalg.det(similarity(line, turned)[1]), torch.ones(1, dtype=D64))


@pytest.mark.parametrize("dtype", [torch.float32, D64])
@pytest.mark.parametrize("value", [0.0, 0.1, 0.3, 5.7, 1234.567])  # the mean of 17 times 0.1 is not 0.1
def test_coinciding_points_have_no_scale(dtype: torch.dtype, value: float) -> None:
    target = torch.randn(4, 17, 3, dtype=dtype)
    source = torch.full_like(target, value)
    scale, R, t = similarity(source, target)
    assert (scale == 0).all()
    torch.testing.assert_close(t, target.mean(1))
    torch.testing.assert_close(R.mT @ R, torch.eye(3, dtype=dtype).expand_as(R))
    torch.testing.assert_close(align(source, target), target.mean(1, keepdim=True).expand_as(target))


def test_a_usual_pose_needs_no_decomposition(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[int] = []
    by_svd = alignment._by_svd
    monkeypatch.setattr(alignment, "_by_svd", lambda K: left.append(K.shape[-1]) or by_svd(K))  # type: ignore[func-returns-value]
    align(*pairs("good"))
    align(*pairs("planar"))
    assert not left
    source, target = pairs("mirrored")
    target[7] = source[7]
    source[3] = target[5] = 0
    align(source, target)
    assert 2 <= left[0] < 200  # only the rows that do need one


@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 3)])
def test_any_leading_shape(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    source, target = torch.randn(2, *shape, 17, 3, dtype=D64)
    scale, R, t = similarity(source, target)
    assert (scale.shape, R.shape, t.shape) == (shape, (*shape, 3, 3), (*shape, 3))
    torch.testing.assert_close(align(source, target), scale[..., None, None] * (source @ R.mT) + t[..., None, :])
    backwards = source.flip(-2).transpose(-1, -2).contiguous().transpose(-1, -2)
    torch.testing.assert_close(align(backwards, target.flip(-2)), align(source, target).flip(-2))


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got \(1, 17, 3\), \(1, 16, 3\)"):
        similarity(torch.zeros(1, 17, 3), torch.zeros(1, 16, 3))
    with pytest.raises(ValueError, match=r"expected equal \(..., J, 3\), got \(1, 17, 2\)"):
        align(torch.zeros(1, 17, 2), torch.zeros(1, 17, 2))


def test_scale_alignment_is_the_best_factor() -> None:
    source, target = torch.randn(2, 5, 17, 3, dtype=D64)
    best = (scale_align(source, target) - target).square().sum((1, 2))
    for factor in torch.linspace(-2, 2, 201, dtype=D64):
        assert ((factor * source - target).square().sum((1, 2)) >= best - 1e-9).all()
