"""Which tests run which lines of the core, and what they say of a module with a fault in it."""

import os
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from importlib.abc import SourceLoader
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import coverage
import pytest

from tests.mutants.mutants import ROOT, Mutant

# Tests in processes of their own notice nothing here: the fault is in this process alone.
TESTS = ["tests/likelihood", "tests/geometry", "tests/metrics", "tests/models", "tests/inference", "tests/datasets",
         "tests/training", "tests/reports", "tests/sources", "tests/keypoints", "tests/test_lifted.py",
         "tests/test_run_lifting.py", "tests/test_single_stage.py", "tests/test_keypoint_track.py",
         "tests/test_crossfit.py", "--ignore=tests/training/test_two_ranks.py",
         "--ignore=tests/training/test_ranks.py"]  # fmt: skip
# Looking for what was not cleaned up takes half a second of each try.
OPTIONS = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:unraisableexception"]
ROOM = 8 << 30  # bytes of memory
LIKELY = 4  # tests that are tried before the others
FEW = 10  # tests of the line after one that runs at the import


class Runs(NamedTuple):
    """The seconds that each test takes, and the tests that run each line of each module."""

    seconds: dict[str, float]
    of_line: dict[str, dict[int, list[str]]]

    def tests(self, path: str, line: int, seconds: float) -> list[str]:
        """Tests for a line, as many as take so many seconds: the module's own, its room's, others; the fastest first.

        They run the line. What runs at the import, as a table and a decorator do, gets a few of the next line that
        tests run, then any tests.
        """
        room, name = Path(path).with_suffix("").parts[-2:]

        def order(test: str) -> tuple[bool, bool, float]:
            own, near = test.startswith(f"tests/{room}/test_{name}"), test.startswith(f"tests/{room}/")
            return not own, not near, self.seconds[test]

        of_line = self.of_line.get(path, {})
        following = [tests for number, tests in sorted(of_line.items()) if number >= line]
        ordered = sorted(following[0], key=order) if following else []
        if line not in of_line:
            ordered = list(dict.fromkeys([*ordered[:FEW], *sorted(self.seconds, key=order)]))
        total = accumulate(map(self.seconds.__getitem__, ordered))
        return [test for test, spent in zip(ordered, total, strict=True) if spent <= seconds] or ordered[:1]


def observe() -> Runs:
    """Runs all of `TESTS` once, in this process, which imports the package for it."""
    watch = coverage.Coverage(source=[str(ROOT / "lifting")], data_file=None)
    seconds = {}

    class Watcher:
        @pytest.hookimpl(hookwrapper=True)
        def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
            watch.switch_context(item.nodeid)
            began = time.monotonic()
            yield
            seconds[item.nodeid] = time.monotonic() - began
            watch.switch_context("")

    watch.start()
    code = pytest.main([*OPTIONS, *TESTS], plugins=[Watcher()])
    watch.stop()
    assert code == 0, "the tests have to pass before a fault is put in"
    data = watch.get_data()
    of_line: dict[str, dict[int, list[str]]] = defaultdict(dict)
    for file in data.measured_files():
        for line, contexts in data.contexts_by_lineno(file).items():
            names = [name for name in contexts if name]
            if names:
                of_line[os.path.relpath(file, ROOT)][line] = names
    return Runs(seconds, dict(of_line))


def noticed_by(mutant: Mutant, tests: list[str], seconds: float) -> str | None:
    """The first test that fails on a mutant, "" if none comes to run, None if all pass.

    Kills this process after so many seconds of processor time. It has the fault from now on.
    """
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 2))
    resource.setrlimit(resource.RLIMIT_DATA, (ROOM, ROOM))
    sys.meta_path.insert(0, _Finder(mutant))
    failed: list[str] = []

    class Watcher:
        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.failed:
                failed.append(report.nodeid)

    # Collecting the tests of a file takes longer than running one: only if these notice nothing are the others tried.
    for some in (tests[:LIKELY], tests[LIKELY:]):
        if some and pytest.main([*OPTIONS, *some], plugins=[Watcher()]) != 0:
            return failed[0] if failed else ""
    return None


class _Finder:
    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant
        self.name = mutant.path.removesuffix(".py").replace("/", ".")

    def find_spec(self, name: str, *_: Any) -> ModuleSpec | None:
        path = ROOT / self.mutant.path
        return spec_from_file_location(name, path, loader=_Loader(self.mutant)) if name == self.name else None


class _Loader(SourceLoader):
    """Loads a module with its fault, and leaves no bytecode of it."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant

    def get_filename(self, fullname: str) -> str:
        return str(ROOT / self.mutant.path)

    def get_data(self, path: str | bytes) -> bytes:
        if Path(os.fsdecode(path)) != ROOT / self.mutant.path:
            raise OSError("no bytecode")
        return self.mutant.source.encode()
