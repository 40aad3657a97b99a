"""Runs the worker, and goes on behind an input that killed it."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
MEANING: dict[int, str] = {
    signal.SIGPROF: "it hangs: it takes too much processor time",
    signal.SIGALRM: "it hangs without computing",
}


class Outcome(NamedTuple):
    """What came of one input: ``kind`` is "accepted", "refused" or "failed"."""

    reader: str
    number: int
    kind: str
    message: str


def fuzz(counts: Mapping[str, int], seed: int, first: int) -> list[Outcome]:
    """Feeds so many inputs, from ``first`` on, to each of these readers."""
    found: list[Outcome] = []
    following = dict.fromkeys(counts, first)
    while following:
        before, begun, died = len(found), None, ""
        for reader, number, kind, message in _work(following, counts, seed, first):
            if kind == "begun":
                begun = reader, number
            elif kind == "died":
                died = message
            else:
                found.append(Outcome(reader, number, kind, message))
                begun = None
        if begun is not None:
            found.append(Outcome(*begun, "failed", died))
        elif died or len(found) == before:
            raise RuntimeError(f"the worker does not run: {died}")
        following |= {outcome.reader: outcome.number + 1 for outcome in found[before:]}
        following = {name: number for name, number in following.items() if number < first + counts[name]}
    return found


def _work(
    following: dict[str, int], counts: Mapping[str, int], seed: int, first: int
) -> Iterator[tuple[str, int, str, str]]:
    """The worker's lines; one of kind "died" follows if a signal or an error ended it."""
    work = [f"{name}@{number}-{first + counts[name]}" for name, number in following.items()]
    command = [sys.executable, "-m", "tests.fuzz.worker", str(seed), *work]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "0", "OPENCV_LOG_LEVEL": "SILENT"}
    # Into a file: a full pipe that nobody reads would stop the worker.
    with (
        tempfile.TemporaryFile("w+", errors="replace") as said,
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=said, text=True, env=environment) as process,
    ):
        assert process.stdout
        for line in process.stdout:
            yield tuple(json.loads(line))
        code = process.wait()
        if code:
            said.seek(0)
            last = said.read().strip().splitlines()[-1:]
            how = signal.Signals(-code) if code < 0 else code
            yield "", 0, "died", MEANING.get(how, f"the process ends with {how!r}: {''.join(last)}")
