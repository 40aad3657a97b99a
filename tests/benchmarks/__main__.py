"""Runs benchmarks, prints the ratios as a Markdown table and writes them as JSON too: ``make bench``, ``make tables``.

python -m tests.benchmarks [--only step] [--output bench.json]

``public`` is the figure of public code that did the same on another two-core CPU (PEER_NUMBERS.md), ``target`` our own.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lifting.command import write_json
from lifting.training.allocator import keep_freed_pages
from tests.benchmarks import (
    bench_crops,
    bench_dims,
    bench_feeding,
    bench_image_step,
    bench_lift,
    bench_metrics,
    bench_start,
    bench_step,
)
from tests.benchmarks.bench_step import PRECISIONS

BENCHMARKS = {
    "step": bench_step.benchmarks,
    "image_step": bench_image_step.benchmarks,
    "metrics": bench_metrics.benchmarks,
    "lift": bench_lift.benchmarks,
    "feeding": bench_feeding.benchmarks,
    "crops": bench_crops.benchmarks,
    "dims": bench_dims.benchmarks,
    "start": bench_start.benchmarks,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=BENCHMARKS, action="append", help="repeatable; all without")
    parser.add_argument("--output", type=Path, default=Path("bench.json"))
    options = parser.parse_args()
    if not PRECISIONS[1:]:
        print("this processor has no units for bfloat16: those rows are left out", file=sys.stderr)
    keep_freed_pages()  # as training does
    results: list[dict[str, Any]] = []
    lines = ["| what | ratio | public | target | better |", "|---|---:|---:|---:|---|"]
    print("\n".join(lines))
    with tqdm(options.only or BENCHMARKS, unit="benchmark", leave=False, disable=None) as bar:
        for name in bar:
            bar.set_description(name)
            for found in BENCHMARKS[name]():
                row = {"public": None, "target": None, "better": "lower", **found}
                ratio, *known = ("" if row[key] is None else f"{row[key]:.2f}" for key in ("ratio", "public", "target"))
                lines.append(" | ".join([f"| {row['name']}", ratio, *known, f"{row['better']} |"]))
                bar.write(lines[-1])
                results.append(row)
            write_json(options.output, results)
    options.output.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
