"""What is no keypoints, or keypoints that would become wrong 3D joints: refused in one line that says what came."""

import json
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lifting.command import InputError
from lifting.keypoints.formats import read_keypoints
from tests.keypoints.posed import SIZE, flat, mmpose, openpose, people, results, save, ultralytics

SAMPLE = Path(__file__).parents[3] / "shared/data/coco_sample"


def refused(path: Path, *words: str, **options: Any) -> str:
    """Asserts an InputError of one line that has these words and names the file."""
    with pytest.raises(InputError) as caught:
        read_keypoints(path, **options)
    line = str(caught.value)
    assert "\n" not in line
    assert path.name in line
    for word in words:
        assert word in line
    return line


def npy(path: Path, values: np.ndarray) -> Path:
    np.save(path / "a.npy", values)
    return path / "a.npy"


@pytest.mark.parametrize(
    ("start", "name", "what"),
    [
        (b"\xff\xd8\xff\xe0" + b"0" * 40, "a.json", "a picture"),
        (b"\x89PNG\r\n\x1a\n" + b"0" * 40, "a", "a picture"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "a", "a picture"),
        (b"\0\0\0\x18ftypisom" + b"0" * 40, "a", "a video"),
        (b"RIFF\0\0\0\0AVI LIST", "a", "a video"),
        (b"\x1aE\xdf\xa3" + b"0" * 40, "a", "a video"),
        (b"something new", "a.MP4", "a video by its ending"),
        (b"\x89HDF\r\n\x1a\n", "a.h5", "HDF5"),
        (b"HIERARCHY\nROOT Hips", "a.bvh", "3D motion already"),
        (pickle.dumps({"a": 1}), "a.pkl", "a pickle"),
        (b"x,y\n1,2\n", "a.csv", "neither a numpy file nor JSON"),
    ],
)
def test_other_files_are_named_and_tools_are_said(tmp_path: Path, start: bytes, name: str, what: str) -> None:
    (tmp_path / name).write_bytes(start)
    refused(tmp_path / name, what, "rtmlib, mmpose, Ultralytics, OpenPose or AlphaPose")


def test_absent_empty_and_folders(tmp_path: Path) -> None:
    refused(tmp_path / "absent.json", "nothing")
    (tmp_path / "empty.json").touch()
    refused(tmp_path / "empty.json", "empty")
    for name in ("folder", "pictures"):
        (tmp_path / name).mkdir()
    refused(tmp_path / "folder", "JSON file for each frame")
    (tmp_path / "pictures/1.jpg").touch()
    refused(tmp_path / "pictures", "a folder of pictures")


@pytest.mark.parametrize(
    "content",
    [{}, {"a": 1}, {"a": [1, 2]}, [1, 2, 3], ["a"], [[["a"]]], [None], {"frames": [{"joints_3d": []}]}, [{"bones": 1}]],
)
def test_unknown_json_lists_what_is_known(tmp_path: Path, content: Any) -> None:
    refused(save(tmp_path / "a.json", content), "OpenPose, AlphaPose, mmpose, Ultralytics, rtmlib or COCO")


def test_unknown_json_says_what_it_holds(tmp_path: Path) -> None:
    refused(save(tmp_path / "a.json", {"version": 1, "faces": []}), "an object with version, faces")


@pytest.mark.parametrize("text", ["{", "[1, 2", '{"people": [}', "[" * 100_000, "[" * 900 + "]" * 900,
                                  '{"people": [{"pose_keypoints_2d": [' + "9" * 5000 + "]}]}",
                                  '{"people": [{"pose_keypoints_2d": [' + "9" * 400 + ", 1, 1]}]}"])  # fmt: skip
def test_broken_and_hostile_json_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    refused(tmp_path / "a.json")


def test_json_that_is_no_utf8_or_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.json").write_bytes(b'{"people": "\xff\xfe"}')
    refused(tmp_path / "a.json", "is not JSON")
    monkeypatch.setattr("lifting.safe_json._LARGEST", 1000)
    refused(save(tmp_path / "b.json", results(people("coco17"))), "at most")


