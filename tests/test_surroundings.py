"""The commands where a machine is not as its developers' are: all of it at once, in processes as a person starts them.

No network, a home that cannot be written, a path with spaces and letters of other scripts, a German locale whose files
are in Latin-1 and whose numbers have commas, umask 077, no terminal, one core.
"""

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sets locale, umask and cores as Linux has them")

# Python runs this before anything else, in every process that sees its folder.
SITE = """
import os, socket
os.umask(0o077)
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
def connect(self, address):
    if self.family != socket.AF_UNIX:
        open(os.environ["CALLED"], "a").write(f"{address}\\n")
        raise OSError("no network")
socket.socket.connect = connect
import locale
locale.setlocale(locale.LC_ALL, "")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("there") / "Größe 3, 姿勢"


@pytest.fixture(scope="module", params=["UTF-8", "ISO-8859-1"])
def surroundings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process there; it leaves a file if anything asks for the network."""
    made = tmp_path_factory.mktemp("surroundings")
    (made / "sitecustomize.py").write_text(SITE)
    name = f"de_DE.{request.param}"
    command = ["localedef", "-i", "de_DE", "-f", request.param, str(made / name)]
    if not shutil.which("localedef") or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no localedef, or no sources of German")
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return kept | {"HOME": "/dev/null/home", "LOCPATH": str(made), "LC_ALL": name, "PYTHONUTF8": "0",
                   "PYTHONPATH": str(made), "CALLED": str(made / "called"), "OMP_NUM_THREADS": "1"}  # fmt: skip


def there(environment: dict[str, str], *arguments: object) -> str:
    """What a command writes to stdout; it writes no traceback, and asks for nothing from the network."""
    command = [sys.executable, *map(str, arguments)]
    charset = environment["LC_ALL"].partition(".")[2]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, encoding=charset, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert not Path(environment["CALLED"]).exists()
    return done.stdout


def check_private(*paths: Path) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in paths}
    assert set(modes.values()) == {0o600}, modes


def test_it_is_there(surroundings: dict[str, str]) -> None:
    asked = "import locale, os; print(locale.getpreferredencoding(), locale.str(0.5), len(os.sched_getaffinity(0)))"
    assert there(surroundings, "-c", asked).split() == [surroundings["LC_ALL"].partition(".")[2], "0,5", "1"]


def test_lift(surroundings: dict[str, str], folder: Path) -> None:
    lifted, page = folder / "tanz.json", folder / "tanz.html"
    to = ("--output", lifted, "--view", page)
    there(surroundings, "run_lifting.py", "lift", "--input", ROOT / "docs" / "dance.npz", *to)
    assert json.loads(lifted.read_text(encoding="utf-8"))
    assert "</html>" in page.read_text(encoding="utf-8")
    check_private(lifted, page)


@pytest.mark.parametrize("surroundings", ["UTF-8"], indirect=True)  # in Latin-1, TensorBoard writes to another path
def test_train_and_evaluate(surroundings: dict[str, str], small: list[str], folder: Path) -> None:
    run, report, figure = folder / "run", folder / "zahlen.json", folder / "bild.png"
    there(surroundings, "run_lifting.py", "train", "--output", run, *small, "train.epochs=1")
    evaluate = ("run_lifting.py", "evaluate", "--checkpoint", run / "last.pt")
    out = there(surroundings, *evaluate, "--json", report, "--figure", figure)
    assert f"{json.loads(report.read_text())['mpjpe_mm']:.1f}" in out
    assert figure.read_bytes().startswith(b"\x89PNG")
    check_private(*run.iterdir(), report, figure)
