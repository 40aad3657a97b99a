"""Trains and evaluates a grid of configurations and seeds, and writes a table of the results.

    python -m lifting.series configs/series/standin_20.yaml --data data/standin.h5 --output checkpoints/standin_20
    python -m lifting.series configs/series/densities.yaml --output checkpoints/densities --short

A series file names configurations (files of configs/lifting or configs/single_stage), variants of each, and overrides
for all. Every run has its own folder. After an interruption, call the command again: runs that have a ``report.json``
are kept, an unfinished one goes on from its last checkpoint. ``--jobs`` runs at a time share the threads of the
machine: several runs of one thread each get more out of a CPU than one run with all threads.
"""

import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lifting.command import InputError, Parser, RunError, Terminated, run_command, whole_file, write_json
from lifting.config import Config, RunConfig, SingleStageConfig, expect_run_of, read_config
from lifting.safe_yaml import read_yaml
from lifting.shipped import configs

log = logging.getLogger(__name__)

SCHEMAS = {"lifting": Config, "single_stage": SingleStageConfig}
COST = {
    "parameters": "parameters",
    "multiply_adds": "multiply-adds",
    "flow_parameters": "parameters of the flow",
    "flow_multiply_adds": "multiply-adds of the flow",
}
# What is read from the reports: heading and digits. Errors are in millimetres.
COLUMNS = {
    "ap": ("AP", 1),
    "ap_50": ("AP50", 1),
    "ap_75": ("AP75", 1),
    "oks": ("mean OKS (%)", 1),
    "confidence_oks_r": ("r(confidence, OKS)", 3),
    "pckh_50": ("PCKh@0.5", 1),
    "pckh_10": ("PCKh@0.1", 1),
    "nme_percent": ("NME (%)", 2),
    "mpjpe_mm": ("MPJPE (action mean)", 2),
    "pa_mpjpe_mm": ("PA-MPJPE (action mean)", 2),
    "mpjpe_frame_mm": ("MPJPE (frame mean)", 2),
    "pa_mpjpe_frame_mm": ("PA-MPJPE (frame mean)", 2),
    "nll": ("NLL (nats a joint)", 3),
    "energy_score_mm": ("energy score (mm)", 2),
    "ece": ("ECE", 3),
    "calibration_error": ("calibration error (points)", 2),
    "sigma_error_r": ("r(sigma, error)", 3),
    "ause": ("AUSE", 3),
    "seconds": ("training (s)", 0),
}
# What the log says of a finished run: the first of these that its report has.
SHOWN = {
    "mpjpe_mm": "MPJPE {:.1f} mm (action mean)",
    "ap": "AP {:.1f}",
    "pckh_50": "PCKh@0.5 {:.1f}",
    "nme_percent": "NME {:.2f} %",
}
# Which mean the RLE paper prints for each track; its numbers stand beside ours of the same mean.
PAPER_MEAN = {"lifting": "action mean", "single_stage": "frame mean"}


class Series(BaseModel):
    """The content of a series file.

    Attributes:
        track: which ``run_*.py`` carries out the runs, and which folder of ``configs`` holds the configurations.
        configs: names of configuration files, without their ending.
        variants: for each variant its overrides; every configuration is run in every variant.
        overrides: of all runs.
        short: further overrides of all runs with ``--short``, for a budget of minutes.
        paper: the published numbers for a configuration or a variant, as text for the table.
        paper_of: what they are, such as AP on COCO val; by default both errors on Human3.6M.
    """

    model_config = ConfigDict(extra="forbid")

    track: Literal["lifting", "single_stage"] = "lifting"
    configs: list[str] = Field(min_length=1)
    variants: dict[str, list[str]] = Field(min_length=1)
    overrides: list[str] = []
    short: list[str] = []
    paper: dict[str, str] = {}
    paper_of: str | None = None


