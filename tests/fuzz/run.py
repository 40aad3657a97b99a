"""Runs the worker, and goes on behind an input that killed it."""

import json
import os
import signal
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import cv2

from tests import forked

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
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        process = forked.start(["tests/fuzz/worker.py", str(seed), *work], out, err, _set, dict(os.environ))
        process.join()
        yield from (tuple(json.loads(line)) for line in out.read_text().splitlines())
        if code := process.exitcode:
            last = err.read_text(errors="replace").strip().splitlines()[-1:]
            how = signal.Signals(-code) if code < 0 else code
            yield "", 0, "died", MEANING.get(how, f"the process ends with {how!r}: {''.join(last)}")


def _set(environment: dict[str, str]) -> None:
    """Gives the worker the environment of now; the server that it is forked from has that of its own start."""
    os.environ.update(environment)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
