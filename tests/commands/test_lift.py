"""The verb ``lift`` as a person runs it, on a small exported lifter."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lifting import Lifter
from lifting.geometry.rays import ray_frame
from lifting.geometry.skeleton import H36M17
from lifting.inference.onnx_backend import About
from lifting.keypoints.array_formats import write_keypoints
from lifting.keypoints.detections import Keypoints
from lifting.keypoints.formats import read_keypoints
from lifting.lifted import read_lifted
from tests.conftest import Shell, refused

SIZE, FOCAL = (1280, 720), 1100.0
PLACES = np.array([[-0.8, 0, 4], [0.9, 0.1, 5]])  # metres, camera frame
# Somebody who stands with hanging arms, camera axes, metres from the pelvis.
STANDING = np.array(
    [[0, 0, 0], [-0.13, 0, 0], [-0.13, 0.45, 0], [-0.13, 0.9, 0.05], [0.13, 0, 0], [0.13, 0.45, 0], [0.13, 0.9, 0.05],
     [0, -0.25, 0], [0, -0.5, 0], [0, -0.58, -0.08], [0, -0.7, -0.05], [0.17, -0.46, 0], [0.22, -0.18, 0],
     [0.24, 0.06, -0.05], [-0.17, -0.46, 0], [-0.22, -0.18, 0], [-0.24, 0.06, -0.05]]
)  # fmt: skip


@pytest.fixture
def people() -> Keypoints:
    """Two people in five frames; the second is absent from the third frame and misses a wrist in the fourth."""
    rng = np.random.default_rng(0)
    joints = STANDING + rng.normal(0, 0.05, (5, 2, 17, 3)) + PLACES[:, None]
    points = FOCAL * joints[..., :2] / joints[..., 2:] + np.array(SIZE) / 2
    confidence = rng.uniform(0.5, 1, points.shape[:-1])
    points[2, 1], points[3, 1, 13] = np.nan, np.nan
    confidence[np.isnan(points[..., 0])] = 0
    names = tuple("01234")
    return Keypoints(points, confidence, "h36m17", SIZE, names, ("a", "b"), frame_rate=25.0, has_scores=True)


@pytest.fixture
def arguments(people: Keypoints, exported: Path, tmp_path: Path) -> list[object]:
    """Input and checkpoint of the command."""
    write_keypoints(tmp_path / "people.npz", people)
    return ["lift", "--input", tmp_path / "people.npz", "--checkpoint", exported]


def refused_after(result: tuple[int, str, str], words: str) -> None:
    """Refused in one line, after what was read has been named."""
    code, _, err = result
    assert (code, err.count("\n"), words in err) == (2, 1, True), err


def test_everybody_is_lifted_and_nobody_else(
    shell: Shell, arguments: list[object], people: Keypoints, exported: Path, tmp_path: Path
) -> None:
    code, out, err = shell(*arguments, "--output", tmp_path / "a.npz")
    assert code == 0, err
    lines = out.splitlines()
    assert "h36m17" in lines[0]
    assert lines[1].startswith("9 poses of 2 people in 5 frames, lifted by person.onnx ")
    assert lines[3] == f"wrote {tmp_path / 'a.npz'}"
    lifted = read_lifted(tmp_path / "a.npz")
    mean = 1000 * np.nanmean(np.linalg.norm(lifted.deviation, axis=-1))
    assert lines[2] == f"mean standard deviation of a joint {mean:.0f} mm"
    seen = np.isfinite(people.points[..., 0]).astype(float)
    expected = Lifter.load(exported).lift(people.points, SIZE, seen)
    np.testing.assert_allclose(lifted.joints, expected.joints, atol=1e-5)
    np.testing.assert_allclose(lifted.sigma, expected.sigma, atol=1e-5)
    np.testing.assert_allclose(lifted.confidence, 1 - expected.sigma.mean(-1), atol=1e-5)
    assert lifted.present.tolist() == [[True, True], [True, True], [True, False], [True, True], [True, True]]
    assert (lifted.axes, lifted.keypoints.people, lifted.keypoints.frame_rate) == ("ray", ("a", "b"), 25.0)


def test_scores_are_given_only_when_asked(shell: Shell, arguments: list[object], tmp_path: Path) -> None:
    found = []
    for name, more in (("plain", []), ("scores", ["--scores"]), ("strict", ["--min-score", 0.75])):
        code, _, err = shell(*arguments, "--output", tmp_path / f"{name}.json", *more)
        assert code == 0, err
        found.append(read_lifted(tmp_path / f"{name}.json"))
    plain, scores, strict = found
    assert np.nanmax(np.abs(plain.joints - scores.joints)) > 1e-4
    assert np.isnan(strict.keypoints.points).sum() > np.isnan(plain.keypoints.points).sum()


def test_truth_is_turned_into_the_axes_of_the_prediction(shell: Shell, arguments: list[object], tmp_path: Path) -> None:
    """The prediction itself, brought into the camera frame at some place, has no error."""
    shell(*arguments, "--output", tmp_path / "a.npz")
    lifted = read_lifted(tmp_path / "a.npz")
    place: NDArray[np.float64] = np.random.default_rng(1).uniform((-1, -1, 3), (1, 1, 6), (5, 2, 1, 3))
    truth = lifted.joints @ ray_frame(place[:, :, 0]) + place
    np.save(tmp_path / "truth.npy", truth)
    code, out, err = shell(*arguments, "--output", tmp_path / "a.npz", "--truth", tmp_path / "truth.npy")
    assert code == 0, err
    assert "MPJPE 0.0 mm over 9 poses (frame mean)" in out
    for name, content, words in (
        ("mm", 1000 * truth, "millimetres?"),
        ("short", truth[:4], "expected (5, 2, 17, 3), as lifted, got (4, 2, 17, 3)"),
        ("relative", truth - truth[:, :, :1], "not relative to the pelvis, or --focal"),
    ):
        np.savez(tmp_path / f"{name}.npz", joints=content)
        path = tmp_path / f"{name}.npz"
        code, _, err = shell(*arguments, "--output", tmp_path / "b.npz", "--truth", path)
        assert (code, err.count("\n")) == (2, 1)
        assert words in err
        assert str(path) in err
    assert not (tmp_path / "b.npz").exists()


def test_pictures_of_the_result(shell: Shell, arguments: list[object], tmp_path: Path) -> None:
    files = {"view": "a.html", "video": "a.gif", "figure": "a.png"}
    options = [text for name, file in files.items() for text in (f"--{name}", tmp_path / file)]
    code, out, err = shell(*arguments, "--output", tmp_path / "a.npz", *options)
    assert code == 0, err
    assert '"input":"people.npz"' in (tmp_path / "a.html").read_text()
    for file in files.values():
        assert (tmp_path / file).stat().st_size > 5000
        assert file in out.splitlines()[-1]


class Knowing:
    """A lifter that takes everybody for the same person, who stands upright in the axes about his ray."""

    about = About(H36M17.joints, "ray", True, "none", "knowing.onnx 0")

    def __call__(self, keypoints: Any, confidence: Any, image_size: Any) -> tuple[Any, Any, Any]:
        joints = np.repeat(STANDING[None], len(keypoints), 0)
        return joints, np.full_like(joints, 0.05), np.full_like(joints, 0.05)


def test_a_focal_length_adds_the_place_in_space(
    shell: Shell, arguments: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lifter, "load", lambda _: Lifter(Knowing()))
    code, out, err = shell(*arguments, "--output", tmp_path / "a.npz", "--focal", FOCAL)
    assert code == 0, err
    assert re.search(r"placed 9 of them in space: median distance [\d.]+ m, standard deviation [\d.]+ m", out)
    lifted = read_lifted(tmp_path / "a.npz")
    assert lifted.axes == "camera"
    assert lifted.root is not None and lifted.root_deviation is not None
    np.testing.assert_array_equal(np.isfinite(lifted.root).all(-1), lifted.present)
    np.testing.assert_allclose(np.nanmean(lifted.root, 0), PLACES, atol=0.25)
    (tmp_path / "camera.json").write_text(f'{{"focal": {FOCAL}}}')
    again = ["--camera", tmp_path / "camera.json", "--truth", tmp_path / "truth.npy"]
    np.save(tmp_path / "truth.npy", lifted.joints)  # now in camera axes, so relative joints are enough
    code, out, err = shell(*arguments, "--output", tmp_path / "b.npz", *again)
    assert code == 0, err
    assert "MPJPE 0.0 mm" in out
    np.testing.assert_array_equal(read_lifted(tmp_path / "b.npz").joints, lifted.joints)
    (tmp_path / "camera.json").write_text("{}")
    refused_after(shell(*arguments, "--output", tmp_path / "c.npz", *again), "camera.json")


def test_smoothing_and_bvh_know_the_time(
    shell: Shell, arguments: list[object], people: Keypoints, tmp_path: Path
) -> None:
    code, out, err = shell(*arguments, "--output", tmp_path / "a.bvh", "--smooth")
    assert code == 0, err
    assert "smoothed at 25 frames per second" in out
    assert out.splitlines()[-1] == f"wrote {tmp_path / 'a_a.bvh'}, {tmp_path / 'a_b.bvh'}"  # a file for each person
    assert "Frame Time: 0.04" in (tmp_path / "a_a.bvh").read_text()
    shell(*arguments, "--output", tmp_path / "rough.npz")
    shell(*arguments, "--output", tmp_path / "smooth.npz", "--smooth")
    rough, smooth = (np.diff(read_lifted(tmp_path / f"{name}.npz").joints, axis=0) for name in ("rough", "smooth"))
    there = np.isfinite(rough) & np.isfinite(smooth)
    assert np.square(smooth[there]).sum() < 0.8 * np.square(rough[there]).sum()
    code, out, _ = shell(*arguments, "--output", tmp_path / "b.npz", "--fps", 50)
    assert read_lifted(tmp_path / "b.npz").keypoints.frame_rate == 50
    np.save(tmp_path / "timeless.npy", people.points)
    timeless = ["lift", "--input", tmp_path / "timeless.npy", *arguments[3:], "--joints", "h36m17"]
    for more in (["--output", tmp_path / "c.bvh"], ["--output", tmp_path / "c.npz", "--smooth"]):
        refused_after(shell(*timeless, *more), "timeless.npy: expected frames per second, found none: add --fps N")


def test_single_pictures_have_no_motion(
    shell: Shell, arguments: list[object], people: Keypoints, tmp_path: Path
) -> None:
    rows = np.nan_to_num(np.concatenate([people.points, people.confidence[..., None]], -1)[:3, 0])
    collection = [{"image_id": number, "category_id": 1, "keypoints": row.ravel().tolist(), "score": 1.0}
                  for number, row in zip((7, 900, 40_000), rows, strict=True)]  # fmt: skip
    (tmp_path / "many.json").write_text(json.dumps(collection))
    pictures = ["lift", "--input", tmp_path / "many.json", *arguments[3:], "--joints", "h36m17", "--fps", 25]
    code, out, err = shell(*pictures, "--output", tmp_path / "a.npz")
    assert code == 0, err
    assert "pictures that are no sequence" in out
    for what, more in (("--smooth", ["--output", tmp_path / "b.npz", "--smooth"]), (".bvh", ["--output", "b.bvh"])):
        refused_after(shell(*pictures, *more), f"{what}: expected frames that follow each other, got single pictures")


def test_pictures_of_several_sizes_have_no_common_camera(
    shell: Shell, arguments: list[object], people: Keypoints, tmp_path: Path
) -> None:
    images = [{"id": t, "file_name": f"{t}.jpg", "width": 1000 * (t + 1), "height": 1000 * (t + 1)} for t in range(2)]
    rows = np.nan_to_num(np.concatenate([people.points, 2 * (people.confidence[..., None] > 0)], -1)[:2, 0])
    entries = [{"image_id": t, "num_keypoints": 17, "keypoints": row.ravel().tolist()} for t, row in enumerate(rows)]
    (tmp_path / "a.json").write_text(json.dumps({"images": images, "annotations": entries, "categories": []}))
    command = ["lift", "--input", tmp_path / "a.json", *arguments[3:], "--joints", "h36m17", "--size", 2000, 2000]
    refused_after(shell(*command, "--focal", 1500, "--output", tmp_path / "a.npz"), "expected pictures of one camera")
    (tmp_path / "camera.json").write_text('{"focal": 1500, "size": [2000, 2000]}')
    more = ["--camera", tmp_path / "camera.json", "--output", tmp_path / "a.npz"]
    refused_after(shell(*command, *more), "expected pictures of one camera, got some of several sizes")


def test_a_camera_file_knows_the_size(
    shell: Shell, arguments: list[object], people: Keypoints, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    np.save(tmp_path / "sizeless.npy", people.points[:2])
    (tmp_path / "camera.json").write_text(json.dumps({"focal": FOCAL, "size": SIZE}))
    command = ["lift", "--input", tmp_path / "sizeless.npy", "--joints", "h36m17", "--output", tmp_path / "a.npz"]
    command += ["--checkpoint", checkpoints["screen"], "--camera", tmp_path / "camera.json"]
    code, _, err = shell(*command)
    assert code == 0, err
    assert read_lifted(tmp_path / "a.npz").keypoints.size == SIZE
    (tmp_path / "camera.json").write_text(json.dumps({"focal": FOCAL, "size": [320, 180]}))
    code, _, err = shell(*command)
    assert (code, err.count("\n")) == (2, 1)
    assert "sizeless.npy, with the size of" in err
    assert "lie outside a picture of 320 x 180" in err


def test_bad_options_are_refused_before_any_work(shell: Shell, arguments: list[object], tmp_path: Path) -> None:
    output = ["--output", tmp_path / "a.npz"]
    refused(shell(*arguments, "--output", tmp_path / "a.csv"), "--output: expected .npz or .json or .bvh", "a.csv")
    refused(shell(*arguments, *output, "--view", "a.htm"), "--view: expected .html, got a.htm")
    refused(shell(*arguments, *output, "--video", "a.avi"), "--video: expected .mp4 or .gif")
    refused(shell(*arguments, *output, "--focal", "-5"), "--focal: expected a number above zero, got -5")
    for rate in ("nan", "1e300", "1e-300"):
        refused(shell(*arguments, *output, "--fps", rate), "--fps: expected frames per second from 1e-05 to 100000")
    refused_after(shell(*arguments, *output, "--focal", "1e300"), "focal length: expected at most 1e+07 pixels")
    (tmp_path / "folder.npz").mkdir()
    refused(shell(*arguments, "--output", tmp_path / "folder.npz"), "--output: expected a file, got the folder")
    refused(shell(*arguments, *output, "--focal", 900, "--camera", "c.json"), "--camera", "--focal")
    refused(shell("lift", *output), "--input")
    refused(shell(*arguments, *output, "train.epochs=3"), "unrecognized argument train.epochs=3")
    assert not (tmp_path / "a.npz").exists()
    refused(shell(*arguments, "--output", tmp_path / "people.npz"), "--output: expected another file than one that is")
    assert read_keypoints(tmp_path / "people.npz").points.shape == (5, 2, 17, 2)


def test_what_a_lifter_cannot_take(
    shell: Shell, arguments: list[object], people: Keypoints, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    output = ["--output", tmp_path / "a.npz"]
    stays = ["--checkpoint", checkpoints["screen"], *output]
    refused_after(shell(*arguments, *stays), "left_wrist is missing in pose (3, 1)")
    np.save(tmp_path / "whole.npy", people.points[:2])
    whole = ["lift", "--input", tmp_path / "whole.npy", "--joints", "h36m17"]
    for more, words in ((stays, "--size W H"), ([*stays, "--scores"], "expected keypoints with scores, got none")):
        refused_after(shell(*whole, *more), words)
    refused_after(shell(*arguments, *stays, "--scores"), "expected a lifter that takes scores")
    assert shell(*whole, *stays, "--size", *SIZE)[0] == 0
    assert shell(*whole, *arguments[3:], *output)[0] == 0  # nor is a size needed by a lifter that travels
