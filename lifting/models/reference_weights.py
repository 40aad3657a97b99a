"""Converts weights from and to the layout of the RLE authors' public code (res-loglikelihood-regression, 3D model).

==========================  =======================================================================
``preact.*``                the backbone, a ResNet by torchvision's names
``fc_coord.linear.*``       the layer of mu
``fc_sigma.*``              the layer of sigma
``flow3d.*``, ``flow2d.*``  the flow of joints with depth and of those without: ``mask`` (K, D), and
                            ``s.{k}.{2i}.*``, ``t.{k}.{2i}.*``, layer i of the scale and of the shift net of coupling k
==========================  =======================================================================
"""

import io
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from lifting.command import InputError, whole_file
from lifting.likelihood import Mixed, ReferenceRLE
from lifting.likelihood.flow import RealNVP
from lifting.models.pretrained import expect_shapes, read_weights
from lifting.models.regressor import Regressor
from lifting.models.resnet import RESNETS

_NETWORK = {"preact.": "backbone.", "fc_coord.linear.": "mu_head.", "fc_sigma.": "sigma_head."}
_FLOWS = {"flow3d.": "with_depth.flow.", "flow2d.": "without_depth.flow."}


def load_reference(path: Path) -> tuple[Regressor, Mixed]:
    """The network and likelihood in a file of the reference's weights, for a ResNet of any depth.

    Raises:
        InputError: the file does not exist, or holds other weights; the message names the first weight that is missing,
            unknown or of another shape.
    """
    state = read_weights(path)
    network_state, likelihood_state = from_reference(state, where=f"weights: {path}")
    network, likelihood = _modules(state, f"weights: {path}")
    network.load_state_dict(network_state)
    likelihood.load_state_dict(likelihood_state)
    return network, likelihood


def save_reference(path: Path, network: Regressor, likelihood: Mixed) -> None:
    """Writes a file that `load_reference` and the authors' code can read. Raises as `to_reference` does."""
    image = io.BytesIO()
    torch.save(to_reference(network, likelihood), image)
    with whole_file(path) as temporary:
        temporary.write_bytes(image.getbuffer())


