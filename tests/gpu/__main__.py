"""Tests and times this package on a GPU, in at most ten minutes, and writes one page about it: `make gpu`.

    python -m tests.gpu [--only PART ...] [--output gpu.md]
    python -m tests.gpu --device cpu --short    # a test of this command: tiny networks on tiny sets

Every case runs in a process of its own: one that breaks the device or hangs is recorded, and the next one runs. Exit
code 1 if any failed; 0 without a GPU, where nothing is run.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import torch

from lifting.command import Parser, run_command, whole_file
from lifting.training import ranks
from tests.gpu.cases import CASES, PARTS, Case, machine
from tests.gpu.processes import Result, alone
from tests.gpu.setting import Row, Setting

LIMIT_S = 570.0  # of everything: ten minutes with a start and an end
CASE_S = 250.0  # of one case


def main() -> None:
    parser = Parser(prog="python -m tests.gpu", description=__doc__)
    parser.add_argument("--device", default="auto", help="what torch.device takes; auto (the default) is a GPU")
    parser.add_argument("--short", action="store_true", help="tiny networks on tiny sets")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts of the page (all of them)")
    parser.add_argument("--output", type=Path, default=Path("gpu.md"), help="the page (%(default)s)")
    options = parser.parse_args()
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # looking for a GPU must not start CUDA: it survives no fork
    if options.device == "auto" and not torch.cuda.is_available():
        print(f"no accelerator that torch {torch.__version__} can use: nothing was run, nothing written")
        return
    device = "cuda" if options.device == "auto" else str(ranks.start(options.device))
    started = time.monotonic()
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="lifting-gpu-") as folder:
        setting = Setting(device, options.short, Path(folder))
        cases = [case for case in CASES if case.part in ("sets", *options.only) and (case.always or not setting.short)]
        for case in (Case("machine", "machine", machine), *cases):
            left = LIMIT_S - (time.monotonic() - started)
            print(f"{case.part}: {case.name} ...", flush=True)
            results.append(alone(case, setting, min(left, CASE_S)))
            print(f"  {results[-1].reason or cells(results[-1].row)} ({results[-1].seconds:.1f} s)", flush=True)
            with whole_file(options.output) as file:  # after each case, so that an interrupted run has a page too
                file.write_text(page(results, setting))
    failed = [result for result in results if result.reason]
    print(f"\n{len(results) - len(failed)} of {len(results)} cases passed: {options.output}")
    sys.exit(1 if failed else 0)


def cells(row: Row) -> str:
    return ", ".join(f"{name} {value}" for name, value in row.items())


def page(results: list[Result], setting: Setting) -> str:
    """The results in Markdown, a table for each part."""
    first, *rest = results
    command = f"python -m tests.gpu --device {setting.device}{' --short' if setting.short else ''}"
    lines = [f"# `{command}`", "", f"{time.strftime('%Y-%m-%d %H:%M')}. Written anew by every run.", ""]
    lines += ["| machine | |", "|---|---|", *(f"| {name} | {value} |" for name, value in first.row.items())]
    lines += [f"\n{first.reason}"] if first.reason else []
    for part, text in PARTS.items():
        mine = [result for result in rest if result.case.part == part]
        columns = list(dict.fromkeys(name for result in mine for name in result.row))
        if mine:
            lines += ["", f"## {part}", "", text, "", _line("", "outcome", "seconds", *columns)]
            lines.append(_line("---", "---", "---:", *("---:" for _ in columns)))
        for result in mine:
            outcome = f"**failed**: {result.reason}" if result.reason else "ok"
            values = [result.row.get(name, "") for name in columns]
            lines.append(_line(result.case.name, outcome, f"{result.seconds:.1f}", *values))
    return "\n".join(lines) + "\n"


def _line(*columns: str) -> str:
    return "| " + " | ".join(column.replace("|", "\\|") for column in columns) + " |"


if __name__ == "__main__":
    run_command(main)
