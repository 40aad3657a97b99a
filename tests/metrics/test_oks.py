"""OKS and AP: against pycocotools' own numbers, against a plain restatement, and on COCO's real annotations."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from lifting.metrics.oks import AP_NAMES, SAME, SIGMAS, average_precision, keep_best, oks, results

SAMPLE = Path(__file__).parents[3] / "shared" / "data" / "coco_sample" / "test_coco.json"


def truth_of(people: list[tuple[int, np.ndarray, float]]) -> dict[str, Any]:
    """Annotations in COCO's layout of people: picture, (17, 3) joints with flags, area."""
    annotations = [
        {
            "id": i + 1, "image_id": picture, "category_id": 1, "iscrowd": 0, "area": area,
            "bbox": [*joints[:, :2].min(0).tolist(), *np.ptp(joints[:, :2], axis=0).tolist()],
            "keypoints": joints.ravel().tolist(), "num_keypoints": int((joints[:, 2] > 0).sum()),
        }
        for i, (picture, joints, area) in enumerate(people)
    ]  # fmt: skip
    pictures = sorted({picture for picture, _, _ in people})
    return {
        "images": [{"id": picture} for picture in pictures],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person"}],
    }


def random_people(n: int, seed: int = 0) -> list[tuple[int, np.ndarray, float]]:
    rng = np.random.default_rng(seed)
    people = []
    for i in range(n):
        joints = np.column_stack([rng.uniform(0, 200, (17, 2)), rng.integers(0, 3, 17)])
        joints[0, 2] = 2
        people.append((i // 2 + 1, joints, float(rng.uniform(1500, 20000))))
    return people


def detections_of(people: list[tuple[int, np.ndarray, float]], off: float, seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "picture": np.array([picture for picture, _, _ in people]),
        "pixels": np.stack([joints[:, :2] + rng.normal(0, off, (17, 2)) for _, joints, _ in people]),
        "confidence": rng.uniform(0.2, 1, (len(people), 17)),
        "box_score": rng.uniform(0.5, 1, len(people)),
        "area": np.array([area for _, _, area in people]),
    }


def test_oks_is_that_of_pycocotools() -> None:
    people = random_people(12)
    truth, found = truth_of(people), results(**detections_of(people, off=8.0))
    with contextlib.redirect_stdout(io.StringIO()):
        annotated = COCO()
        annotated.dataset = truth  # type: ignore[assignment]
        annotated.createIndex()
        evaluation = COCOeval(annotated, annotated.loadRes(found), "keypoints")
        evaluation.evaluate()
    for one in truth["annotations"]:
        theirs = np.asarray(evaluation.ious[one["image_id"], 1])  # detections by falling score, annotations in order
        mine = sorted((f for f in found if f["image_id"] == one["image_id"]), key=lambda f: -f["score"])
        column = [a["id"] for a in truth["annotations"] if a["image_id"] == one["image_id"]].index(one["id"])
        joints = np.array(one["keypoints"]).reshape(17, 3)
        area = torch.tensor([one["area"]], dtype=torch.float64)
        for row, detection in enumerate(mine):
            error = np.linalg.norm(np.array(detection["keypoints"]).reshape(17, 3)[:, :2] - joints[:, :2], axis=1)
            ours = oks(torch.tensor(error)[None], torch.tensor(joints[:, 2] > 0)[None], area)
            assert float(ours) == pytest.approx(theirs[row, column], rel=1e-9)


def test_oks_by_hand() -> None:
    """One joint off by 2 sigma_j sqrt(area) has exp(-1/2), the others are exact, and one has no label."""
    error = torch.zeros(2, 17, dtype=torch.float64)
    error[0, 3] = 2 * SIGMAS[3] * 50
    labelled = torch.ones(2, 17, dtype=torch.bool)
    labelled[0, 5] = labelled[1] = False
    error[0, 5] = 1000
    found = oks(error, labelled, torch.tensor([2500.0, 2500.0], dtype=torch.float64))
    assert float(found[0]) == pytest.approx((15 + np.exp(-0.5)) / 16)
    assert found[1].isnan()
    with pytest.raises(ValueError, match=r"expected \(N, 17\)"):
        oks(error[:, :16], labelled[:, :16], torch.ones(2))
    with pytest.raises(ValueError, match=r"expected \(N, 17\)"):
        oks(error, labelled, torch.ones(1))


def test_each_person_stays_once_with_the_best_score() -> None:
    rng = np.random.default_rng(0)
    one, two = rng.uniform(0, 100, (17, 2)), rng.uniform(0, 100, (17, 2))
    pixels = np.stack([one, two, one + 0.1, two + 0.2, one + 60])
    score, area = np.array([0.5, 0.9, 0.6, 0.1, 0.05]), np.full(5, 5000.0)
    assert keep_best(pixels, score, area).tolist() == [1, 2, 4]
    assert keep_best(pixels[:0], score[:0], area[:0]).tolist() == []


@pytest.mark.parametrize(("by", "kept"), [(0.99, [0]), (1.01, [0, 1])])
def test_two_detections_are_one_person_above_an_oks_of_their_mean_area(by: float, kept: list[int]) -> None:
    """Every joint is off by t 2 sigma_j sqrt(area), so the OKS is exp(-t^2 / 2)."""
    off = by * np.sqrt(-2 * np.log(SAME)) * 2 * np.array(SIGMAS) * np.sqrt(2000)
    one = np.zeros((17, 2))
    two = np.column_stack([off, np.zeros(17)])
    assert keep_best(np.stack([one, two]), np.array([0.9, 0.8]), np.array([1000.0, 3000.0])).tolist() == kept


def test_the_same_joints_in_other_pictures_are_other_people() -> None:
    found = detections_of(random_people(1), off=0.0)
    many = {name: np.repeat(value, 3, axis=0) for name, value in found.items()} | {"picture": np.array([1, 2, 3])}
    assert [row["image_id"] for row in results(**many)] == [1, 2, 3]


def test_a_detection_is_scored_by_its_box_and_its_joints() -> None:
    people = random_people(4)
    given = detections_of(people, off=1.0)
    found = results(**given)
    assert len(found) == 4
    for row in found:
        joints = np.array(row["keypoints"]).reshape(17, 3)
        [which] = np.flatnonzero(np.isclose(given["pixels"][:, 0, 0], joints[0, 0]))
        assert row["score"] == pytest.approx(given["box_score"][which] * given["confidence"][which].mean())
        np.testing.assert_allclose(joints[:, 2], given["confidence"][which])
        assert row["image_id"] == given["picture"][which]
        assert row["category_id"] == 1
    json.dumps(found)


def test_the_order_of_scores_decides_ap() -> None:
    """Exact people and nonsense: with the exact ones first AP is 100, with the nonsense first it is less."""
    people = random_people(8)
    exact = detections_of(people, off=0.0)
    wrong = {**exact, "pixels": exact["pixels"] + 5000}
    both = {name: np.concatenate([exact[name], wrong[name]]) for name in exact}
    first = both | {"box_score": np.repeat([1.0, 0.1], 8)}
    last = both | {"box_score": np.repeat([0.1, 1.0], 8)}
    truth = truth_of(people)
    right = average_precision(truth, results(**first))
    assert right["ap"] == pytest.approx(100)
    assert right["ar"] == pytest.approx(100)
    assert average_precision(truth, results(**last))["ap"] < 60
    assert tuple(right) == AP_NAMES


def test_people_of_one_size_alone_leave_the_other_unknown() -> None:
    people = [(picture, joints, 3000.0) for picture, joints, _ in random_people(4)]
    found = average_precision(truth_of(people), results(**detections_of(people, off=0.0)))
    assert found["ap_medium"] == pytest.approx(100)
    assert np.isnan(found["ap_large"])


@pytest.mark.skipif(not SAMPLE.exists(), reason="needs shared/data")
def test_ap_on_real_annotations_is_what_pycocotools_gives() -> None:
    """With crowds and people without keypoints among them, from the file itself."""
    truth = json.loads(SAMPLE.read_text())
    labelled = [one for one in truth["annotations"] if one["num_keypoints"]]
    joints = np.array([one["keypoints"] for one in labelled], dtype=np.float64).reshape(-1, 17, 3)
    rng = np.random.default_rng(0)
    found = results(
        np.array([one["image_id"] for one in labelled]),
        joints[..., :2] + rng.normal(0, 4, joints[..., :2].shape),
        rng.uniform(0.5, 1, joints.shape[:2]),
        np.ones(len(labelled)),
        np.array([one["area"] for one in labelled]),
    )
    with contextlib.redirect_stdout(io.StringIO()):
        annotated = COCO(str(SAMPLE))
        evaluation = COCOeval(annotated, annotated.loadRes(found), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    ours = average_precision(truth, found)
    assert 20 < ours["ap"] < 99
    assert [ours[name] for name in AP_NAMES] == (100 * evaluation.stats).tolist()
