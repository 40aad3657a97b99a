"""Puts small faults into the core, one at a time, and counts how many the tests notice: python -m tests.mutants

    [--only MODULE ...]  such as geometry/rays.py; all modules of the core without it
    [--each N]           so many faults of each module, drawn at random; all without it
    [--seconds S]        tries each with the fastest tests that run its line, as many as take so long
    [--output DIR]       keeps what came of each fault; those that were noticed before are not tried again

harmless.yaml lists faults that change nothing anybody could notice, with the reason for each; they are not tried.
"""

import argparse
import contextlib
import gc
import hashlib
import importlib
import json
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import islice
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import yaml
from tqdm import tqdm

from tests.mutants.mutants import ROOT, Mutant, modules, mutants
from tests.mutants.trial import Runs, noticed_by, observe

FORK = get_context("fork")
# What takes long to import and has no fault: every process of a mutant has it from the first.
HEAVY = ["torch", "torch.utils.tensorboard", "scipy.optimize", "scipy.spatial", "scipy.stats", "h5py", "cv2",
         "matplotlib.pyplot", "onnxruntime", "hypothesis", "pydantic", "zuko", "einops"]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants")
    parser.add_argument("--only", nargs="+", default=[], metavar="MODULE")
    parser.add_argument("--each", type=int, metavar="N")
    parser.add_argument("--seconds", type=float, default=20, metavar="S")
    parser.add_argument("--output", type=Path, default=Path("checkpoints/mutants"), metavar="DIR")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    paths = [path for path in modules() if not options.only or path.removeprefix("lifting/") in options.only]
    runs = _observed(options.output / "lines.json")
    known = options.output / "noticed.txt"
    noticed = set(known.read_text().split()) if known.exists() else set()
    harmless = yaml.safe_load((Path(__file__).parent / "harmless.yaml").read_text()) or {}
    for name in HEAVY:
        importlib.import_module(name)
    gc.freeze()  # no process of a mutant looks through all of this

    chosen = [mutant for path in paths for mutant in islice(mutants(path), options.each)]
    open_ = [m for m in chosen if _key(m) not in noticed and m.after not in harmless.get(m.path, {})]
    survivors, counts = [], {path: Counter[str]() for path in paths}
    with known.open("a") as file, tqdm(_trials(open_, runs, options.seconds), total=len(open_), unit="fault") as bar:
        for mutant, is_seen in bar:
            if is_seen:
                noticed.add(_key(mutant))
                print(_key(mutant), file=file, flush=True)
            else:
                survivors.append(mutant)
                bar.write(f"{mutant.path}:{mutant.line}\n  - {mutant.before}\n  + {mutant.after}")
    there = {(mutant.path, mutant.after) for mutant in chosen}
    gone = {(path, after) for path in paths for after in harmless.get(path, {})} - there
    if gone and options.each is None:
        lines = [f"{path}: {after}" for path, after in sorted(gone)]
        print("harmless.yaml names faults that do not exist:", *lines, sep="\n  ")
    for mutant in chosen:
        kind = "noticed" if _key(mutant) in noticed else "survived" if mutant in survivors else "harmless"
        counts[mutant.path][kind] += 1
    print(f"{'module':<36}{'faults':>8}{'noticed':>9}{'harmless':>10}{'survived':>10}")
    counts["all"] = sum(counts.values(), Counter())
    for path, count in counts.items():
        print(f"{path:<36}{count.total():>8}{count['noticed']:>9}{count['harmless']:>10}{count['survived']:>10}")
    sys.exit(bool(survivors))


def _observed(path: Path) -> Runs:
    """`observe`, in a process of its own, when it was not done since a test changed."""
    changed = max(file.stat().st_mtime for file in (ROOT / "tests").rglob("*.py"))
    if not path.exists() or path.stat().st_mtime < changed:
        print("running the tests once, to see which lines each of them runs", flush=True)
        process = FORK.Process(target=_observe, args=(path,))
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(1)
    seconds, of_line = json.loads(path.read_text())
    return Runs(seconds, {file: {int(line): tests for line, tests in lines.items()} for file, lines in of_line.items()})


def _observe(path: Path) -> None:
    path.write_text(json.dumps(observe()))


def _trials(faulty: list[Mutant], runs: Runs, most: float) -> Iterator[tuple[Mutant, bool]]:
    """Each mutant, and whether the tests notice it; as many at a time as there are cores."""
    waiting = iter(faulty)
    running: list[tuple[BaseProcess, Connection, Mutant, float]] = []
    noticed = defaultdict[str, Counter[str]](Counter)  # of each module, by each test
    while True:
        for mutant in islice(waiting, (os.cpu_count() or 1) - len(running)):
            tests = runs.tests(mutant.path, mutant.line, most)
            tests.sort(key=noticed[mutant.path].__getitem__, reverse=True)  # the fastest first among equals
            seconds = 20 + 3 * sum(runs.seconds[test] for test in tests)
            receives, sends = FORK.Pipe(duplex=False)
            started = FORK.Process(target=_try, args=(mutant, tests, seconds, sends))
            started.start()
            sends.close()
            running.append((started, receives, mutant, time.monotonic() + 10 * seconds))
        if not running:
            return
        for one in list(running):
            process, receives, mutant, deadline = one
            process.join(0.02)
            if time.monotonic() > deadline:
                process.kill()
                process.join()
            if process.exitcode is not None:
                running.remove(one)
                with contextlib.suppress(EOFError):  # nothing was sent
                    if receives.poll():
                        noticed[mutant.path][receives.recv()] += 1
                yield mutant, process.exitcode != 0


def _try(mutant: Mutant, tests: list[str], seconds: float, sends: Connection) -> None:
    """Sends the name of the test that notices the fault. Exits with 0 if none does."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    code = 1
    with contextlib.suppress(BaseException):
        name = noticed_by(mutant, tests, seconds)
        code = int(name is not None)
        if name:
            sends.send(name)
    os._exit(code)


def _key(mutant: Mutant) -> str:
    return hashlib.sha256(mutant.path.encode() + mutant.source.encode()).hexdigest()[:16]


if __name__ == "__main__":
    main()
