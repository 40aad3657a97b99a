"""Residual log-likelihood estimation and the losses it is compared with, under one interface.

A likelihood is called with a `Prediction` (mu, log_sigma of shape (B, J, D)) and a target (B, J, D) and returns the
negative log-likelihood of each joint (B, J), to be averaged by the caller. ``weight``, of a shape that broadcasts to
(B, J), in [0, 1], scales the joints; a weight of zero takes a joint out before anything is computed, so that a missing
label, whatever it holds, gives neither a value nor a gradient. ``log_prob`` and ``sample`` are those of the density
that the prediction stands for, normalised.

x_bar = (x - mu) / sigma is the standardised deviation, Q a fixed unit density, G a normalizing flow. Equations are
numbered as in Li et al., "Human Pose Regression with Residual Log-likelihood Estimation", ICCV 2021.
"""

from lifting.config import LossConfig
from lifting.likelihood.flow import build_flow
from lifting.likelihood.learned import DLE, RLE, BasicFlow, ReferenceRLE
from lifting.likelihood.mixed import Mixed
from lifting.likelihood.scale import ConstantVariance, Likelihood
from lifting.likelihood.unit_densities import BASES

__all__ = ["DLE", "RLE", "BasicFlow", "ConstantVariance", "Likelihood", "Mixed", "ReferenceRLE", "build_likelihood"]


def build_likelihood(config: LossConfig, dim: int = 3) -> Likelihood:
    """The likelihood that a configuration names."""
    name, beta = config.name, config.beta
    if name in ("l1", "l2", "mpjpe"):
        return ConstantVariance(name, dim)
    if name in BASES:
        return Likelihood(dim, name, beta)
    flow = build_flow(config.flow, dim)
    if name == "rle":
        return RLE(dim, config.base, beta, flow, config.normalise, config.flow_steers_mu)
    if name == "rle_reference":
        return ReferenceRLE(dim, flow)
    if name == "dle":
        return DLE(dim, beta, flow)
    return BasicFlow(dim, beta, flow)
