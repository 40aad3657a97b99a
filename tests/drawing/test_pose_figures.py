"""Figures of poses: rows, texts, colours, the view from the side, and the ellipses of sigma."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure
from matplotlib.image import imread

from lifting import lifter
from lifting.command import InputError
from lifting.config import load_config
from lifting.datasets.poses import load_poses
from lifting.datasets.store import PoseStore
from lifting.drawing import pose_figures as visualise
from lifting.drawing.pose_figures import DrawnPose, draw_poses, draw_strip
from lifting.geometry.h36m import KEEP_17_OF_32, cameras
from lifting.geometry.skeleton import COCO17, H36M17

STANDIN = Path(__file__).parents[3] / "shared/data/h36m_standin/data_3d_h36m.npz"


def person(sigma: bool = True) -> DrawnPose:
    """Someone three metres in front of the camera; the prediction is 30 mm too far away, except for the root."""
    x = [0, -0.13, -0.13, -0.13, 0.13, 0.13, 0.13, 0, 0, 0, 0, 0.17, 0.25, 0.3, -0.17, -0.25, -0.3]
    y = [0, 0, 0.45, 0.9, 0, 0.45, 0.9, -0.25, -0.5, -0.6, -0.75, -0.48, -0.2, 0.05, -0.48, -0.2, 0.05]
    target = np.stack([x, y, 0.02 * np.arange(17)], -1)
    target -= target[:1]
    mu = target + np.where(np.arange(17)[:, None] > 0, [0, 0, 0.03], 0)
    keypoints = 500 + 1145 * target[:, :2] / (target[:, 2:] + 3)
    spread = np.full((17, 3), 0.02) if sigma else None
    return DrawnPose("S9 Standing, frame 7", keypoints, (1000, 1002), target, mu, spread)


def test_a_figure_has_a_row_for_each_pose(tmp_path: Path) -> None:
    draw_poses(tmp_path / "one.png", [person()])
    draw_poses(tmp_path / "three.png", [person(), person(sigma=False), person()])
    one, three = (imread(tmp_path / f"{name}.png") for name in ("one", "three"))
    assert one.shape[1] == three.shape[1] >= 1800  # sharp at twice a width of 900 pixels
    assert 2.5 < three.shape[0] / one.shape[0] < 3
    assert sorted(file.name for file in tmp_path.iterdir()) == ["one.png", "three.png"]


def test_the_texts_of_a_figure(tmp_path: Path) -> None:
    draw_poses(tmp_path / "pose.svg", [person()])
    drawn = (tmp_path / "pose.svg").read_text()
    assert "S9 Standing, frame 7" in drawn
    assert "prediction, MPJPE 28 mm" in drawn  # 30 mm at 16 of 17 joints
    assert "2 standard deviations" in drawn
    draw_poses(tmp_path / "sure.svg", [person(sigma=False)])
    assert "standard deviations" not in (tmp_path / "sure.svg").read_text()


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved, at the resolution of their files, at which their texts are measured."""
    kept: list[Figure] = []
    savefig = Figure.savefig

    def save(figure: Figure, *arguments: Any, **options: Any) -> None:
        savefig(figure, *arguments, **options)
        figure.set_dpi(200)
        kept.append(figure)

    monkeypatch.setattr(Figure, "savefig", save)
    return kept


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_the_key_of_a_strip_is_not_cut_off(count: int, figures: list[Figure], tmp_path: Path) -> None:
    pose = person()
    pose.keypoints[3] = np.nan
    draw_strip(tmp_path / "strip.png", [pose] * count)
    key = figures[0].legends[0]
    assert len(key.get_texts()) == 5
    assert figures[0].bbox.x0 <= key.get_window_extent().x0 < key.get_window_extent().x1 <= figures[0].bbox.x1
    rows = {round(text.get_window_extent().y0) for text in key.get_texts()}
    assert len(rows) == {1: 3, 2: 3, 3: 2, 5: 1}[count]


PICTURE = np.full((1002, 1000, 3), 150, np.uint8)


@pytest.mark.parametrize(
    "poses",
    [
        [person()],
        [replace(person(), target=None, picture=PICTURE)],  # what `estimate` draws
        [replace(person(), target=None, picture=PICTURE, title="a picture whose name has " + 40 * "x" + ".jpg")],
        [replace(person(), sigma=np.full((17, 3), 2.0))] * 2,
    ],
    ids=["alone", "estimate", "long", "two"],
)
def test_titles_are_not_cut_off(poses: list[DrawnPose], figures: list[Figure], tmp_path: Path) -> None:
    """In the saved file, titles are within the figure and within their panels, and nothing covers them."""
    draw_poses(tmp_path / "pose.png", poses)
    (figure,) = figures
    for axes in figure.axes:
        title, panel = axes.title.get_window_extent(), axes.get_window_extent()
        assert title.width > 0
        assert figure.bbox.y0 <= panel.y1 < title.y0 < title.y1 <= figure.bbox.y1
        assert figure.bbox.x0 <= title.x0 < title.x1 <= figure.bbox.x1
        assert panel.x0 - 0.1 * panel.width <= title.x0 and title.x1 <= panel.x1 + 0.1 * panel.width
        assert all(drawn.get_clip_on() for drawn in axes.collections)