@pytest.mark.parametrize(
    "content",
    [[], [[], []], {"people": []}, {"instance_info": []}, {"images": [], "annotations": []}, {"predictions": [[]]},
     [{"frame_id": 0, "instances": []}], {"a.jpg": {"people": []}}],
)  # fmt: skip
def test_a_detector_file_with_no_people(tmp_path: Path, content: Any) -> None:
    refused(save(tmp_path / "a.json", content), "expected people with keypoints", "without any")


def test_an_openpose_folder_with_no_people(tmp_path: Path) -> None:
    refused(openpose(tmp_path / "json", np.full((3, 1, 25, 3), np.nan)), "OpenPose", "3 frames without any")


def test_every_joint_missing(tmp_path: Path) -> None:
    values = people("coco17")
    values[..., 2] = 0.05
    refused(npy(tmp_path, values), "every joint missing or under the score of 0.1")
    refused(npy(tmp_path, np.full((3, 17, 2), np.nan)), "every joint missing")
    whole = np.full((3, 1, 133, 2), 50.0)
    whole[:, :, :17] = np.nan  # hands without a body
    refused(npy(tmp_path, whole), "every joint missing")


def test_boxes_without_keypoints(tmp_path: Path) -> None:
    boxes = [{"name": "person", "class": 0, "confidence": 0.9, "box": {"x1": 0, "y1": 0, "x2": 9, "y2": 9}}]
    refused(save(tmp_path / "a.json", [boxes]), "boxes without keypoints", "-pose")
    if SAMPLE.is_dir():
        refused(SAMPLE / "test_coco_det_AP_H_56.json", "boxes without keypoints")
        refused(next(SAMPLE.glob("*.jpg")), "a picture")


@pytest.mark.parametrize("count", [14, 15, 16, 20, 33])
def test_a_wrong_joint_count_names_the_sets(tmp_path: Path, count: int) -> None:
    line = refused(npy(tmp_path, np.ones((4, count, 2)) * 50), f"got {count} joints", "17 (coco17 or h36m17)",
                   "18 (coco18)", "25 (body25)", "26 (halpe26)", "133 (begins with coco17)")  # fmt: skip
    assert ("MPII" in line) == (count == 16)
    assert ("MediaPipe" in line) == (count == 33)
    refused(save(tmp_path / "b.json", [[{"keypoints": [[1, 2]] * count}]]), f"got {count} joints")


def test_joints_that_do_not_fit_the_argument_or_the_file(tmp_path: Path) -> None:
    path = npy(tmp_path, people("coco17"))
    refused(path, "--joints says body25", "17 joints, as coco17 or h36m17", joints="body25")
    with pytest.raises(InputError, match="one of coco17"):
        read_keypoints(path, joints="coco")
    np.savez(tmp_path / "a.npz", keypoints=people("coco17"), joint_set="halpe26")
    refused(tmp_path / "a.npz", "the file says halpe26")
    np.savez(tmp_path / "a.npz", keypoints=people("coco17"), joint_set="mpii16")
    refused(tmp_path / "a.npz", "expected joint_set to be one of", "'mpii16'")


def test_the_other_set_of_17_joints_is_seen(tmp_path: Path) -> None:
    refused(npy(tmp_path, people("coco17")), "as a face in coco17 do", "--joints coco17", joints="h36m17")
    refused(npy(tmp_path, people("h36m17")), "as hip, knee and ankle in h36m17 do", joints="coco17")
    assert "as asked" in read_keypoints(npy(tmp_path, people("h36m17")), joints="h36m17").source
    assert "as a face does" in read_keypoints(npy(tmp_path, people("coco17"))).source


def test_a_face_alone_is_no_leg(tmp_path: Path) -> None:
    """A close-up has no more than the joints of the face."""
    values = people("coco17")
    values[:, :, 5:] = np.nan
    values[:, :, :5, 1] = 100 * np.arange(5)
    refused(npy(tmp_path, values), "cannot tell", "--joints coco17")
    assert read_keypoints(npy(tmp_path, values), joints="coco17").joint_set == "coco17"
    assert read_keypoints(save(tmp_path / "r.json", results(values))).joint_set == "coco17"


