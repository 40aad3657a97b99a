"""Runs a grid of configurations and seeds, resumable, and writes its table.

    python -m lifting.series configs/series/standin_20.yaml --data data/standin.h5 --output checkpoints/standin_20
    python -m lifting.series configs/series/densities.yaml --output checkpoints/densities --short

A series file names leaves of configs/lifting, variants of them and overrides for all. Each run has a folder of its own;
a run that has its ``report.json`` is done, one that was stopped goes on. ``--jobs`` runs share the cores, each with
its own part of the threads: one-thread runs side by side get more out of a CPU than one run with all threads.
"""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lifting.command import InputError, Parser, RunError, run_command, whole_file, write_json
from lifting.config import Config, RunConfig, SingleStageConfig, read_config

log = logging.getLogger(__name__)

ROOT = Path(__file__).parents[1]
SCHEMAS = {"lifting": Config, "single_stage": SingleStageConfig}
COST = {
    "parameters": "parameters",
    "multiply_adds": "multiply-adds",
    "flow_parameters": "of the flow",
    "flow_multiply_adds": "multiply-adds of the flow",
}
COLUMNS = {
    "mpjpe_frame_mm": "MPJPE",
    "pa_mpjpe_frame_mm": "PA-MPJPE",
    "mpjpe_mm": "MPJPE, action mean",
    "pa_mpjpe_mm": "PA-MPJPE, action mean",
    "nll": "NLL (nats a joint)",
    "sigma_error_r": "r(sigma, error)",
    "ause": "AUSE",
    "calibration_error": "calibration error (points)",
    "seconds": "training (s)",
}


class Series(BaseModel):
    """What a series file holds.

    Attributes:
        track: whose entry point runs it, and whose folder of ``configs`` has the leaves.
        configs: leaves.
        variants: overrides of each.
        overrides: for all runs.
        short: more of them for ``--short``, a budget of minutes.
        paper: what a publication has for a config or a variant on Human3.6M, as text, a column of the table.
    """

    model_config = ConfigDict(extra="forbid")

    track: Literal["lifting", "single_stage"] = "lifting"
    configs: list[str] = Field(min_length=1)
    variants: dict[str, list[str]] = Field(min_length=1)
    overrides: list[str] = []
    short: list[str] = []
    paper: dict[str, str] = {}


@dataclass(frozen=True)
class Run:
    """One cell of the grid."""

    variant: str
    config: str
    seed: int
    folder: Path
    overrides: list[str]
    track: str = "lifting"

    @property
    def report(self) -> Path:
        return self.folder / "report.json"

    @property
    def leaf(self) -> Path:
        return ROOT / "configs" / self.track / f"{self.config}.yaml"

    def read(self, file: Path, overrides: list[str] | None = None) -> RunConfig:
        """A file of configuration, as this run's track has it."""
        schema: type[Any] = SCHEMAS[self.track]
        found: RunConfig = read_config(schema, file, overrides)
        return found


