"""Diagrams of what a sigma is worth: the density that was learned, reliability, sparsification, sigma against error."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from lifting.calibration import Deviations, centrality, coverage, sparsify
from lifting.command import InputError
from lifting.likelihood import BasicFlow, Likelihood
from lifting.metrics import pearson
from lifting.unit import log_gaussian, log_laplace
from lifting.visualise import LEFT, MIDDLE, QUIET, RIGHT, TEXT, TRUTH, new_figure, save_figure

_REACH = 5.0  # of the pictures of a density, in its own standard deviations
_CELLS = 120  # of their grid, along each axis
_AXES = ("x", "y", "z (depth)")
_COLOURS = (RIGHT, "#009e73", LEFT)


def draw_density(path: str | Path, likelihood: Likelihood) -> None:
    """The unit density that a likelihood has learned beside Laplace and Gaussian ones of the same deviation.

    Raises:
        InputError: the basic design, whose density depends on the place; an ending that matplotlib does not write.
    """
    figure = new_figure(12.4, 4.1)
    _draw_density(figure.subplots(1, 3), likelihood)
    save_figure(figure, path)


def draw_uncertainty(
    path: str | Path,
    likelihood: Likelihood,
    found: Deviations,
    doubts: dict[str, tuple[Tensor, Tensor]],
    scale: float | None = None,
) -> None:
    """All in one look: `draw_density` above; below reliability, sparsification and sigma against error.

    Args:
        found: of the test poses.
        doubts: sigma and error in metres by "joint" and by "pose"; empty where there is no sigma.
        scale: of sigma, as fitted on held-out people, if it was.
    """
    figure = new_figure(12.4, 8.2)
    panels = figure.subplots(2, 3)
    _draw_density(panels[0], likelihood, found.x_bar)
    _draw_reliability(panels[1, 0], found, scale)
    if doubts:
        _draw_sparsification(panels[1, 1], doubts)
        _draw_sigma_error(panels[1, 2], *doubts["joint"])
    else:
        for panel in panels[1, 1:]:
            panel.set_axis_off()
            panel.text(0.5, 0.5, "no sigma, no ranking", ha="center", color=QUIET, transform=panel.transAxes)
    save_figure(figure, path)


def _draw_density(panels: Sequence[Axes], likelihood: Likelihood, x_bar: Tensor | None = None) -> None:
    if isinstance(likelihood, BasicFlow):
        raise InputError("density: the basic design (loss.name flow) has no unit density to draw")
    grid, density, deviation = _on_a_grid(likelihood)
    marginals = [density.sum(tuple(a for a in range(density.ndim) if a != d)) for d in range(density.ndim)]
    width = float(deviation.mean())
    step = grid[1] - grid[0]
    peer = torch.from_numpy(grid)[:, None] / width
    peers = {
        "Gaussian": np.exp(log_gaussian(peer).numpy()) / width,
        "Laplace": np.exp(log_laplace(peer * 2**0.5).numpy()) * 2**0.5 / width,
    }
    for panel, scale in zip(panels[:2], ("linear", "log"), strict=True):
        for (name, values), line in zip(peers.items(), (":", "--"), strict=True):
            panel.plot(grid, values, line, color=QUIET, linewidth=1.4, label=f"{name}, same deviation")
        for d, marginal in enumerate(marginals):
            panel.plot(
                grid, marginal / (marginal.sum() * step), color=_COLOURS[d], linewidth=2, label=f"learned, {_AXES[d]}"
            )
        if x_bar is not None:
            counts, edges = np.histogram(x_bar[..., -1].flatten().cpu().numpy(), bins=_CELLS, range=(grid[0], grid[-1]))
            share = counts / (x_bar[..., -1].numel() * np.diff(edges))
            panel.stairs(
                share, edges, fill=True, color=TRUTH, alpha=0.35, label=f"test poses, {_AXES[len(marginals) - 1]}"
            )
        panel.set(xlim=(grid[0], grid[-1]), yscale=scale, xlabel="standardised deviation", ylabel="density")
    panels[0].set(ylim=(0, None))
    panels[1].set(ylim=(1e-5, None))
    panels[0].set_title("learned density, marginals", fontsize=11, color=TEXT)
    panels[1].set_title("its tails", fontsize=11, color=TEXT)
    panels[1].legend(fontsize=8, frameon=False, labelcolor=TEXT, loc="lower center")
    if density.ndim > 1:
        _draw_contours(panels[2], grid, density, width)
    else:
        panels[2].set_axis_off()


def _draw_contours(panel: Axes, grid: np.ndarray, density: np.ndarray, width: float) -> None:
    """Highest-density regions of the first and the last coordinate."""
    plane = density.sum(1) if density.ndim == 3 else density
    x, z = np.meshgrid(grid / width, grid / width, indexing="ij")
    laplace, gaussian = np.exp(-(2**0.5) * (abs(x) + abs(z))), np.exp(-(x**2 + z**2) / 2)
    for values, line, colour in ((gaussian, ":", QUIET), (laplace, "--", QUIET), (plane, "-", LEFT)):
        ordered = np.sort(values.ravel())[::-1]
        shares = np.cumsum(ordered) / ordered.sum()
        levels = sorted({float(ordered[np.searchsorted(shares, share)]) for share in (0.5, 0.9, 0.99)})
        panel.contour(grid, grid, values.T, levels=levels, colors=colour, linestyles=line, linewidths=1.5)
    reach = 4.2 * width
    panel.set(
        xlim=(-reach, reach),
        ylim=(-reach, reach),
        aspect="equal",
        xlabel="x",
        ylabel=_AXES[density.ndim - 1] if density.ndim == 3 else "y",
    )
    panel.set_title("its regions of 50, 90 and 99 %", fontsize=11, color=TEXT)


@torch.no_grad()
def _on_a_grid(likelihood: Likelihood) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Middles of the cells along each axis, the density in each cell (D axes), and its deviation in each coordinate."""
    like = next(likelihood.parameters(), torch.zeros(()))
    dim = likelihood.dim
    deviation = likelihood.draw_unit((2**16,), like).square().mean(0).sqrt().double().cpu().numpy()
    reach = _REACH * float(deviation.mean())
    axis = (torch.arange(_CELLS, dtype=like.dtype, device=like.device) + 0.5) * (2 * reach / _CELLS) - reach
    density = likelihood.log_unit(torch.stack(torch.meshgrid(*[axis] * dim, indexing="ij"), -1)).exp()
    return axis.double().cpu().numpy(), density.double().cpu().numpy(), deviation


