"""Which way a made-up head turns, and whether sigma knows when the answer is poor.

    python -m examples.head_angle [--seeds 3] [--short]

One picture in, one angle out, with RLE in one dimension. The least certain fifth of the test pictures is rejected, and
the mean error of the others is compared with that of all, with a rejection at random, and with one by the true error.
"""

import argparse

import numpy as np
import torch
from torch import Tensor, nn

from lifting.likelihood import RLE
from lifting.prediction import Prediction

SIZE = 32  # pixels
RANGE = 100.0  # degrees to either side


def heads(count: int, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Pictures (N, 1, SIZE, SIZE) and yaw (N, 1, 1) as a share of `RANGE`: a ball with two eyes, a nose and hair.

    The lamp, the size, the blur and the noise differ from picture to picture. In one of three a bar hides a part, and a
    head that looks away shows few features.
    """

    def each(low: float, high: float) -> np.ndarray:
        return random.uniform(low, high, (count, 1, 1))

    yaw, pitch = each(-1, 1), each(-0.3, 0.3)
    x, y = np.meshgrid(*2 * [np.linspace(-1.3, 1.3, SIZE)])
    x, y = (x - each(-0.15, 0.15)) / each(0.8, 1.1), (y - each(-0.15, 0.15)) / each(0.9, 1.1)
    z = np.sqrt(np.maximum(1 - x**2 - y**2, 0))  # the visible half of the ball, towards the viewer
    image = (z > 0) * (0.5 + each(0.1, 0.5) * (z * 0.6 + x * each(-0.8, 0.8)))
    for longitude, latitude, reach, shade in ((-24, -0.2, 0.16, -1), (24, -0.2, 0.16, -1), (0, 0.15, 0.2, 0.6)):
        angle, height = np.radians(RANGE * yaw + longitude), latitude + pitch
        wide = np.sqrt(1 - height**2)
        far = (x - wide * np.sin(angle)) ** 2 + (y - height) ** 2 + (z - wide * np.cos(angle)) ** 2
        image = image + (z > 0) * shade * each(0.2, 0.8) * np.exp(-far / reach**2)
    behind = (z > 0) * (z * np.cos(np.radians(RANGE * yaw)) + x * np.sin(np.radians(RANGE * yaw)) < 0.1 - 0.6 * y)
    image = np.where(behind, image * each(0.3, 0.8), image)  # hair
    bar = (np.abs(x - each(-0.8, 0.8)) < each(0.1, 0.5)) & (each(0, 3) < 1)
    image = np.where(bar, each(0, 1), image) + each(0.02, 0.2) * random.normal(size=image.shape)
    return torch.from_numpy(image[:, None] - 0.4).float(), torch.from_numpy(yaw).float()


def build() -> nn.Sequential:
    blocks: list[nn.Module] = []
    for before, after in [(1, 12), (12, 24), (24, 48)]:
        blocks += [nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(48 * SIZE**2 // 64, 64), nn.ReLU(), nn.Linear(64, 2))


def predict(network: nn.Module, images: Tensor) -> Prediction:
    mu, layer = network(images)[:, None].split(1, dim=-1)  # (N, 1, 1) each: one joint, D = 1
    return Prediction(mu, nn.functional.logsigmoid(layer - 2))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--short", action="store_true", help="few pictures, two steps: to see that it runs")
    options = parser.parse_args(arguments)
    count, steps = (100, 2) if options.short else (4000, 800)
    print("seed   all, degrees   least certain 20 % rejected   20 % at random   by the true error   r(sigma, error)")
    for seed in range(options.seeds):
        random = np.random.default_rng(seed)
        images, yaw = heads(count, random)
        torch.manual_seed(seed)
        network, rle = build(), RLE(dim=1)
        optimizer = torch.optim.Adam([*network.parameters(), *rle.parameters()])
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps)
        for _ in range(steps):
            some = torch.randint(count, (64,))
            optimizer.zero_grad()
            rle(predict(network, images[some]), yaw[some]).mean().backward()
            optimizer.step()
            schedule.step()
        images, yaw = heads(count // 2, random)
        with torch.no_grad():
            found = predict(network.eval(), images)
        error = RANGE * (found.mu - yaw).abs().flatten()
        assert found.sigma is not None
        keep = int(0.8 * len(error))
        surest = error[found.sigma.flatten().argsort()[:keep]]
        r = np.corrcoef(found.sigma.flatten(), error)[0, 1]
        print(f"{seed:4} {error.mean():14.2f} {surest.mean():29.2f}", end="")
        print(f" {error[:keep].mean():16.2f} {error.sort().values[:keep].mean():19.2f} {r:17.2f}", flush=True)


if __name__ == "__main__":
    main()
