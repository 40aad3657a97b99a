"""The library: shapes, chunks, missing joints, joint sets, threads, and what it refuses."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import lifting
from lifting.command import InputError
from lifting.geometry.skeleton import H36M17
from lifting.inference import lifter as lifter_module
from lifting.inference.lifter import Lifter, Pose
from lifting.inference.onnx_backend import About
from lifting.keypoints.joint_sets import DETECTED, to_h36m17

SIZE = (1280, 720)


@pytest.fixture(scope="module", params=["onnx", "torch"])
def travelling(request: pytest.FixtureRequest, exported: Path, checkpoints: dict[str, Path]) -> Lifter:
    return Lifter.load(exported if request.param == "onnx" else checkpoints["person"])


@pytest.fixture(scope="module")
def by_onnx(exported: Path) -> Lifter:
    return Lifter.load(exported, threads=1)


def close(a: Pose, b: Pose) -> None:
    for name in ("joints", "sigma", "deviation"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=0, atol=1e-5)


def test_it_says_what_it_is(travelling: Lifter) -> None:
    assert travelling.names == H36M17.joints
    assert (travelling.axes, travelling.takes_missing, travelling.licence) == ("ray", True, "CC0")
    name, digest = travelling.checkpoint.split()
    assert Path(name).stem == "person"
    assert len(digest) == 12
    assert lifting.Lifter is Lifter
    with pytest.raises(AttributeError, match="Lfter"):
        _ = lifting.Lfter


def test_both_libraries_agree(by_onnx: Lifter, checkpoints: dict[str, Path], poses: NDArray[np.float64]) -> None:
    close(by_onnx.lift(poses, SIZE), Lifter.load(checkpoints["person"]).lift(poses, SIZE))


@pytest.mark.parametrize("leading", [(), (6,), (2, 3), (1, 6, 1), (0,), (3, 0, 2)])
def test_any_leading_shape(travelling: Lifter, poses: NDArray[np.float64], leading: tuple[int, ...]) -> None:
    keypoints = np.resize(poses, (*leading, 17, 2))
    pose = travelling.lift(keypoints, SIZE)
    flat = travelling.lift(keypoints.reshape(-1, 17, 2), SIZE)
    for found, expected in ((pose.joints, flat.joints), (pose.sigma, flat.sigma), (pose.deviation, flat.deviation)):
        assert found.shape == (*leading, 17, 3)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found.reshape(-1, 17, 3), expected, atol=1e-5)
    assert (pose.joints[..., 0, :] == 0).all()
    assert (pose.sigma[..., 1:, :] > 0).all()
    assert (pose.deviation[..., 0, :] == 0).all()


def test_chunks_are_seamless(by_onnx: Lifter, poses: NDArray[np.float64], monkeypatch: pytest.MonkeyPatch) -> None:
    keypoints = poses + np.arange(50)[:, None, None, None]
    whole = by_onnx.lift(keypoints, SIZE)
    monkeypatch.setattr(lifter_module, "CHUNK", 7)
    close(by_onnx.lift(keypoints, SIZE), whole)
    for t in (0, 13, 49):  # every pose is lifted from its own keypoints
        np.testing.assert_allclose(by_onnx.lift(keypoints[t], SIZE).joints, whole.joints[t], atol=1e-5)


def test_a_size_for_each_pose(checkpoints: dict[str, Path], poses: NDArray[np.float64]) -> None:
    """A lifter that knows the screen: the same keypoints in another picture are another pose."""
    stays = Lifter.load(checkpoints["screen"])
    sizes = np.array([SIZE, (1920, 1080)])
    both = stays.lift(np.stack([poses[0], poses[0]]), sizes)
    for one, size in zip(both.joints, sizes, strict=True):
        np.testing.assert_allclose(one, stays.lift(poses[0], size).joints, atol=1e-5)
    assert np.abs(both.joints[0] - both.joints[1]).max() > 1e-3
    np.testing.assert_allclose(stays.lift(1.5 * poses[0], sizes[1]).joints, both.joints[0], atol=1e-5)


def test_missing_joints(travelling: Lifter, poses: NDArray[np.float64]) -> None:
    keypoints = poses.copy()
    keypoints[0, 4] = np.nan
    keypoints[1, 4, 1] = np.nan  # half of a joint is none
    keypoints[2] = np.nan
    by_nan = travelling.lift(keypoints, SIZE)
    confidence = np.ones((6, 17))
    confidence[[0, 1], 4] = 0
    confidence[2] = 0
    close(by_nan, travelling.lift(poses, SIZE, confidence))
    confidence[confidence == 0] = np.nan
    close(by_nan, travelling.lift(poses, SIZE, confidence))
    for found in (by_nan.joints, by_nan.sigma, by_nan.deviation):
        assert np.isnan(found[2]).all()
        assert np.isfinite(np.delete(found, 2, 0)).all()
    whole = travelling.lift(poses, SIZE)
    assert not np.allclose(by_nan.joints[0], whole.joints[0], atol=1e-5)
    np.testing.assert_allclose(by_nan.joints[3:], whole.joints[3:], atol=1e-5)


def test_a_lifter_that_needs_all_joints_says_so(checkpoints: dict[str, Path], poses: NDArray[np.float64]) -> None:
    stays = Lifter.load(checkpoints["screen"])
    keypoints = np.stack([poses, poses])
    keypoints[0, 0] = np.nan  # somebody who is not there at all is no mistake
    assert np.isnan(stays.lift(keypoints, SIZE).joints[0, 0]).all()
    keypoints[1, 4, 6] = np.nan
    with pytest.raises(InputError, match=r"left_ankle is missing in pose \(1, 4\), and 1 of 12 poses.*model\.input"):
        stays.lift(keypoints, SIZE)


@pytest.mark.parametrize("joints", sorted(set(DETECTED) - {"h36m17"}))
def test_other_joint_sets(by_onnx: Lifter, joints: str) -> None:
    rng = np.random.default_rng(1)
    keypoints = rng.uniform(100, 600, (2, 2, len(DETECTED[joints]), 2))
    confidence = rng.choice([0.0, 1.0], keypoints.shape[:-1], p=[0.1, 0.9])
    keypoints[confidence == 0] = np.nan
    points, scores = to_h36m17(keypoints, confidence, joints)
    close(by_onnx.lift(keypoints, SIZE, joints=joints), by_onnx.lift(points, SIZE, scores))
    single = by_onnx.lift(keypoints[1, 1], SIZE, joints=joints).joints
    np.testing.assert_allclose(single, by_onnx.lift(points[1, 1], SIZE, scores[1, 1]).joints, atol=1e-5)


def test_threads(travelling: Lifter, poses: NDArray[np.float64]) -> None:
    """Eight threads lift different poses at once, again and again, and each gets its own."""
    rng = np.random.default_rng(2)
    inputs = [poses[: n % 6 + 1] + rng.normal(0, 5, (n % 6 + 1, 17, 2)) for n in range(48)]
    expected = [travelling.lift(keypoints, SIZE) for keypoints in inputs]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            for found, wanted in zip(pool.map(lambda x: travelling.lift(x, SIZE), inputs), expected, strict=True):
                close(found, wanted)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"keypoints": np.zeros((5, 16, 2))}, r"keypoints: expected \(\.\.\., 17, 2\) .* h36m17, got \(5, 16, 2\)"),
        ({"keypoints": np.zeros((17, 3))}, r"got \(17, 3\)"),
        ({"keypoints": np.zeros(34)}, r"got \(34,\)"),
        ({"keypoints": np.full((17, 2), np.inf)}, "none beyond 100,000, .* got inf"),
        ({"keypoints": np.full((17, 2), -1e7)}, r"none beyond 100,000, .* got 1e\+07"),
        ({"keypoints": "keypoints.json"}, "array of numbers, got str"),
        ({"keypoints": np.zeros((17, 2)), "joints": "body25"}, r"\(\.\.\., 25, 2\)"),
        ({"joints": "coco"}, "expected one of .*coco17.*, got 'coco'"),
        ({"joints": ["coco17"]}, r"expected one of .*coco17.*, got \['coco17'\]"),
        ({"confidence": np.ones(16)}, r"confidence: expected \(17,\)"),
        ({"confidence": np.full(17, 87.0)}, r"in \[0, 1\], got 87 to 87"),
        ({"confidence": np.full(17, -0.1)}, r"in \[0, 1\]"),
        ({"image_size": 1000}, r"image_size: expected \(2,\)"),
        ({"image_size": (1000, 0)}, "above zero"),
        ({"image_size": (np.nan, 1000)}, "above zero"),
        ({"image_size": (1e9, 1000)}, "at most 100,000"),
        ({"image_size": np.ones((3, 2))}, r"image_size: .*got \(3, 2\)"),
    ],
)
def test_bad_input(by_onnx: Lifter, arguments: dict[str, Any], words: str) -> None:
    all_arguments: dict[str, Any] = {"keypoints": np.ones((17, 2)), "image_size": SIZE} | arguments
    with pytest.raises(InputError, match=words):
        by_onnx.lift(**all_arguments)


def test_released_weights(monkeypatch: pytest.MonkeyPatch, exported: Path, tmp_path: Path) -> None:
    monkeypatch.setattr(lifter_module, "released", lambda name: tmp_path / name)
    with pytest.raises(InputError, match=r"expected the released weights at .*srnet_rle\.onnx, found none"):
        Lifter.load()
    (tmp_path / "srnet_rle.onnx").write_bytes(exported.read_bytes())
    assert Lifter.load().checkpoint.startswith("srnet_rle.onnx ")
    with pytest.raises(InputError, match="threads: expected a whole number of 1 or more, got 0"):
        Lifter.load(threads=0)
    with pytest.raises(InputError, match=r"threads: expected a whole number of 1 or more, got 2\.0"):
        Lifter.load(threads=2.0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"no\.pt"):
        Lifter.load(tmp_path / "no.pt")


def test_a_masked_joint_is_missing(by_onnx: Lifter, poses: NDArray[np.float64]) -> None:
    holes = poses.copy()
    holes[:, 9] = np.nan
    one, other = (by_onnx.lift(keypoints, SIZE) for keypoints in (np.ma.masked_array(poses, np.isnan(holes)), holes))
    np.testing.assert_array_equal(one.joints, other.joints)
    assert not np.array_equal(one.joints, by_onnx.lift(poses, SIZE).joints)


class Slow:
    """A backend that takes a while and checks that nobody changes its input meanwhile."""

    about = About(H36M17.joints, "ray", True, "none", "slow 0")

    def __call__(self, keypoints: Any, confidence: Any, image_size: Any) -> tuple[Any, Any, Any]:
        before = keypoints.copy()
        time.sleep(0.005)
        assert np.array_equal(before, keypoints)
        pose = np.repeat(keypoints[..., :1], 3, -1)
        return pose, pose, pose


def test_input_is_copied(poses: NDArray[np.float64]) -> None:
    keypoints, slow = poses.astype(np.float32), Lifter(Slow())
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(slow.lift, keypoints, SIZE)
        time.sleep(0.002)
        keypoints[:] = 0  # a webcam loop that reuses its buffer
        future.result()
    before = poses.copy()
    before.flags.writeable = False
    slow.lift(before, SIZE)
