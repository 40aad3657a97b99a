"""Every verb of run_lifting.py and of lifting.series, with what a person gives and sees."""

import json
import logging
import math
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import TextIO

import h5py
import pytest

from lifting import evaluate, series
from lifting.config import dump_config, load_config
from lifting.training import ranks
from tests import forked
from tests.conftest import Shell, refused

ROOT = Path(__file__).parents[1]


LEAVES = sorted(path.stem for path in (ROOT / "configs" / "lifting").glob("*.yaml") if path.stem != "demo")
LOSSES = ["dle", "flow", "rle_reference", "gaussian"]  # that no leaf names


@pytest.mark.parametrize(("name", "loss"), [(leaf, None) for leaf in LEAVES] + [("fc_rle_paper", x) for x in LOSSES])
def test_every_leaf_and_loss_trains_and_is_evaluated(
    shell: Shell, small: list[str], tmp_path: Path, name: str, loss: str | None
) -> None:
    config = ROOT / "configs" / "lifting" / f"{name}.yaml"
    more = [] if loss is None else [f"loss.name={loss}"]
    if load_config(config).model.name == "srnet":
        small = [override for override in small if "model.blocks" not in override]
    if name.startswith("released"):  # names the files and people that it is made of
        small = [*small, "data.test_path=null", "data.train_actions=[]"]
    code, _, err = shell("train", "--config", config, *small[:3], *more, "--output", tmp_path / "run", *small[3:])
    assert code == 0, err
    report, poses = tmp_path / "out.json", tmp_path / "poses.h5"
    checkpoint = tmp_path / "run" / "last.pt"
    code, out, err = shell("evaluate", "--checkpoint", checkpoint, "--rare", "--json", report, "--save", poses)
    assert code == 0, err
    assert "MPJPE (protocol #1)" in out
    assert "the papers give the mean over the actions" in out
    assert "rarest 5 %" in out
    numbers = json.loads(report.read_text())
    assert set(numbers["per_action"]) == {"Walking", "Greeting"}
    assert math.isfinite(numbers["nll"])
    assert numbers["rare"]["20"]["n_poses"] == numbers["n_poses"] // 5
    assert ("sigma_error_r" in numbers) == (not name.endswith(("_l1", "_l2", "_mpjpe")))
    with h5py.File(poses) as file:
        assert file["S9/Walking/54138969"].shape[1:] == (17, 3)


def test_saved_predictions_score_as_the_evaluation_did(shell: Shell, small: list[str], tmp_path: Path) -> None:
    shell("train", "--output", tmp_path / "run", *small, "loss.name=l1")
    saved, numbers = tmp_path / "poses.h5", tmp_path / "one.json"
    checkpoint = ["--checkpoint", tmp_path / "run" / "best.pt"]
    code, _, _ = shell("evaluate", *checkpoint, "--save", saved, "--json", numbers, "--figure", tmp_path / "poses.png")
    assert code == 0
    assert (tmp_path / "poses.png").stat().st_size > 10_000
    score = [saved, "--data", small[0].split("=")[1], "--json", tmp_path / "two.json"]
    code, _, err = shell(*score, main=evaluate.main)
    assert code == 0, err
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    for key in ("mpjpe_mm", "pa_mpjpe_mm", "n_mpjpe_mm", "mpjpe_frame_mm", "n_poses", "mpsse_mm", "mpsce_mm"):
        assert one[key] == pytest.approx(two[key], rel=1e-5), key


def interrupted(folder: Path, by: signal.Signals, when: Path, *command: str) -> tuple[int | None, str]:
    """Runs a command until a file is there, then sends it this signal; returns its exit code and stderr."""
    process = forked.start([*command], folder / "out", folder / "err")
    patience = time.monotonic() + 120
    while not when.exists() and process.is_alive() and time.monotonic() < patience:
        time.sleep(0.1)
    if process.is_alive() and process.pid:
        os.kill(process.pid, by)
    process.join(120)
    if process.exitcode is None:
        process.kill()
        process.join()
    return process.exitcode, (folder / "err").read_text()


