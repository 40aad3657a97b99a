"""A mixture of Gaussians that depends on the length of x alone: its density, its fit, and its map to one Gaussian.

::

    U(x) = sum_k w_k N(x; 0, s_k^2 I),      x in R^D

Shape letters: K components, N poses, J joints, D coordinates.
"""

import math

import numpy as np
import torch
from torch import Tensor

_ROUNDS = 10  # of `fit_mixture`: scales and mixture in turns
_STEPS = 30  # of expectation and maximisation for the mixture, in each round
_LENGTHS = 50_000  # deviations that the mixture is fitted to
_START = (0.1, 0.4, 0.7, 0.95)  # quantiles of the lengths at which the components start
_TABLE = 4096  # points of `length_table`
_SHORTEST, _LONGEST = 1e-3, 30.0  # lengths in it, over the smallest and the largest width


def fit_mixture(z: Tensor, share: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scales a (J, D), weights w (K,) and widths s (K,) that make U the likeliest density of z / a.

    Expectation and maximisation for w and s, and in turns with it for a: a joint's component says how large its
    deviation should be.

    Args:
        z: (N, J, D).
        share: (N,) weights of the poses, with a sum of one.
    """
    dim = z.shape[-1]
    few = torch.linspace(0, len(z) - 1, min(len(z), max(1, _LENGTHS // z.shape[1])), device=z.device).long()
    counts = share[few].repeat_interleave(z.shape[1])
    counts = counts / counts.sum()
    scale = torch.einsum("n,njd->jd", share, z.abs())
    lengths = (z[few] / scale).norm(dim=-1)
    weights = lengths.new_full((len(_START),), 1 / len(_START))
    widths = torch.quantile(lengths, lengths.new_tensor(_START)) / math.sqrt(dim)
    for _ in range(_ROUNDS):
        rows = (z[few] / scale).norm(dim=-1).flatten()
        for _ in range(_STEPS):
            odds = counts[:, None] * _odds(rows, weights, widths, dim)
            weights = odds.sum(0)
            widths = (torch.einsum("nk,n->k", odds, rows.square()) / (dim * weights)).sqrt()
        precision = (_odds((z / scale).norm(dim=-1), weights, widths, dim) / widths.square()).sum(-1)
        scale = torch.einsum("n,nj,njd->jd", share, precision, z.square()).sqrt()
    return scale, weights, widths


def log_parts(lengths: Tensor, weights: Tensor, widths: Tensor, dim: int) -> Tensor:
    """log w_k N(x; 0, s_k^2 I) of every component, up to the constant of the normal density: (...,) -> (..., K)."""
    return weights.log() - dim * widths.log() - 0.5 * (lengths[..., None] / widths).square()


def _odds(lengths: Tensor, weights: Tensor, widths: Tensor, dim: int) -> Tensor:
    """The probability of each component given the lengths (...,): (..., K)."""
    return torch.softmax(log_parts(lengths, weights, widths, dim), -1)


def length_table(weights: Tensor, widths: Tensor, dim: int) -> Tensor:
    """(2, M): lengths under U, rising, and the lengths of the same rank under N(0, I)."""
    from scipy.special import gammainc, gammaincc, gammainccinv, gammaincinv  # not needed to load most checkpoints

    w, s = (x.double().cpu().numpy() for x in (weights, widths))
    lengths = np.geomspace(_SHORTEST * s.min(), _LONGEST * s.max(), _TABLE)
    # |x|^2 / 2 of a normal x is gamma-distributed with shape D / 2.
    halves = np.square(lengths[:, None] / s) / 2
    below, above = ((w * f(dim / 2, halves)).sum(1) for f in (gammainc, gammaincc))
    inner = np.where(below < 0.5, gammaincinv(dim / 2, below), gammainccinv(dim / 2, above))  # exact in both tails
    normal = np.sqrt(2 * inner)
    return torch.from_numpy(np.stack([lengths, normal]))


def with_length(x: Tensor, here: Tensor, there: Tensor) -> Tensor:
    """x (..., D) with its length mapped from one row of the table to the other; beyond the table in proportion."""
    length = x.norm(dim=-1)
    right = torch.searchsorted(here, length.contiguous()).clamp(1, len(here) - 1)
    left = right - 1
    part = ((length - here[left]) / (here[right] - here[left])).clamp(0, 1)
    ratio = torch.lerp(there[left] / here[left], there[right] / here[right], part)
    return x * ratio[..., None]
