import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lifting.geometry.cameras import matrix_from_quaternion
from lifting.geometry.h36m import KEEP_17_OF_32
from lifting.geometry.skeleton import H36M17
from lifting.metrics import pose_errors as metrics
from lifting.metrics.pose_errors import (
    PoseSums,
    auc,
    format_report,
    joint_errors,
    pck,
    pearson,
    pose_report,
    rare_report,
    rareness,
    velocity_errors,
)

STANDIN = Path(__file__).parents[3] / "shared/data/h36m_standin/data_3d_h36m.npz"
METRICS = ("mpjpe", "pa_mpjpe", "n_mpjpe")


def poses(n: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = 0.4 * torch.randn(n, 17, 3, generator=generator, dtype=torch.float64)
    return (x - x[:, :1]).to(dtype)


def noisy(x: torch.Tensor, scale: float = 0.05, seed: int = 1) -> torch.Tensor:
    y = x + scale * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)
    return y - y[:, :1]


def similar(x: torch.Tensor, seed: int) -> torch.Tensor:
    """Each pose turned, scaled and shifted in a way of its own."""
    generator = torch.Generator().manual_seed(seed)
    q, scale, shift = (torch.randn(len(x), n, generator=generator, dtype=x.dtype) for n in (4, 1, 3))
    return scale.exp()[..., None] * x @ matrix_from_quaternion(q).mT + shift[:, None]