def test_left_and_right_differ() -> None:
    colours = visualise.colours(H36M17)
    assert len({colours[joint] for joint in H36M17.left}) == len({colours[joint] for joint in H36M17.right}) == 1
    assert len({colours[joint] for joint in (0, H36M17.left[0], H36M17.right[0])}) == 3


def test_the_view_is_a_rotation_with_the_person_upright() -> None:
    view = visualise.viewer_axes()
    np.testing.assert_allclose(view @ view.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(view) == pytest.approx(1)
    up = view @ [0, -1, 0]  # the camera's y points down
    assert up[1] > 0.9
    assert up[0] == 0
    assert (view @ [0, 0, -1])[2] > 0  # what is nearer to the camera is nearer to the viewer
    axes = Figure().subplots()
    visualise.draw_input(axes, person(), H36M17)
    assert axes.yaxis_inverted()
    assert not axes.xaxis_inverted()


def test_the_ellipse_is_the_outline_of_the_ellipsoid() -> None:
    random = np.random.default_rng(0)
    sigma, mu = random.uniform(0.01, 0.1, (17, 3)), random.normal(size=(17, 3))
    axes = Figure().subplots()
    visualise._draw_sigma(axes, mu, sigma, ["red"] * 17)
    (drawn,) = (item for item in axes.collections if isinstance(item, EllipseCollection))
    sphere = random.normal(size=(20000, 3))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    angles, widths, heights = (np.asarray(get()) for get in (drawn.get_angles, drawn.get_widths, drawn.get_heights))
    centres = np.asarray(drawn.get_offsets())
    for joint in range(17):
        shell = (mu[joint] + visualise._SIGMAS * sigma[joint] * sphere) @ visualise.viewer_axes()[:2].T
        angle = np.radians(angles[joint])
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        half = np.array([widths[joint], heights[joint]]) / 2
        radius = np.linalg.norm((shell - centres[joint]) @ turn.T / half, axis=1)
        assert 0.99 < radius.max() < 1 + 1e-9


@pytest.mark.parametrize("missing", [[3], range(17)])
def test_missing_keypoints_are_left_out(tmp_path: Path, missing: list[int]) -> None:
    pose = person()
    pose.keypoints[list(missing)] = np.nan
    draw_poses(tmp_path / "pose.png", [pose])
    assert (tmp_path / "pose.png").exists()


def test_another_joint_set(tmp_path: Path) -> None:
    draw_poses(tmp_path / "pose.png", [person()], COCO17)


@pytest.mark.skipif(not STANDIN.exists(), reason="no real motion at hand")
def test_a_real_pose(tmp_path: Path) -> None:
    takes = np.load(STANDIN, allow_pickle=True)["positions_3d"].item()["S9"]
    camera = cameras("S9")["55011271"]
    seen = camera.world_to_camera(torch.from_numpy(takes["Walking 1"][30, list(KEEP_17_OF_32)]).double())
    target = (seen - seen[:1]).numpy()
    draw_poses(tmp_path / "pose.png", [DrawnPose("real", camera.project(seen).numpy(), camera.size, target, target)])
    picture = imread(tmp_path / "pose.png")[..., :3]
    third = picture.shape[1] // 3
    for colour in (visualise.LEFT, visualise.RIGHT):  # limbs of both sides in all three panels
        rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        there = np.abs(picture - rgb).max(-1) < 0.02
        assert all(there[:, part * third : (part + 1) * third].sum() > 500 for part in range(3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mu": np.zeros((16, 3))}, r"mu: expected \(17, 3\), got \(16, 3\)"),
        ({"keypoints": np.zeros((17, 3))}, r"keypoints: expected \(17, 2\)"),
        ({"sigma": np.zeros(17)}, r"sigma: expected \(17, 3\)"),
        ({"target": np.full((17, 3), np.nan)}, "target: expected finite"),
    ],
)
def test_poses_that_cannot_be_drawn_leave_no_file(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_poses(tmp_path / "pose.png", [replace(person(), **change)])
    assert not list(tmp_path.iterdir())


def test_users_mistakes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no poses"):
        draw_poses(tmp_path / "pose.png", [])
    for name in ("pose.xyz", "pose"):
        with pytest.raises(InputError, match=r"expected the ending of a picture file, one of .*png"):
            draw_poses(tmp_path / name, [person()])
    assert not list(tmp_path.iterdir())


def test_a_figure_of_test_poses_shows_none_twice(
    small_store: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drawn: list[DrawnPose] = []
    monkeypatch.setattr("lifting.drawing.pose_figures.draw_poses", lambda path, poses, joints: drawn.extend(poses))
    objective = lifter.build_objective(load_config(overrides=["model.width=8", "loss.name=l1"]), H36M17).eval()
    for stride, expected in ((20, 4), (10**6, 2)):  # one frame of each recording
        with PoseStore(small_store) as store:
            poses = load_poses(store, ("S9",), stride, actions=("Walking",), cameras=("54138969",))
        with torch.no_grad():
            prediction = objective.predict(poses.keypoints)
        drawn.clear()
        lifter.draw(tmp_path / "poses.png", objective, poses, prediction)
        assert len(drawn) == len({pose.title for pose in drawn}) == expected
