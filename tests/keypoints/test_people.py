"""Who is who over time without tracks, and the order of frames."""

import time
from pathlib import Path

import numpy as np
import pytest

from lifting.keypoints import people as module
from lifting.keypoints.formats import read_keypoints
from lifting.keypoints.people import LONGEST_GAP, Found, arrange, follow, order_frames
from tests.keypoints.posed import openpose, people, results, save


def walkers(frames: int, count: int, seed: int = 0) -> np.ndarray:
    """(T, P, 17, 2): people side by side who sway, with noise."""
    rng = np.random.default_rng(seed)
    values = people("coco17", frames, count, seed)[..., :2]
    return values + rng.normal(0, 3, values.shape)


def moved(body: np.ndarray, right: float) -> np.ndarray:
    return np.asarray(body + np.array([right, 0.0]))


def test_people_are_followed_whatever_their_order() -> None:
    points = walkers(40, 3)
    rng = np.random.default_rng(1)
    order = np.stack([rng.permutation(3) for _ in range(40)])
    shuffled = np.take_along_axis(points, order[..., None, None], 1)
    labels = follow(np.repeat(np.arange(40), 3), shuffled.reshape(-1, 17, 2)).reshape(40, 3)
    for label in range(3):
        assert len(set(order[labels == label].tolist())) == 1


def test_crossing_people_are_matched_together_and_not_one_by_one() -> None:
    """The nearest partner of both is the same person; only the sum tells."""
    body = people("coco17", 1, 1)[0, 0, :, :2]
    first = np.stack([body, moved(body, 60)])
    second = np.stack([moved(body, 60), moved(body, 130)])  # everybody moved right by about 65
    labels = follow(np.array([0, 0, 1, 1]), np.concatenate([first, second]))
    assert labels.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("gap", [1, LONGEST_GAP, LONGEST_GAP + 1])
def test_gap(gap: int) -> None:
    points = walkers(2, 1)[:, 0]
    points[1] = points[0]
    labels = follow(np.array([0, gap]), points)
    assert (labels[0] == labels[1]) == (gap <= LONGEST_GAP)


def test_somebody_far_away_is_somebody_else() -> None:
    body = people("coco17", 1, 1)[0, 0, :, :2]
    height = np.ptp(body[:, 1])
    assert follow(np.arange(2), np.stack([body, moved(body, 0.45 * height)])).tolist() == [0, 0]
    assert follow(np.arange(2), np.stack([body, moved(body, 0.55 * height)])).tolist() == [0, 1]


def test_missing_joints_do_not_break_a_track() -> None:
    points = walkers(30, 2)
    points[np.random.default_rng(0).random(points.shape[:3]) < 0.4] = np.nan
    labels = follow(np.repeat(np.arange(30), 2), points.reshape(-1, 17, 2))
    assert labels.reshape(30, 2).tolist() == [[0, 1]] * 30


def test_poses_without_a_joint_in_common_are_two_people() -> None:
    points = walkers(2, 1)[:, 0]
    points[0, :8], points[1, 8:] = np.nan, np.nan
    assert follow(np.arange(2), points).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("names", "ordered", "step"),
    [
        (["2.jpg", "10.jpg", "1.jpg"], [f"{k}.jpg" for k in range(1, 11)], 1),
        (["i_09.png", "i_12.png", "i_11.png"], ["i_09.png", "i_10.png", "i_11.png", "i_12.png"], 1),
        (["785", "40083"], ["785", "40083"], 0),
        (["000.mp4", "010.mp4", "005.mp4", "020.mp4"], ["000.mp4", "005.mp4", "010.mp4", "015.mp4", "020.mp4"], 5),
        (["7", "5", "6"], ["5", "6", "7"], 1),
        (["785", "40083", "196141"], ["785", "40083", "196141"], 0),
        (["a.jpg", "b.jpg"], ["a.jpg", "b.jpg"], 0),
        (["v1_01", "v2_01"], ["v1_01", "v2_01"], 0),
        (["1.jpg", "01.jpg", "2.jpg"], ["1.jpg", "01.jpg", "2.jpg"], 0),
        (["only one.jpg"], ["only one.jpg"], 1),
        (["1" * 5000, "2" * 5000], ["1" * 5000, "2" * 5000], 0),
        # a video in which people are seldom seen, and pictures of a collection of which some are neighbours
        ([*map(str, [*range(6), *range(2000, 2006)])], [*map(str, range(2006))], 1),
        ([*map(str, range(0, 90, 9)), *map(str, range(9000, 9045, 9))], [*map(str, range(0, 9045, 9))], 9),
        ([str(k**4) for k in range(1, 13)], [str(k**4) for k in range(1, 13)], 0),
    ],
)  # fmt: skip
def test_order_of_frames(names: list[str], ordered: list[str], step: int) -> None:
    made, place, found = order_frames(names)
    assert list(made) == ordered
    assert found == step
    assert [made[k] for k in place] == names


