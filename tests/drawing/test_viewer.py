"""The page: what it holds, what a browser makes of it."""

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from lifting.drawing.viewer import write_page
from lifting.lifted import Lifted
from tests.drawing.browser import CHROMIUM, Browser
from tests.drawing.people import absent, people

with_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
WIDE, PHONE = (1440, 900), (390, 844)
EVIL = '</script><script>window.hacked = 1</script><img src=x onerror="window.hacked = 2">&amp; {{data}}'


def content(page: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found
    loaded: dict[str, Any] = json.loads(found[1])
    return loaded


def unpacked(entry: dict[str, Any]) -> np.ndarray:
    steps = np.frombuffer(base64.b64decode(entry["data"]), "<i2").reshape(entry["shape"])
    return np.where(steps == -32768, np.nan, steps * entry["unit"])


def test_numbers_come_back(tmp_path: Path) -> None:
    lifted, truth = people(count=2, root=True)
    absent(lifted, slice(30, None), 1)
    write_page(tmp_path / "page.html", lifted, truth)
    arrays = content(tmp_path / "page.html")["arrays"]
    axes = unpacked(arrays["axes"])[0, 0]
    joints = unpacked(arrays["joints"]) @ axes
    np.testing.assert_allclose(joints, lifted.joints, atol=2e-4)  # steps of 0.1 mm, axes in steps of 1/32767
    np.testing.assert_allclose(unpacked(arrays["truth"]) @ axes, truth, atol=2e-4)
    np.testing.assert_allclose(unpacked(arrays["deviation"]), lifted.deviation, atol=0.51e-4)
    np.testing.assert_allclose(unpacked(arrays["points"]), lifted.keypoints.points, atol=0.026)
    assert "scores" not in arrays


def test_huge_numbers_get_coarser_steps(tmp_path: Path) -> None:
    lifted, _ = people()
    lifted.joints[3, 0, 5] = 9.0
    lifted.keypoints.points[3, 0, 5] = 7000
    write_page(tmp_path / "page.html", lifted)
    arrays = content(tmp_path / "page.html")["arrays"]
    assert np.nanmax(np.abs(unpacked(arrays["joints"]))) == pytest.approx(9, rel=0.3)  # levelled, so not exactly
    assert unpacked(arrays["points"])[3, 0, 5] == pytest.approx(7000)


def test_ten_thousand_frames_stay_small(tmp_path: Path) -> None:
    lifted, truth = people(frames=10_000, root=True)
    write_page(tmp_path / "page.html", replace(lifted, axes="ray"), truth)  # axes change with every frame
    assert (tmp_path / "page.html").stat().st_size < 6e6


def test_a_page_asks_for_nothing_else(tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", people()[0])
    page = (tmp_path / "page.html").read_text()
    assert "{{" not in page
    assert not re.search(r"https?://|<link|\bsrc=|\bhref=|@import|url\(|fetch\(|XMLHttp|import\(", page)
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]


def evil(lifted: Lifted) -> Lifted:
    count = len(lifted.joints)
    names = replace(lifted.keypoints, frames=(EVIL,) * count, people=(EVIL, EVIL + "2"))
    return replace(lifted, keypoints=names, checkpoint=EVIL)


def test_texts_from_files_are_escaped(tmp_path: Path) -> None:
    lifted, _ = people(count=2)
    write_page(tmp_path / "plain.html", lifted)
    write_page(tmp_path / "evil.html", evil(lifted), title=EVIL, input_name=EVIL)
    plain, page = ((tmp_path / f"{name}.html").read_text() for name in ("plain", "evil"))
    assert page.count("<script") == plain.count("<script")
    assert "<img" not in page
    assert content(tmp_path / "evil.html")["people"][0] == EVIL


def test_truth_of_another_shape_leaves_no_file(tmp_path: Path) -> None:
    lifted, truth = people()
    with pytest.raises(ValueError, match="truth: expected"):
        write_page(tmp_path / "page.html", lifted, truth[:, :, :16])
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as running:
        yield running


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    one, two = people(root=True), people(count=2)
    absent(two[0], slice(0, 15), 1)
    write_page(folder / "truth.html", *one, input_name="clip.json")
    write_page(folder / "two.html", two[0])
    write_page(folder / "plain.html", people(sigma=False, frame_rate=None, size=None)[0])
    write_page(folder / "still.html", people(frames=1, count=2)[0])
    write_page(folder / "evil.html", evil(people(count=2)[0]), title=EVIL, input_name=EVIL)
    return {path.stem: path for path in folder.iterdir()}


def no_errors(browser: Browser) -> None:
    root = browser.run("({...document.documentElement.dataset})")
    assert root == {"errors": "0"}, root
    wrong = [e for e in browser.events if e.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded")]
    assert not wrong, wrong
    asked = {e["params"]["request"]["url"] for e in browser.events if e.get("method") == "Network.requestWillBeSent"}
    assert {url.partition("#")[0] for url in asked if url.startswith(("http", "file"))} == {
        browser.run("location.href.split('#')[0]")
    }


def pose(browser: Browser, person: int = 0) -> np.ndarray:
    """Where the page has drawn a person's joints."""
    browser.frames()
    found = browser.run(f"viewer.state.points[{person}] ?? null")
    return np.full((17, 3), np.nan) if found is None else np.array(found)


def colours(path: Path) -> np.ndarray:
    """(N, 3), every colour of a picture once."""
    red, green, blue = (imread(path)[..., :3] * 255).round().astype(np.int64).reshape(-1, 3).T
    packed = np.unique(red << 16 | green << 8 | blue)
    return np.stack([packed >> 16, packed >> 8 & 255, packed & 255], -1)


@with_browser
@pytest.mark.parametrize("name", ["truth", "two", "plain", "still", "evil"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_pages_load_and_are_not_blank(
    browser: Browser, pages: dict[str, Path], name: str, size: tuple[int, int], tmp_path: Path
) -> None:
    browser.open(pages[name], fragment="frame=12", size=size, touch=size == PHONE)
    no_errors(browser)
    assert browser.run("window.hacked ?? null") is None
    assert browser.run("document.documentElement.scrollWidth") == size[0]  # nothing sticks out at the side
    drawn = colours(browser.screenshot(tmp_path / "page.png"))
    assert len(drawn) > 500
    for side in ([213, 94, 0], [0, 114, 178]):
        assert np.abs(drawn - side).max(1).min() < 12
    points = pose(browser)
    stage = browser.run("document.getElementById('scene').getBoundingClientRect().toJSON()")
    assert (points[:, 0] > 0).all() and (points[:, 0] < stage["width"]).all()
    assert (points[:, 1] > 0).all() and (points[:, 1] < stage["height"]).all()


@with_browser
def test_the_slider_moves_the_pose(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["two"], fragment="frame=20")
    before = pose(browser)
    browser.run("Object.assign(document.getElementById('time'), {value: 27}).dispatchEvent(new Event('input'))")
    after = pose(browser)
    assert browser.run("viewer.state.frame") == 27
    assert np.abs(after - before)[:, :2].max() > 5
    browser.key("ArrowRight")
    browser.key("ArrowRight")
    browser.key("ArrowLeft")
    assert browser.run("viewer.state.frame") == 28
    browser.key("Home")
    browser.frames()
    assert browser.run("[viewer.state.frame, document.getElementById('time').value]") == [0, "0"]
    assert np.isnan(pose(browser, 1)).all()  # absent from the first frames
    no_errors(browser)


@with_browser
def test_play_and_pause(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["two"], fragment="frame=20")
    browser.key(" ")
    wait = "const wait = () => (viewer.state.frame !== 20 ? done(true) : setTimeout(wait, 10)); wait();"
    moved = f"new Promise((done) => {{ {wait} }})"
    assert browser.run(moved)
    assert browser.run("document.getElementById('play').getAttribute('aria-label')") == "Pause"
    browser.run("document.getElementById('play').click()")
    stopped = browser.run("viewer.state.frame")
    browser.run("new Promise((done) => setTimeout(done, 120))")
    assert browser.run("viewer.state.frame") == stopped
    browser.open(pages["two"])  # without a frame in its address, a page plays and turns by itself
    assert browser.run("[viewer.state.playing, viewer.state.turning]") == [True, True]


@with_browser
def test_the_person_picker(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["two"], fragment="frame=20")
    assert browser.run("[...document.getElementById('people').children].map((b) => b.textContent)") == [
        "All", "Person 0", "Person 1",
    ]  # fmt: skip
    assert np.isfinite([pose(browser, 0), pose(browser, 1)]).all()
    browser.run("document.getElementById('people').children[2].click()")
    assert np.isnan(pose(browser, 0)).all()
    assert np.isfinite(pose(browser, 1)).all()
    browser.run("viewer.state.frame = 3; document.getElementById('people').children[2].click()")
    assert browser.run("viewer.state.frame") == 15  # the first frame that has this person
    browser.run("document.getElementById('people').children[0].click()")
    assert np.isfinite(pose(browser, 0)).all()


@with_browser
def test_numbers_on_the_page(browser: Browser, pages: dict[str, Path]) -> None:
    lifted, truth = people(root=True)
    browser.open(pages["truth"], fragment="frame=12")
    error = 1000 * np.linalg.norm(lifted.joints - truth, axis=-1).mean(-1)
    deviation = 1000 * np.linalg.norm(lifted.deviation, axis=-1).mean(-1)
    texts = browser.run("[...document.querySelectorAll('.figure')].map((f) => f.innerText.match(/\\d+/g).map(Number))")
    expected = [[value[12, 0], value.mean()] for value in (error, deviation)]
    np.testing.assert_allclose(texts, expected, atol=0.6)
    assert browser.run("document.getElementById('missing').textContent") == "Missing: left wrist"
    legend = browser.run("document.getElementById('explained').innerText")
    along = (truth - lifted.joints)[:, :, 1:] / lifted.deviation[:, :, 1:]
    inside = round(100 * float((np.linalg.norm(along, axis=-1) <= 1).mean()))
    share = re.search(r"Here (\d+) % do", legend)
    assert share and abs(int(share[1]) - inside) <= 1
    assert "1 standard deviation along each axis" in legend
    browser.run("document.querySelector('[data-reach=\"2\"]').click()")
    assert "2 standard deviations" in browser.run("document.getElementById('explained').innerText")
    browser.open(pages["plain"], fragment="frame=12")
    assert "no sigma" in browser.run("document.getElementById('explained').innerText")
    assert browser.run("document.querySelectorAll('.figure').length") == 0


@with_browser
def test_what_the_page_says_about_its_input(browser: Browser, pages: dict[str, Path]) -> None:
    words = {
        "truth": "clip.json · 1 person · 40 frames at 25 per second · a standard deviation for every joint",
        "two": "2 people · 40 frames at 25 per second · a standard deviation for every joint",
        "plain": "1 person · 40 frames, played at 25 per second (the input has no rate)"
        " · no sigma, since this lifter predicts none",
        "still": "2 people · 1 frame · a standard deviation for every joint",
    }
    for name, expected in words.items():
        browser.open(pages[name], fragment="frame=0")
        assert browser.run("document.getElementById('subtitle').textContent") == expected
        assert browser.run("document.getElementById('joints').hidden") == (name == "plain")


@with_browser
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_rings_are_explained_where_there_are_any(
    browser: Browser, pages: dict[str, Path], size: tuple[int, int]
) -> None:
    for name in ("truth", "two", "still"):
        browser.open(pages[name], fragment="frame=0", size=size, touch=size == PHONE)  # all is seen here, not elsewhere
        texts = [browser.run(f"document.getElementById('{part}').innerText") for part in ("key", "explained")]
        assert ["missing" in text for text in texts] == [name != "still"] * 2


@with_browser
def test_drag_turns_wheel_zooms_views_return(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["truth"], fragment="frame=12")
    before = pose(browser)
    browser.mouse("mousePressed", 500, 400, button="left", buttons=1, clickCount=1)
    browser.mouse("mouseMoved", 650, 400, button="left", buttons=1)
    browser.mouse("mouseReleased", 650, 400, button="left", clickCount=1)
    turned = pose(browser)
    assert np.abs(turned - before)[:, 0].max() > 20
    browser.mouse("mouseWheel", 500, 400, deltaX=0, deltaY=-400)
    assert (pose(browser)[:, 2] > 1.3 * turned[:, 2]).all()
    browser.run("document.querySelector('[data-view=camera]').click()")
    # As the camera saw it: what is further right in the picture is further right in the scene.
    lifted, _ = people(root=True)
    across = np.corrcoef(pose(browser)[:, 0], lifted.joints[12, 0, :, 0])[0, 1]
    down = np.corrcoef(pose(browser)[:, 1], lifted.joints[12, 0, :, 1])[0, 1]
    assert across > 0.98 and down > 0.98
    no_errors(browser)


@with_browser
def test_dark_and_light(browser: Browser, pages: dict[str, Path], tmp_path: Path) -> None:
    brightness = {}
    for dark in (False, True):
        browser.open(pages["truth"], fragment="frame=12", dark=dark)
        brightness[dark] = imread(browser.screenshot(tmp_path / f"{dark}.png"))[..., :3].mean()
    assert brightness[False] > 0.8
    assert brightness[True] < 0.25


@with_browser
def test_ellipsoids_are_drawn_and_can_be_hidden(browser: Browser, pages: dict[str, Path], tmp_path: Path) -> None:
    browser.open(pages["truth"], fragment="frame=12")
    pictures = []
    for reach in (0, 1, 2):
        browser.run(f"document.querySelector('[data-reach=\"{reach}\"]').click()")
        browser.frames(3)
        pictures.append(imread(browser.screenshot(tmp_path / f"{reach}.png"))[120:600, 20:1040, :3])
    changed = [(np.abs(picture - pictures[0]).max(-1) > 0.03).sum() for picture in pictures]
    assert changed[0] == 0 < changed[1] < changed[2]