@dataclass(frozen=True)
class Run:
    """One configuration, in one variant, with one seed."""

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
        return configs(self.track) / f"{self.config}.yaml"

    def read(self) -> RunConfig:
        """The configuration, by the schema of this run's track."""
        schema: type[Any] = SCHEMAS[self.track]
        found: RunConfig = read_config(schema, self.leaf, self.overrides)
        return found


def load_series(path: Path) -> Series:
    try:
        series = Series.model_validate(read_yaml(path, "series"))
    except ValidationError as error:
        raise InputError(f"series: {path}: expected configs, variants and overrides: {error}") from None
    if len(set(series.configs)) < len(series.configs):
        raise InputError(f"series: {path}: configs: expected each once, got {', '.join(series.configs)}")
    given = itertools.chain(series.overrides, series.short, *series.variants.values())
    if any(override.partition("=")[0].strip() == "seed" for override in given):
        raise InputError(f"series: {path}: expected no seed among the overrides, which --seeds gives")
    return series


def runs_of(series: Series, data: str | None, output: Path, seeds: int, *, short: bool = False) -> Iterator[Run]:
    """All runs in their order: first every cell with seed 0, so that an unfinished series still has all its rows."""
    for seed in range(seeds):
        for variant, extra in series.variants.items():
            for config in series.configs:
                overrides = [f"data.path={json.dumps(data, ensure_ascii=False)}"] if data else []
                overrides += [f"seed={seed}", *series.overrides, *extra]
                overrides += series.short if short else []
                folder = output / variant / config / f"seed{seed}"
                yield Run(variant, config, seed, folder, overrides, series.track)


def check_folder(run: Run) -> None:
    """Makes sure that the table will not show the results of another configuration under this run's name.

    Raises:
        InputError: the folder holds a run of another configuration, or the run's own configuration is not valid.
    """
    expect_run_of(run.read(), run.folder, "series")


class Processes:
    """Child processes of several threads. `stop` ends them early, because a signal reaches only this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def run(self, command: list[str], **how: Any) -> int:
        """Runs a command as `subprocess.Popen` does, and returns its exit code."""
        with self._lock:
            if self._stopped:
                return 128 + signal.SIGTERM
            process = subprocess.Popen(command, **how)
            self._running.add(process)
        code = process.wait()
        with self._lock:
            self._running.remove(process)
        return code

    def stop(self) -> None:
        """Asks those that run to save and end, and starts no more."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.terminate()


def carry_out(run: Run, threads: int, processes: Processes) -> None:
    """Trains and evaluates one run in separate processes, whose output goes to ``log.txt`` of the run's folder.

    A run that was interrupted goes on from its last checkpoint; one that has the report of its weights stays as it is.

    Raises:
        RunError: a process failed.
    """
    weights = run.folder / "last.pt"
    if run.report.exists() and not (weights.exists() and weights.stat().st_mtime > run.report.stat().st_mtime):
        return
    run.folder.mkdir(parents=True, exist_ok=True)
    train = ["--config", str(run.leaf), "--output", str(run.folder)]
    if weights.exists():
        train = ["--resume", str(run.folder)]
    evaluate = ["--checkpoint", str(weights), "--json", str(run.report)]
    evaluate += ["--uncertainty"] if run.track == "lifting" else []
    with (run.folder / "log.txt").open("a", encoding="utf-8") as words:
        for arguments in (["train", *train, *run.overrides], ["evaluate", *evaluate]):
            command = [sys.executable, "-m", f"lifting.commands.{run.track}_track", *arguments]
            environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONIOENCODING": "utf-8"}
            if processes.run(command, env=environment, stdout=words, stderr=words):
                last = (run.folder / "log.txt").read_text(encoding="utf-8").strip().splitlines()[-1:]
                raise RunError(f"{run.folder}: {arguments[0]} failed: {''.join(last)}")
    report = json.loads(run.report.read_text(encoding="utf-8"))
    log.info(f"{run.folder}: {next(text.format(report[key]) for key, text in SHOWN.items() if key in report)}")