def test_the_least_seen_people_are_left_out_to_save_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_POSES", 20)
    found = Found()
    row = people("coco17", 1, 1)[0, 0]
    for t in range(10):
        frame = found.frame(str(t))
        for person, seen in (("a", t < 3), ("b", True), ("c", t > 4), ("d", t == 0)):
            if seen:
                found.add(frame, row, person)
    made = arrange(found, np.stack(found.rows))
    assert made.people == ("b", "c")
    assert made.values.shape == (10, 2, 17, 3)
    assert "of 4 people the 2" in made.remark


def test_long_videos_are_read_in_seconds(tmp_path: Path) -> None:
    """Limits far above what it takes (0.4 s and 0.6 s on an idle core); steps that grow with the square exceed them."""
    there_and_back = np.concatenate([people("body25", 50, 2), people("body25", 50, 2)[::-1]])
    folder = openpose(tmp_path / "json", np.tile(there_and_back, (20, 1, 1, 1)))
    there_and_back = np.concatenate([people("coco17", 50, 2), people("coco17", 50, 2)[::-1]])
    file = save(tmp_path / "r.json", results(np.tile(there_and_back, (50, 1, 1, 1))))
    start = time.process_time()
    assert read_keypoints(folder).points.shape == (2_000, 2, 25, 2)
    middle = time.process_time()
    assert read_keypoints(file).points.shape == (5_000, 2, 17, 2)
    assert middle - start < 5
    assert time.process_time() - middle < 10


def test_somebody_who_comes_back_much_later_keeps_his_time(tmp_path: Path) -> None:
    """Detectors list frames with people alone. The frames between were cut out where there were many."""
    points = people("coco17", 20, 1)
    entries = results(points)
    for entry, number in zip(entries, [*range(10), *range(800, 810)], strict=True):
        entry["image_id"] = number
    read = read_keypoints(save(tmp_path / "r.json", entries))
    assert read.frames == tuple(map(str, range(810)))
    there = ~np.isnan(read.points[..., 0]).all((1, 2))
    assert np.flatnonzero(there).tolist() == [*range(10), *range(800, 810)]
    assert read.sequence


def test_pictures_of_a_collection_are_told(tmp_path: Path) -> None:
    entries = results(people("coco17", 3, 1))
    for entry, number in zip(entries, (139, 285, 632000), strict=True):
        entry["image_id"] = number
    read = read_keypoints(save(tmp_path / "r.json", entries))
    assert not read.sequence
    assert "pictures that are no sequence" in read.source


def test_every_fifth_frame_is_told(tmp_path: Path) -> None:
    entries = results(people("coco17", 6, 1))
    for number, entry in enumerate(entries):
        entry["image_id"] = 5 * number
    read = read_keypoints(save(tmp_path / "r.json", entries))
    assert len(read.frames) == 6
    assert "every frame 5 numbers after the one before" in read.source
