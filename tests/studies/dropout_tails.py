"""What the flow sees in training: deviations of the training people with dropout and without, beside what it learned.

python -m tests.studies.dropout_tails CHECKPOINT --data FILE
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from lifting import lifter
from lifting.command import run_command
from lifting.datasets.poses import load_split
from lifting.metrics.calibration import Deviations, tails
from lifting.models.fc import Dropout
from lifting.prediction import Prediction


def row(name: str, x: Tensor, tail: list[float]) -> str:
    width = x.square().flatten(0, -2).mean(0).sqrt().tolist()
    return f"{name:<28}" + "".join(f"{value:>8.2f}" for value in (*width, *tail))


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", required=True)
    options = parser.parse_args()
    objective, config = lifter.load(options.checkpoint, [f"data.path={options.data}"])
    data = config.data.model_copy(update={"test_subjects": config.data.train_subjects, "test_stride": 12})
    poses = load_split(data, options.data, train=False)
    torch.manual_seed(0)
    draws = objective.likelihood.draw_unit((2**16,), poses.target)
    print(f"{'':<28}{'deviation of x, y, z':>24}{'99th / median |.|':>24}")
    for on in (False, True):
        for module in objective.modules():
            if isinstance(module, Dropout):
                module.train(on)
        found = [objective.network(part) for part in torch.split(poses.keypoints, 4096)]
        whole = Prediction(torch.cat([one.mu for one in found]), torch.cat([one.log_sigma for one in found]))
        x_bar = objective.likelihood.standardise(*objective.free(whole, poses.target))
        both = tails(Deviations(x_bar, draws))
        name = f"errors, {'with' if on else 'without'} dropout"
        print(row(name, x_bar, [axis["errors"] for axis in both]))
    print(row("the learned density", draws, [axis["density"] for axis in both]))


if __name__ == "__main__":
    run_command(main)
