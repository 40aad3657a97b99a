"""RLE in a plain PyTorch loop, on any x and y: python -m examples.plain_loop [--short]"""

import sys

import torch
from torch import Tensor, nn

from lifting.likelihood import RLE
from lifting.metrics.calibration import Deviations, centrality, coverage
from lifting.prediction import Prediction


def some_data(count: int) -> tuple[Tensor, Tensor]:
    """Yours: x (N, features) and y (N, J, D), here J = D = 1. The error of y grows with x, and has heavy tails."""
    x = 2 * torch.rand(count, 1) - 1
    error = torch.distributions.StudentT(3.0).sample((count, 1))
    return x, (torch.sin(3 * x) + 0.1 * (1.2 + x) * error)[..., None]


network = nn.Sequential(nn.Linear(1, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))


def predict(x: Tensor) -> Prediction:
    mu, layer = network(x)[:, None].split(1, dim=-1)  # (N, J, D) each
    return Prediction(mu, nn.functional.logsigmoid(layer))  # sigma lies in (0, 1): bring y to a range of about 1


torch.manual_seed(0)
rle = RLE(dim=1)  # for points in the plane RLE(dim=2), in space RLE(dim=3)
optimizer = torch.optim.Adam([*network.parameters(), *rle.parameters()], lr=3e-3)  # the flow is trained, too
for _ in range(5 if "--short" in sys.argv else 1500):
    x, y = some_data(256)
    loss = rle(predict(x), y).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

rle.eval()
with torch.no_grad():
    x, y = some_data(10_000)
    found = predict(x)
    print(f"negative log-likelihood {-rle.log_prob(found, y).mean():.3f} nats")
    print(f"mean error {(found.mu - y).abs().mean():.3f}, deviation {rle.deviation(found).mean():.3f}")
    print(f"nine draws of the first y: {rle.sample(found, 9)[:, 0, 0, 0].numpy().round(2)}")
    central = centrality(Deviations(rle.standardise(found, y), rle.draw_unit((100_000,), y)))
    shares = zip((0.5, 0.9), coverage(central, (0.5, 0.9)).flatten().tolist(), strict=True)
    print("; ".join(f"the {level:.0%} interval holds {share:.1%}" for level, share in shares))
