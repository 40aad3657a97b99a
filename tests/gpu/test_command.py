"""`make gpu` itself, without a GPU: a short run on the CPU, and what becomes of cases that break."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch

from tests.conftest import Shell, refused
from tests.gpu import __main__ as command
from tests.gpu.cases import CASES, Case
from tests.gpu.processes import Result, alone
from tests.gpu.setting import Row, Setting

HERE = Setting("cpu", True, Path())


def test_a_short_run_on_the_cpu_writes_its_page(shell: Shell, tmp_path: Path) -> None:
    page = tmp_path / "gpu.md"
    code, out, err = shell("--device", "cpu", "--short", "--output", page, main=command.main)
    assert code == 0, out + err
    text = page.read_text()
    assert f"| torch | {torch.__version__} |" in text
    assert "| commit |" in text
    rows = [line.split(" | ")[:2] for line in text.splitlines() if " | ok | " in line]
    assert [row[0].removeprefix("| ") for row in rows] == [case.name for case in CASES if case.always]
    for part in ("sets", "tests", "waits", "speed", "epochs"):
        assert f"\n## {part}\n" in text
        assert f"{part}: " in out
    assert "passed" in text


def test_without_an_accelerator_it_says_so(shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, out, err = shell("--output", tmp_path / "gpu.md", main=command.main)
    assert (code, err) == (0, "")
    assert out.startswith("no accelerator") and out.count("\n") == 1
    assert not list(tmp_path.iterdir())
    refused(shell("--device", "gpu9", main=command.main), "device: cannot use 'gpu9'")


def breaks(_: Setting) -> Row:
    torch.zeros(3) @ torch.zeros(4)
    return {}


def dies(_: Setting) -> Row:
    os.kill(os.getpid(), signal.SIGSEGV)
    return {}


def hangs(_: Setting) -> Row:
    time.sleep(60)
    return {}


def test_what_breaks_dies_or_hangs_is_a_line_and_the_rest_goes_on() -> None:
    started = time.monotonic()
    broken, dead, stuck = (alone(Case("waits", run.__name__, run), HERE, limit) for run, limit in
                           ((breaks, 60.0), (dies, 60.0), (hangs, 1.0)))  # fmt: skip
    late = alone(Case("waits", "late", hangs), HERE, -1.0)
    assert time.monotonic() - started < 50
    line = breaks.__code__.co_firstlineno + 1
    assert broken.reason.startswith("RuntimeError: ")
    assert broken.reason.endswith(f"(tests/gpu/test_command.py:{line})")
    assert dead.reason == f"its process ended with exit code {-signal.SIGSEGV}"
    assert stuck.reason == "took longer than 1 s"
    assert late.reason == "not run: the time is over"
    machine = Result(Case("machine", "machine", breaks), 0.1, {"device": "a|b"}, "")
    text = command.page([machine, broken, Result(Case("waits", "good", breaks), 2.0, {"steps": "5"}, "")], HERE)
    assert f"| breaks | **failed**: {broken.reason} | {broken.seconds:.1f} |  |" in text
    assert "| good | ok | 2.0 | 5 |" in text
