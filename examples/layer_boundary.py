"""Where a layer begins in every column of an OCT image: regression in one dimension, by five losses and RLE.

    python -m examples.layer_boundary [--seeds 3] [--short] [--figure FILE.png]

After appendix H of the RLE paper, which regresses the boundaries of a retina's layers; here on made-up images.
"""

import argparse
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from examples.made_up_oct import DEPTH, draw, scans
from lifting.likelihood import RLE, ConstantVariance, Likelihood
from lifting.prediction import Prediction

LOSSES: dict[str, Callable[[], Likelihood]] = {
    "L1": lambda: ConstantVariance("l1", dim=1),
    "L2": lambda: ConstantVariance("l2", dim=1),
    "Gaussian": lambda: Likelihood(1, "gaussian", beta=0.0),
    "Laplace": lambda: Likelihood(1, "laplace", beta=0.0),
    "RLE, the paper's form": lambda: RLE.paper(dim=1),
    "RLE": lambda: RLE(dim=1),
}
TITLES = ("mean error, px", "more than L1's", "95 % below, px", "NLL, nats", "kurtosis of x_bar")


class Columns(nn.Module):
    """Convolutions that shrink the depth alone, then mu and log sigma of every column: (N, WIDTH, 1) each."""

    def __init__(self) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for before, after in [(1, 8), (8, 16), (16, 24), (24, 24)]:
            blocks += [nn.Conv2d(before, after, (5, 3), (2, 1), (2, 1)), nn.BatchNorm2d(after), nn.ReLU()]
        self.body = nn.Sequential(*blocks, nn.Flatten(1, 2), nn.Conv1d(24 * DEPTH // 16, 32, 1), nn.ReLU())
        self.head = nn.Conv1d(32, 2, 1)

    def forward(self, images: Tensor) -> Prediction:
        mu, layer = self.head(self.body(images))[..., None].unbind(1)
        return Prediction(0.5 + mu, nn.functional.logsigmoid(layer - 2))


def train(likelihood: Likelihood, images: Tensor, edges: Tensor, steps: int, seed: int) -> Columns:
    torch.manual_seed(seed)  # the same first weights for every loss
    network = Columns()
    optimizer = torch.optim.Adam([*network.parameters(), *likelihood.parameters()])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps)
    for _ in range(steps):
        some = torch.randint(len(images), (32,))
        optimizer.zero_grad()
        likelihood(network(images[some]), edges[some]).mean().backward()
        optimizer.step()
        schedule.step()
    likelihood.eval()
    return network.eval()


@torch.no_grad()
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--short", action="store_true", help="few images, two steps: to see that it runs")
    parser.add_argument("--figure", help="draws test images with what RLE predicts, of the last seed")
    options = parser.parse_args(arguments)
    count, steps = (40, 2) if options.short else (1000, 500)
    print(f"{'loss':22}" + "".join(f"{title:>20}" for title in TITLES))
    of_l1: list[float] = []  # the mean error of each seed
    for name, build in LOSSES.items():
        rows = []
        for seed in range(options.seeds):
            random = np.random.default_rng(seed)
            known, (images, edges) = scans(count, random), scans(count // 2, random)
            likelihood = build()
            with torch.enable_grad():
                network = train(likelihood, *known, steps, seed)
            found = network(images)
            error = DEPTH * (found.mu - edges).abs().flatten()
            nll = np.log(DEPTH) - likelihood.log_prob(found, edges).mean().item()
            x_bar = likelihood.standardise(found, edges)
            kurtosis = (x_bar**4).mean() / (x_bar**2).mean() ** 2  # 3 for a normal density, 6 for Laplace's
            if name == "L1":
                of_l1.append(error.mean().item())
            gain = error.mean().item() - of_l1[seed]
            rows.append([error.mean().item(), gain, error.quantile(0.95).item(), nll, kurtosis.item()])
        cells = [f"{np.mean(column):.3f} ± {np.std(column):.3f}" for column in zip(*rows, strict=True)]
        print(f"{name:22}" + "".join(f"{cell:>20}" for cell in cells), flush=True)
    if options.figure:
        draw(options.figure, images, edges, found, likelihood.deviation(found))


if __name__ == "__main__":
    main()
