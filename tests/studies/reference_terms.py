"""Which of the differences between the authors' code and their paper changes what is learned.

    python -m tests.studies.reference_terms sigma_twice --data FILE --seed 0 --output FOLDER

Trains FC under the paper's plain form with one of the code's terms in it (see `ReferenceRLE`), at the budget of
`configs/series/densities.yaml`, whose rows `rle_laplace` and `rle_reference` are the form with none and with all. To
`evaluate` the checkpoint is one of plain RLE: its mu and sigma are right, the NLL is another density's.
"""

import argparse
from pathlib import Path

import yaml
from torch import Tensor

from lifting import lifter
from lifting.command import run_command
from lifting.config import LossConfig, load_config
from lifting.likelihood import RLE, build_flow
from lifting.likelihood.flow import Density
from lifting.shipped import configs

# How often log sigma and log G count.
TERMS = {"sigma_twice": (2, 1), "flow_thrice": (1, 3)}


class Counted(RLE):
    """``loss = sum_d n log sigma_d - log Q(x_bar) - m log G(x_bar)``."""

    def __init__(self, flow: Density, sigmas: int, flows: int) -> None:
        super().__init__(3, "laplace", 0.0, flow, normalise=False, flow_steers_mu=True)
        self.sigmas, self.flows = sigmas, flows

    def _loss(self, mu: Tensor, log_sigma: Tensor, target: Tensor, visible: Tensor | None = None) -> Tensor:
        return super()._loss(mu, log_sigma, target, visible) + (self.sigmas - 1) * log_sigma.sum(-1)

    def _log_unit(self, x_bar: Tensor, x_bar_still: Tensor) -> Tensor:
        return self.log_shape(x_bar)

    def log_shape(self, x_bar: Tensor) -> Tensor:
        return self.log_q(x_bar) + self.flows * self.flow.log_prob(x_bar)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("term", choices=TERMS)
    parser.add_argument("--data", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    budget = yaml.safe_load((configs("series") / "densities.yaml").read_text())["overrides"]
    overrides = [f"data.path={options.data}", f"seed={options.seed}", *budget]
    config = load_config(configs("lifting") / "fc_rle_paper.yaml", overrides)

    def build(loss: LossConfig) -> RLE:
        return Counted(build_flow(loss.flow, 3), *TERMS[options.term])

    lifter.build_likelihood = build  # type: ignore[assignment, attr-defined]
    lifter.train(config, options.output / options.term / f"seed{options.seed}")


if __name__ == "__main__":
    run_command(main)
