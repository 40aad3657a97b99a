"""The table of a series: which columns it has, and which mean stands where."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from lifting.series import Processes, Run, carry_out, markdown, row_of


def row(folder: Path, *reports: dict[str, Any]) -> dict[str, Any]:
    """What `row_of` makes of runs with these reports."""
    runs = [Run("clean", "fc", seed, folder / f"seed{seed}", []) for seed in range(len(reports))]
    for run, report in zip(runs, reports, strict=True):
        run.folder.mkdir(parents=True)
        run.report.write_text(json.dumps(report))
        (run.folder / "metrics.jsonl").write_text('{"seconds": 3.25}\n{"seconds": 4.25}\n')
    return row_of(runs)


def table(rows: list[dict[str, Any]], track: str) -> list[dict[str, str]]:
    titles, _, *lines = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in markdown(rows, track).splitlines()
    )
    assert len(set(titles)) == len(titles)
    return [dict(zip(titles, cells, strict=True)) for cells in lines]


MEANS = {"mpjpe_mm": 46.44, "pa_mpjpe_mm": 35.5, "mpjpe_frame_mm": 43.53, "pa_mpjpe_frame_mm": 33.25}


def test_every_mean_is_named_and_the_paper_stands_beside_its_own(tmp_path: Path) -> None:
    ours = row(tmp_path, MEANS, {name: value + 2 for name, value in MEANS.items()})
    ours["paper"] = "40.9 / 31.1"
    action = ["MPJPE (action mean)", "PA-MPJPE (action mean)"]
    frame = ["MPJPE (frame mean)", "PA-MPJPE (frame mean)"]
    (lifting,) = table([ours], "lifting")
    assert list(lifting)[3:8] == [*action, "paper, Human3.6M (action mean)", *frame]
    (single_stage,) = table([ours], "single_stage")
    assert list(single_stage)[3:8] == [*action, *frame, "paper, Human3.6M (frame mean)"]
    assert lifting["MPJPE (action mean)"] == "47.44 ± 1.41"
    assert lifting["PA-MPJPE (frame mean)"] == "34.25 ± 1.41"
    assert lifting["paper, Human3.6M (action mean)"] == single_stage["paper, Human3.6M (frame mean)"] == "40.9 / 31.1"
    assert (lifting["seeds"], lifting["training (s)"]) == ("2", "8 ± 0")


def test_the_paper_s_numbers_stand_under_what_they_are(tmp_path: Path) -> None:
    one = row(tmp_path, {"ap": 24.1}) | {"paper": "70.5"}
    title, _, cells = markdown([one], "single_stage", "AP on COCO val").splitlines()
    assert title == "| variant | config | seeds | paper, AP on COCO val | AP | training (s) |"
    assert cells == "| clean | fc | 1 | 70.5 | 24.1 | 8 |"


def test_columns_are_those_that_some_report_has(tmp_path: Path) -> None:
    found = {"energy_score_mm": 31.234, "ece": 0.0456, "calibration_error": 2.5, "ranking": {}}
    old = {"calibration_error": 2.5, "ranking": {"joint": {"sigma_error_r": 0.61, "ause": 0.2}}}
    one = row(tmp_path / "one", {**MEANS, "nll": -3.5, "uncertainty": found, "cost": {"parameters": 1234}})
    other = row(tmp_path / "other", {**MEANS, "uncertainty": old})
    new, before = table([one, other], "lifting")
    assert (new["energy score (mm)"], new["ECE"], new["AUSE"], new["parameters"]) == ("31.23", "0.046", "", "1,234")
    assert (before["energy score (mm)"], before["ECE"], before["AUSE"], before["parameters"]) == ("", "", "0.200", "")
    (alone,) = table([row(tmp_path / "alone", MEANS)], "single_stage")
    assert not {"ECE", "energy score (mm)", "AUSE", "parameters", "paper, Human3.6M (frame mean)"} & set(alone)


def test_the_mean_of_some_seeds_is_not_that_of_all(tmp_path: Path) -> None:
    found = row(tmp_path, {**MEANS, "nll": -6.5}, {**MEANS, "nll": None})
    assert "nll" not in found and found["mpjpe_mm"]["values"] == [46.44, 46.44]


def test_a_report_older_than_its_weights_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, called = Run("clean", "fc_rle", 0, tmp_path / "run", []), []

    def process(_: Processes, command: list[str], **how: object) -> int:
        called.append(command[3])
        (run.report if command[3] == "evaluate" else run.folder / "last.pt").write_text('{"mpjpe_mm": 46.0}')
        return 0

    monkeypatch.setattr(Processes, "run", process)
    carry_out(run, 1, Processes())
    carry_out(run, 1, Processes())
    assert called == ["train", "evaluate"]
    os.utime(run.report, (0, 0))  # as if the run had been trained further since
    carry_out(run, 1, Processes())
    assert called == ["train", "evaluate"] * 2


def test_a_report_may_say_that_it_has_no_value(tmp_path: Path) -> None:
    """The confidence of a network without a sigma is constant and has no correlation with anything."""
    (cells,) = table([row(tmp_path, {**MEANS, "sigma_error_r": None}, {**MEANS, "sigma_error_r": None})], "lifting")
    assert "r(sigma, error)" not in cells
    assert cells["seeds"] == "2"