def from_reference(
    state: dict[str, Tensor], where: str = "the reference's weights"
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """State dicts of a `Regressor` and of ``Mixed(ReferenceRLE(3), ReferenceRLE(2))``.

    The network must have ``input="reference"``. A classifier under ``preact.fc`` is left out.

    Raises:
        InputError: a weight is missing, unknown or of another shape; the message gives ``where`` and its name.
    """
    state = {name: weight for name, weight in state.items() if not name.startswith("preact.fc.")}
    with torch.device("meta"):
        expected = to_reference(*_modules(state, where))
    expect_shapes(expected, state, where)
    counters = {name: torch.zeros((), dtype=torch.int64) for name in expected if name not in state}
    network = {
        ours + name.removeprefix(theirs): weight
        for theirs, ours in _NETWORK.items()
        for name, weight in (state | counters).items()
        if name.startswith(theirs)
    }
    likelihood: dict[str, Tensor] = {}
    for theirs, ours in _FLOWS.items():
        flow = {name.removeprefix(theirs): weight for name, weight in state.items() if name.startswith(theirs)}
        if not ((flow["mask"] == 0) | (flow["mask"] == 1)).all():
            raise InputError(f"{where}: {theirs}mask: expected zeros and ones, got {flow['mask'].tolist()}")
        likelihood |= {ours + name: weight for name, weight in flow_from_reference(flow).items()}
    return network, likelihood


def to_reference(network: Regressor, likelihood: Mixed) -> dict[str, Tensor]:
    """The weights of both in the reference's layout, bit for bit, without those of a heatmap head.

    Raises:
        InputError: the reference's code could not use the weights, because the network normalises pixels differently or
            does not have one sigma per coordinate, or because the likelihood is not the reference's.
    """
    if network.input != "reference":
        raise InputError(f"the reference's layout: expected a network with model.input reference, got {network.input}")
    if network.sigma_head is None or network.sigma_head.bias.shape != network.mu_head.bias.shape:
        got = "none" if network.sigma_head is None else "one per joint"
        raise InputError(f"the reference's layout: expected a network with one sigma per coordinate, got {got}")
    parts = (likelihood.with_depth, likelihood.without_depth)
    flows = [part.flow for part in parts if isinstance(part, ReferenceRLE) and isinstance(part.flow, RealNVP)]
    if len(flows) < len(parts):
        raise InputError(
            "the reference's layout: expected loss.name rle_reference with a realnvp flow, got another loss or flow"
        )
    own = network.state_dict()
    state = {
        theirs + name.removeprefix(ours): weight
        for theirs, ours in _NETWORK.items()
        for name, weight in own.items()
        if name.startswith(ours)
    }
    for theirs, flow in zip(_FLOWS, flows, strict=True):
        state |= {theirs + name: weight for name, weight in flow_to_reference(flow).items()}
    return state


def flow_from_reference(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Stacks the two nets of each coupling and transposes their weights, as `RealNVP` holds them."""
    made = {"masks": state["mask"].bool()}
    for name, scale in state.items():
        if name.startswith("s."):
            _, k, place, kind = name.split(".")
            both, i = [scale, state["t" + name[1:]]], int(place) // 2
            if kind == "weight":
                made[f"nets.{k}.weights.{i}"] = rearrange(both, "net outputs inputs -> net inputs outputs")
            else:
                made[f"nets.{k}.biases.{i}"] = rearrange(both, "net outputs -> net 1 outputs")
    return made


def flow_to_reference(flow: RealNVP) -> dict[str, Tensor]:
    """The inverse of `flow_from_reference`."""
    made = {"mask": flow.masks.float()}
    for name, both in flow.state_dict().items():
        if name.startswith("nets."):
            _, k, kind, i = name.split(".")
            for net, weight in zip("st", both, strict=True):
                place = f"{net}.{k}.{2 * int(i)}."
                if kind == "weights":
                    made[place + "weight"] = weight.T.clone(memory_format=torch.contiguous_format)
                else:
                    made[place + "bias"] = weight[0].clone()
    return made


def _modules(state: dict[str, Tensor], where: str) -> tuple[Regressor, Mixed]:
    """A new network and likelihood of the sizes that these weights have."""
    backbone, width = resnet_like(state, "preact.", where)
    joints = rows(state, "fc_coord.linear.weight", where) // 3
    network = Regressor(backbone, width, joints, sigma="coordinate", input="reference")
    deep, flat = (flow_like(state, f"flow{dim}d.", dim, where) for dim in (3, 2))
    return network, Mixed(ReferenceRLE(3, deep), ReferenceRLE(2, flat))


def resnet_like(state: dict[str, Tensor], prefix: str, where: str) -> tuple[str, int]:
    """The name and the width of the ResNet whose weights have this prefix.

    Raises:
        InputError: there is none.
    """
    starts = [f"{prefix}layer{i}." for i in range(1, 5)]
    blocks = tuple(
        len({name.removeprefix(start).split(".")[0] for name in state if name.startswith(start)}) for start in starts
    )
    kinds = {kind: name for name, kind in RESNETS.items()}
    kind = f"{prefix}layer1.0.conv3.weight" in state, blocks
    if kind not in kinds:
        at = prefix.removesuffix(".")
        raise InputError(f"{where}: {at}: expected one of {', '.join(RESNETS)}, got stages of {blocks} blocks")
    return kinds[kind], rows(state, f"{prefix}conv1.weight", where)


def flow_like(state: dict[str, Tensor], at: str, dim: int, where: str) -> RealNVP:
    """A new flow of the sizes of the one whose weights have the prefix ``at``.

    Raises:
        InputError: there is none.
    """
    couplings, width = rows(state, f"{at}mask", where), rows(state, f"{at}s.0.0.weight", where)
    layers = sum(name.startswith(f"{at}s.0.") and name.endswith(".weight") for name in state)
    if layers < 2:
        raise InputError(f"{where}: {at}s.0: expected two layers or more, got one")
    return RealNVP(dim, couplings, layers, width)


def rows(state: dict[str, Tensor], name: str, where: str) -> int:
    """The first side of a weight.

    Raises:
        InputError: there is no such weight.
    """
    shape = tuple(state[name].shape) if name in state else ()
    if not shape or 0 in shape:
        raise InputError(f"{where}: {name}: expected a weight, got nothing")
    return shape[0]
