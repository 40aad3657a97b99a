"""The embedded set in COCO's layout: labels are where people are, flags say what is seen, the seed decides all."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from lifting.geometry.skeleton import COCO17, H36M17
from lifting.synthetic import body_shape, group_pictures
from lifting.synthetic.group_pictures import FACE, Person, Shot, coco_joints, make_groups, take
from lifting.synthetic.making import some_poses
from lifting.synthetic.rendering import Array


@pytest.fixture(scope="module")
def people() -> list[Array]:
    return [pose.joints for pose in some_poses((2000, [(("S9",), 6)]))[0]]


@pytest.fixture(scope="module")
def taken(people: list[Array], tmp_path_factory: pytest.TempPathFactory) -> list[list[Person]]:
    folder = tmp_path_factory.mktemp("shots")
    shots = [Shot(folder / f"{n}.jpg", people[n : n + 1 + n % 3], (0, n)) for n in range(4)]
    return [take(shot) for shot in shots]


def test_the_set_is_that_of_its_seed(tmp_path: Path) -> None:
    make_groups(tmp_path / "one", train=3, val=2, workers=1)
    make_groups(tmp_path / "two", train=3, val=2, workers=2)
    for path in sorted((tmp_path / "one").rglob("*.*")):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes(), path
    make_groups(tmp_path / "two", train=3, val=2, seed=1, workers=1)
    first, other = ((tmp_path / name / "val" / "000000000001.jpg").read_bytes() for name in ("one", "two"))
    assert first != other
    content = json.loads((tmp_path / "one" / "annotations" / "person_keypoints_train.json").read_text())
    assert len(content["images"]) == 3
    assert len(content["annotations"]) >= 3
    assert content["categories"][0]["keypoints"] == list(COCO17.joints)
    picture = cv2.imread(str(tmp_path / "one" / "train" / content["images"][0]["file_name"]))
    assert picture is not None
    assert picture.shape == (256, 320, 3)


def test_joints_are_those_of_the_skeleton_and_the_face(people: list[Array]) -> None:
    joints = coco_joints(people[0])
    for name in ("left_elbow", "right_ankle"):
        there, here = H36M17.joints.index(name), COCO17.joints.index(name)
        assert np.array_equal(joints[here], people[0][there])
    nose, left_eye, right_eye, left_ear, right_ear = joints[:FACE]
    across = left_ear - right_ear
    assert np.dot(left_eye - right_eye, across) > 0
    assert np.dot(across, people[0][11] - people[0][14]) > 0  # as the shoulders lie
    assert np.linalg.norm(left_eye - right_eye) < np.linalg.norm(across)
    assert np.linalg.norm(nose - people[0][H36M17.joints.index("neck")]) < 0.2


def test_ears_change_nothing_else(people: list[Array]) -> None:
    look = body_shape.random_look(np.random.default_rng(0))
    without, with_ears = (body_shape.figure(people[0], look, ears=ears) for ears in (False, True))
    kept = np.ones(len(with_ears.start), bool)
    face = body_shape.face(people[0])
    kept[[np.flatnonzero((with_ears.start == ear).all(1))[0] for ear in face[3:]]] = False
    assert np.array_equal(with_ears.start[kept], without.start)


def test_labels_are_in_the_boxes_and_flags_say_what_is_seen(taken: list[list[Person]]) -> None:
    seen = [person for group in taken for person in group if person.flags.any()]
    assert len(seen) >= 5
    for person in seen:
        x, y, width, height = person.box
        shown = person.joints[person.flags == 2]
        assert (shown >= [x - 3, y - 3]).all()
        assert (shown <= [x + width + 3, y + height + 3]).all()
        assert 0 < person.area <= width * height
    flags = np.stack([person.flags for person in seen])
    assert set(np.unique(flags)) == {0, 1, 2}
    assert not (flags[:, :FACE] == 1).any()  # a hidden face has no label


def test_somebody_behind_a_person_is_hidden(
    people: list[Array], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two people in one place: what both have nearly alike is seen of one of them only, and areas are disjoint."""
    monkeypatch.setattr(group_pictures, "APART", 0.0)
    one, two = take(Shot(tmp_path / "a.jpg", people[:2], (0, 7)))
    both = np.zeros((2, 256, 320), bool)
    for mask, person in zip(both, (one, two), strict=True):
        x, y, w, h = person.box.astype(int)
        mask[y : y + h, x : x + w] = True
    assert one.area + two.area <= (both[0] | both[1]).sum()
    hidden = sum(int((person.flags != 2).sum()) for person in (one, two))
    alone = take(Shot(tmp_path / "b.jpg", people[:1], (0, 7)))[0]
    assert hidden > int((alone.flags != 2).sum())


def test_detections_are_near_people_and_some_are_of_nobody() -> None:
    rng = np.random.default_rng(0)
    joints, flags = np.zeros((17, 2)), np.full(17, 2.0)
    taken = [[Person(joints, flags, np.array([50.0, 40, 80, 120]), 3000.0)] for _ in range(400)]
    found = group_pictures._detections(rng, taken)
    boxes = np.array([row["bbox"] for row in found])
    near = np.abs(boxes - [50, 40, 80, 120]).max(1) < 50
    assert 380 < near.sum() < 460  # 400 less a twentieth, and a tenth of them twice
    assert 0.1 < (~near).mean() < 0.25
    scores = np.array([row["score"] for row in found])
    assert scores[near].mean() > scores[~near].mean() + 0.3
    assert ((scores >= 0) & (scores <= 1)).all()
