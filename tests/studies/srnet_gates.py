"""How far SRNet's gates close, and its poses shrink, on motion unlike the training.

    python -m tests.studies.srnet_gates CHECKPOINT ... --data FILE

A gate is the number in 0 to 1 by which a layer multiplies what it computes for a group (`models.srnet.GroupLayer`).
For the training poses and the test poses of each checkpoint: the quantiles of the head's gates, those of all groups
together, and of the size of the predicted pose, the mean distance of its joints from the root, over the true one. A
network without gates has sizes alone.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from lifting import lifter
from lifting.command import InputError, run_command
from lifting.datasets.poses import PoseSet, load_split
from lifting.models.srnet import SRNet
from lifting.training.evaluation import predict
from lifting.training.objective import Objective

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


@torch.no_grad()
def found_in(objective: Objective, network: SRNet, poses: PoseSet) -> dict[str, Tensor]:
    """The gates of the head, one for each pose and group, and the size of each pose over the true one."""
    head, gates = network.head.product, []

    def keep(_: nn.Module, inputs: tuple[Tensor]) -> None:
        gates.append(head.numbers(inputs[0]).flatten())

    hook = head.register_forward_pre_hook(keep)
    mu = predict(objective, poses, flip_test=False).mu
    hook.remove()
    sizes = {"size / true size": mu.norm(dim=-1).mean(1) / poses.target.norm(dim=-1).mean(1)}
    return {"gates": torch.cat(gates), **sizes} if head.recombine == "multiply" else sizes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--data", required=True)
    options = parser.parse_args()
    print(f"{'quantiles':<32}{''.join(f'{level:>7}' for level in LEVELS)}")
    for path in options.checkpoints:
        objective, config = lifter.load(path, [f"data.path={options.data}"])
        if not isinstance(objective.network, SRNet):
            raise InputError(f"{path}: expected an SRNet")
        print(path)
        training = load_split(config.data, lifter.data_paths(config, train=True), train=True)
        for name, poses in (("training", training), ("test", lifter.load_test(config, objective))):
            for what, values in found_in(objective, objective.network, poses).items():
                quantiles = values.quantile(torch.tensor(LEVELS))
                print(f"  {name + ': ' + what:<30}{''.join(f'{float(q):>7.2f}' for q in quantiles)}", flush=True)


if __name__ == "__main__":
    run_command(main)
