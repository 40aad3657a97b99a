"""The examples run, in their short form, and stay short."""

import os
import subprocess
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
def test_an_example_runs(name: str, arguments: list[str], words: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", f"examples.{name}", "--short", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert words in done.stdout
    assert "nan" not in done.stdout
    if "--figure" in arguments:
        assert (tmp_path / "drawn.png").read_bytes().startswith(b"\x89PNG")


def test_each_is_short() -> None:
    assert [path.stem for path in EXAMPLES] == ["head_angle", "layer_boundary", "made_up_oct", "plain_loop"]
    for path in EXAMPLES:
        assert len(path.read_text().splitlines()) < 100, path
