"""Builds the likelihood that the ``loss`` section of a configuration names."""

from lifting.command import InputError
from lifting.config import FlowConfig, LossConfig
from lifting.likelihood.flow import Bijection, RealNVP, ZukoFlow
from lifting.likelihood.learned import DLE, RLE, BasicFlow, ReferenceRLE
from lifting.likelihood.scalar_flow import ScalarFlow
from lifting.likelihood.scale import ConstantVariance, Likelihood
from lifting.likelihood.unit_densities import BASES


def build_flow(config: FlowConfig, dim: int) -> Bijection:
    """The flow that a configuration names. With D = 1, ``realnvp`` is a `ScalarFlow` of as many layers.

    Raises:
        InputError: the flow needs a library that is not installed.
    """
    sizes = config.model_dump(exclude={"kind"})
    if config.kind == "realnvp":
        return RealNVP(dim, **sizes) if dim > 1 else ScalarFlow(config.couplings)
    try:
        return ZukoFlow(config.kind, dim, **sizes)
    except ModuleNotFoundError as error:
        raise InputError(f"loss.flow.kind: {error}") from None


def build_likelihood(config: LossConfig, dim: int = 3) -> Likelihood:
    """The likelihood that a configuration names.

    Raises:
        InputError: the flow of the likelihood needs a library that is not installed.
    """
    name, beta = config.name, config.beta
    if name in ("l1", "l2", "mpjpe"):
        return ConstantVariance(name, dim)
    if name in BASES:
        return Likelihood(dim, name, beta)
    flow = build_flow(config.flow, dim)
    if name == "rle":
        return RLE(dim, config.base, beta, flow, config.normalise, config.flow_steers_mu, config.flow_share)
    if name in ("rle_reference", "rle_mmpose"):
        return ReferenceRLE(dim, flow, "authors" if name == "rle_reference" else "mmpose")
    if name == "dle":
        return DLE(dim, beta, flow)
    return BasicFlow(dim, beta, flow)