def slow_twin(x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """One pose after the other, by the textbook; x is moved onto y."""
    rows: dict[str, list[np.ndarray]] = {name: [] for name in METRICS}
    for a, b in zip(x, y, strict=True):
        rows["mpjpe"].append(np.linalg.norm(a - b, axis=1))
        rows["n_mpjpe"].append(np.linalg.norm(a * np.sum(a * b) / np.sum(a * a) - b, axis=1))
        a0, b0 = a - a.mean(0), b - b.mean(0)
        U, S, Vt = np.linalg.svd(a0.T @ b0)
        D = np.diag([1, 1, np.sign(np.linalg.det(U @ Vt))])
        turned = a0 @ U @ D @ Vt
        scale = np.trace(np.diag(S) @ D) / np.sum(a0 * a0)
        rows["pa_mpjpe"].append(np.linalg.norm(scale * turned - b0, axis=1))
    return {name: np.stack(values) for name, values in rows.items()}


@pytest.mark.parametrize("noise", [0.02, 0.5, 3.0])  # from a good lifter to nonsense
def test_errors_equal_the_slow_twin(noise: float) -> None:
    target = poses(40)
    prediction = noisy(target, noise)
    fast, slow = joint_errors(prediction, target), slow_twin(prediction.numpy(), target.numpy())
    assert set(fast) == set(METRICS)
    for name in METRICS:
        np.testing.assert_allclose(fast[name].numpy(), slow[name], atol=1e-12, rtol=1e-9)


@pytest.mark.skipif(not STANDIN.exists(), reason="no real motion at hand")
def test_errors_of_real_poses_equal_the_slow_twin_in_float32() -> None:
    subject = np.load(STANDIN, allow_pickle=True)["positions_3d"].item()["S9"]
    real = np.concatenate([take[::40, list(KEEP_17_OF_32)] for take in subject.values()])
    target = torch.from_numpy(real - real[:, :1]).float()
    prediction = noisy(target)
    fast = joint_errors(prediction, target)
    slow = slow_twin(prediction.double().numpy(), target.double().numpy())
    for name in METRICS:
        assert fast[name].dtype == torch.float32
        np.testing.assert_allclose(fast[name].numpy(), slow[name], atol=2e-6)


def test_a_planted_similarity_has_no_pa_error_but_an_mpjpe() -> None:
    target = poses(50)
    errors = joint_errors(similar(target, 3), target)
    assert errors["pa_mpjpe"].max() < 1e-10
    assert errors["mpjpe"].mean() > 0.1


def test_a_mirrored_pose_is_not_forgiven() -> None:
    target = poses(50)
    assert joint_errors(target * torch.tensor([-1.0, 1, 1]), target)["pa_mpjpe"].mean(1).min() > 0.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_degenerate_poses_have_finite_errors(dtype: torch.dtype) -> None:
    target = poses(4, dtype=dtype)
    prediction = target.clone()
    prediction[0] = 0  # all joints in one point
    target[1] = 0
    prediction[2], target[2] = 0, 0
    prediction[3, :, 1:] = 0  # on a line
    errors = joint_errors(prediction, target)
    assert all(error.isfinite().all() for error in errors.values())
    torch.testing.assert_close(errors["n_mpjpe"][0], target[0].norm(dim=-1))
    torch.testing.assert_close(errors["pa_mpjpe"][0], (target[0] - target[0].mean(0)).norm(dim=-1))
    assert all(error[2].max() == 0 for error in errors.values())


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    target = poses(20)
    whole = joint_errors(noisy(target), target)
    monkeypatch.setattr(metrics, "CHUNK", 7)
    torch.testing.assert_close(joint_errors(noisy(target), target), whole)


# Prints what each of the two takes at its peak, beside data and results, for as many poses as the argument says.
PEAK = """
import resource, sys, torch
from lifting.geometry.skeleton import H36M17
from lifting.metrics.pose_errors import joint_errors, pose_report

def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

n = int(sys.argv[1])
x, y, actions = torch.rand(n, 17, 3), torch.rand(n, 17, 3), torch.arange(n) % 15
joint_errors(x[:9000], y[:9000])
before = peak()
errors = joint_errors(x, y)
middle = peak()
pose_report(errors, actions, list("abcdefghijklmno"), H36M17.joints)
print(middle - before - sum(error.nbytes for error in errors.values()), peak() - middle)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere ru_maxrss has other units")
def test_memory_does_not_grow_with_the_number_of_poses() -> None:
    poses = 300_000
    command = [sys.executable, "-c", PEAK, str(poses)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    of_errors, of_report = map(int, done.stdout.split())
    assert of_errors < 20e6
    assert of_report < 20e6


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_poses_that_are_not_finite_are_counted_not_averaged(bad: float) -> None:
    target = poses(5)
    prediction = target.clone()
    prediction[1, 4, 2] = prediction[3] = bad
    with pytest.raises(ValueError, match="prediction: 2 of 5 poses are not finite"):
        joint_errors(prediction, target)
    with pytest.raises(ValueError, match="target: 2 of 5"):
        joint_errors(target, prediction)


@pytest.mark.parametrize("shapes", [((5, 17, 3), (5, 16, 3)), ((5, 17, 2), (5, 17, 2)), ((17, 3), (17, 3))])
def test_other_shapes_are_refused(shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError, match=r"expected equal \(N, J, 3\), got"):
        joint_errors(*(torch.zeros(shape) for shape in shapes))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(0.1, 10))
def test_what_each_metric_forgives(seed: int, scale: float) -> None:
    target = poses(6, seed)
    prediction = noisy(target, 0.1, seed + 1)
    plain = joint_errors(prediction, target)
    scaled = joint_errors(scale * prediction, target)
    moved = joint_errors(similar(prediction, seed), target)
    torch.testing.assert_close(scaled["n_mpjpe"], plain["n_mpjpe"])
    torch.testing.assert_close(scaled["pa_mpjpe"], plain["pa_mpjpe"])
    torch.testing.assert_close(moved["pa_mpjpe"], plain["pa_mpjpe"])
    if abs(scale - 1) > 0.3:
        assert (scaled["mpjpe"] - plain["mpjpe"]).abs().max() > 1e-3
    assert (moved["n_mpjpe"] - plain["n_mpjpe"]).abs().max() > 1e-3

    # An alignment minimises the sum of squares, hence can only lower that.
    square = {name: error.square().sum(1) for name, error in plain.items()}
    assert (square["pa_mpjpe"] <= square["n_mpjpe"] + 1e-12).all()
    assert (square["n_mpjpe"] <= square["mpjpe"] + 1e-12).all()


def by_hand() -> dict[str, torch.Tensor]:
    """Two joints; the first action has one pose, the second three."""
    mpjpe = torch.tensor([[0.010, 0.030], [0.040, 0.080], [0.100, 0.200], [0.000, 0.000]])
    return {"mpjpe": mpjpe, "pa_mpjpe": mpjpe / 2, "n_mpjpe": 0.75 * mpjpe}


def report_by_hand() -> dict[str, Any]:
    return pose_report(by_hand(), torch.tensor([2, 0, 0, 0]), ["Walking", "Absent", "Eating"], ["hip", "knee"])


def test_report_by_hand() -> None:
    report = report_by_hand()
    # Poses: 20 mm (Eating); 60, 150, 0 mm (Walking, mean 70).
    assert report["mpjpe_mm"] == pytest.approx(45)
    assert report["pa_mpjpe_mm"] == pytest.approx(22.5)
    assert report["n_mpjpe_mm"] == pytest.approx(33.75)
    assert report["mpjpe_frame_mm"] == pytest.approx(57.5)
    assert report["pa_mpjpe_frame_mm"] == pytest.approx(28.75)
    assert report["n_mpjpe_frame_mm"] == pytest.approx(43.125)
    assert report["n_poses"] == 4
    assert list(report["per_action"]) == ["Walking", "Eating"]
    assert report["per_action"]["Walking"] == pytest.approx(
        {"mpjpe_mm": 70, "pa_mpjpe_mm": 35, "n_mpjpe_mm": 52.5, "n_poses": 3}
    )
    assert report["per_joint"] == {
        "hip": pytest.approx({"mpjpe_mm": 37.5, "pa_mpjpe_mm": 18.75}),
        "knee": pytest.approx({"mpjpe_mm": 77.5, "pa_mpjpe_mm": 38.75}),
    }
    assert report["pck_150mm"] == pytest.approx(100 * 7 / 8)
    assert report["auc"] == pytest.approx(auc(by_hand()["mpjpe"]))
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_report_of_float32_does_not_drift_with_many_poses() -> None:
    error = torch.full((300_000, 17), 0.0431)
    report = pose_report(dict.fromkeys(METRICS, error), torch.zeros(len(error), dtype=torch.long), ["A"], H36M17.joints)
    assert report["mpjpe_mm"] == pytest.approx(43.1, abs=1e-4)


def test_sums_over_parts_are_those_of_the_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    errors = {name: torch.rand(900, 17, generator=generator) / 5 for name in METRICS}
    actions, names = torch.arange(900) % 4, ["a", "b", "c", "d", "absent"]
    sums = PoseSums(names, H36M17.joints)
    for part in (slice(0, 1), slice(1, 700), slice(700, 900)):
        sums.add({name: error[part] for name, error in errors.items()}, actions[part])
    found, whole = sums.report(), pose_report(errors, actions, names, H36M17.joints)
    assert found["per_action"].keys() == {"a", "b", "c", "d"}
    for name in ("per_action", "per_joint"):
        for key, row in whole.pop(name).items():
            assert found[name][key] == pytest.approx(row, rel=1e-12)
        del found[name]
    assert found == pytest.approx(whole, rel=1e-12)
    with pytest.raises(ValueError, match="at least one pose, got none"):
        PoseSums(names, H36M17.joints).report()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda errors, actions, joints: (errors, actions[:2], joints),
        lambda errors, actions, joints: (errors, actions, [*joints, "ankle"]),
        lambda errors, actions, joints: ({name: error[:0] for name, error in errors.items()}, actions[:0], joints),
    ],
)
def test_report_of_other_sizes_is_refused(spoil: Callable[..., Any]) -> None:
    errors, actions, joints = spoil(by_hand(), torch.tensor([2, 0, 0, 0]), ["hip", "knee"])
    with pytest.raises(ValueError, match="expected"):
        pose_report(errors, actions, ["Walking", "Absent", "Eating"], joints)


def test_velocity_errors_by_hand() -> None:
    target = torch.randint(-9, 9, (3, 2, 17, 3)).float()
    prediction = target + torch.tensor([3.0, 4.0, 0.0])  # a constant error has the right velocity
    assert (velocity_errors(prediction, target) == 0).all()
    prediction[2, 1, 5, 2] += 2
    found = velocity_errors(prediction, target)
    assert found.shape == (2, 2, 17)
    assert found[1, 1, 5] == 2
    assert found.sum() == 2
    assert torch.equal(velocity_errors(prediction[:, 1], target[:, 1]), found[:, 1])
    for wrong in ((prediction, target[:2]), (target[..., :2], target[..., :2]), (torch.zeros(4, 3), torch.zeros(4, 3))):
        with pytest.raises(ValueError, match="expected equal"):
            velocity_errors(*wrong)


def test_pck_and_auc_by_hand() -> None:
    # Of the thresholds 0, 5, ..., 150: 0 mm lies below 30 of 31; 7 mm below 29; 150 mm and 1 m below none.
    error = torch.tensor([[0.0, 0.007], [0.150, 1.0]], dtype=torch.float64)
    assert pck(error) == pytest.approx(50)
    assert pck(error, 0.001) == pytest.approx(25)
    assert auc(error) == pytest.approx(100 * (30 + 29) / 31 / 4)


def test_pearson() -> None:
    x = poses(10)
    y = noisy(x, 1.0)
    assert pearson(x, y) == pytest.approx(np.corrcoef(x.flatten(), y.flatten())[0, 1])
    assert pearson(x, 3 - 2 * x) == pytest.approx(-1)
    with pytest.raises(ValueError, match="equally many"):
        pearson(x, x[:3])


def test_the_table_names_the_metrics_and_lines_up() -> None:
    lines = format_report(report_by_hand()).splitlines()
    assert "MPJPE (protocol #1)" in lines[0]
    assert "PA-MPJPE (protocol #2)" in lines[0]
    numbers = {line[:20].strip(): line[20:].split() for line in lines}
    assert numbers["Walking"] == ["70.0", "35.0", "52.5", "3"]
    assert numbers["mean over 2 actions"][:2] == ["45.0", "22.5"]
    assert numbers["mean over all frames"][::2] == ["57.5", "43.1"]
    assert numbers["hip"][0] == "37.5"
    assert numbers["knee"][0] == "77.5"
    table = [line for line in lines if line.endswith(tuple("0123456789"))]
    ends = {line.index(".") for line in table}
    assert len(ends) == 1, "first column of numbers does not line up"
    assert "PCK at 150 mm 87.5 %" in lines[-1]
    bones = format_report({**report_by_hand(), "mpsse_mm": 8.82, "mpsce_mm": 9.91}).splitlines()
    assert bones[:-1] == lines
    assert bones[-1] == "bone lengths differ: left against right (MPSSE) 8.8 mm, over time (MPSCE) 9.9 mm"
    one = pose_report(by_hand(), torch.zeros(4, dtype=torch.int64), ["Walking"], ["hip", "knee"])
    assert "mean over 1 action " in format_report(one)
    assert format_report({**report_by_hand(), "mpsce_mm": 9.91}).endswith("differ: over time (MPSCE) 9.9 mm")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_rareness_is_the_mean_distance_to_all_of_the_training(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(metrics, "_RARE_CHUNKS", (4, 8))
    test, training = poses(11, dtype=dtype), poses(21, seed=1, dtype=dtype) + 0.5
    slow = torch.stack([torch.stack([(x - y).norm(dim=-1).mean() for y in training]).mean() for x in test])
    # The roots coincide, where the square root of what is left of a difference is the least exact.
    torch.testing.assert_close(
        rareness(test, training), slow.double(), rtol=0, atol=1e-9 if dtype.itemsize == 8 else 1e-4
    )


def test_rareness_of_the_training_itself_is_finite() -> None:
    """The square of a distance of nothing comes out below zero in float32."""
    poses = torch.randn(300, 17, 3)
    assert rareness(poses, poses).isfinite().all()


def test_the_rarest_are_those_far_from_the_training() -> None:
    training = poses(50)
    test = torch.cat([poses(95, seed=1), poses(5, seed=2) * 3])
    rare = rareness(test, training)
    assert set(rare.topk(5).indices.tolist()) == set(range(95, 100))
    errors = {"mpjpe": torch.arange(100.0)[:, None].expand(100, 17) / 1000}
    sizes = {n: [row["n_poses"] for row in rare_report({}, torch.arange(float(n))).values()] for n in (3, 1000)}
    assert sizes == {3: [1, 1, 1], 1000: [50, 100, 200]}
    report = rare_report(errors, torch.arange(100.0))
    assert {key: (row["n_poses"], round(row["mpjpe_mm"], 6)) for key, row in report.items()} == {
        "5": (5, 97.0),
        "10": (10, 94.5),
        "20": (20, 89.5),
    }


@pytest.mark.parametrize(
    "wrong",
    [
        (torch.zeros(2, 17, 3), torch.zeros(0, 17, 3)),
        (torch.zeros(2, 3), torch.zeros(2, 3)),
        (torch.zeros(2, 17, 3), torch.zeros(4, 16, 3)),
    ],
)
def test_rareness_needs_poses(wrong: tuple[torch.Tensor, torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="expected \\(N, J, 3\\)"):
        rareness(*wrong)


def test_errors_pass_gradients_on() -> None:
    target = torch.randn(5, 4, 3)
    for name, error in joint_errors((target + 0.1).requires_grad_(), target).items():
        assert error.requires_grad, name
