"""Several ranks: one report, the same numbers as from one process, and no rank without poses."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from lifting import lifter
from lifting.command import InputError
from lifting.config import load_config
from lifting.datasets.pose_batches import PoseBatches
from lifting.datasets.poses import load_poses
from lifting.datasets.store import PoseStore
from lifting.geometry.skeleton import H36M17
from lifting.models import LIFTERS
from tests.conftest import Shell
from tests.forked import two_ranks


def test_two_ranks_give_one_report_with_the_same_numbers(
    shell: Shell, small: list[str], tmp_path: Path, one_thread: None
) -> None:
    run = tmp_path / "run"
    cheap = ["loss.flow.width=8", "loss.flow.couplings=2", "data.test_stride=40", "train.epochs=1"]
    code, _, err = shell("train", "--output", run, *small, "data.train_subjects=[S1]", *cheap)
    assert code == 0, err
    verb = ["evaluate", "--checkpoint", run / "last.pt", "--rare", "--uncertainty", "--camera", "--hypotheses", 5]
    verb += ["--calibrate", run / "last.pt"]  # S5 is neither a training nor a test subject

    def files(name: str) -> list[object]:
        return ["--json", tmp_path / f"{name}.json", "--save", tmp_path / f"{name}.h5"]

    code, alone, err = shell(*verb, *files("alone"))
    assert code == 0, err
    assert two_ranks(tmp_path / "said", "run_lifting.py", *verb, *files("ranks")) == alone
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("alone", "ranks"))
    assert one == two
    assert {"rare", "uncertainty", "hypotheses"} <= set(one)
    assert "calibrated" in one["uncertainty"]
    with h5py.File(tmp_path / "alone.h5") as mine, h5py.File(tmp_path / "ranks.h5") as theirs:
        clip = "S9/Walking/54138969"
        assert np.array_equal(mine[clip], theirs[clip])


@pytest.mark.parametrize("name", LIFTERS)
def test_a_rank_without_test_poses_predicts_nothing(name: str) -> None:
    config = load_config(overrides=[f"model.name={name}", "model.width=50"])
    prediction = lifter.build_objective(config, H36M17).eval().predict(torch.empty(0, 17, 2))
    assert prediction.mu.shape == (0, 17, 3)
    assert prediction.log_sigma is not None and prediction.log_sigma.shape == (0, 17, 3)


def test_a_rank_without_poses_is_refused(small_store: Path) -> None:
    with PoseStore(small_store) as store:
        poses = load_poses(store, ("S1",), stride=50)
    for batch_size, got in ((7, 7), (10**6, len(poses))):
        world = got // 2 + 1
        message = f"expected {2 * world} poses or more, two for each rank, got {got} in a batch"
        with pytest.raises(InputError, match=message):
            PoseBatches(poses, batch_size, flip=True, world=world)
    fewest = [len(next(PoseBatches(poses, 7, flip=True, rank=r, world=3).epoch(0)).target) for r in range(3)]
    assert fewest == [3, 2, 2]


def test_ranks_meet_again(tmp_path: Path) -> None:
    """As in `crossfit`, which trains several networks in turn. They found the addresses of the time before."""
    two_ranks(tmp_path, "tests/training/meet_again.py", seconds=120)
