"""``make fuzz``: damaged files for every reader, and a table of what came of them; exit code 1 if one failed.

    python -m tests.fuzz [--inputs 1000] [--seed 0] [--only NAME ...] [--first N]

A failure names its reader and its number; ``--only NAME --first N --inputs 1`` repeats it.
"""

import argparse
import sys
from collections import Counter

from tests.fuzz.readers import readers
from tests.fuzz.run import fuzz


def main() -> None:
    parser = argparse.ArgumentParser(description="Feed damaged files to every reader.")
    parser.add_argument("--inputs", type=int, default=1000, help="for each reader (%(default)s)")
    parser.add_argument("--first", type=int, default=1, help="number of the first input (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    names = [reader.name for reader in readers()]
    parser.add_argument("--only", nargs="+", metavar="NAME", default=names, choices=names, help="readers (all)")
    options = parser.parse_args()
    print(f"{'reader':<24}{'inputs':>8}{'accepted':>10}{'refused':>9}{'failed':>8}")
    total: Counter[str] = Counter()
    for name in options.only:
        found = fuzz({name: options.inputs}, options.seed, options.first)
        counts = Counter(outcome.kind for outcome in found)
        print(row(name, counts), flush=True)
        for outcome in found:
            if outcome.kind == "failed":
                print(f"    {outcome.number}: {outcome.message}", flush=True)
        total += counts
    print(row("all", total))
    sys.exit(1 if total["failed"] else 0)


def row(name: str, counts: Counter[str]) -> str:
    return f"{name:<24}{counts.total():>8}{counts['accepted']:>10}{counts['refused']:>9}{counts['failed']:>8}"


if __name__ == "__main__":
    main()
