"""Films and strips."""

import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.image import imread
from PIL import Image

from lifting.command import InputError
from lifting.drawing.moving_figures import write_figure, write_video
from lifting.drawing.scene import build_scene
from lifting.drawing.stage import Stage
from tests.drawing.people import absent, people

LEFT, RIGHT = (213, 94, 0), (0, 114, 178)


def near(picture: np.ndarray, colour: tuple[int, ...], within: int = 30) -> np.ndarray:
    found: np.ndarray = np.abs(picture.astype(int) - colour).max(-1) < within
    return found


def test_a_gif_lasts_as_long_as_the_clip(tmp_path: Path) -> None:
    lifted, truth = people(frames=30, count=2)
    absent(lifted, slice(5, 15), 1)
    write_video(tmp_path / "film.gif", lifted, truth)
    with Image.open(tmp_path / "film.gif") as film:
        assert film.size == (640, 360)
        durations, pictures = [], []
        for frame in range(getattr(film, "n_frames", 1)):
            film.seek(frame)
            durations.append(film.info["duration"])
            pictures.append(np.asarray(film.convert("RGB")).astype(int))
    assert sum(durations) / 1000 == pytest.approx(30 / 25, abs=0.1)
    assert film.info["loop"] == 0
    assert all(near(picture, side).sum() > 100 for picture in pictures for side in (LEFT, RIGHT))
    assert np.abs(pictures[3] - pictures[4])[:, 230:].max() > 100
    assert [file.name for file in tmp_path.iterdir()] == ["film.gif"]


@pytest.mark.parametrize("rate", [12.0, 15.0, 50.0])
def test_a_gif_of_any_rate_lasts_as_long_as_the_clip(tmp_path: Path, rate: float) -> None:
    lifted, _ = people(frames=30, frame_rate=rate)
    write_video(tmp_path / "film.gif", lifted, size=(320, 180))
    with Image.open(tmp_path / "film.gif") as film:
        assert film.info["duration"] * getattr(film, "n_frames", 1) / 1000 == pytest.approx(30 / rate, abs=0.09)


@pytest.mark.parametrize("rate", [1000 / 15, 119.88, 1001.7])
def test_an_mp4_of_any_rate(tmp_path: Path, rate: float) -> None:
    """FFmpeg wants a fraction of small numbers."""
    lifted, _ = people(frames=2, frame_rate=rate)
    write_video(tmp_path / "film.mp4", lifted, size=(320, 180))
    assert cv2.VideoCapture(str(tmp_path / "film.mp4")).get(cv2.CAP_PROP_FPS) == pytest.approx(rate, rel=1e-3)


def test_a_gif_of_one_picture_an_hour(tmp_path: Path) -> None:
    lifted, _ = people(frames=2, frame_rate=1 / 3600)
    write_video(tmp_path / "film.gif", lifted, size=(320, 180))
    assert (tmp_path / "film.gif").stat().st_size > 0
    with pytest.raises(InputError, match=r"expected 0\.01 to 65,535 frames per second, got .*: write a \.gif"):
        write_video(tmp_path / "film.mp4", lifted, size=(320, 180))


def test_an_mp4_has_every_frame(tmp_path: Path) -> None:
    lifted, _ = people(frames=8)
    write_video(tmp_path / "film.mp4", lifted, size=(640, 360))
    film = cv2.VideoCapture(str(tmp_path / "film.mp4"))
    assert film.get(cv2.CAP_PROP_FPS) == 25
    frames = []
    while True:
        there, frame = film.read()
        if not there:
            break
        frames.append(frame)
    assert [frame.shape for frame in frames] == [(360, 640, 3)] * 8
    for side in (LEFT, RIGHT):  # red and blue are not exchanged
        assert near(frames[0][..., ::-1], side).sum() > 100