def test_17_joints_that_cannot_be_told(tmp_path: Path) -> None:
    values = people("coco17")
    values[:, :, :5, 1] += 45 * np.arange(5)  # a face as long as half a person
    refused(npy(tmp_path, values), "cannot tell", "--joints coco17 or --joints h36m17")
    assert read_keypoints(npy(tmp_path, values), joints="coco17").joint_set == "coco17"
    values[:, :, :5] = np.nan
    refused(npy(tmp_path, values), "cannot tell")


def test_people_without_scores_beside_people_with_scores(tmp_path: Path) -> None:
    values = people("coco17", 5, 2)
    content = mmpose(values)
    for frame in content:
        del frame[1]["keypoint_scores"]
    read = read_keypoints(save(tmp_path / "a.json", content))
    assert read.points.shape == (5, 2, 17, 2)
    assert not np.isnan(read.points).any()


def test_frames_named_by_numbers_with_a_point(tmp_path: Path) -> None:
    """As pandas writes them. All of them were one frame of many people."""
    entries = results(people("coco17", 6, 1))
    for entry in entries:
        entry["image_id"] = float(entry["image_id"])
    assert read_keypoints(save(tmp_path / "r.json", entries)).points.shape == (6, 1, 17, 2)
    entries[3]["image_id"] = 3.5
    refused(save(tmp_path / "r.json", entries), "image_id: expected the name or the number of a frame, got 3.5")
    entries[3]["image_id"] = None
    refused(save(tmp_path / "r.json", entries), "expected a frame's name in each entry, 1 have none")


@pytest.mark.parametrize("value", [np.inf, -np.inf])
@pytest.mark.parametrize("column", [0, 1, 2])
def test_infinite_numbers(tmp_path: Path, value: float, column: int) -> None:
    values = people("coco17")
    values[3, 1, 9, column] = value
    refused(npy(tmp_path, values), "infinite", ("x", "y", "score")[column], "joint 9", "entry 3, 1")
    (tmp_path / "a.json").write_text(json.dumps(mmpose(values)))  # Python writes Infinity
    refused(tmp_path / "a.json", "infinite")


def test_nan_and_null_are_missing_joints(tmp_path: Path) -> None:
    values = people("coco17")
    values[3, 1, 9, 0] = np.nan
    assert np.isnan(read_keypoints(npy(tmp_path, values)).points[3, 1, 9]).all()
    text = json.dumps(mmpose(values))
    for written in (text, text.replace("NaN", "null")):
        (tmp_path / "a.json").write_text(written)
        assert np.isnan(read_keypoints(tmp_path / "a.json").points[3, 1, 9]).all()


def test_third_numbers_that_are_no_scores(tmp_path: Path) -> None:
    values = people("coco17")
    values[..., 2] *= 300
    refused(npy(tmp_path, values), "third numbers", "are these 3D joints?")


def test_negative_and_absurd_coordinates(tmp_path: Path) -> None:
    values = people("coco17")
    values[0, 0, 9, :2] = -3, 200  # a wrist a little outside
    read_keypoints(npy(tmp_path, values))
    centred = people("coco17")
    centred[..., :2] -= centred[..., :2].mean((0, 1, 2))
    refused(npy(tmp_path, centred), "negative x or y", "relative to a joint")
    values[0, 0, 9, :2] = 1e7, 200
    refused(npy(tmp_path, values), "expected pixels of a picture", "1e+07")


@pytest.mark.parametrize("offset", [0.0, -1.0])
def test_normalised_coordinates_are_found_and_advised(tmp_path: Path, offset: float) -> None:
    values = people("coco17")
    values[..., :2] = values[..., :2] / SIZE * (1 - offset) + offset
    words = ("looks normalised", "multiply x by the width", ".xy, not .xyn", "--keypoint_scale 0")
    refused(npy(tmp_path, values), *words)
    refused(save(tmp_path / "u.json", ultralytics(values, tracks=True)), *words)
    refused(save(tmp_path / "u.json", ultralytics(values, tracks=True)), *words, size=SIZE)