def load_series(path: Path) -> Series:
    try:
        return Series.model_validate(yaml.safe_load(path.read_text()))
    except OSError as error:
        raise InputError(f"series: cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValidationError) as error:
        raise InputError(f"series: {path}: expected configs, variants and overrides: {error}") from None


def runs_of(series: Series, data: str | None, output: Path, seeds: int, *, short: bool = False) -> Iterator[Run]:
    """Every run, seed by seed, so that a series that is cut short has whole rows of fewer seeds."""
    for seed in range(seeds):
        for variant, extra in series.variants.items():
            for config in series.configs:
                overrides = [f"data.path={data}"] if data else []
                overrides += [f"seed={seed}", *series.overrides, *extra]
                overrides += series.short if short else []
                folder = output / variant / config / f"seed{seed}"
                yield Run(variant, config, seed, folder, overrides, series.track)


def check_folder(run: Run) -> None:
    """A folder that holds a run of another configuration would lend its numbers to this one's name.

    Raises:
        InputError: it does; the run's own configuration cannot be.
    """
    config, there = run.read(run.leaf, run.overrides), run.folder / "config.yaml"
    if there.exists() and run.read(there) != config:
        raise InputError(f"series: {run.folder} holds a run of another configuration or data; name another --output")


def carry_out(run: Run, threads: int) -> None:
    """Trains (or goes on training) and evaluates one run in processes of its own; its words go to ``log.txt``."""
    if run.report.exists():
        return
    run.folder.mkdir(parents=True, exist_ok=True)
    train = ["--config", str(run.leaf), "--output", str(run.folder)]
    if (run.folder / "last.pt").exists():
        train = ["--resume", str(run.folder)]
    evaluate = ["--checkpoint", str(run.folder / "last.pt"), "--json", str(run.report)]
    evaluate += ["--uncertainty"] if run.track == "lifting" else []
    with (run.folder / "log.txt").open("a") as words:
        for arguments in (["train", *train, *run.overrides], ["evaluate", *evaluate]):
            command = [sys.executable, str(ROOT / f"run_{run.track}.py"), *arguments]
            environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
            if subprocess.run(command, env=environment, stdout=words, stderr=words, check=False).returncode:
                last = (run.folder / "log.txt").read_text().strip().splitlines()[-1:]
                raise RunError(f"{run.folder}: {arguments[0]} failed: {''.join(last)}")
    log.info(f"{run.folder}: MPJPE {json.loads(run.report.read_text())['mpjpe_frame_mm']:.1f} mm")


def row_of(runs: list[Run]) -> dict[str, Any]:
    """Means and spreads (standard deviations over the seeds) of the runs of one cell."""
    reports = [json.loads(run.report.read_text()) for run in runs]
    for run, report in zip(runs, reports, strict=True):
        lines = (run.folder / "metrics.jsonl").read_text().splitlines()
        report["seconds"] = sum(json.loads(line)["seconds"] for line in lines)
        if worth := report.get("uncertainty"):  # a report of an earlier version has none
            report |= {"calibration_error": worth["calibration_error"], **worth["ranking"].get("joint", {})}
    row: dict[str, Any] = {"variant": runs[0].variant, "config": runs[0].config, "seeds": len(runs)}
    row |= reports[0].get("cost", {})
    for key in COLUMNS:
        values = [report[key] for report in reports if key in report]
        if values:
            row[key] = {"mean": mean(values), "spread": stdev(values) if len(values) > 1 else None, "values": values}
    return row


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as a table; millimetres where a column does not say otherwise."""
    cost = {key: name for key, name in COST.items() if any(row.get(key) for row in rows)}
    paper = ["paper, Human3.6M"] if any("paper" in row for row in rows) else []
    titles = [*COLUMNS.values(), *cost.values(), *paper]
    lines = [f"| variant | config | seeds | {' | '.join(titles)} |", "|---|---|---|" + "---:|" * len(titles)]
    for row in rows:
        cells = [row["variant"], row["config"], str(row["seeds"])]
        for key in COLUMNS:
            digits = {"nll": 3, "sigma_error_r": 3, "ause": 3, "seconds": 0}.get(key, 2)
            value = row.get(key)
            spread = "" if value is None or value["spread"] is None else f" ± {value['spread']:.{digits}f}"
            cells.append("" if value is None else f"{value['mean']:.{digits}f}{spread}")
        cells += [f"{row[key]:,}" if row.get(key) else "" for key in cost]
        cells += [row.get("paper", "") for _ in paper]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = Parser(prog="python -m lifting.series", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("series", type=Path, help="a file of configs/series")
    parser.add_argument("--data", help="a prepared file; without, the configuration's (an embedded set by default)")
    parser.add_argument("--output", type=Path, required=True, help="folder of all runs, table.md and table.json")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--short", action="store_true", help="the few epochs that the file names for it")
    options = parser.parse_args()
    if options.seeds < 1 or options.jobs < 1:
        raise InputError(f"series: expected --seeds and --jobs of at least 1, got {options.seeds}, {options.jobs}")
    series = load_series(options.series)
    runs = list(runs_of(series, options.data, options.output, options.seeds, short=options.short))
    if options.short and not series.short:
        raise InputError(f"series: {options.series}: expected overrides under short for --short, found none")
    for run in runs:
        check_folder(run)
    threads = max(1, (os.cpu_count() or 1) // options.jobs)
    with ThreadPoolExecutor(options.jobs) as pool:
        for _ in pool.map(lambda run: carry_out(run, threads), runs):
            pass
    cells: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        cells.setdefault((run.variant, run.config), []).append(run)
    rows = [row_of(cell) for cell in cells.values()]
    for row in rows:
        if paper := series.paper.get(row["config"], series.paper.get(row["variant"])):
            row["paper"] = paper
    write_json(options.output / "table.json", rows)
    with whole_file(options.output / "table.md") as file:
        file.write_text(markdown(rows))
    print(markdown(rows), end="")


if __name__ == "__main__":
    run_command(main)
