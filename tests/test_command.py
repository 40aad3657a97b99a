"""What all commands share: how they end."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lifting.command import InputError, hdf5_output

WRITES = """
import signal, sys, os
from lifting.command import run_command, whole_file
def main():
    with whole_file(sys.argv[1]) as path:
        path.write_text("half")
        os.kill(os.getpid(), signal.SIGTERM)
        path.write_text("whole")
run_command(main)
"""


def test_sigterm_leaves_no_half_written_file(tmp_path: Path) -> None:
    """As a batch system sends it. The default of the system ends a process without any cleaning up."""
    command = [sys.executable, "-c", WRITES, str(tmp_path / "out.h5")]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGTERM, "", "stopped by SIGTERM\n")
    assert list(tmp_path.iterdir()) == []


def test_what_an_hdf5_file_may_replace(tmp_path: Path) -> None:
    (tmp_path / "old.h5").write_bytes(b"\x89HDF\r\n\x1a\n and more")
    (tmp_path / "empty.h5").touch()
    for name in ("old.h5", "empty.h5", "new.h5"):
        assert hdf5_output(str(tmp_path / name)) == tmp_path / name
    (tmp_path / "source.json").write_text("{}")
    with pytest.raises(InputError, match=r"found another at .*source\.json"):
        hdf5_output(str(tmp_path / "source.json"))
    with pytest.raises(InputError, match="found a folder"):
        hdf5_output(str(tmp_path))