def test_a_size_that_cannot_be_right(tmp_path: Path) -> None:
    values = people("coco17", frames=30, count=3)
    path = npy(tmp_path, values)
    assert read_keypoints(path, size=SIZE).size == SIZE
    refused(path, "outside a picture of 320 x 240", "give the size", size=(320, 240))
    refused(path, "did you mean 1280 x 720?", size=(720, 1280))
    refused(path, "expected width and height", "got 0 x 720", size=(0, 720))
    refused(path, "expected width and height", size=(1_000_000, 720))
    np.savez(tmp_path / "a.npz", keypoints=values, size=SIZE)
    assert read_keypoints(tmp_path / "a.npz").size == SIZE
    refused(tmp_path / "a.npz", "the file says, 1280 x 720, got 1920 x 1080", size=(1920, 1080))
    np.savez(tmp_path / "a.npz", keypoints=values, size=[300, 200])
    refused(tmp_path / "a.npz", "outside a picture of 300 x 200")


def test_y_up_is_found(tmp_path: Path) -> None:
    for joint_set in ("coco17", "h36m17", "body25"):
        values = people(joint_set)
        values[..., 1] = SIZE[1] - values[..., 1]
        refused(npy(tmp_path, values), "expected y to point down", "height - y")


def test_handstands_and_a_few_upside_down_frames_are_accepted(tmp_path: Path) -> None:
    values = people("coco17", frames=9)
    middle = values[..., 1].mean()
    upside = values.copy()
    upside[..., 1] = 2 * middle - values[..., 1]
    mixed = np.concatenate([upside[:3], values[3:]])
    read_keypoints(npy(tmp_path, mixed))
    for joint, far in ((7, 0.5), (8, 0.5), (9, 1), (10, 1)):  # elbows and wrists: the arms reach down to the floor
        upside[..., joint, 1] = upside[..., 5, 1] + far * 160
    read_keypoints(npy(tmp_path, upside))


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((4, 17), "(4, 17)"),
        ((17,), "(17,)"),
        ((4, 2, 17), "the axes seem to be swapped"),
        ((4, 17, 4), "(4, 17, 4)"),
        ((0, 17, 2), "(0, 17, 2)"),
        ((2, 2, 2, 17, 2), "(2, 2, 2, 17, 2)"),
        ((4, 34), "(4, 34)"),
    ],
)
def test_arrays_of_other_shapes(tmp_path: Path, shape: tuple[int, ...], words: str) -> None:
    refused(npy(tmp_path, np.ones(shape)), "expected keypoints (frames, joints, 2 or 3)", words)


def test_broken_numpy_files(tmp_path: Path) -> None:
    path = npy(tmp_path, people("coco17"))
    path.write_bytes(path.read_bytes()[:-50])
    refused(path, "broken")
    np.savez(tmp_path / "a.npz", keypoints=people("coco17"))
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "a.npz")
    refused(npy(tmp_path, np.array([["a"]])), "real numbers")
    refused(npy(tmp_path, np.ones((3, 17, 2)) * 1j), "no plain array")
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (900000000000, 17, 2), }".ljust(117) + b"\n"
    path.write_bytes(b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header)
    refused(path, "broken")


def test_a_pickle_in_numpys_clothes_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return (Path.touch, (tmp_path / "sprung",))  # type: ignore[return-value]

    trap = np.array([Trap()], dtype=object)
    np.save(tmp_path / "a.npy", trap)
    np.savez(tmp_path / "a.npz", keypoints=trap)
    refused(tmp_path / "a.npy", "no plain array")
    refused(tmp_path / "a.npz", "refused")
    assert not (tmp_path / "sprung").exists()


