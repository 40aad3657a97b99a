"""How the commands start: their version, what they import, and when training is under way."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lifting.commands.options import VERSION

ROOT = Path(__file__).parents[2]
SCRIPTS = ["run_lifting.py", "run_single_stage.py"]
CONSOLE = {"run-lifting": "lifting_track", "run-single-stage": "single_stage_track"}
HEAVY = {"torch", "tensorboard", "matplotlib", "cv2", "scipy", "pydantic", "h5py", "yaml"}


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "importtime", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def modules(done: subprocess.CompletedProcess[str]) -> set[str]:
    """The modules that a run under ``-X importtime`` imported."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines}


def imported(done: subprocess.CompletedProcess[str]) -> set[str]:
    """The packages of these modules."""
    return {name.partition(".")[0] for name in modules(done)}


def test_the_version_is_that_of_the_package() -> None:
    tomllib = pytest.importorskip("tomllib")  # Python 3.11 and later
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == VERSION


@pytest.mark.parametrize("script", SCRIPTS)
def test_version_of_a_checkout(script: str) -> None:
    done = run(script, "--version")
    assert (done.returncode, done.stdout) == (0, f"lifting {VERSION}\n")
    assert not imported(done) & {*HEAVY, "numpy"}


@pytest.mark.parametrize(("name", "module"), CONSOLE.items())
def test_version_of_the_console_scripts(name: str, module: str) -> None:
    code = f"import sys; sys.argv = ['{name}', '--version']; from lifting.commands.{module} import script; script()"
    done = run("-c", code)
    assert (done.returncode, done.stdout) == (0, f"lifting {VERSION}\n")


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_verb_has_no_version(script: str) -> None:
    done = subprocess.run([sys.executable, script, "cost" if "stage" in script else "lift", "--version"],
                          cwd=ROOT, capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert not done.stdout


def test_lift_imports_only_what_it_needs(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "pose.npy", rng.uniform((300, 200), (900, 500), (1, 1, 2)) + rng.normal(0, 60, (1, 17, 2)))
    lift = ["run_lifting.py", "lift", "--input", tmp_path / "pose.npy", "--joints", "h36m17", "--size", 1280, 720]
    done = run(*lift, "--output", tmp_path / "lifted.npz")
    assert done.returncode == 0, done.stderr
    assert "1 pose of 1 person" in done.stdout
    assert "onnxruntime" in imported(done)
    assert not imported(done) & HEAVY


def test_evaluate_without_a_figure_imports_nothing_that_draws(small_store: Path) -> None:
    released = ROOT / "checkpoints" / "released" / "srnet_rle.pt"
    data = [f"data.path={small_store}", "data.test_actions=[]", "data.test_subjects=[S9]", "data.test_stride=50"]
    done = run("run_lifting.py", "evaluate", "--checkpoint", released, *data)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "MPJPE" in done.stdout
    assert "torch" in imported(done)
    assert not imported(done) & {"tensorboard", "matplotlib", "cv2", "scipy", "onnx"}
    assert "torch._dynamo" not in modules(done)


def test_the_verbs_of_pictures_wait_for_what_draws_and_what_few_of_them_need() -> None:
    done = run("-c", "import lifting.commands.single_stage_verbs")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "torch" in imported(done)
    assert not imported(done) & {"tensorboard", "matplotlib", "scipy", "onnx", "onnxruntime", "pycocotools"}


def test_training_says_once_when_its_first_step_is_done(small: list[str], tmp_path: Path) -> None:
    train = ["run_lifting.py", "train", "--output", str(tmp_path / "run"), *small]
    resume = ["run_lifting.py", "train", "--resume", str(tmp_path / "run"), "train.epochs=4"]
    for command in (train, resume):
        start = time.monotonic()
        done = run(*command)
        took = time.monotonic() - start
        assert done.returncode == 0, done.stderr
        assert "torch.utils.tensorboard" in modules(done)
        assert "torch._dynamo" not in modules(done), "an import of more than a second that training does not need"
        (line,) = (line for line in done.stderr.splitlines() if "first step" in line)
        found = re.fullmatch(r"first step (\d+\.\d) s after the start of the program", line)
        assert found and 0.1 < float(found[1]) < took
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 4
    assert not any("step" in key for line in lines for key in line)
