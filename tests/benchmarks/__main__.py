"""Runs every benchmark, prints the ratios as a table and writes bench.json: ``make bench``."""

import json
from pathlib import Path

from tests.benchmarks import bench_image_step, bench_metrics, bench_step


def main() -> None:
    results = [*bench_step.benchmarks(), *bench_image_step.benchmarks(), *bench_metrics.benchmarks()]
    Path("bench.json").write_text(json.dumps(results, indent=2) + "\n")
    width = max(len(result["name"]) for result in results)
    print(f"{'':{width}}  {'ratio':>7}  {'target':>7}")
    for result in results:
        target = "" if result["target"] is None else f"{result['target']:.2f}"
        print(f"{result['name']:{width}}  {result['ratio']:>7.2f}  {target:>7}")


if __name__ == "__main__":
    main()
