"""What a flow finds in errors of one dimension: python -m tests.studies.scalar_errors (docs/results/any_regression.md).

Errors of one shape and size everywhere; sigma, the flow and a constant mu are trained on 4,000, the negative
log-likelihood is that of 4,000 others, in nats. An affine flow is what couplings amount to with D = 1.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lifting.likelihood import DLE, RLE, Likelihood
from lifting.likelihood.flow import Bijection
from lifting.prediction import Prediction

COUNT, STEPS = 4000, 1500
ERRORS: dict[str, Callable[[], Tensor]] = {
    "Student's t, 3 degrees": lambda: torch.distributions.StudentT(3.0).sample((COUNT,)),
    "85 % narrow, 15 % wide and to one side": lambda: torch.where(
        torch.rand(COUNT) < 0.15, 2.5 + 5 * torch.randn(COUNT), 0.5 * torch.randn(COUNT)
    ),
    "one-sided (Gamma, 2)": lambda: torch.distributions.Gamma(2.0, 1.0).sample((COUNT,)),
}


class Affine(Bijection):
    """x = shift + scale z."""

    def __init__(self) -> None:
        super().__init__()
        self.shift, self.log_scale = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))

    def log_prob(self, x: Tensor) -> Tensor:
        z = (x[..., 0] - self.shift) * torch.exp(-self.log_scale)
        return -0.5 * z.square() - self.log_scale - 0.5 * math.log(2 * math.pi)

    def sample(self, shape: tuple[int, ...]) -> Tensor:
        return self.shift + self.log_scale.exp() * torch.randn(*shape, 1)


KINDS: dict[str, Callable[[], Likelihood]] = {
    "a normal density": lambda: Likelihood(1, "gaussian"),
    "RLE, affine flow": lambda: RLE(1, flow=Affine()),
    "RLE": lambda: RLE(1),
    "DLE": lambda: DLE(1),
}


def measured(likelihood: Likelihood, train: Tensor, test: Tensor) -> float:
    mu, layer = nn.Parameter(torch.zeros(())), nn.Parameter(torch.tensor(-1.0))

    def predicted() -> Prediction:
        return Prediction(mu.expand(COUNT, 1, 1), nn.functional.logsigmoid(layer).expand(COUNT, 1, 1))

    optimizer = torch.optim.Adam([mu, layer, *likelihood.parameters()], lr=5e-3)
    for _ in range(STEPS):
        optimizer.zero_grad()
        likelihood(predicted(), train).mean().backward()
        optimizer.step()
    likelihood.eval()
    with torch.no_grad():
        return -likelihood.log_prob(predicted(), test).mean().item()


def main() -> None:
    for name, draw in ERRORS.items():
        torch.manual_seed(0)
        train, test = (0.05 * draw().view(-1, 1, 1) for _ in range(2))
        found = {kind: measured(build(), train, test) for kind, build in KINDS.items()}
        print(f"{name:40}" + "  ".join(f"{kind} {value:.3f}" for kind, value in found.items()), flush=True)
        if name.startswith("Student"):
            x = test / 0.05
            # The density of t with three degrees: 2 / (pi sqrt(3) (1 + x^2 / 3)^2).
            truth = math.log(2 / (math.pi * math.sqrt(3) * 0.05)) - 2 * torch.log1p(x.square() / 3).mean().item()
            print(f"{'':40}the truth {-truth:.3f}")


if __name__ == "__main__":
    main()
