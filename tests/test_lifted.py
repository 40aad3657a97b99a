"""Lifted joints and their files: round trips, what a file holds, and files that cannot be used."""

import json
import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from lifting.command import InputError
from lifting.geometry.skeleton import H36M17
from lifting.keypoints.detections import Keypoints
from lifting.lifted import Lifted, read_lifted


def random_lifted(
    frames: int = 5, people: int = 2, *, root: bool = True, size: tuple[int, int] | None = (640, 480)
) -> Lifted:
    """Random numbers of the right kind; the last person is absent from the second frame."""
    rng = np.random.default_rng(0)
    shape = (frames, people, 17)
    joints, sigma = (rng.normal(size=(*shape, 3)).astype(np.float32) for _ in range(2))
    points = rng.uniform(0, 480, (*shape, 2))
    for array in (joints, sigma, points):
        array[1, -1] = np.nan
    keypoints = Keypoints(
        points=points,
        confidence=np.isfinite(points[..., 0]) * rng.uniform(0.1, 1, shape),
        joint_set="h36m17",
        size=size,
        frames=tuple(f"frame NaN {t}.png" for t in range(frames)),
        people=tuple(f'"{p}"' for p in range(people)),
        frame_rate=None if size is None else 29.97,
        has_scores=True,
        source="Zufall, 17 Gelenke: ä",
        sequence=size is not None,
        one_size=size is not None,
    )
    place = rng.normal(size=(frames, people, 3)).astype(np.float32) if root else None
    return Lifted(
        joints=joints,
        sigma=np.abs(sigma),
        deviation=2 * np.abs(sigma),
        confidence=1 - np.abs(sigma).mean(-1),
        names=H36M17.joints,
        axes="ray",
        checkpoint="x.onnx 0123456789ab",
        keypoints=keypoints,
        root=place,
        root_deviation=place,
    )


def assert_same(a: Lifted, b: Lifted, tolerance: float) -> None:
    for one, other in ((a, b), (a.keypoints, b.keypoints)):
        for field in fields(one):
            x, y = getattr(one, field.name), getattr(other, field.name)
            if isinstance(x, np.ndarray):
                np.testing.assert_allclose(x, y, rtol=0, atol=tolerance)
                assert x.dtype == y.dtype, field.name
            elif field.name != "keypoints":
                assert x == y, field.name


@pytest.mark.parametrize(("ending", "tolerance"), [(".npz", 0), (".json", 1e-6)])
@pytest.mark.parametrize("whole", [True, False])
def test_what_is_saved_is_read_back(tmp_path: Path, ending: str, tolerance: float, whole: bool) -> None:
    lifted = random_lifted(root=whole, size=(640, 480) if whole else None)
    lifted.save(tmp_path / f"out{ending}")
    assert_same(read_lifted(tmp_path / f"out{ending}"), lifted, tolerance)
    assert lifted.present.tolist() == [[True, True], [True, False], *[[True, True]] * 3]


def test_the_content_tells_the_kind_and_nobody_is_a_result_too(tmp_path: Path) -> None:
    lifted = random_lifted(frames=2, people=1)
    empty = replace(
        lifted,
        **{name: getattr(lifted, name)[:, :0] for name in ("joints", "sigma", "deviation", "confidence")},
        root=None,
        root_deviation=None,
        keypoints=replace(
            lifted.keypoints,
            points=lifted.keypoints.points[:, :0],
            confidence=lifted.keypoints.confidence[:, :0],
            people=(),
        ),
    )
    empty.save(tmp_path / "a.json")
    (tmp_path / "a.json").rename(tmp_path / "a.npz")
    assert read_lifted(tmp_path / "a.npz").joints.shape == (2, 0, 17, 3)


def test_files_need_no_pickle_and_no_numpy(tmp_path: Path) -> None:
    lifted = random_lifted()
    lifted.save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert file["units"] == "metres"
        assert file["names"].tolist() == list(H36M17.joints)
        np.testing.assert_array_equal(file["joints"], lifted.joints)
        assert {"keypoints_points", "root_deviation"} <= set(file)
    lifted.save(tmp_path / "a.json")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    content = json.loads((tmp_path / "a.json").read_text(), parse_constant=refuse)
    assert content["joints"][1][1][0] == [None] * 3
    assert content["keypoints"]["frames"][0] == "frame NaN 0.png"


def changed(path: Path, **entries: object) -> Path:
    """The JSON file with other entries; a key with a double underscore is one of the keypoints, None takes it out."""
    content = json.loads(path.read_text())
    for key, value in entries.items():
        place, name = (content["keypoints"], key[11:]) if key.startswith("keypoints__") else (content, key)
        if value is None:
            del place[name]
        else:
            place[name] = value
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"format": "something"}, "expected format 'lifting-joints'"),
        ({"version": 2}, "expected version 1"),
        ({"units": "millimetres"}, "expected units 'metres'"),
        ({"sigma": None}, "expected an entry 'sigma'"),
        ({"joints": [[1, 2], [3]]}, "joints: expected equal lists of numbers"),
        ({"confidence": [[1.0]]}, r"confidence: expected numbers \(5, 2, 17\), got float32 \(1, 1\)"),
        ({"axes": "world"}, "axes: expected one of ray, camera, got 'world'"),
        ({"names": ["nose"]}, "names: expected pelvis"),
        ({"root": None}, "root, root_deviation: expected both or none"),
        ({"keypoints__points": [[0.0]]}, r"expected points \(T, P, 17, 2\)"),
        ({"keypoints__frames": ["a"]}, "expected names for 5 frames, 2 people, got 1 frames"),
        ({"keypoints__people": None}, "expected an entry 'people'"),
        ({"keypoints__joint_set": "coco17"}, "joint_set: expected 'h36m17'"),
        ({"keypoints__size": [1, 2, 3]}, "size"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_a_line(
    tmp_path: Path, entries: dict[str, object], message: str
) -> None:
    path = tmp_path / "a.json"
    random_lifted().save(path)
    with pytest.raises(InputError, match=message) as caught:
        read_lifted(changed(path, **entries))
    assert str(path) in str(caught.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    random_lifted().save(tmp_path / "a.npz")
    whole = (tmp_path / "a.npz").read_bytes()
    cases = {
        "half.npz": (whole[: len(whole) // 2], "is no npz file, or only a part of one"),
        "picture.json": (b"\x89PNG\r\n", "npz or a JSON file"),
        "list.json": (b"[1, 2]", "another layout"),
        "empty.json": (b"", "is empty"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_lifted(tmp_path / name)
    np.savez(tmp_path / "pickle.npz", joints=np.array([{}], dtype=object))
    with pytest.raises(InputError, match="expected format 'lifting-joints'"):
        read_lifted(tmp_path / "pickle.npz")
    with pytest.raises(InputError, match=re.escape("expected an ending of .npz or .json, got .txt")):
        random_lifted().save(tmp_path / "a.txt")


def test_wrong_arrays_are_refused() -> None:
    lifted = random_lifted()
    infinite = lifted.joints.copy()
    infinite[0, 0, 0, 0] = np.inf
    with pytest.raises(ValueError, match="joints: expected finite numbers or NaN"):
        replace(lifted, joints=infinite)
    with pytest.raises(ValueError, match="sigma: expected numbers"):
        replace(lifted, sigma=lifted.sigma[0])
