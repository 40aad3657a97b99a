"""Whether networks that disagree tell that a pose is unlike the training: at home, and on another laboratory's motion.

    python -m tests.studies.several_networks CHECKPOINT CHECKPOINT ... --data HOME --far FILE [key.path=value ...]

The networks differ by their seed. Their mean is the prediction, with the variance a + c b: a is the mean of what each
of them predicts, b the variance of their predictions, c a factor. Independent networks disagree more than heads on one
trunk, so this is the best that several heads can do. The overrides, such as data.test_stride, are for both sets, and
so are the actions of the checkpoints' test.
"""

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lifting import lifter
from lifting.command import InputError, run_command
from lifting.datasets.store import PoseStore
from lifting.training.evaluation import predict

LEVEL = 0.9
WIDER = (1.0, 1.05, 1.1, 1.2)  # mean deviation at home over that without disagreement


class Found(NamedTuple):
    """Errors (N, J, D) of the mean of several networks, the variances a and b, and the mean error of one, in metres."""

    error: Tensor
    own: Tensor
    between: Tensor
    of_one: float


@torch.no_grad()
def predicted(checkpoints: list[Path], overrides: list[str]) -> tuple[Found, float]:
    """What the networks find on one set, and the `LEVEL` quantile of an error over its deviation, as they have it."""
    mus, squares, errors, quantiles = [], [], [], []
    for checkpoint in checkpoints:
        objective, config = lifter.load(checkpoint, overrides)
        poses = lifter.load_test(config, objective)
        prediction = predict(objective, poses, flip_test=config.train.flip)
        free, target = objective.free(prediction, poses.target)
        mus.append(free.mu)
        squares.append(objective.likelihood.deviation(free).square())
        errors.append(float((free.mu - target).norm(dim=-1).mean()))
        torch.manual_seed(0)
        unit = objective.likelihood.draw_unit((2**16,), target)
        quantiles.append(float((unit / unit.square().mean(0).sqrt()).abs().flatten().quantile(LEVEL)))
    mu = torch.stack(mus)
    found = Found(mu.mean(0) - target, torch.stack(squares).mean(0), mu.var(0), sum(errors) / len(errors))
    return found, sum(quantiles) / len(quantiles)


def factor_for(found: Found, wider: float) -> float:
    """The factor c with which the mean deviation is so much wider than without, by bisection."""
    low, high = 0.0, 1e4
    for _ in range(60):
        middle = (low + high) / 2
        width = (found.own + middle * found.between).sqrt().mean() / found.own.sqrt().mean()
        low, high = (middle, high) if float(width) < wider else (low, middle)
    return low


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, required=True, help="the file of the training, with its test people")
    parser.add_argument("--far", type=Path, required=True, help="a prepared file, all of whose people are tested on")
    options, overrides = parser.parse_known_args()
    if len(options.checkpoints) < 2:
        raise InputError("expected two checkpoints or more, got one")
    with PoseStore(options.far) as store:
        people = f"data.test_subjects={json.dumps(list(store.subjects))}"
    sets = {"home": [f"data.path={options.data}"], "far": [f"data.path={options.far}", people]}
    found = {name: predicted(options.checkpoints, [*where, *overrides]) for name, where in sets.items()}
    for name, (one, _) in found.items():
        apart = (one.error.square().mean() / one.own.mean()).sqrt()
        ratio = (one.between / one.own).mean(-1).flatten().sqrt()
        print(f"{name}: MPJPE without the root {1000 * one.of_one:.1f} mm of one network, "
              f"{1000 * float(one.error.norm(dim=-1).mean()):.1f} of the mean; error / deviation {float(apart):.2f}; "
              f"disagreement / deviation, median {float(ratio.median()):.2f}")  # fmt: skip
        order = ratio.argsort().chunk(8)
        error, own = (x.mean(-1).flatten() for x in (one.error.square(), one.own))
        print("  error / deviation in eighths by disagreement / deviation: "
              + " ".join(f"{float((error[part].mean() / own[part].mean()).sqrt()):.2f}" for part in order))  # fmt: skip
    home, quantile = found["home"]
    inside = f"in {LEVEL:.0%}"
    print(f"{'deviation at home':>18}{'c':>10}{'home, ' + inside:>15}{'far, ' + inside:>14}{'far, wider by':>15}")
    for wider in WIDER:
        c = factor_for(home, wider)
        cells = []
        for one, _ in found.values():
            width = (one.own + c * one.between).sqrt()
            cells.append(100 * float((one.error.abs() < quantile * width).float().mean()))
        far = found["far"][0]
        grown = float((far.own + c * far.between).sqrt().mean() / far.own.sqrt().mean())
        print(f"{wider:>18.2f}{c:>10.2f}{cells[0]:>15.1f}{cells[1]:>14.1f}{grown:>15.2f}")


if __name__ == "__main__":
    run_command(main)