def test_ctrl_c_and_resume(shell: Shell, small: list[str], tmp_path: Path) -> None:
    """A process is interrupted after its first epoch, says how to go on, and goes on."""
    folder = tmp_path / "run"
    begin = ["--output", str(folder), *small, "train.epochs=2000"]
    code, err = interrupted(tmp_path, signal.SIGINT, folder / "last.pt", "run_lifting.py", "train", *begin)
    assert code == 130
    assert "Traceback" not in err
    assert f"resume with: python run_lifting.py train --resume {folder}" in err.splitlines()[-1]
    done = len((folder / "metrics.jsonl").read_text().splitlines())
    goal = done + 2
    assert shell("train", "--resume", folder, f"train.epochs={goal}")[0] == 0
    epochs = [json.loads(line)["epoch"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert epochs == list(range(1, goal + 1))


def test_demo_prints_two_rows_and_draws(
    shell: Shell, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = shell("demo", "--output", tmp_path / "demo", *small)
    assert code == 0, err
    assert "FC + L1" in out
    assert "FC + RLE" in out
    assert (tmp_path / "demo" / "poses.png").stat().st_size > 10_000
    code, again, err = shell("demo", "--output", tmp_path / "demo", *small)
    assert code == 0, err
    assert again == out
    (tmp_path / "demo" / "poses.png").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(ranks, "stop", lambda: False)  # as on the second rank
        assert shell("demo", "--output", tmp_path / "demo", *small) == (0, "", "")
    assert not (tmp_path / "demo" / "poses.png").exists()
    before = (tmp_path / "demo" / "rle" / "config.yaml").read_bytes()
    refused(shell("demo", "--output", tmp_path / "demo", *small, "data.noise_px=30"), "demo", "another configuration")
    assert (tmp_path / "demo" / "rle" / "config.yaml").read_bytes() == before


def run_forked(_: series.Processes, command: list[str], *, stdout: TextIO, **how: object) -> int:
    """As `series.Processes.run`, of a command of the lifting track."""
    assert command[:3] == [sys.executable, "-m", "lifting.commands.lifting_track"]
    out, err = (Path(f"{stdout.name}.{end}") for end in ("out", "err"))
    process = forked.start(["lifting/commands/lifting_track.py", *command[3:]], out, err)
    process.join()
    stdout.write(out.read_text() + err.read_text())
    return process.exitcode or 0


def test_a_series_is_resumable_and_writes_its_table(
    shell: Shell, small: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(series.Processes, "run", run_forked)  # the next test has the real ones
    file = tmp_path / "series.yaml"
    overrides = json.dumps(small[1:])
    published = "paper: {clean: 40.9 / 31.1, fc_l1: 50.1 / 39.3}"
    file.write_text(f"configs: [fc_l1, fc_rle]\nvariants: {{clean: []}}\noverrides: {overrides}\n{published}\n")
    arguments = [file, "--data", small[0].split("=")[1], "--output", tmp_path / "runs", "--jobs", 2]
    code, _, err = shell(*arguments, "--seeds", 1, main=series.main)
    assert code == 0, err
    for run in (tmp_path / "runs" / "clean").iterdir():  # a second seed that is done
        done = shutil.copytree(run / "seed0", run / "seed1")
        (done / "config.yaml").write_text((done / "config.yaml").read_text().replace("seed: 0", "seed: 1"))
    arguments += ["--seeds", 2]
    code, out, err = shell(*arguments, main=series.main)
    assert code == 0, err
    rows = json.loads((tmp_path / "runs" / "table.json").read_text())
    assert [(row["config"], row["seeds"]) for row in rows] == [("fc_l1", 2), ("fc_rle", 2)]
    assert "sigma_error_r" in rows[1]
    assert "sigma_error_r" not in rows[0]
    assert (tmp_path / "runs" / "table.md").read_text() == out
    title, _, l1, rle = ([cell.strip() for cell in line.split("|")] for line in out.splitlines())
    assert title[4:7] == ["MPJPE (action mean)", "PA-MPJPE (action mean)", "paper, Human3.6M (action mean)"]
    assert (l1[6], rle[6]) == ("50.1 / 39.3", "40.9 / 31.1")
    for row in rows:
        report = json.loads((tmp_path / "runs" / "clean" / row["config"] / "seed0" / "report.json").read_text())
        assert row["mpjpe_mm"]["values"][0] == report["mpjpe_mm"]
        assert row["ece"]["values"][0] == report["uncertainty"]["ece"]
        assert row["energy_score_mm"]["values"][0] == report["uncertainty"]["energy_score_mm"]
    assert f"MPJPE {rows[0]['mpjpe_mm']['values'][0]:.1f} mm (action mean)" in caplog.text
    before = (tmp_path / "runs" / "clean" / "fc_l1" / "seed0" / "log.txt").read_bytes()
    code, again, _ = shell(*arguments, main=series.main)
    assert (code, again) == (0, out)
    assert (tmp_path / "runs" / "clean" / "fc_l1" / "seed0" / "log.txt").read_bytes() == before
    # a table never takes up runs of other settings
    file.write_text(file.read_text().replace("train.epochs=2", "train.epochs=3"))
    refused(shell(*arguments, main=series.main), str(tmp_path / "runs" / "clean" / "fc_l1" / "seed0"), "--output")


def test_a_series_that_is_stopped_stops_its_runs(small: list[str], tmp_path: Path) -> None:
    """They save, and the same command goes on; runs that had not begun do not begin."""
    file, runs = tmp_path / "series.yaml", tmp_path / "runs"
    overrides = json.dumps([*small[1:], "train.epochs=2000"])
    file.write_text(f"configs: [fc_l1]\nvariants: {{clean: []}}\noverrides: {overrides}\n")
    data = small[0].split("=")[1]
    command = ["lifting/series.py", file, "--data", data, "--output", runs, "--seeds", 2]
    last = runs / "clean" / "fc_l1" / "seed0" / "last.pt"
    code, err = interrupted(tmp_path, signal.SIGTERM, last, *map(str, command))
    assert (code, err.strip()) == (143, f"stopped; the same command goes on from what is in {runs}")
    assert "resume with" in (last.parent / "log.txt").read_text().splitlines()[-1]
    assert not (runs / "clean" / "fc_l1" / "seed1").exists()


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "series").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_series_is_of_configurations_that_are_there(path: Path, tmp_path: Path) -> None:
    for short in (False, True):
        runs = list(series.runs_of(series.load_series(path), "synthetic", tmp_path, 2, short=short))
        resolved = [dump_config(run.read()) for run in runs]
        assert len(set(resolved)) == len({run.folder for run in runs}) == len(runs)


def test_bad_input_is_one_line(shell: Shell, small: list[str], small_store: Path, tmp_path: Path) -> None:
    run = ["train", "--output", tmp_path / "run"]
    refused(shell(*run, "data.path=nowhere.h5"), "expected a file", "nowhere.h5")
    refused(shell(*run, *small, "train.epoch=3"), "unknown key train.epoch", "train.epochs")
    refused(shell(*run, *small, "train.lr=-1"), "train.lr", "-1")
    refused(shell(*run, *small, "data.test_subjects=[S4]"), "S4", "S1, S5, S9")
    without = ["--config", ROOT / "configs" / "lifting" / "fc_rle.yaml"]
    refused(shell(*run, *small, "data.keypoints=cpn"), "data.keypoints gt in training, got cpn")
    refused(shell(*run, *without, *small, "data.keypoints=cpn"), "'cpn'", "gt")
    refused(shell(*run, "--config", tmp_path / "no.yaml"), "no.yaml")
    refused(shell("train", "--resume", tmp_path), "config.yaml")
    refused(shell("trian"), "trian")
    refused(shell(*run, "--epochs"), "--epochs")
    refused(shell("evaluate"), "--checkpoint")
    truncated = tmp_path / "half.h5"
    truncated.write_bytes(small_store.read_bytes()[:5000])
    refused(shell(*run, f"data.path={truncated}"), "half.h5")
    (tmp_path / "empty.pt").touch()
    refused(shell("evaluate", "--checkpoint", tmp_path / "empty.pt"), "empty")
    refused(shell("evaluate", "--checkpoint", truncated), "half.h5")
    for content, words in (
        (None, "no.yaml"),
        (b"\x89HDF\r\n", "is not YAML"),
        (b"[1, 2]", "expected configs, variants and overrides"),
        (b"configs: []\nvariants: {a: []}", "configs"),
        (b"configs: [fc_rle]\nvariants: {}", "variants"),
        (b"configs: [fc_rle]\nvariants: {a: []}", "expected overrides under short for --short"),
        (b"configs: [fc_rle, fc_rel]\nvariants: {a: []}\nshort: [train.epochs=1]", "fc_rel.yaml"),
        (
            b"configs: [fc_rle]\nvariants: {a: [], b: [train.epoch=3]}\nshort: [train.epochs=1]",
            "unknown key train.epoch",
        ),
        (b"configs: [fc_rle, fc_rle]\nvariants: {a: []}", "configs: expected each once, got fc_rle, fc_rle"),
        (b"configs: [fc_rle]\nvariants: {a: [seed=5]}", "expected no seed among the overrides"),
        (b"configs: [fc_rle]\nvariants: {a: []}\noverrides: [seed=5]", "expected no seed among the overrides"),
    ):
        if content is not None:
            (tmp_path / "no.yaml").write_bytes(content)
        refused(shell(tmp_path / "no.yaml", "--output", tmp_path / "table", "--short", main=series.main), words)
    assert not (tmp_path / "table").exists()
    assert not (tmp_path / "run" / "last.pt").exists()


def test_a_new_run_does_not_overwrite_an_old_one(shell: Shell, small: list[str], tmp_path: Path) -> None:
    assert shell("train", "--output", tmp_path / "run", *small)[0] == 0
    refused(shell("train", "--output", tmp_path / "run", *small), "already holds a run", "--resume")


def test_a_bad_command_prints_no_traceback(tmp_path: Path) -> None:
    checkpoint = tmp_path / "none.pt"
    command = ["run_lifting.py", "evaluate", "--checkpoint", str(checkpoint)]
    process = forked.start(command, tmp_path / "out", tmp_path / "err")
    process.join()
    assert process.exitcode == 2
    assert (tmp_path / "err").read_text() == f"error: checkpoint: expected a file, found nothing at {checkpoint}\n"


def test_data_of_any_name(shell: Shell, small: list[str], small_store: Path, tmp_path: Path) -> None:
    """An override is YAML, a path is not."""
    assert shell("train", "--output", tmp_path / "run", *small, "train.epochs=1", "loss.name=l1")[0] == 0
    for name in ("my #1.h5", "2024", "[a].h5", "a: b.h5", "ü \N{SNOWMAN} \N{SLIGHTLY SMILING FACE}.h5"):
        shutil.copy(small_store, tmp_path / name)
        code, _, err = shell("evaluate", "--checkpoint", tmp_path / "run" / "last.pt", "--data", tmp_path / name)
        assert code == 0, err
