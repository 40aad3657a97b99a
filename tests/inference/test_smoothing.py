"""The smoother: equal to the Gaussian posterior it stands for, better where deviations say so, honest about gaps."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from lifting.command import InputError
from lifting.geometry.skeleton import H36M17
from lifting.inference.rts import rts
from lifting.inference.smoothing import _power, bone_lengths, hold_lengths, smooth, smooth_track
from lifting.lifted import Lifted
from tests.drawing.people import absent, people

Array = NDArray[np.float64]
BONES = H36M17.bones


def posterior(y: Array, r: Array, q: Array, dt: float) -> tuple[Array, Array]:
    """The slow twin: mean and variance of all positions given all measurements, by one large inverse."""
    T = len(y)
    precision = np.zeros((2 * T, 2 * T))
    right = np.zeros(2 * T)
    F, Q = np.array([[1, dt], [0, 1]]), np.array([[dt**3 / 3, dt**2 / 2], [dt**2 / 2, dt]])
    precision[0, 0], precision[1, 1] = 1 / 4, 1 / 25
    right[0] = y[np.isfinite(y)][0] / 4
    for k in range(1, T):
        D = np.zeros((2, 2 * T))
        D[:, 2 * k : 2 * k + 2], D[:, 2 * k - 2 : 2 * k] = np.eye(2), -F
        precision += D.T @ np.linalg.inv(q[k] * Q) @ D
    for k in np.flatnonzero(np.isfinite(y)).tolist():
        precision[2 * k, 2 * k] += 1 / r[k]
        right[2 * k] += y[k] / r[k]
    covariance = np.linalg.inv(precision)
    return (covariance @ right)[::2], np.diag(covariance)[::2]


def test_it_is_the_posterior() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=(30, 4)).cumsum(0) * 0.05
    y[10:14, 1], y[:3, 2], y[-5:, 3] = np.nan, np.nan, np.nan
    r, q = rng.uniform(1e-4, 1e-2, y.shape), rng.uniform(0.1, 10, y.shape)
    mean, variance = rts(y, r, q, 0.02)
    for i in range(4):
        expected = posterior(y[:, i], r[:, i], q[:, i], 0.02)
        np.testing.assert_allclose(mean[:, i], expected[0], atol=1e-7)
        np.testing.assert_allclose(variance[:, i], expected[1], rtol=1e-5)


def mean_error(joints: Array, truth: Array) -> float:
    return float(np.nanmean(np.linalg.norm(joints - truth, axis=-1)))


def velocity_error(joints: Array, truth: Array) -> float:
    return float(np.nanmean(np.linalg.norm(np.diff(joints - truth, axis=0), axis=-1)))


def test_joints_and_velocities_come_closer() -> None:
    lifted, truth = people(frames=200, count=2, frame_rate=25)
    result = smooth(lifted)
    assert mean_error(result.joints, truth) < 0.75 * mean_error(lifted.joints, truth)
    assert velocity_error(result.joints, truth) < 0.4 * velocity_error(lifted.joints, truth)


def test_a_frame_that_is_uncertain_counts_less() -> None:
    lifted, truth = people(frames=100)
    rng = np.random.default_rng(1)
    bad = rng.random(lifted.joints.shape[:3]) < 0.1
    bad[..., 0] = False
    lifted.joints[bad] += rng.normal(0, 0.2, (bad.sum(), 3))
    told = lifted.deviation.copy()
    told[bad] = 0.2
    aware = smooth(replace(lifted, deviation=told, sigma=told))
    unaware = smooth(lifted)
    assert mean_error(aware.joints, truth) < 0.7 * mean_error(unaware.joints, truth)


def test_bones_keep_their_length_and_the_certain_end_stays() -> None:
    lifted, _ = people(frames=40, count=2)
    deviation = np.full(lifted.joints.shape, 0.03)
    deviation[:, :, 3] = 1e-4
    held = hold_lengths(lifted.joints, deviation)
    lengths = bone_lengths(lifted.joints, deviation)
    mirror = np.array(H36M17.mirror)
    np.testing.assert_allclose(lengths, lengths[:, mirror])
    for a, b in BONES:
        length = np.linalg.norm(held[:, :, b] - held[:, :, a], axis=-1)
        off = np.abs(length - lengths[:, b])
        assert np.median(off) < 2e-3
        assert off.max() < 1e-2
    assert np.abs(held - lifted.joints)[:, :, 3].max() < 1e-3 < np.abs(held - lifted.joints)[:, :, 2].max()
    np.testing.assert_array_equal(held[:, :, 0], lifted.joints[:, :, 0])


def test_a_bone_without_a_length_has_no_direction_to_grow_in() -> None:
    lifted, _ = people(frames=40)
    lifted.joints[7, 0, 1] = lifted.joints[7, 0, 0]
    assert np.isfinite(hold_lengths(lifted.joints, np.full(lifted.joints.shape, 0.03))).all()


def test_short_gaps_are_bridged_with_growing_deviation_long_ones_stay() -> None:
    lifted, truth = people(frames=80, count=2, frame_rate=25)
    absent(lifted, slice(20, 25), 0)
    absent(lifted, slice(50, 56), 0)
    absent(lifted, slice(0, 4), 1)
    result = smooth(lifted, max_gap=0.2)
    assert result.present[20:25, 0].all()
    assert not result.present[50:56, 0].any()
    assert not result.present[:4, 1].any()
    assert result.present.sum() == 160 - 6 - 4
    knee = result.deviation[18:27, 0, 2, 2]
    assert knee.argmax() == 4
    assert (np.diff(knee[1:5]) > 0).all()
    assert mean_error(result.joints[20:25], truth[20:25]) < 0.05
    assert np.isfinite(result.confidence[20:25]).all()
    assert not smooth(lifted, max_gap=0).present[20:25, 0].any()


def test_deviations_shrink_by_the_white_part_alone_and_sigma_follows() -> None:
    lifted, _ = people(frames=100)
    lifted = replace(lifted, sigma=lifted.deviation / 2)
    result = smooth(lifted)
    assert (result.deviation <= lifted.deviation * 1.001).all()
    assert (result.deviation[:, :, 1:] > 0.6 * lifted.deviation[:, :, 1:]).all()
    np.testing.assert_allclose(result.sigma, result.deviation / 2, atol=1e-12)
    np.testing.assert_allclose(result.confidence, 1 - result.sigma.mean(-1))
    assert (result.joints[:, :, 0] == 0).all()
    assert (result.deviation[:, :, 0] == 0).all()


def test_sigma_over_deviation_is_each_persons_own() -> None:
    """In the axes of a camera it depends on where a person is, so it is not shared between people or frames."""
    lifted, _ = people(frames=60, count=2, frame_rate=25)
    ratio = np.array([[1.9, 1.9, 0.9], [1.3, 1.9, 1.0]])[:, None]
    deviation = lifted.deviation.copy()
    deviation[20:23, 1] = np.nan
    joints = np.where(np.isfinite(deviation), lifted.joints, np.nan)
    known = replace(lifted, joints=joints, deviation=deviation, sigma=deviation * ratio)
    smoothed = smooth(known)
    found = smoothed.sigma[..., 1:, :] / smoothed.deviation[..., 1:, :]
    np.testing.assert_allclose(found, np.broadcast_to(ratio, found.shape), rtol=1e-5)


@pytest.mark.parametrize("frames", [3, 6])
def test_the_power_of_a_joint_is_that_of_its_acceleration(frames: int) -> None:
    """A mean over its coordinates alone. The first and the last frame have none: they take that of their neighbours."""
    rng = np.random.default_rng(0)
    x = rng.normal(0, 0.1, (frames, 2, 4, 3))
    power = _power(x.reshape(frames, -1), x.shape, 50.0).reshape(x.shape)
    acceleration = (x[2:] - 2 * x[1:-1] + x[:-2]) * 50**2
    expected = np.square(acceleration).mean(-1, keepdims=True) * np.ones(3)
    np.testing.assert_allclose(power[1:-1], expected)
    np.testing.assert_allclose(power[[0, -1]], expected[[0, -1]])


def test_the_root_is_smoothed_too() -> None:
    lifted, _ = people(frames=100, root=True)
    assert lifted.root is not None
    true, rng = lifted.root, np.random.default_rng(0)
    noisy = replace(lifted, root=true + rng.normal(0, 0.05, true.shape))
    result = smooth(noisy)
    assert result.root is not None
    assert noisy.root is not None
    assert np.abs(result.root - true).mean() < 0.5 * np.abs(noisy.root - true).mean()


def smoothed_plainly(y: Array, deviation: Array, rate: float, gap: int) -> tuple[Array, Array]:
    """The slow twin of `smooth_track` for one joint, (T, 3), with the constants that were chosen."""
    T, half = len(y), int(0.25 * rate / 2)

    def around(x: Array, k: int) -> Array:
        return np.stack([x[min(max(i, 0), T - 1)] for i in range(k - half, k + half + 1)])

    there = np.isfinite(y)
    full = np.stack(
        [np.interp(np.arange(T), np.flatnonzero(t), d[t]) for t, d in zip(there.T, deviation.T, strict=True)], 1
    )
    level = np.stack([np.exp(np.log(around(full, k)).mean(0)) for k in range(T)])
    white = np.minimum(np.array([0.25, 0.25, 0.43]) ** 2 * 0.05 / level, 1) * full**2
    first, _ = rts(y, white, np.full(y.shape, 0.04 * 2.0**2), 1 / rate)
    inner = [np.mean(((first[k + 1] - 2 * first[k] + first[k - 1]) * rate**2) ** 2) for k in range(1, T - 1)]
    squared = np.array([inner[0], *inner, inner[-1]]) if inner else np.full(T, 2.0**2)
    power = np.stack([np.full(3, 0.5**2 + around(squared, k).mean()) for k in range(T)])
    x, variance = rts(y, white, 0.04 * power, 1 / rate)
    total = np.sqrt(variance + full**2 - white)
    for d in range(3):
        known = [-1, *np.flatnonzero(there[:, d]).tolist(), T]
        for a, b in itertools.pairwise(known):
            if b - a - 1 > gap or a == -1 or b == T:
                x[a + 1 : b, d] = total[a + 1 : b, d] = np.nan
    return x, total


@pytest.mark.parametrize(("rate", "frames"), [(24.0, 40), (30.0, 40), (30.0, 2)])
def test_a_smoothed_track_equals_its_slow_twin(rate: float, frames: int) -> None:
    rng = np.random.default_rng(0)
    values = 0.01 * rng.normal(size=(40, 2, 3)).cumsum(0).cumsum(0) + 0.02 * rng.normal(size=(40, 2, 3))
    deviation = np.array([[0.05], [0.005]]) * np.exp(rng.normal(0, 1.5, (40, 2, 3)))
    if frames == 40:
        values[1:3, 0, 0] = values[20:24, 1, 1] = values[30:35, 1, 2] = values[:2, 1, 0] = values[-2:, 0, 1] = np.nan
    values, deviation = values[:frames], deviation[:frames]
    found = smooth_track(values, deviation, rate, 4)
    for joint in range(2):
        x, total = smoothed_plainly(values[:, joint], deviation[:, joint], rate, 4)
        np.testing.assert_allclose(found.values[:, joint], x, atol=1e-9)
        np.testing.assert_allclose(found.deviation[:, joint], total, rtol=1e-9)


def test_what_has_no_deviation_is_smoothed_as_if_it_had_the_usual_one() -> None:
    """50 mm for joints, a metre for the root."""
    lifted, _ = people(frames=30, root=True, sigma=False)
    assert lifted.root is not None and lifted.root_deviation is not None
    usual = np.full(lifted.joints.shape, 0.05)
    given = replace(lifted, deviation=usual, sigma=usual, root_deviation=np.ones(lifted.root.shape))
    lifted.root_deviation[:] = np.nan
    found, expected = smooth(lifted), smooth(given)
    np.testing.assert_allclose(found.joints, expected.joints, atol=1e-12)
    np.testing.assert_allclose(found.root, expected.root, atol=1e-12)  # type: ignore[arg-type]


def test_frames_without_a_person_do_not_count_for_his_bones() -> None:
    lifted, _ = people(frames=20, count=2)
    deviation = np.maximum(lifted.deviation, 0.01)
    expected = bone_lengths(lifted.joints[5:], deviation[5:])
    lifted.joints[:5] = np.nan
    np.testing.assert_allclose(bone_lengths(lifted.joints, deviation), expected)
    exact = np.zeros_like(deviation)
    np.testing.assert_allclose(bone_lengths(lifted.joints, exact), bone_lengths(lifted.joints, exact + 1))
    lifted.joints[:, 1] = np.nan
    assert (bone_lengths(lifted.joints, deviation)[1] == 0).all()


def test_people_and_coordinates_do_not_know_each_other() -> None:
    rng = np.random.default_rng(0)
    values, deviation = rng.normal(size=(20, 3, 5, 3)), rng.uniform(0.01, 0.1, (20, 3, 5, 3))
    together = smooth_track(values, deviation, 30, 3)
    alone = smooth_track(values[:, 1:2], deviation[:, 1:2], 30, 3)
    np.testing.assert_allclose(together.values[:, 1:2], alone.values, atol=1e-12)


def test_the_frame_rate_hardly_matters() -> None:
    """Every second frame of a smoothed film is close to the smoothed film of every second frame."""
    lifted, _ = people(frames=201, frame_rate=50)
    time = np.linspace(0, 8 * np.pi, 201)[:, None, None, None]
    calm = replace(lifted, joints=lifted.joints[:1] + 0.05 * np.sin(time) * (np.arange(17) > 0)[:, None])
    half: Lifted = replace(
        calm,
        **{name: getattr(calm, name)[::2] for name in ("joints", "sigma", "deviation", "confidence")},
        keypoints=replace(
            calm.keypoints,
            points=calm.keypoints.points[::2],
            confidence=calm.keypoints.confidence[::2],
            frames=calm.keypoints.frames[::2],
        ),
    )
    assert np.abs(smooth(calm, 50).joints[::2] - smooth(half, 25).joints)[5:-5].max() < 0.02


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_a_few_frames_and_no_sigma_will_do(frames: int) -> None:
    lifted, truth = people(frames=frames, sigma=False)
    result = smooth(lifted, 25)
    assert mean_error(result.joints, truth) < 0.1
    assert np.isnan(result.sigma).all()
    assert result.joints.dtype == lifted.joints.dtype


def test_a_lifter_without_sigma_gets_none() -> None:
    """It has one deviation for all poses."""
    lifted, _ = people(frames=9)
    nothing = np.full_like(lifted.sigma, np.nan)
    result = smooth(replace(lifted, sigma=nothing, confidence=nothing[..., 0]), 25)
    assert np.isnan(result.sigma).all() and np.isnan(result.confidence).all()
    assert np.isfinite(result.deviation).all()


def test_a_rate_that_cannot_be_is_refused() -> None:
    lifted, _ = people(frames=3, frame_rate=None)
    with pytest.raises(InputError, match="--fps"):
        smooth(lifted)
    for rate in (0, float("inf"), float("nan"), 1e300, 1e-300, 1e10):
        with pytest.raises(InputError, match="expected frames per second from 1e-05 to 100000"):
            smooth(lifted, rate)
    for rate in (1e-5, 0.5, 1e5):
        assert smooth(lifted, rate).present.all()
    with pytest.raises(InputError, match="a gap of 0 seconds or more"):
        smooth(lifted, 25, max_gap=-1)
