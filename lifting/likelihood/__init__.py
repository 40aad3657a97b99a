"""Residual log-likelihood estimation and the losses it is compared with, under one interface.

A likelihood is called with a `Prediction` (mu, log_sigma of shape (B, J, D)) and a target (B, J, D) and returns the
negative log-likelihood of each joint, (B, J). ``weight`` in [0, 1], of shape (B, J), (B, 1) or (1, J), multiplies it; a
weight of zero removes a joint before anything is computed, so that a missing label contributes neither a value nor a
gradient, whatever it holds. The mean over the labelled joints is ``nll.sum() / weight.sum()``. ``log_prob`` and
``sample`` are those of the normalised predicted density.

x_bar = (x - mu) / sigma is the standardised deviation, Q a fixed unit density, G a normalizing flow. Equations are
numbered as in Li et al., "Human Pose Regression with Residual Log-likelihood Estimation", ICCV 2021.
"""

from lifting.likelihood.build import build_flow, build_likelihood
from lifting.likelihood.learned import DLE, RLE, BasicFlow, ReferenceRLE
from lifting.likelihood.mixed import Mixed
from lifting.likelihood.scale import ConstantVariance, Likelihood

__all__ = [
    "DLE",
    "RLE",
    "BasicFlow",
    "ConstantVariance",
    "Likelihood",
    "Mixed",
    "ReferenceRLE",
    "build_flow",
    "build_likelihood",
]