def test_npz_whose_parts_do_not_fit(tmp_path: Path) -> None:
    values, path = people("coco17"), tmp_path / "a.npz"
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"scores": values[..., 2]}, "without the last axis"),
        ({"size": [1280]}, "size as (width, height)"),
        ({"size": [np.nan, 720]}, "size as (width, height)"),
        ({"fps": -1}, "one positive number"),
        ({"fps": [25, 30]}, "one positive number"),
        ({"frames": ["a"]}, "expected 6 names in frames"),
        ({"people": ["a", "b", "c"]}, "expected 2 names in people"),
    ]
    for extra, words in wrong:
        np.savez(path, keypoints=values, **extra)
        refused(path, words)
    np.savez(path, keypoints=values[..., :2], scores=values[:3, ..., 2])
    refused(path, "(6, 2, 17, 2) and (3, 2, 17)")
    np.savez(path, a=values, b=values)
    refused(path, "expected an array called keypoints, got a, b")


def test_several_clips_of_videopose3d(tmp_path: Path) -> None:
    clip = people("coco17", count=1)[:, 0, :, :2]
    for content, words in (
        ({"v1": {"custom": [clip]}, "v2": {"custom": [clip]}}, "one video, got 2 clips (v1, custom; v2, custom"),
        ({"v1": [clip]}, "positions_2d[video][action]"),
    ):
        np.savez(tmp_path / "a.npz", positions_2d=np.array(content, dtype=object))
        refused(tmp_path / "a.npz", words)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"keypoints": [1, 2, 3, 4]}, "got 4 numbers"),
        ({"keypoints": [[1, 2], [3]]}, "lists of numbers of one length"),
        ({"keypoints": ["a", "b", "c"]}, "lists of numbers of one length"),
        ({"keypoints": [[1, 2, 3, 4]]}, "x, y and a score for each joint"),
        ({"keypoints": [[1, 2]] * 17, "keypoint_scores": [1] * 16}, "a score for each of 17 joints, got 16"),
        ({"keypoints": {"x": [1, 2], "y": [1]}}, "as many x as y"),
        ({"keypoints": "none"}, "lists of numbers"),
    ],
)
def test_a_broken_entry_is_named_with_its_frame(tmp_path: Path, entry: dict[str, Any], words: str) -> None:
    frames = [{"frame_id": 3, "instances": []}, {"frame_id": 4, "instances": [entry]}]
    refused(save(tmp_path / "a.json", frames), words, "frame 4")


def test_people_with_different_joints(tmp_path: Path) -> None:
    entries = [{"image_id": t, "keypoints": flat(people(name)[0, 0])} for t, name in enumerate(("coco17", "halpe26"))]
    refused(save(tmp_path / "a.json", entries), "expected 17 joints, as in the frames before, got 26")
    images = [{"id": t, "width": 640, "height": 480} for t in range(2)]
    refused(save(tmp_path / "b.json", {"images": images, "annotations": entries}), "expected 17 joints", "got 26")


def test_broken_coco_annotations(tmp_path: Path) -> None:
    image = {"id": 1, "width": 640, "height": 480}
    for content in (
        {"images": [{"id": 1}], "annotations": []},
        {"images": [image | {"width": float("inf")}], "annotations": []},
        {"images": [image], "annotations": [{"image_id": 2, "keypoints": flat(people("coco17")[0, 0])}]},
        {"images": [image], "annotations": [{"keypoints": flat(people("coco17")[0, 0])}]},
    ):
        refused(save(tmp_path / "a.json", content), "COCO's annotations")


def test_results_of_all_frames_in_a_folder_of_frames(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path / f"json/{name}.json", results(people("coco17")))
    refused(tmp_path / "json", "has several; give that file alone")


@pytest.mark.parametrize("score", [-0.1, 1.0, float("nan")])
def test_min_score_outside_its_range(tmp_path: Path, score: float) -> None:
    with pytest.raises(InputError, match="min_score"):
        read_keypoints(npy(tmp_path, people("coco17")), min_score=score)