def _draw_reliability(panel: Axes, found: Deviations, scale: float | None) -> None:
    levels = np.arange(101) / 100
    central = coverage(centrality(found), levels.tolist()).cpu().numpy()
    panel.plot([0, 1], [0, 1], "--", color=QUIET, linewidth=1.2)
    for joint in central.mean(2).T:
        panel.plot(levels, joint, color=TRUTH, linewidth=0.6, alpha=0.7)
    panel.plot([], [], color=TRUTH, linewidth=0.8, label="each joint")
    for d, colour in zip(range(central.shape[2]), _COLOURS, strict=False):
        panel.plot(levels, central[:, :, d].mean(1), color=colour, linewidth=1.2, label=_AXES[d])
    panel.plot(levels, central.mean((1, 2)), color=MIDDLE, linewidth=2.4, label="overall")
    if scale is not None:
        scaled = coverage(centrality(found, scale), levels.tolist()).mean((1, 2)).cpu().numpy()
        panel.plot(levels, scaled, ":", color=MIDDLE, linewidth=2.4, label=f"overall, sigma x {scale:.2f}")
    panel.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="central interval", ylabel="share of the errors in it")
    panel.set_title("reliability", fontsize=11, color=TEXT)
    panel.legend(fontsize=8, frameon=False, labelcolor=TEXT, loc="lower right")


def _draw_sparsification(panel: Axes, doubts: dict[str, tuple[Tensor, Tensor]]) -> None:
    for (what, (doubt, error)), colour in zip(doubts.items(), (RIGHT, LEFT), strict=True):
        curves = sparsify(doubt, error)
        panel.plot(
            curves.removed,
            curves.by_doubt,
            color=colour,
            linewidth=2,
            label=f"{what}s, AUSE {curves.ause:.2f}",
        )
        panel.plot(curves.removed, curves.by_error, ":", color=colour, linewidth=1.4, label=f"{what}s, oracle")
    panel.axhline(1, linestyle="--", color=QUIET, linewidth=1.2, label="by chance")
    panel.set(xlim=(0, 1), ylim=(0, None), xlabel="share left out", ylabel="mean error of the rest, of all = 1")
    panel.set_title("sparsification", fontsize=11, color=TEXT)
    panel.legend(fontsize=9, frameon=False, labelcolor=TEXT, loc="lower left")


def _draw_sigma_error(panel: Axes, doubt: Tensor, error: Tensor) -> None:
    """Does sigma know the error? Where the pairs lie, and the mean error of the samples that share a sigma."""
    x, y = (1000 * values.flatten().double().cpu().numpy() for values in (doubt, error))
    use = (x > 0) & (y > 0)
    x, y = x[use], y[use]
    means = np.array([(x[part].mean(), y[part].mean()) for part in np.array_split(np.argsort(x), 20)])
    low, high = np.percentile(np.concatenate([x, y]), (0.5, 99.9))
    edges = np.geomspace(low, high, 61)
    panel.pcolormesh(edges, edges, np.histogram2d(y, x, edges)[0], cmap="Blues", rasterized=True)
    panel.plot(*means.T, "o-", color=LEFT, linewidth=2, markersize=4, label="mean error of a twentieth of the joints")
    panel.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), aspect="equal")
    panel.set(xlabel="predicted sigma, mm", ylabel="error, mm")
    panel.set_title(f"sigma and error, Pearson's r {pearson(doubt, error):.2f}", fontsize=11, color=TEXT)
    panel.legend(loc="upper left", fontsize=9, frameon=False, labelcolor=TEXT)
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_formatter("{x:g}")
