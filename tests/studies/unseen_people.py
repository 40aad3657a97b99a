"""What training on other people, cameras and detectors is worth: tests the runs of configs/series/unseen_people.yaml.

    python -m tests.studies.unseen_people checkpoints/unseen_people

Each run has left one of CMU's people out and is tested on him, seen by cameras that no run was trained on. The table
has means over the people of frame means, with clean keypoints and with 5 px of noise and a tenth of the joints
missing.
"""

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any

from tqdm import tqdm

from lifting import lifter
from lifting.command import InputError, run_command, write_json
from lifting.reports.uncertainty import uncertainty_report

KEYPOINTS = {"clean": [], "5 px, 10 % missing": ["data.noise_px=5", "data.missing=0.1"]}


def numbers(checkpoint: Path, overrides: list[str]) -> dict[str, float]:
    """The errors in mm, and for a run with sigma also r and what share the 90 % intervals cover."""
    objective, config = lifter.load(checkpoint, overrides)
    poses = lifter.load_test(config, objective)
    report, prediction = lifter.evaluate(objective, poses, config)
    found = {name: report[f"{name}_frame_mm"] for name in ("mpjpe", "n_mpjpe", "pa_mpjpe")}
    if "sigma_error_r" in report:
        found |= {"r": report["sigma_error_r"]}
        uncertainty: dict[str, Any] = uncertainty_report(objective, poses, prediction)
        found |= {"coverage_90": uncertainty["coverage"]["90"]}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="the series' --output")
    options = parser.parse_args()
    runs = sorted(options.runs.glob("*_*/*/seed0/last.pt"))
    if not runs:
        raise InputError(f"{options.runs}: expected runs of configs/series/unseen_people.yaml, found none")
    found: dict[str, dict[str, dict[str, float]]] = {}
    for run in tqdm(runs):
        loss, person = run.parts[-4].split("_")
        for kind, overrides in KEYPOINTS.items():
            found.setdefault(f"{loss} | {run.parts[-3]} | {kind}", {})[person] = numbers(run, overrides)
    write_json(options.runs / "people.json", found)
    print("| loss | config | keypoints | people | MPJPE | N-MPJPE | PA-MPJPE | r | in the 90 % interval |")
    print("|---|---|---|---:|---:|---:|---:|---:|---:|")
    for row, people in found.items():
        cells = [
            f"{mean(p[name] for p in people.values()):.{digits}f}" if name in next(iter(people.values())) else ""
            for name, digits in (("mpjpe", 1), ("n_mpjpe", 1), ("pa_mpjpe", 1), ("r", 2), ("coverage_90", 1))
        ]
        print(f"| {row} | {len(people)} | {' | '.join(cells)} |")
    print(json.dumps({row: {p: round(n["mpjpe"], 1) for p, n in people.items()} for row, people in found.items()}))


if __name__ == "__main__":
    run_command(main)
