"""Made-up pictures of a retina in depth, as optical coherence tomography (OCT) takes them, and a figure of them."""

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from lifting.prediction import Prediction

DEPTH, WIDTH = 64, 32  # pixels


def scans(count: int, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Images and the boundary in each of their columns.

    They have speckle, three vessels that cast a shadow, all degrees of contrast, a pit, and a second bright layer, so
    that some columns are easy and some are hopeless.

    Returns:
        images (N, 1, DEPTH, WIDTH), log intensity with a mean of zero; boundaries (N, WIDTH, 1), shares of the depth.
    """

    def each(low: float, high: float) -> np.ndarray:
        """A number for each image, (N, 1)."""
        return random.uniform(low, high, (count, 1))

    x = np.linspace(0, 1, WIDTH)
    pit = each(-4, 10) * np.exp(-(((x - each(0.2, 0.8)) / each(0.1, 0.3)) ** 2))
    edge = each(14, 34) + each(-9, 9) * (x - 0.5) + 2 * np.sin(6 * x + each(0, 6)) + pit
    second = edge + each(8, 15) + 2 * np.sin(5 * x + each(0, 6))
    light = np.ones((count, WIDTH))
    for _ in range(3):
        vessel = np.abs(x - each(0, 1)) < each(0, 0.06)
        light = np.where(vessel, each(0.05, 0.7) * light, light)

    depth = np.arange(DEPTH)[:, None]
    below = depth - edge[:, None]  # (N, DEPTH, WIDTH), pixels
    fading = 0.25 + 0.75 * np.exp(-np.maximum(below, 0) / each(3, 12)[..., None])
    tissue = (below > 0) * fading + 0.9 * (np.abs(depth - second[:, None]) < 2.5)
    signal = 0.12 + each(0.05, 1)[..., None] * tissue * light[:, None]
    speckle = random.gamma(2.5, 1 / 2.5, signal.shape)
    image = np.log(signal * speckle + 0.02)
    image -= image.mean((1, 2), keepdims=True)
    return torch.from_numpy(image[:, None]).float(), torch.from_numpy(edge[..., None] / DEPTH).float()


def draw(path: str, images: Tensor, edges: Tensor, found: Prediction, deviation: Tensor) -> None:
    """Three test images from sure to unsure, and errors by tenths of the predicted deviation; shares of the depth."""
    figure = Figure((9, 3), layout="constrained")
    *pictures, plot = figure.subplots(1, 4, width_ratios=[1, 1, 1, 1.7])
    doubt = deviation.mean((1, 2)).argsort()
    for axis, n in zip(pictures, doubt[[len(doubt) // 10, len(doubt) // 2, -len(doubt) // 20]].tolist(), strict=True):
        mu, reach = (DEPTH * x[n, :, 0] for x in (found.mu, deviation))
        axis.imshow(images[n, 0], cmap="gray", aspect="auto")
        axis.fill_between(range(WIDTH), mu - 2 * reach, mu + 2 * reach, color="tab:orange", alpha=0.5, lw=0)
        axis.plot(range(WIDTH), mu, "tab:orange", lw=1, label="predicted, ± 2 deviations")
        axis.plot(range(WIDTH), DEPTH * edges[n, :, 0], "c--", lw=1, label="true")
        axis.set(xticks=[], yticks=[], xlim=(0, WIDTH - 1))
    figure.legend(*pictures[0].get_legend_handles_labels(), loc="outside upper left", ncols=2, fontsize=8)
    order = deviation.flatten().argsort()
    predicted, error = (DEPTH * x.flatten()[order] for x in (deviation, found.mu - edges))
    sizes = [[part.square().mean().sqrt().item() for part in x.chunk(10)] for x in (predicted, error)]
    plot.loglog(*sizes, "o-", color="tab:orange")
    plot.axline((0.3, 0.3), (2, 2), color="black", ls=":", lw=1)
    for axis in (plot.xaxis, plot.yaxis):
        axis.set_minor_formatter("")
        axis.set_ticks([0.3, 0.5, 1, 2], labels=["0.3", "0.5", "1", "2"])
    plot.set(xlabel="predicted deviation, pixels", ylabel="root mean square error, pixels")
    figure.savefig(path, dpi=90)
