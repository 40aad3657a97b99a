"""Every format that is read: a small file of it, and that the numbers, tracks and gaps come back."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lifting.command import InputError
from lifting.keypoints.array_formats import write_keypoints
from lifting.keypoints.detections import Keypoints
from lifting.keypoints.formats import read_keypoints
from tests.keypoints.posed import SIZE, flat, mmpose, openpose, people, results, save, ultralytics

COCO_SAMPLE = Path(__file__).parents[3] / "shared/data/coco_sample"
STAND_IN = Path(__file__).parents[3] / "shared/data/h36m_standin/data_2d_h36m_gt.npz"


def assert_equal(read: Keypoints, values: np.ndarray, joint_set: str, scores: bool = True) -> None:
    """The keypoints are ``values`` (T, P, J, 3)."""
    assert read.joint_set == joint_set
    np.testing.assert_allclose(read.points, values[..., :2], atol=1e-9)
    np.testing.assert_array_equal(np.isnan(read.points[..., 0]), read.confidence == 0)
    if scores:
        np.testing.assert_allclose(read.confidence, np.where(np.isnan(values[..., 0]), 0, values[..., 2]), atol=1e-9)
    assert read.has_scores == scores


@pytest.mark.parametrize("joint_set", ["coco17", "h36m17", "coco18", "body25", "halpe26"])
@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_plain_arrays_in_every_shape(tmp_path: Path, joint_set: str, ending: str) -> None:
    values = people(joint_set)
    path = tmp_path / f"a.{ending}"

    def write(array: np.ndarray) -> Path:
        (np.save if ending == "npy" else np.savez)(path, array)
        return path

    assert_equal(read_keypoints(write(values)), values, joint_set)
    assert_equal(read_keypoints(write(values[:, 0])), values[:, :1], joint_set)
    assert_equal(read_keypoints(write(values[..., :2])), values, joint_set, scores=False)
    assert_equal(read_keypoints(write(values[:, 0, :, :2].astype(np.float32))), values[:, :1].astype(np.float32),
                 joint_set, scores=False)  # fmt: skip
    assert_equal(read_keypoints(write(values[0, 0])), values[:1, :1], joint_set)


def test_own_npz_keeps_everything(tmp_path: Path) -> None:
    values = people("body25", frames=4, count=3)
    values[1, 2] = np.nan
    values[2, 0, 7] = np.nan
    points = values[..., :2]
    confidence = np.where(np.isnan(points[..., 0]), 0, values[..., 2])
    made = Keypoints(points, confidence, "body25", SIZE, tuple("abcd"), ("7", "Ann", "x"), 29.97, True)
    path = tmp_path / "folder/own.npz"
    write_keypoints(path, made)
    read = read_keypoints(path)
    np.testing.assert_array_equal(read.points, points)
    np.testing.assert_array_equal(read.confidence, confidence)
    same = replace(read, points=points, confidence=confidence, source="")
    assert (same.joint_set, same.size, same.frames, same.people, same.frame_rate, same.has_scores) == (
        "body25", SIZE, tuple("abcd"), ("7", "Ann", "x"), 29.97, True)  # fmt: skip
    write_keypoints(path, replace(made, size=None, frame_rate=None, has_scores=False))
    read = read_keypoints(path, size=(1920, 1080))
    assert (read.size, read.frame_rate, read.has_scores) == ((1920, 1080), None, False)


def test_npz_with_scores_under_other_names(tmp_path: Path) -> None:
    values = people("coco17")
    for key in ("scores", "keypoint_scores", "confidence"):
        np.savez(tmp_path / "a.npz", keypoints=values[..., :2], **{key: values[..., 2]})  # type: ignore[arg-type]
        assert_equal(read_keypoints(tmp_path / "a.npz"), values, "coco17")


@pytest.mark.parametrize("joint_set", ["body25", "coco18"])
@pytest.mark.parametrize("ids", [True, False])
def test_openpose_folder(tmp_path: Path, joint_set: str, ids: bool) -> None:
    values = people(joint_set)
    values[2, 1] = np.nan  # a frame without the second person
    values[4] = np.nan  # and one without anybody
    values[0, 0, 3] = np.nan  # a joint at (0, 0) with score 0
    values[:, :, 3, 2] = np.where(np.isnan(values[:, :, 3, 0]), np.nan, values[:, :, 3, 2])
    read = read_keypoints(openpose(tmp_path / "json", values, ids))
    assert_equal(read, values, joint_set)
    assert read.people == ("0", "1")
    assert read.frames[1] == "video_000000000001"
    assert ("tracks" in read.source) == ids
    assert "OpenPose" in read.source


def test_one_openpose_frame_and_a_list_of_them(tmp_path: Path) -> None:
    values = people("body25")
    folder = openpose(tmp_path / "json", values[:1])
    file = next(folder.iterdir())
    assert_equal(read_keypoints(file), values[:1], "body25")
    assert_equal(read_keypoints(folder), values[:1], "body25")
    frames = [{"people": [{"pose_keypoints_2d": flat(row)} for row in frame]} for frame in values]
    assert_equal(read_keypoints(save(tmp_path / "all.json", frames)), values, "body25")


@pytest.mark.parametrize("joint_set", ["coco17", "halpe26"])
def test_alphapose_tracks_and_gaps(tmp_path: Path, joint_set: str) -> None:
    values = people(joint_set, frames=12)
    values[3:6, 1] = np.nan
    values[7] = np.nan  # AlphaPose leaves such a frame out
    entries = results(values, "{}.jpg")
    rows = [(t, p) for t in range(12) for p in range(2) if not np.isnan(values[t, p, 0, 0])]
    for entry, (_, p) in zip(entries, rows, strict=True):
        entry["idx"] = 5 - p
    read = read_keypoints(save(tmp_path / "alphapose-results.json", entries))
    assert_equal(read, values, joint_set)
    assert read.people == ("5", "4")
    assert read.frames == tuple(f"{t}.jpg" for t in range(12))
    for entry in entries:
        entry["idx"] = [0.0]  # without tracking
    read = read_keypoints(save(tmp_path / "alphapose-results.json", entries))
    assert_equal(read, values, joint_set)
    assert read.people == ("0", "1")
    assert "nearness" in read.source


@pytest.mark.parametrize(
    ("form", "people_key", "body"), [("open", "people", "pose_keypoints_2d"), ("cmu", "bodies", "joints")]
)
def test_alphapose_other_forms(tmp_path: Path, form: str, people_key: str, body: str) -> None:
    values = people("coco18")
    frames = {f"{t}.jpg": {"version": "AlphaPose v0.3", people_key: [{body: flat(row)} for row in frame]}
              for t, frame in enumerate(values)}  # fmt: skip
    read = read_keypoints(save(tmp_path / f"{form}.json", frames))
    assert_equal(read, values, "coco18")
    assert "AlphaPose" in read.source
    for name, frame in frames.items():
        save(tmp_path / "sep-json" / name.replace(".jpg", ".json"), frame)
    assert_equal(read_keypoints(tmp_path / "sep-json"), values, "coco18")


@pytest.mark.parametrize("joint_set", ["coco17", "halpe26"])
def test_mmpose(tmp_path: Path, joint_set: str) -> None:
    values = people(joint_set)
    frames = mmpose(values)
    video = [{"frame_id": t, "instances": frame} for t, frame in enumerate(frames)]
    meta = {"dataset_name": joint_set.removesuffix("17"), "keypoint_id2name": {"0": "nose"}}
    layouts: dict[str, Any] = {
        "inferencer": video,
        "demo": {"meta_info": meta, "instance_info": video},
        "results": [{"predictions": [frame], "visualization": []} for frame in frames],
        "nested": [[frame] for frame in frames],
        "lists": frames,
    }
    for name, content in layouts.items():
        read = read_keypoints(save(tmp_path / f"{name}.json", content))
        assert_equal(read, values, joint_set)
        assert "mmpose" in read.source
    one = read_keypoints(save(tmp_path / "picture.json", frames[0]))
    assert_equal(one, values[:1], joint_set)
    assert one.frames == ("picture",)
    assert_equal(read_keypoints(save(tmp_path / "o.json", {"predictions": [frames[0]]})), values[:1], joint_set)
    for t, frame in enumerate(frames):
        save(tmp_path / "pictures" / f"p{t}.json", frame)
    assert_equal(read_keypoints(tmp_path / "pictures"), values, joint_set)


def test_simcc_scores_over_one_are_cut(tmp_path: Path) -> None:
    values = people("coco17")
    values[..., 2] *= 6
    read = read_keypoints(save(tmp_path / "a.json", mmpose(values)))
    assert (read.confidence == 1).all()
    assert read.has_scores


def test_rtmlib(tmp_path: Path) -> None:
    values = people("halpe26")
    frames = [{"keypoints": f[..., :2].tolist(), "scores": f[..., 2].tolist()} for f in values]
    layouts = {
        "frames": frames,
        "whole": {"keypoints": values[..., :2].tolist(), "scores": values[..., 2].tolist()},
        "numbered": [{"frame": t} | f for t, f in enumerate(frames)],
    }
    for name, content in layouts.items():
        assert_equal(read_keypoints(save(tmp_path / f"{name}.json", content)), values, "halpe26")
    read = read_keypoints(
        save(tmp_path / "one.json", frames[0])
    )  # (P, 26, 2): people of one frame, as they stand apart
    assert_equal(read, values[:1], "halpe26")
    alone = {"keypoints": values[:, 0, :, :2].tolist(), "scores": values[:, 0, :, 2].tolist()}
    read = read_keypoints(save(tmp_path / "alone.json", alone))  # (T, 26, 2): one person who goes on
    assert_equal(read, values[:, :1], "halpe26")
    read = read_keypoints(save(tmp_path / "bare.json", values[..., :2].tolist()))
    assert_equal(read, values, "halpe26", scores=False)


@pytest.mark.parametrize("tracks", [True, False])
def test_ultralytics(tmp_path: Path, tracks: bool) -> None:
    values = people("coco17")
    values[1, 0, 9] = np.nan  # at (0, 0)
    frames = ultralytics(values, tracks)
    frames[1][0]["keypoints"]["visible"][9] = 0.4  # below half, Ultralytics writes (0, 0) and keeps the score
    read = read_keypoints(save(tmp_path / "u.json", frames))
    assert_equal(read, values, "coco17")
    assert read.people == (("1", "2") if tracks else ("0", "1"))
    assert_equal(read_keypoints(save(tmp_path / "one.json", frames[0])), values[:1], "coco17")
    for frame in frames:
        for entry in frame:
            del entry["keypoints"]["visible"]
    assert_equal(read_keypoints(save(tmp_path / "bare.json", frames)), values, "coco17", scores=False)


def test_people_without_a_track_among_tracks(tmp_path: Path) -> None:
    frames = ultralytics(people("coco17"), tracks=True)
    for frame in frames[:2]:
        del frame[1]["track_id"]
    read = read_keypoints(save(tmp_path / "u.json", frames))
    assert read.people == ("1", "untracked 0", "2")
    assert np.isnan(read.points[2:, 1]).all()


def test_coco_results_and_annotations(tmp_path: Path) -> None:
    values = people("coco17")
    read = read_keypoints(save(tmp_path / "r.json", results(values)))
    assert_equal(read, values, "coco17")
    flags = values.copy()
    flags[..., 2] = 2
    flags[2, 1, 5:9] = [np.nan, np.nan, 0]
    flags[0, 0, 3, 2] = 1  # hidden, but labelled
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"name": "person"}]}
    for t, frame in enumerate(flags):
        content["images"].append({"id": 10 + t, "file_name": f"{t:04d}.jpg", "width": SIZE[0], "height": SIZE[1]})
        content["annotations"] += [{"image_id": 10 + t, "keypoints": flat(row), "num_keypoints": 17} for row in frame]
    content["annotations"].append({"image_id": 10, "keypoints": [0] * 51, "num_keypoints": 0, "iscrowd": 1})
    read = read_keypoints(save(tmp_path / "a.json", content))
    assert_equal(read, flags, "coco17", scores=False)
    assert read.size == SIZE
    assert read.frames[3] == "0003.jpg"
    assert (read.confidence[~np.isnan(flags[..., 0])] == 1).all()


def test_annotations_of_pictures_of_several_sizes(tmp_path: Path) -> None:
    """They are no video, and no camera has taken them all. Pictures of one name stay apart."""
    values = people("coco17", frames=3, count=1)
    sizes = [SIZE, SIZE, (2 * SIZE[0], 2 * SIZE[1])]
    images = [{"id": t, "file_name": f"{max(t, 1):04d}.jpg", "width": w, "height": h} for t, (w, h) in enumerate(sizes)]
    entries = [{"image_id": t, "keypoints": flat(frame[0]), "num_keypoints": 17} for t, frame in enumerate(values)]
    content = {"images": images, "annotations": entries, "categories": [{"name": "person"}]}
    read = read_keypoints(save(tmp_path / "a.json", content))
    assert (read.size, read.one_size, read.sequence) == (None, False, False)
    assert read.frames == ("0001.jpg (0)", "0001.jpg (1)", "0002.jpg")
    assert read.points.shape == (3, 1, 17, 2)


def test_endings_in_capitals_and_names_in_bytes(tmp_path: Path) -> None:
    values = people("coco17", frames=2, count=2)
    (tmp_path / "folder").mkdir()
    for frame, name in zip(values, ("f_0.json", "f_1.JSON"), strict=True):
        save(tmp_path / "folder" / name, results(frame[None]))
    assert read_keypoints(tmp_path / "folder").frames == ("f_0", "f_1")
    names = np.array([b"anna", "Zoë".encode()])
    np.savez(tmp_path / "a.npz", keypoints=values, joint_set=np.array(b"coco17"), people=names)
    read = read_keypoints(tmp_path / "a.npz")
    assert (read.people, read.joint_set) == (("anna", "Zoë"), "coco17")


@pytest.mark.parametrize("rate", [1e300, 1e-300, 1e10])
def test_a_frame_rate_that_no_clip_has_is_refused(tmp_path: Path, rate: float) -> None:
    np.savez(tmp_path / "a.npz", keypoints=people("coco17"), joint_set="coco17", fps=rate)
    with pytest.raises(InputError, match=r"a\.npz: expected frames per second from 1e-05 to 100000"):
        read_keypoints(tmp_path / "a.npz")


def test_pictures_that_are_no_sequence_have_no_people_over_time(tmp_path: Path) -> None:
    values = people("coco17", frames=3)
    entries = results(values)
    for entry in entries:
        entry["image_id"] = [785, 40083, 196141][entry["image_id"]]
    read = read_keypoints(save(tmp_path / "r.json", entries[:-1]))
    assert read.frames == ("785", "40083", "196141")
    assert read.points.shape[:2] == (3, 2)
    assert "no sequence" in read.source


def test_videopose3d(tmp_path: Path) -> None:
    values = people("coco17", count=1)
    metadata = {"layout_name": "coco", "num_joints": 17, "video_metadata": {"v.mp4": {"w": SIZE[0], "h": SIZE[1]}}}
    np.savez(tmp_path / "a.npz", positions_2d=np.array({"v.mp4": {"custom": [values[:, 0, :, :2]]}}, dtype=object),
             metadata=np.array(metadata, dtype=object))  # fmt: skip
    read = read_keypoints(tmp_path / "a.npz")
    assert_equal(read, values, "coco17", scores=False)
    assert read.size == SIZE


def test_detectron_as_videopose3d_runs_it(tmp_path: Path) -> None:
    values = people("coco17")
    frames = np.empty(len(values), dtype=object)
    for t, frame in enumerate(values):
        rows = np.concatenate([frame[..., :2], np.full((2, 17, 1), 9.0), frame[..., 2:]], -1)
        frames[t] = [[], rows.transpose(0, 2, 1) if t != 2 else []]
    values[2] = np.nan
    np.savez(tmp_path / "v.npz", boxes=frames, segments=frames, keypoints=frames,
             metadata=np.array({"w": SIZE[0], "h": SIZE[1]}, dtype=object))  # fmt: skip
    read = read_keypoints(tmp_path / "v.npz")
    assert_equal(read, values, "coco17")
    assert read.size == SIZE


@pytest.mark.parametrize(("count", "first"), [(133, "coco17"), (134, "coco18"), (136, "halpe26")])
def test_whole_body_sets_give_their_body(tmp_path: Path, count: int, first: str) -> None:
    values = people(first)
    extra = np.broadcast_to([300.0, 300.0, 0.9], (*values.shape[:2], count - values.shape[2], 3))
    np.save(tmp_path / "a.npy", np.concatenate([values, extra], 2))
    assert_equal(read_keypoints(tmp_path / "a.npy"), values, first)


def test_min_score(tmp_path: Path) -> None:
    values = people("coco17")
    values[0, 0, 5, 2], values[0, 0, 6, 2] = 0.05, 0.2
    np.save(tmp_path / "a.npy", values)
    low, high = read_keypoints(tmp_path / "a.npy"), read_keypoints(tmp_path / "a.npy", min_score=0.3)
    assert np.isnan(low.points[0, 0, 5]).all()
    assert low.confidence[0, 0, 6] == 0.2
    assert np.isnan(high.points[0, 0, 6]).all()
    assert not np.isnan(read_keypoints(tmp_path / "a.npy", min_score=0).points).any()


def test_the_real_sample_of_coco() -> None:
    path = COCO_SAMPLE / "test_coco.json"
    if not path.is_file():
        pytest.skip("no sample of COCO")
    read = read_keypoints(path, size=(640, 640))
    assert read.points.shape == (4, 5, 17, 2)
    assert (~np.isnan(read.points[..., 0]).all(-1)).sum() == 12  # of 14; two have no joints
    body = read.to_h36m17()
    assert 0 < np.isnan(body.points[..., 0]).mean() < 1


@pytest.mark.skipif(not STAND_IN.is_file(), reason="no stand-in")
def test_joint_set_of_real_motion_is_told(tmp_path: Path) -> None:
    from lifting.safe_npz import read_npz
    from tests.conftest import COCO_OF_H36M

    clips = read_npz(STAND_IN, "positions_2d")
    for subject, actions in clips.items():
        for views in list(actions.values())[::6]:
            points = np.asarray(views[0])[::10]
            np.save(tmp_path / "a.npy", points)
            assert read_keypoints(tmp_path / "a.npy").joint_set == "h36m17", subject
            np.save(tmp_path / "a.npy", points[:, COCO_OF_H36M])
            assert read_keypoints(tmp_path / "a.npy").joint_set == "coco17", subject


def test_reading_needs_no_torch() -> None:
    command = [sys.executable, "-c", "import sys, lifting.keypoints.formats; assert 'torch' not in sys.modules"]
    subprocess.run(command, cwd=Path(__file__).parents[2], check=True)
