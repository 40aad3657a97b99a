"""log G of every joint from the flow at some of them, with the right mean of values and gradients.

With M joints of which k are chosen at random, and a smooth function c of x_bar that is fitted to the chosen ones::

    log G(x_i)  ~  c(x_i) + (M / k) [i is chosen] (log G(x_i) - c(x_i))

On average over the choice the right side is the left one, whatever c is (a control variate); the closer c is to log G,
the less it scatters. G mostly stretches the axes, so functions of |x_d| and |x| explain 98 % of the variance of log G.
c is fitted to the very joints that are chosen, which biases the estimate by a share in the order of 9 / k.
"""

import torch
from torch import Tensor

_FEWEST = 512  # chosen joints for which c is fitted; with fewer, c = 0


def choose(count: int, share: float, device: torch.device) -> Tensor:
    """The indices of the chosen joints among so many, (k,)."""
    return torch.randperm(count, device=device)[: max(1, round(share * count))]


def log_g_of_all(log_g: Tensor, chosen: Tensor, x_bar: Tensor) -> Tensor:
    """The estimate of log G for every joint, (M,).

    Args:
        log_g: (k,) of the chosen joints.
        chosen: (k,) their indices.
        x_bar: (M, D) of all joints.
    """
    factor = len(x_bar) / len(chosen)
    if len(chosen) < _FEWEST:
        return log_g.new_zeros(len(x_bar)).index_copy(0, chosen, factor * log_g)
    with torch.autocast(x_bar.device.type, enabled=False):
        basis = _basis(x_bar.float())
        some, wanted = basis.index_select(0, chosen), log_g.float()
        with torch.no_grad():
            gram = some.mT @ some
            gram.diagonal().mul_(1 + 1e-4)  # some functions nearly depend on others
            coefficients = torch.linalg.solve_ex(gram, some.mT @ wanted).result
        estimate: Tensor = basis @ coefficients
        return estimate.index_add(0, chosen, factor * (wanted - some @ coefficients))


def _basis(x_bar: Tensor) -> Tensor:
    """The functions of which c is a sum: (M, D) -> (M, 3 + 2 D)."""
    square = x_bar.square().sum(-1, keepdim=True)
    parts = [torch.ones_like(square), x_bar.abs(), torch.log1p(x_bar.square()), (square + 1e-12).sqrt(), square.log1p()]
    return torch.cat(parts, -1)
