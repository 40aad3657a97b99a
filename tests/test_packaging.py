"""The package as others install it: what the wheel holds, the commands, and life without torch."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import Any

import numpy as np
import pytest

from lifting import shipped

ROOT = Path(__file__).parents[1]


def setup() -> dict[str, Any]:
    """What pyproject.toml says."""
    tomllib = pytest.importorskip("tomllib")  # Python 3.11 and later
    content: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return content


# As `sitecustomize`, this makes an environment without the packages of the extra torch.
WITHOUT_TORCH = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "tensorboard", "onnx", "onnxscript"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""


def run(*arguments: object, paths: tuple[Path, ...], cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs Python, with these paths before all others, in a folder that is not the checkout."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def without_torch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that hides torch from every Python that has it on its path."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "sitecustomize.py").write_text(WITHOUT_TORCH)
    return folder


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `pip install .` installs, unpacked from the wheel. The sources are copied, since building writes to them."""
    folder = tmp_path_factory.mktemp("package")
    source, wheels, target = folder / "source", folder / "wheels", folder / "installed"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    for name in ("lifting", "configs", "checkpoints/released"):
        copytree(ROOT / name, source / name, ignore=ignore_patterns("__pycache__"))
    pip = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", wheels]
    run(*pip, source, paths=(), cwd=folder)
    (wheel,) = wheels.iterdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def test_every_folder_with_code_is_packed() -> None:
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "lifting").rglob("*.py")}
    data = set(setup()["tool"]["setuptools"]["package-data"])
    assert set(setup()["tool"]["setuptools"]["packages"]) == folders | data
    assert {path.name for path in (ROOT / "configs").iterdir()} == {
        name.removeprefix("lifting.configs.") for name in data if name.startswith("lifting.configs.")
    }


def test_the_wheel_holds_what_the_checkout_has(installed: Path) -> None:
    def files(folder: Path) -> dict[str, bytes]:
        found = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
        return {str(name): path.read_bytes() for name, path in found.items() if "__pycache__" not in name.parts}

    package = files(installed / "lifting")
    expected = files(ROOT / "lifting")
    expected |= {f"configs/{name}": content for name, content in files(ROOT / "configs").items()}
    expected |= {f"weights/{name}": content for name, content in files(ROOT / "checkpoints" / "released").items()}
    assert package.keys() == expected.keys()
    assert package == expected


def test_files_that_come_along_are_found(installed: Path, tmp_path: Path) -> None:
    code = "from lifting import shipped; print(shipped.configs('lifting'), shipped.released('README.md'))"
    done = run("-c", code, paths=(installed,), cwd=tmp_path)
    assert done.stdout.split() == [str(installed / "lifting" / "configs" / "lifting"),
                                   str(installed / "lifting" / "weights" / "README.md")]  # fmt: skip
    assert shipped.configs("series") == ROOT / "configs" / "series"
    assert shipped.released("README.md") == ROOT / "checkpoints" / "released" / "README.md"


def test_the_commands_exist() -> None:
    scripts = setup()["project"]["scripts"]
    assert scripts.keys() == {"run-lifting", "run-single-stage"}
    for name, place in scripts.items():
        module, function = place.split(":")
        code = f"import sys; sys.argv = ['{name}', '--help']; from {module} import {function}; {function}()"
        assert f"usage: {name}" in run("-c", code, paths=(), cwd=ROOT).stdout


@pytest.mark.parametrize("script", ["run_lifting.py", "run_single_stage.py"])
def test_help_needs_neither_torch_nor_numpy(without_torch: Path, script: str, tmp_path: Path) -> None:
    done = run("-X", "importtime", ROOT / script, "--help", paths=(without_torch,), cwd=tmp_path)
    assert "export" in done.stdout
    imported = {line.split("|")[-1].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "argparse" in imported
    assert not imported & {"torch", "numpy", "scipy", "pydantic", "matplotlib", "onnxruntime"}


def test_lift_needs_no_torch(without_torch: Path, installed: Path, exported: Path, tmp_path: Path) -> None:
    """The installed command and the library, in an environment without torch."""
    rng = np.random.default_rng(0)
    poses = rng.uniform((300, 200), (900, 500), (4, 1, 2)) + rng.normal(0, 60, (4, 17, 2))
    np.save(tmp_path / "keypoints.npy", poses)
    paths = (without_torch, installed)
    lift = ["-m", "lifting.commands.lifting_track", "lift", "--checkpoint", exported, "--joints", "h36m17"]
    lift += ["--size", 1280, 720, "--input", "keypoints.npy", "--output", "lifted.npz"]
    assert "4 poses of 1 person" in run(*lift, paths=paths, cwd=tmp_path).stdout
    code = f"""
import sys, numpy as np
from lifting import Lifter
pose = Lifter.load({str(exported)!r}).lift(np.load("keypoints.npy"), (1280, 720))
assert np.allclose(pose.joints, np.load("lifted.npz")["joints"][:, 0], atol=1e-5)
assert "torch" not in sys.modules
"""
    run("-c", code, paths=paths, cwd=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["data/prepare_bvh.py", "x"], "prepare_bvh.py needs torch, which is not installed: pip install '.[torch]'"),
        (["data/prepare_cmu.py", "x"], "prepare_cmu.py needs torch"),
        (["data/prepare_h36m.py", "x"], "prepare_h36m.py needs torch"),
        (["data/prepare_mpii.py", "x"], "prepare_mpii.py needs torch"),
        (["run_lifting.py", "train"], "train needs torch, which is not installed: pip install '.[torch]'"),
        (["run_lifting.py", "export", "--checkpoint", "a.pt", "--output", "a.onnx"], "export needs torch"),
        (["run_single_stage.py", "cost"], "cost needs torch"),
        (["run_lifting.py", "lift", "--checkpoint", "a.pt", "--output", "a.npz"], "checkpoint: a.pt needs torch"),
    ],
)
def test_a_verb_that_needs_torch_says_so(without_torch: Path, tmp_path: Path, arguments: list[str], words: str) -> None:
    np.save(tmp_path / "keypoints.npy", 100 * np.random.default_rng(0).random((3, 17, 2)) + 300)
    more = ["--input", "keypoints.npy", "--joints", "h36m17", "--size", 1000, 1000] if "lift" in arguments else []
    done = run(ROOT / arguments[0], *arguments[1:], *more, paths=(without_torch,), cwd=tmp_path, check=False)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
