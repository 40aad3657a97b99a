"""Runs benchmarks, prints the ratios as a Markdown table and writes them as JSON too: ``make bench``, ``make tables``.

python -m tests.benchmarks [--only step] [--output bench.json]
"""

import argparse
from pathlib import Path

from lifting.command import write_json
from tests.benchmarks import (
    bench_crops,
    bench_feeding,
    bench_image_step,
    bench_lift,
    bench_metrics,
    bench_start,
    bench_step,
)

BENCHMARKS = {
    "step": bench_step.benchmarks,
    "image_step": bench_image_step.benchmarks,
    "metrics": bench_metrics.benchmarks,
    "lift": bench_lift.benchmarks,
    "feeding": bench_feeding.benchmarks,
    "crops": bench_crops.benchmarks,
    "start": bench_start.benchmarks,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=BENCHMARKS, action="append", help="repeatable; all without")
    parser.add_argument("--output", type=Path, default=Path("bench.json"))
    options = parser.parse_args()
    found = [result for name in options.only or BENCHMARKS for result in BENCHMARKS[name]()]
    results = [{"better": "lower", **result} for result in found]
    lines = ["| what | ratio | target | better |", "|---|---:|---:|---|"]
    for result in results:
        target = "" if result["target"] is None else f"{result['target']:.2f}"
        lines.append(f"| {result['name']} | {result['ratio']:.2f} | {target} | {result['better']} |")
    write_json(options.output, results)
    options.output.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