def test_the_eye_goes_round_and_stays_upright() -> None:
    lifted, _ = people()
    stage = Stage(build_scene(lifted), lifted.keypoints, (640, 360))
    scene = stage.picture[2] // 2 + 20  # the stage is painted at twice the size
    front, back = (stage.paint(0, yaw)[:300, scene:] for yaw in (0.0, np.pi))

    def middle(picture: np.ndarray, side: tuple[int, ...]) -> np.ndarray:
        rows, columns = np.nonzero(near(picture[40:], side))
        return np.array([columns.mean(), rows.mean()])

    # Seen by the camera the person's left is on the right, from behind it is on the left.
    assert middle(front, LEFT)[0] > middle(front, RIGHT)[0] + 20
    assert middle(back, LEFT)[0] < middle(back, RIGHT)[0] - 20
    head = stage._project(stage.joints[0, 0, 10])
    ankle = stage._project(stage.joints[0, 0, 3])
    assert head[1] < ankle[1]


def test_ellipsoids_grow_with_the_deviation() -> None:
    lifted, _ = people()
    stages = [Stage(build_scene(lifted), lifted.keypoints, (640, 360), reach) for reach in (0.01, 1.0, 3.0)]
    pictures = [stage.paint(12, 0.3)[40:300, 240:].astype(int) for stage in stages]
    changed = [(np.abs(picture - pictures[0]).max(-1) > 8).sum() for picture in pictures]
    assert changed[0] < changed[1] < changed[2]


def test_rings_are_explained_where_there_are_any() -> None:
    lifted, _ = people()  # a wrist is missing in frames 10 to 19
    whole = people(frames=10)[0]
    stages = [Stage(build_scene(film), film.keypoints, (640, 360)) for film in (lifted, whole)]
    assert [stage.some_missing for stage in stages] == [True, False]
    second_line = [(stage.background[62:86, 900:] < 128).any() for stage in stages]
    assert second_line == [True, False]
    absent(lifted, slice(10, 20), 0)  # who is absent has no joints that could be missing
    assert not Stage(build_scene(lifted), lifted.keypoints, (640, 360)).some_missing


def test_a_lifter_without_sigma(tmp_path: Path) -> None:
    lifted, truth = people(frames=4, sigma=False, size=None)
    write_video(tmp_path / "film.gif", lifted)
    write_video(tmp_path / "true.gif", lifted, truth)
    write_figure(tmp_path / "strip.png", lifted, truth)


def test_a_strip_goes_from_sure_to_unsure(tmp_path: Path) -> None:
    lifted, truth = people(count=2)
    lifted.deviation[:] *= np.linspace(3, 1, 40)[:, None, None, None]  # the last frame is the surest
    absent(lifted, slice(30, None), 1)
    write_figure(tmp_path / "strip.svg", lifted, truth, count=4)
    drawn = (tmp_path / "strip.svg").read_text()
    numbers = [int(number) for number in re.findall(r"<!-- standard deviation (\d+) mm", drawn)]
    assert numbers == sorted(numbers)
    assert len(set(numbers)) == 4
    assert drawn.count("<!-- frame ") == 4
    assert "ground truth" in drawn
    assert "missing in the 2D input" not in drawn  # the wrist is missing in the least sure frames alone
    write_figure(tmp_path / "more.svg", lifted, count=12)
    assert "missing in the 2D input" in (tmp_path / "more.svg").read_text()
    write_figure(tmp_path / "one.png", people(frames=1)[0])
    picture = imread(tmp_path / "one.png")[..., :3] * 255
    assert all(near(picture, side).sum() > 500 for side in (LEFT, RIGHT))


def test_users_mistakes(tmp_path: Path) -> None:
    lifted, truth = people(frames=4)
    for name in ("film.avi", "film"):
        with pytest.raises(InputError, match=r"ending of a film, \.mp4 or \.gif"):
            write_video(tmp_path / name, lifted)
    with pytest.raises(InputError, match="ending of a picture"):
        write_figure(tmp_path / "strip.mp4", lifted)
    with pytest.raises(ValueError, match="even"):
        write_video(tmp_path / "film.gif", lifted, size=(641, 360))
    for write in (write_video, write_figure):
        with pytest.raises(ValueError, match="truth: expected"):
            write(tmp_path / ("film.gif" if write is write_video else "strip.png"), lifted, truth[1:])
    absent(lifted, slice(None), 0)
    with pytest.raises(InputError, match="nobody"):
        write_video(tmp_path / "film.gif", lifted)
    with pytest.raises(InputError, match="nobody"):
        write_figure(tmp_path / "strip.png", lifted)
    assert not list(tmp_path.iterdir())


def test_drawing_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import lifting.drawing.moving_figures, lifting.drawing.viewer"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
