"""The examples run, in their short form, and stay short."""

import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("layer_boundary", ["--seeds", "1", "--figure", "drawn.png"], "RLE, the paper's form"),
        ("head_angle", ["--seeds", "1"], "least certain 20 % rejected"),
        ("plain_loop", [], "the 90% interval holds"),
    ],
)
def test_an_example_runs(
    name: str, arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, "--short", *arguments])
    runpy.run_module(f"examples.{name}", run_name="__main__")
    out = capsys.readouterr().out
    assert words in out
    assert "nan" not in out
    if "--figure" in arguments:
        assert (tmp_path / "drawn.png").read_bytes().startswith(b"\x89PNG")


def test_each_is_short() -> None:
    assert [path.stem for path in EXAMPLES] == ["head_angle", "layer_boundary", "made_up_oct", "plain_loop"]
    for path in EXAMPLES:
        assert len(path.read_text().splitlines()) < 100, path
