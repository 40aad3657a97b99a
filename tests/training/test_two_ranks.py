"""Two ranks train what one process trains on the same batches, and each may go on with the other's run; a run whose
process was killed is taken up again by torchrun itself."""

import json
from pathlib import Path

import pytest
import torch

from lifting.checkpoint import load_checkpoint
from tests.conftest import Shell
from tests.faults.runs import Run, Track, ranked, tracks
from tests.forked import main_of, two_ranks

EXACT = ["train.save_minutes=0", "train.batch_size=24"]
# What ranks draw for themselves, dropout and noise, cannot be what one process draws.
ALIKE = {"lifting": ["model.dropout=0", "data.augment.noise=0", "data.augment.bones=0", "data.augment.stature=0",
                     "train.epochs=5"],
         "single_stage": ["train.epochs=6", "train.batch_size=8"]}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Track]:
    return tracks(tmp_path_factory.mktemp("data"))


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", ALIKE)
def test_two_ranks_and_then_one_train_what_one_trains(
    made: dict[str, Track], name: str, shell: Shell, one_thread: None, tmp_path: Path
) -> None:
    """50 steps and more: with the same weights in the end, but for those that batch norm takes out again."""
    script, overrides = made[name].script, [*made[name].overrides, *EXACT, *ALIKE[name]]

    def alone(*arguments: object) -> str:
        code, out, err = shell(*arguments, main=main_of(script))
        assert code == 0, err
        return out

    alone("train", "--output", tmp_path / "one", *overrides)
    two_ranks(tmp_path / "said", script, "train", "--output", tmp_path / "two", *overrides, "train.epochs=4")
    epochs = ALIKE[name][-1] if name == "lifting" else ALIKE[name][0]
    alone("train", "--resume", tmp_path / "two", epochs)
    one, two = (load_checkpoint(tmp_path / folder / "last.pt") for folder in ("one", "two"))
    assert int(one["optimizer"]["state"][0]["step"]) >= 50
    for left, right in zip(lines(tmp_path / "one"), lines(tmp_path / "two"), strict=True):
        for number in ("loss", "mpjpe_mm", "pa_mpjpe_mm", "nll"):
            assert right[number] == pytest.approx(left[number], rel=1e-5, abs=1e-5), number
    starts = json.loads((tmp_path / "two" / "run.json").read_text())["starts"]
    assert [(start["epochs_done"], start["machine"]["processes"]) for start in starts] == [(0, 2), (4, 1)]
    cancelled = (".0.bias", "running_mean") if name == "lifting" else ()
    for part in ("network", "likelihood"):
        for key, weight in one[part].items():
            if not (part == "network" and key.endswith(cancelled)):
                torch.testing.assert_close(two[part][key], weight, rtol=1e-5, atol=1e-5, msg=key)

    evaluate = ["evaluate", "--checkpoint", tmp_path / "one" / "last.pt", "--json"]
    if name == "single_stage":  # tests/training/test_ranks.py does the same for the other track, with every option
        said = two_ranks(tmp_path / "said", script, *evaluate, tmp_path / "two.json")
        assert alone(*evaluate, tmp_path / "one.json") == said
        assert (tmp_path / "one.json").read_text() == (tmp_path / "two.json").read_text()


def test_torchrun_takes_up_a_run_whose_rank_was_killed(made: dict[str, Track], tmp_path: Path) -> None:
    run = Run(made["lifting"], tmp_path / "run")
    done = ranked(run.folder, run, "rank_killed_in_step", restarts=1)
    assert done.returncode == 0, done.stderr
    assert [line["epoch"] for line in lines(run.folder)] == [1, 2, 3]
    starts = json.loads((run.folder / "run.json").read_text())["starts"]
    assert [start["epochs_done"] for start in starts] == [0, 1]
