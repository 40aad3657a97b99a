"""The rendered set: surfaces where geometry puts them, labels on their pixels, distinct sides, complete files."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from scipy.io import loadmat

from lifting.command import InputError
from lifting.datasets.store import Sequence
from lifting.geometry import h36m
from lifting.geometry.joint_maps import h36m17_to_h36m18, h36m18_to_mpii16
from lifting.geometry.skeleton import H36M17, MPII16
from lifting.synthetic import body_shape, pictures, rendering, scenery
from lifting.synthetic import poses as synthetic_poses
from lifting.synthetic.action_scripts import ACTIONS
from lifting.synthetic.making import Pose, processes, recipe
from lifting.synthetic.pictures import MPII_JOINTS, Shot, make_rendered, rendered_folder, take
from lifting.synthetic.poses import Plan
from lifting.synthetic.rendering import Array, Cones, Light, View, look_at

COUNTS = {"train": 12, "test": 4, "flat_train": 6, "flat_valid": 4}
NAMES = {"Greeting", "Greeting 1", "Sitting", "Sitting 1", "SittingDown", "SittingDown 1"}


def few_plans(seed: int) -> list[Plan]:
    """The people of `poses` in some of their postures."""
    made = []
    for s, (subject, body) in enumerate(synthetic_poses.bodies(seed).items()):
        for name in sorted(NAMES):
            action = ACTIONS[h36m.action_of(name)]
            ground = action.grounds[name.endswith("1")]
            made.append(Plan(subject, name, body, action, ground, (seed, s, len(name))))
    return made


@cache
def few(seed: int) -> list[Sequence]:
    return [plan.performed() for plan in few_plans(seed)]


@pytest.fixture(scope="module")
def poses() -> Array:
    """(56, 17, 3) varied poses."""
    return np.concatenate([s.positions[::120][:2] for s in few(0) if s.name != "Sitting 1"])[:56].astype(np.float64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("set") / "rendered"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic_poses, "plans", few_plans)
        make_rendered(path, **COUNTS, workers=1)
    return path


def seen(joints: Array, seed: int = 0, wild: bool = False) -> tuple[body_shape.Look, View, Light]:
    rng = np.random.default_rng(seed)
    look = body_shape.random_look(rng)
    return (
        look,
        scenery.random_view(rng, body_shape.figure(joints, look), (256, 256), 1.1, wild),
        scenery.random_light(rng),
    )


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def shape(picture: Path) -> tuple[int, ...]:
    pixels = cv2.imread(str(picture))
    assert pixels is not None
    found: tuple[int, ...] = pixels.shape
    return found


# Surfaces


def some_cones(rng: np.random.Generator, count: int) -> Cones:
    """Cones with varied tapers, 1 to 2 m in front of a camera at the origin that looks along z."""
    start = rng.uniform([-0.5, -0.4, 1.2], [0.5, 0.4, 2.0], (count, 3))
    end = start + rng.normal(0, 0.2, (count, 3))
    end[::4, :2] = start[::4, :2] * end[::4, 2:] / start[::4, 2:]  # along a ray: seen from the tip or from the base
    end[1::8] = start[1::8] + 0.01  # one sphere inside the other
    return Cones(start, end, rng.uniform(0.03, 0.25, (count, 2)), rng.random((count, 3)))


@pytest.mark.parametrize("seed", range(3))
def test_depths_are_those_of_the_union_of_spheres(seed: int) -> None:
    """The slow twin takes the nearest entry into any of five hundred spheres along each axis."""
    cones = some_cones(np.random.default_rng(seed), 12)
    view = View(np.eye(3), np.zeros(3), 50.0, np.array([31.0, 24.5]), (64, 50))
    x, y = view.rays()
    rays = np.stack(np.broadcast_arrays(x, y, 1.0), -1).astype(np.float64)
    for p in range(12):
        one = Cones(*(getattr(cones, name)[p : p + 1] for name in ("start", "end", "radii", "colour")))
        depth, owner = rendering.depth_buffer(one, view)
        twin, margin = np.full(depth.shape, np.inf), np.full(depth.shape, -np.inf)
        for s in np.linspace(0, 1, 500):
            center, radius = one.start[0] + s * (one.end - one.start)[0], one.radii[0] @ [1 - s, s]
            dd, towards = (rays**2).sum(-1), rays @ center
            below = towards**2 - dd * (center @ center - radius**2)
            margin = np.maximum(margin, below)
            twin = np.minimum(twin, np.where(below >= 0, (towards - np.sqrt(np.maximum(below, 0))) / dd, np.inf))
        clear = np.abs(margin) > 1e-3  # not at the very border, where rounding decides
        assert clear.mean() > 0.9
        np.testing.assert_array_equal((owner == 0)[clear], (margin > 0)[clear])
        hit = clear & (margin > 0)
        np.testing.assert_allclose(depth[hit], twin[hit], atol=2e-4)


def test_nearer_cones_cover_farther_ones() -> None:
    start, end = np.array([[-0.5, 0, 2.0], [0, -0.5, 1.5]]), np.array([[0.5, 0, 2.0], [0, 0.5, 1.5]])
    view = View(np.eye(3), np.zeros(3), 60.0, np.array([32.0, 32.0]), (65, 65))
    for order in ([0, 1], [1, 0]):
        cones = Cones(start[order], end[order], np.full((2, 2), 0.1), np.zeros((2, 3)))
        depth, owner = rendering.depth_buffer(cones, view)
        assert owner[32, 32] == order.index(1)
        assert owner[32, 20] == order.index(0)
        assert owner[0, 0] == -1
        assert depth[32, 32] == pytest.approx(1.4)
        assert depth[32, 22] == pytest.approx(1.9, abs=5e-3)


def test_bounds_are_those_of_the_pixels() -> None:
    view = View(np.eye(3), np.zeros(3), 300.0, np.array([300.0, 250.0]), (600, 500))
    cones = some_cones(np.random.default_rng(3), 12)
    low, high = cones.bounds(view)
    for p in range(12):
        one = Cones(*(getattr(cones, name)[p : p + 1] for name in ("start", "end", "radii", "colour")))
        rows, columns = np.nonzero(rendering.depth_buffer(one, view)[1] == 0)
        found = np.array([columns.min(), rows.min(), columns.max(), rows.max()])
        wanted = np.concatenate([low[p], high[p]]).clip(0, [599, 499] * 2)
        assert np.abs(found - wanted).max() < 1.6


def test_light_comes_from_the_lamp() -> None:
    ball = Cones(np.array([[0.0, 3, 1]]), np.array([[0.0, 3, 1]]), np.full((1, 2), 0.5), np.ones((1, 3)))
    view = View(
        look_at(np.array([0.0, 0, 1]), ball.start[0], 0), np.array([0.0, 0, 1]), 150.0, np.full(2, 31.5), (64, 64)
    )
    for towards, brightest in (([1.0, 0, 0], (32, 50)), ([0, 0, 1.0], (13, 32)), ([-1.0, 0, 0], (32, 13))):
        drawn = rendering.draw(ball, view, Light(np.array(towards), 0.8, 0.1, np.ones(3)))
        found = np.unravel_index(cv2.blur(drawn.colour[..., 0], (5, 5)).argmax(), (64, 64))
        assert np.hypot(*np.subtract(found, brightest)) < 8
    assert drawn.coverage.max() == 1
    assert drawn.coverage.sum() == pytest.approx(np.pi * (150 * np.tan(np.arcsin(0.5 / 3))) ** 2, rel=0.01)


def test_finer_views_and_windows_see_the_same_points() -> None:
    rng = np.random.default_rng(0)
    view = View(
        look_at(np.array([3.0, 1, 1]), np.zeros(3), 0.3),
        np.array([3.0, 1, 1]),
        200.0,
        np.array([120.0, 90]),
        (240, 180),
    )
    points = rng.normal(0, 0.3, (9, 3))
    np.testing.assert_allclose(view.finer(2).project(points), 2 * view.project(points) + 0.5)
    np.testing.assert_allclose(view.window(30, 20, 200, 100).project(points), view.project(points) - [30, 20])
    np.testing.assert_allclose(view.R @ view.R.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(view.R) == pytest.approx(1)
    np.testing.assert_allclose(view.project(np.zeros(3)), [120, 90], atol=1e-9)
    higher = replace(view, R=look_at(view.position, np.zeros(3), 0.0)).project(np.array([0, 0, 0.2]))
    assert higher[0] == pytest.approx(120)
    assert higher[1] < 90


# People


def test_joints_lie_on_the_person(poses: Array) -> None:
    on = []
    for i, joints in enumerate(poses):
        look, view, light = seen(joints, i, wild=bool(i % 2))
        coverage = rendering.draw(body_shape.figure(joints, look), view, light).coverage
        x, y = view.project(joints).round().astype(int).T
        on.append(coverage[y, x] > 0.5)
        assert 0.05 < coverage.mean() < 0.5
    assert np.mean(on) > 0.99


def mirrored(view: View, light: Light) -> tuple[View, Light]:
    """Camera and lamp as seen in a mirror in the plane x = 0."""
    turn = np.diag([-1.0, 1, 1])
    center = np.array([view.size[0] - 1 - view.center[0], view.center[1]])
    return replace(view, R=turn @ view.R @ turn, position=turn @ view.position, center=center), light._replace(
        towards=turn @ light.towards
    )


def test_a_mirrored_picture_is_the_person_with_sides_exchanged_and_nothing_else(poses: Array) -> None:
    for i, joints in enumerate(poses[:12]):
        look, view, light = seen(joints, i)
        other_view, other_light = mirrored(view, light)
        picture = rendering.draw(body_shape.figure(joints, look), view, light).colour[:, ::-1]
        reflected = joints * [-1, 1, 1]
        exchanged = body_shape.figure(reflected[list(H36M17.mirror)], look)
        same = rendering.draw(exchanged, other_view, other_light).colour
        assert np.abs(same - picture).mean() < 1e-4
        wrong = rendering.draw(body_shape.figure(reflected, look), other_view, other_light).colour
        assert np.abs(wrong - picture).mean() > 50 * np.abs(same - picture).mean() + 5e-4


def test_a_face_is_seen_from_the_front_and_hair_from_behind(poses: Array) -> None:
    for i, joints in enumerate(poses[:16]):
        look = replace(body_shape.random_look(np.random.default_rng(i)), long_hair=bool(i % 2))
        head = body_shape.head(joints, look)
        thorax, neck, top = (joints[H36M17.joints.index(name)] for name in ("thorax", "neck", "head"))
        up = (top - neck) / np.linalg.norm(top - neck)
        front = (neck - thorax) - ((neck - thorax) @ up) * up
        shares = []
        for sign in (1, -1):
            position = (neck + top) / 2 + sign * 3 * front / np.linalg.norm(front)
            view = View(look_at(position, (neck + top) / 2, 0), position, 600.0, np.full(2, 63.5), (128, 128))
            owner = rendering.depth_buffer(head, view)[1]
            shares.append((head.colour[owner[owner >= 0]] == look.skin).all(1).mean())
        assert shares[0] > 0.35
        assert shares[1] < 0.08


def test_looks_can_be_told_apart() -> None:
    for seed in range(200):
        look = body_shape.random_look(np.random.default_rng(seed))
        colours = np.stack([look.skin, look.hair, look.shirt, look.trousers, look.shoes, look.trim])
        assert colours.min() >= 0
        assert colours.max() <= 1
        assert abs(look.hair.mean() - look.skin.mean()) > 0.15
        assert np.abs(look.trim - look.shirt).sum() > 0.6


def test_the_person_fills_the_picture_and_the_floor_is_below(poses: Array) -> None:
    fills = []
    for i, joints in enumerate(poses):
        look, view, _ = seen(joints, i, wild=bool(i % 2))
        low, high = body_shape.figure(joints, look).bounds(view)
        low, high = low.min(0), high.max(0)
        fills.append((high - low).max() / 256)
        side, middle = 1.1 * (high - low).max(), (low + high) / 2
        assert (middle - side / 2).min() > -1
        assert (middle + side / 2).max() < 256
        ground = np.array([*joints[0, :2], 0.0])
        assert view.project(ground)[1] > view.project(joints[0])[1]
    assert 0.54 < min(fills) < 0.6
    assert 0.8 < max(fills) < 0.86


# Files


def solid(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(
        (folder / "h36m/annotations/Sample_rendered_Human36M_protocol_2.json").read_text()
    )
    return content


def test_pictures_with_3d_labels(folder: Path) -> None:
    content, sequences = solid(folder), {(s.subject, s.name): s.positions for s in few(0)}
    assert len(content["images"]) == len(content["annotations"]) == COUNTS["train"] + COUNTS["test"]
    for image, label in zip(content["images"], content["annotations"], strict=True):
        assert image["id"] == label["image_id"]
        assert shape(folder / "h36m/images" / image["file_name"]) == (image["height"], image["width"], 3)
        found = re.fullmatch(r"(s_(\d\d)_act_(\d\d)_subact_(0[12])_ca_0[1-4])/\1_(\d{6})\.jpg", image["file_name"])
        assert found
        subject, act, again, frame = (int(found[i]) for i in (2, 3, 4, 5))
        action = {5: "Greeting", 9: "Sitting", 10: "SittingDown"}[act]
        positions = sequences[f"S{subject}", action + " 1" * (again == 2)]
        points = np.array(label["keypoints_world"])
        np.testing.assert_allclose(points, 1000 * positions[frame - 1], atol=1e-3)
        camera = {name: np.array(value) for name, value in label["cam_param"].items()}
        inside = (points - camera["t"]) @ camera["R"].T
        pixels = inside[:, :2] / inside[:, 2:] * camera["f"] + camera["c"]
        x, y, width, height = label["bbox"]
        assert width == height
        assert ((pixels > [x, y]) & (pixels < [x + width, y + height])).all()
        assert min(x, y) > -2
        assert max(x + width, y + height) < 258
        assert 2500 < np.linalg.norm(camera["t"][:2] - points[0, :2]) < 6600
    subjects = [image["file_name"][:4] for image in content["images"]]
    assert set(subjects[:12]) == {"s_01", "s_05", "s_06", "s_07", "s_08"}
    assert set(subjects[12:]) == {"s_09", "s_11"}


@pytest.mark.parametrize("split", ["train", "valid"])
def test_pictures_with_2d_labels(folder: Path, split: str) -> None:
    entries = json.loads((folder / f"mpii/annot/{split}.json").read_text())
    assert len(entries) == COUNTS[f"flat_{split}"]
    for entry in entries:
        assert shape(folder / "mpii/images" / entry["image"]) == (256, 288, 3)
        joints, labelled = np.array(entry["joints"]), np.array(entry["joints_vis"], bool)
        assert joints.shape == (16, 2)
        assert (joints[~labelled] == -1).all()
        scale, middle = 1.25 * entry["scale"], np.add(entry["center"], [0, 15 * entry["scale"]])
        assert np.abs(joints[labelled] - middle).max() < 100 * scale  # in the square that HRNet's code cuts out
        assert np.ptp(joints[labelled], axis=0).max() > 0.6 * 200 * entry["scale"]
    assert np.mean([entry["joints_vis"] for entry in entries]) > 0.85


def test_head_boxes_and_the_copy_of_the_labels_for_matlab(folder: Path) -> None:
    entries, content = (
        json.loads((folder / "mpii/annot/valid.json").read_text()),
        loadmat(folder / "mpii/annot/gt_valid.mat"),
    )
    boxes, missing, points = (content[name] for name in ("headboxes_src", "jnt_missing", "pos_gt_src"))
    assert (boxes.shape, missing.shape, points.shape) == ((2, 2, 4), (16, 4), (16, 2, 4))
    assert [str(name[0]) for name in content["dataset_joints"][0]] == list(MPII_JOINTS)
    for i, entry in enumerate(entries):
        labelled = np.array(entry["joints_vis"], bool)
        np.testing.assert_array_equal(missing[:, i] == 0, labelled)
        np.testing.assert_allclose(points[labelled, :, i], np.array(entry["joints"])[labelled])
        head = MPII16.joints.index("head_top")
        if labelled[head]:
            assert (points[head, :, i] > boxes[0, :, i] - 1).all()
            assert (points[head, :, i] < boxes[1, :, i] + 1).all()
        size = 0.6 * np.linalg.norm(boxes[1, :, i] - boxes[0, :, i])  # as PCKh measures it
        assert 0.05 < size / (200 * entry["scale"]) < 0.4


def test_2d_labels_are_where_the_joints_are(poses: Array, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shots: list[Shot] = []

    def remember(shot: Shot) -> pictures.Taken:
        shots.append(shot)
        return take(shot)

    given = [Pose("S1", "Greeting", i, joints) for i, joints in enumerate(poses[:5])]
    pictures._write_flat(tmp_path, "valid", given, 0, lambda them: [remember(shot) for shot in them])
    for shot, entry in zip(shots, json.loads((tmp_path / "annot/valid.json").read_text()), strict=True):
        pixels = torch.from_numpy(take(shot).view.project(shot.joints))
        wanted = h36m18_to_mpii16(h36m17_to_h36m18(pixels)).numpy() + 1
        labelled = np.array(entry["joints_vis"], bool)
        np.testing.assert_allclose(np.array(entry["joints"])[labelled], wanted[labelled], atol=1e-4)


def test_the_two_sets_share_no_people(folder: Path) -> None:
    bones = [
        {tuple(np.round(list(vars(b).values()), 6)) for b in synthetic_poses.bodies(s).values()}
        for s in (0, 1000, 1001)
    ]
    assert not bones[0] & bones[1]
    assert not bones[0] & bones[2]
    assert len({p.read_bytes() for p in folder.rglob("*.jpg")}) == sum(COUNTS.values())


def test_pictures_are_a_function_of_their_key_in_any_process(poses: Array, tmp_path: Path) -> None:
    shots = [
        [Shot(tmp_path / f"{run}_{i}.jpg", poses[i], (0, 1, i), wild=bool(i % 2)) for i in range(2)] for run in range(3)
    ]
    for run, workers in ((0, 1), (1, 2)):
        with processes(workers) as spread:
            boxes = [taken.box for taken in spread(take, shots[run], 1)]
    other = shots[2][0]._replace(key=(0, 1, 99))
    assert not np.array_equal(take(other).box, boxes[0])
    for first, second in zip(shots[0], shots[1], strict=True):
        assert first.file.read_bytes() == second.file.read_bytes()


def test_same_seed_same_files(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic_poses, "plans", few_plans)
    make_rendered(tmp_path / "again", **COUNTS, workers=1)
    first, again = (tree(path) for path in (folder, tmp_path / "again"))
    first.pop("mpii/annot/gt_valid.mat"), again.pop("mpii/annot/gt_valid.mat")  # contains the time
    assert first == again
    make_rendered(tmp_path / "again", **COUNTS, seed=1, workers=1)  # over the old one
    assert tree(tmp_path / "again").keys() != first.keys() or tree(tmp_path / "again") != first
    assert [p.name for p in tmp_path.iterdir()] == ["again"]


def test_the_set_is_cached_and_remade_when_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def make(folder: Path, **counts: int) -> None:
        calls.append(counts)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "recipe.json").write_text(json.dumps(recipe(pictures.__file__, 0, counts)))

    monkeypatch.setattr(pictures, "make_rendered", make)
    assert rendered_folder(tmp_path / "data") == tmp_path / "data" / "rendered"
    rendered_folder(tmp_path / "data")
    assert calls == [{"train": 5000, "test": 800, "flat_train": 4000, "flat_valid": 500}]
    recorded = tmp_path / "data" / "rendered" / "recipe.json"
    for stale in ("{", json.dumps({"checksum": "of yesterday"})):
        recorded.write_text(stale)
        rendered_folder(tmp_path / "data")
    assert len(calls) == 3


@pytest.mark.parametrize("when", [".set-*", ".set-*/**/*.jpg"], ids=["starting", "rendering"])
def test_ctrl_c_is_one_line(when: str, tmp_path: Path) -> None:
    """A terminal sends it to all processes."""
    code = (
        "import sys; from pathlib import Path; from lifting.command import run_command\n"
        "from lifting.synthetic.pictures import make_rendered\n"
        "counts = dict(train=300, test=1, flat_train=2, flat_valid=1)\n"
        "run_command(lambda: make_rendered(Path(sys.argv[1]), **counts, workers=2))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "set")]
    heard = partial(signal.signal, signal.SIGINT, signal.default_int_handler)  # a shell's background job is deaf to it
    with subprocess.Popen(
        command,
        cwd=Path(__file__).parents[2],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heard,
    ) as process:
        patience = time.monotonic() + 120
        while not list(tmp_path.glob(when)) and process.poll() is None and time.monotonic() < patience:
            time.sleep(0.05)
        time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert (process.returncode, len(err.splitlines())) == (130, 1), err
    assert not list(tmp_path.iterdir())


def test_nothing_is_lost_when_it_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic_poses, "plans", few_plans)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("chapter 1")
    with pytest.raises(InputError, match="mine: expected a new or empty folder or a rendered set"):
        make_rendered(tmp_path / "mine", **COUNTS, workers=1)
    with pytest.raises(InputError, match=r"expected at most \d+ pictures of these people, got 999999"):
        make_rendered(tmp_path / "new", train=999_999, workers=1)

    def fail(shot: Shot) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pictures, "take", fail)
    with pytest.raises(OSError, match="No space left"):
        make_rendered(tmp_path / "new", **COUNTS, workers=1)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "chapter 1"
