"""Diagrams of a predicted uncertainty: the learned density, reliability, sparsification, sigma against error."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter
from torch import Tensor

from lifting.command import InputError
from lifting.drawing.pose_figures import LEFT, MIDDLE, QUIET, RIGHT, TEXT, TRUTH, new_figure, save_figure, set_title
from lifting.likelihood import BasicFlow, Likelihood
from lifting.likelihood.unit_densities import fixed_draws, log_gaussian, log_laplace
from lifting.metrics.calibration import Deviations, centrality, coverage, sparsify
from lifting.metrics.pose_errors import pearson

_REACH = 5.0  # of the pictures of a density, in its own standard deviations along each axis
_CELLS = 120  # of their grid, along each axis
_AXES = ("x", "y", "z (depth)")
_COLOURS = (RIGHT, "#009e73", LEFT)
_NO_UNIT = "the basic design (loss.name flow) has no unit density to draw: its shape depends on the place"


def draw_density(path: str | Path, likelihood: Likelihood) -> None:
    """The unit density that a likelihood has learned beside Laplace and Gaussian ones of the same deviations.

    Raises:
        InputError: the basic design, whose density depends on the place; an ending that matplotlib does not write.
    """
    if isinstance(likelihood, BasicFlow):
        raise InputError(f"density: {_NO_UNIT}")
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
    """The panels of `draw_density` above, those of reliability, sparsification and sigma against error below.

    The basic design has the lower row alone, because its density depends on the place.

    Args:
        found: deviations of the test poses.
        doubts: sigma and error in metres by "joint" and by "pose"; empty where there is no sigma.
        scale: a factor for sigma that was fitted on held-out people; its reliability is drawn too.
    """
    rows = 1 if isinstance(likelihood, BasicFlow) else 2
    figure = new_figure(12.4, 4.1 * rows)
    panels = figure.subplots(rows, 3, squeeze=False)
    if rows == 2:
        _draw_density(panels[0], likelihood, found.x_bar)
    else:
        figure.suptitle(_NO_UNIT, fontsize=9, color=QUIET)
    _draw_reliability(panels[-1, 0], found, scale)
    if doubts:
        _draw_sparsification(panels[-1, 1], doubts)
        _draw_sigma_error(panels[-1, 2], *doubts["joint"])
    else:
        for panel in panels[-1, 1:]:
            panel.set_axis_off()
            panel.text(0.5, 0.5, "no sigma, no ranking", ha="center", color=QUIET, transform=panel.transAxes)
    save_figure(figure, path)


def _draw_density(panels: Sequence[Axes], likelihood: Likelihood, x_bar: Tensor | None = None) -> None:
    """Marginals, each in units of its own standard deviation, so that what differs is their shape; regions in sigma."""
    grids, density, deviation = _on_a_grid(likelihood)
    last = density.ndim - 1
    axis = torch.linspace(-_REACH, _REACH, 401)[:, None]
    peers = {"Gaussian": log_gaussian(axis).exp(), "Laplace": log_laplace(axis * 2**0.5).exp() * 2**0.5}
    for panel, scale in zip(panels[:2], ("linear", "log"), strict=True):
        for (name, values), line in zip(peers.items(), (":", "--"), strict=True):
            panel.plot(axis[:, 0], values, line, color=QUIET, linewidth=1.4, label=name)
        for d, (grid, width) in enumerate(zip(grids, deviation, strict=True)):
            label = f"learned, {_AXES[d]}: {width:.2f} sigma"
            panel.plot(grid / width, marginal(grids, density, d) * width, color=_COLOURS[d], linewidth=2, label=label)
        if x_bar is not None:
            errors = x_bar[..., last].flatten().cpu().numpy() / deviation[last]
            counts, edges = np.histogram(errors, bins=_CELLS, range=(-_REACH, _REACH))
            share = counts / (errors.size * np.diff(edges))
            panel.stairs(share, edges, fill=True, color=TRUTH, alpha=0.35, label=f"test poses, {_AXES[last]}")
        panel.set(xlim=(-_REACH, _REACH), yscale=scale, xlabel="deviation, in learned deviations", ylabel="density")
    panels[0].set(ylim=(0, None))
    panels[1].set(ylim=(1e-5, None))
    set_title(panels[0], "learned density, marginals")
    set_title(panels[1], "its tails")
    panels[1].legend(fontsize=8, frameon=False, labelcolor=TEXT, loc="lower center")
    if last:
        _draw_contours(panels[2], grids, density, deviation)
    else:
        panels[2].set_axis_off()


def marginal(grids: np.ndarray, density: np.ndarray, axis: int) -> np.ndarray:
    """The density of one coordinate, from that in the cells of a grid: (C, ..., C) -> (C,)."""
    others = tuple(d for d in range(density.ndim) if d != axis)
    cell = np.prod([grids[d, 1] - grids[d, 0] for d in others])
    found: np.ndarray = density.sum(others) * cell
    return found


def _draw_contours(panel: Axes, grids: np.ndarray, density: np.ndarray, deviation: np.ndarray) -> None:
    """Highest-density regions of the first and the last coordinate."""
    plane = density.sum(1) if density.ndim == 3 else density
    ends = [0, density.ndim - 1]
    x, z = np.meshgrid(*(grids[d] / deviation[d] for d in ends), indexing="ij")
    laplace, gaussian = np.exp(-(2**0.5) * (abs(x) + abs(z))), np.exp(-(x**2 + z**2) / 2)
    for values, line, colour in ((gaussian, ":", QUIET), (laplace, "--", QUIET), (plane, "-", LEFT)):
        ordered = np.sort(values.ravel())[::-1]
        shares = np.cumsum(ordered) / ordered.sum()
        levels = sorted({float(ordered[np.searchsorted(shares, share)]) for share in (0.5, 0.9, 0.99)})
        panel.contour(*grids[ends], values.T, levels=levels, colors=colour, linestyles=line, linewidths=1.5)
    reach = _REACH * max(deviation)
    panel.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xlabel="x, in sigma")
    panel.set_ylabel(f"{_AXES[ends[1]]}, in sigma")
    set_title(panel, "its regions of 50, 90 and 99 %")


@torch.no_grad()
def _on_a_grid(likelihood: Likelihood) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Middles of the cells along each axis (D, C), the density in each cell (C, ..., C), the deviation of each axis."""
    like = next(likelihood.parameters(), torch.zeros(()))
    with fixed_draws(like.device):
        deviation = likelihood.draw_unit((2**16,), like).square().mean(0).sqrt()
    steps = (torch.arange(_CELLS, dtype=like.dtype, device=like.device) + 0.5) * (2 / _CELLS) - 1
    grids = _REACH * deviation[:, None] * steps
    density = likelihood.log_unit(torch.stack(torch.meshgrid(*grids, indexing="ij"), -1)).exp()
    return grids.double().cpu().numpy(), density.double().cpu().numpy(), deviation.double().cpu().numpy()


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
    set_title(panel, "reliability")
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
    set_title(panel, "sparsification")
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
    set_title(panel, f"sigma and error, Pearson's r {pearson(doubt, error):.2f}")
    panel.legend(loc="upper left", fontsize=9, frameon=False, labelcolor=TEXT)
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())  # on less than two decades they would run into each other