def row_of(runs: list[Run]) -> dict[str, Any]:
    """One row of the table: for each column the mean and the standard deviation over the seeds."""
    reports = [json.loads(run.report.read_text(encoding="utf-8")) for run in runs]
    for run, report in zip(runs, reports, strict=True):
        lines = (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        report["seconds"] = sum(json.loads(line)["seconds"] for line in lines)
        if found := report.get("uncertainty"):  # single-stage reports and those of earlier versions have less
            scores = {key: found[key] for key in ("energy_score_mm", "ece", "calibration_error") if key in found}
            report |= {**scores, **found["ranking"].get("joint", {})}
    row: dict[str, Any] = {"variant": runs[0].variant, "config": runs[0].config, "seeds": len(runs)}
    row |= reports[0].get("cost", {})
    for key in COLUMNS:
        values = [report[key] for report in reports if report.get(key) is not None]
        if len(values) == len(reports):  # the mean of some seeds is not that of all
            row[key] = {"mean": mean(values), "spread": stdev(values) if len(values) > 1 else None, "values": values}
    return row


def markdown(rows: list[dict[str, Any]], track: str, paper_of: str | None = None) -> str:
    """The rows as a table, without the columns that no row has a value for."""
    paper = [row.get("paper", "") for row in rows]
    columns = {f"paper, {paper_of}": paper} if paper_of else {}
    for key, (heading, digits) in COLUMNS.items():
        columns[heading] = [_mean_and_spread(row.get(key), digits) for row in rows]
        if not paper_of and heading == f"PA-MPJPE ({PAPER_MEAN[track]})":
            columns[f"paper, Human3.6M ({PAPER_MEAN[track]})"] = paper
    columns |= {heading: [f"{row[key]:,}" if row.get(key) else "" for row in rows] for key, heading in COST.items()}
    columns = {heading: cells for heading, cells in columns.items() if any(cells)}
    lines = [f"| variant | config | seeds | {' | '.join(columns)} |", "|---|---|---|" + "---:|" * len(columns)]
    for row, cells in zip(rows, zip(*columns.values(), strict=True), strict=True):
        lines.append(f"| {row['variant']} | {row['config']} | {row['seeds']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _mean_and_spread(value: dict[str, Any] | None, digits: int) -> str:
    if value is None:
        return ""
    spread = "" if value["spread"] is None else f" ± {value['spread']:.{digits}f}"
    return f"{value['mean']:.{digits}f}{spread}"


def main() -> None:
    parser = Parser(prog="python -m lifting.series", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("series", type=Path, help="a file of configs/series")
    parser.add_argument("--data", help="a prepared file; without, the configuration's (an embedded set by default)")
    parser.add_argument("--output", type=Path, required=True, help="folder for the runs, table.md and table.json")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds, 0, 1, ... (3 by default)")
    parser.add_argument("--jobs", type=int, default=1, help="how many runs at a time (1 by default)")
    parser.add_argument("--short", action="store_true", help="apply the file's overrides under short: a few epochs")
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
    processes = Processes()
    with ThreadPoolExecutor(options.jobs) as pool:
        try:
            for _ in pool.map(lambda run: carry_out(run, threads, processes), runs):
                pass
        except (KeyboardInterrupt, Terminated) as stop:
            processes.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise type(stop)(f"stopped; the same command goes on from what is in {options.output}") from None
    cells: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        cells.setdefault((run.variant, run.config), []).append(run)
    rows = [row_of(cell) for cell in cells.values()]
    for row in rows:
        if paper := series.paper.get(row["config"], series.paper.get(row["variant"])):
            row["paper"] = paper
    write_json(options.output / "table.json", rows)
    table = markdown(rows, series.track, series.paper_of)
    with whole_file(options.output / "table.md") as file:
        file.write_text(table, encoding="utf-8")
    print(table, end="")


if __name__ == "__main__":
    run_command(main)
