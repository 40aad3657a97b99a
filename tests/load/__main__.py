"""The long form of the loads: python -m tests.load [--only NAME ...]. It prints a table of docs/results/trust.md.

It takes some fifteen minutes and 6 GB of disk. `tests/load/test_load.py` is the short form.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.load.loads import forked_digests, lifts, scores, trainings, write_sets
from tests.load.memory import Held, alone

CALLS, POSES, TRAININGS = 10_000, 5_000_000, 200
MEGABYTE = 1 << 20


def lifted(ending: str) -> str:
    same, poses, before, after = alone(lifts, ending, CALLS, 4, 60)
    assert same == CALLS, f"{CALLS - same} of {CALLS} calls gave something else"
    return f"{CALLS:,} calls, {poses:,} poses, all as alone to the bit; {_growth(before, after)}"


def scored(folder: Path) -> str:
    found = []
    for poses in (POSES // 10, POSES):
        one = alone(scores, folder, poses)
        assert abs(one.found - one.expected) < 1e-3, f"{one.found} in place of {one.expected} mm"
        found.append(f"{one.poses:,} poses in {one.size // MEGABYTE:,} MB: {one.peak // MEGABYTE:,} MB at most")
        for file in folder.iterdir():
            file.unlink()
    return "; ".join(found)


def trained(folder: Path) -> str:
    alone(write_sets, folder, 12)
    before, after = alone(trainings, folder, folder / "runs", TRAININGS, TRAININGS // 10)
    return f"{TRAININGS} trainings; {_growth(before, after)}"


def read(folder: Path) -> str:
    alone(write_sets, folder, 200)
    right = alone(forked_digests, folder, 8, 10)
    assert right == [True] * 8, right
    return "8 processes, each 10 times: all that was read is right"


def _growth(before: Held, after: Held) -> str:
    growth = 100 * (after.memory / before.memory - 1)
    return (
        f"memory {before.memory // MEGABYTE} to {after.memory // MEGABYTE} MB ({growth:+.1f} %), "
        f"files {before.files} to {after.files}, threads {before.threads} to {after.threads}, "
        f"objects {before.objects:,} to {after.objects:,}"
    )


LOADS: dict[str, Callable[[Path], str]] = {
    "lift by ONNX Runtime": lambda folder: lifted(".onnx"),
    "lift by torch": lambda folder: lifted(".pt"),
    "score": scored,
    "train": trained,
    "read": read,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.load")
    parser.add_argument("--only", nargs="+", choices=LOADS, default=list(LOADS), metavar="NAME")
    for name in parser.parse_args().only:
        folder, began = Path(tempfile.mkdtemp()), time.monotonic()
        try:
            print(f"{name:22}{LOADS[name](folder)}; {time.monotonic() - began:.0f} s", flush=True)
        finally:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
