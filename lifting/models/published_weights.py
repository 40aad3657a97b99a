"""Reads published weights of 2D regression by RLE: those of the paper's authors (COCO, MPII) and of mmpose.

=======================  ============================================  ==========================================
here                     authors, ``regression_nf.py``                 mmpose, ``RLEHead``
=======================  ============================================  ==========================================
``backbone.*``           ``preact.*``                                  ``backbone.*``
``mu_head.*``            ``fc_coord.linear.*``                         ``head.fc.*``: for each joint u, v, and
``sigma_head.*``         ``fc_sigma.linear.*``                         sigma of u and of v
``flow.*``               ``flow.*``                                    ``head.loss_module.flow_model.*``, with
                                                                       ``loc`` and ``cov`` of the noise, N(0, I)
`ReferenceRLE`           of form ``authors``                           of form ``mmpose``
``input`` of the         ``reference_2d``: from RGB / 255 a mean is    ``mmpose``: ImageNet's mean and deviation;
`Regressor`              subtracted; mu = W x / |x| + b; a joint at    mu = W x + b; a joint at pixel x has
                         pixel x has u = x / W - 1/2                   u = x / W
=======================  ============================================  ==========================================

In files of mmpose 0.x, ``keypoint_head`` stands for ``head`` and ``loss`` for ``loss_module``. The authors' file of the
3D network is read by `reference_weights`.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from lifting.command import InputError
from lifting.likelihood import ReferenceRLE
from lifting.likelihood.flow import RealNVP
from lifting.models.pretrained import expect_shapes, read_weights
from lifting.models.reference_weights import flow_from_reference, flow_like, flow_to_reference, resnet_like, rows
from lifting.models.regressor import Regressor

State = dict[str, Tensor]


class Published(NamedTuple):
    """What a file of published weights holds.

    Attributes:
        network: a `Regressor` of ``dims`` 2 with one sigma per coordinate.
        likelihood: what it was trained by.
        found: a line for the log: whose weights, of what, and how many.
    """

    network: Regressor
    likelihood: ReferenceRLE
    found: str


class _Layout(NamedTuple):
    """Where one code keeps its weights.

    Attributes:
        owner: whose code.
        backbone, head, flow: prefixes.
        input: of the `Regressor`.
        form: of `ReferenceRLE`.
        outputs: rows of the first layer of the head for each joint.
    """

    owner: str
    backbone: str
    head: str
    flow: str
    input: str
    form: str
    outputs: int

    @property
    def first(self) -> str:
        """The layer of mu, by which a file is recognised."""
        return f"{self.head}fc_coord.linear" if self.owner == _AUTHORS else f"{self.head}fc"


_AUTHORS = "the authors of RLE"
_LAYOUTS = [
    _Layout(_AUTHORS, "preact.", "", "flow.", "reference_2d", "authors", 2),
    *(
        _Layout(owner, "backbone.", f"{head}.", f"{head}.{loss}.flow_model.", "mmpose", "mmpose", 4)
        for owner, head, loss in (
            ("mmpose", "head", "loss_module"),
            ("mmpose", "head", "loss"),
            ("mmpose 0.x", "keypoint_head", "loss"),
        )
    ),
]


def is_published_2d(state: State) -> bool:
    """Whether these are weights that `from_published` reads, to judge by the names of the head and of the flow."""
    return _layout_of(state) is not None


def load_published(path: Path) -> Published:
    """The network and the likelihood in a file of published 2D weights, for a ResNet of any depth.

    Raises:
        InputError: the file does not exist, or holds other weights; the message names the first weight that is missing,
            unknown or of another shape.
    """
    return from_published(read_weights(path), f"weights: {path}")


def from_published(state: State, where: str = "published weights") -> Published:
    """As `load_published`, from a state dict; messages start with ``where``."""
    layout = _layout_of(state)
    if layout is None:
        heads = " or ".join(dict.fromkeys(f"{layout.first}.weight" for layout in _LAYOUTS))
        some = ", ".join(list(state)[:4])
        raise InputError(f"{where}: expected 2D weights with a flow, and with {heads}, got {some}")
    state = {name: weight for name, weight in state.items() if not name.startswith(f"{layout.backbone}fc.")}
    with torch.device("meta"):
        expect_shapes(_expected(layout, *_modules(layout, state, where)), state, where)
    network, flow = _modules(layout, state, where)
    parts = {part: _part(state, prefix) for part, prefix in (("backbone", layout.backbone), ("flow", layout.flow))}
    counters = {name: zero for name, zero in network.backbone.state_dict().items() if name.endswith("tracked")}
    own = {f"backbone.{name}": weight for name, weight in (counters | parts["backbone"]).items()}
    network.load_state_dict(own | (_authors_head if layout.owner == _AUTHORS else _mmpose_head)(state, layout))
    flow.load_state_dict(flow_from_reference(_checked(parts["flow"], f"{where}: {layout.flow}")))
    found = (
        f"2D weights of {layout.owner}: {network.backbone.name}, {network.joints} joints; "
        f"matched all {len(state)} weights, {len(parts['backbone'])} of the backbone, {len(parts['flow'])} of the flow"
    )
    return Published(network, ReferenceRLE(2, flow, layout.form), found)


def _layout_of(state: State) -> _Layout | None:
    for layout in _LAYOUTS:
        if f"{layout.first}.weight" in state and any(name.startswith(layout.flow) for name in state):
            return layout
    return None


def _modules(layout: _Layout, state: State, where: str) -> tuple[Regressor, RealNVP]:
    """A new network and flow of the sizes that these weights have."""
    backbone, width = resnet_like(state, layout.backbone, where)
    outputs = rows(state, f"{layout.first}.weight", where)
    if outputs % layout.outputs:
        raise InputError(
            f"{where}: {layout.first}.weight: expected {layout.outputs} rows for each joint, got {outputs} in all"
        )
    joints = outputs // layout.outputs
    network = Regressor(backbone, width, joints, dims=2, sigma="coordinate", input=layout.input)
    return network, flow_like(state, layout.flow, 2, where)


def _part(state: State, prefix: str) -> State:
    """The weights under a prefix, without it."""
    return {name.removeprefix(prefix): weight for name, weight in state.items() if name.startswith(prefix)}


def _expected(layout: _Layout, network: Regressor, flow: RealNVP) -> State:
    """Weights of the names and shapes that these modules have in a layout."""
    by_authors, outputs = layout.owner == _AUTHORS, layout.outputs * network.joints
    expected = {layout.backbone + name: weight for name, weight in network.backbone.state_dict().items()}
    for head in (layout.first, "fc_sigma.linear") if by_authors else (layout.first,):
        expected[f"{head}.weight"] = torch.empty(outputs, network.backbone.channels, device="meta")
        expected[f"{head}.bias"] = torch.empty(outputs, device="meta")
    noise = {} if by_authors else {"loc": torch.zeros(2), "cov": torch.eye(2)}
    return expected | {layout.flow + name: weight for name, weight in (flow_to_reference(flow) | noise).items()}


def _authors_head(state: State, layout: _Layout) -> State:
    names = {"fc_coord.linear": "mu_head", "fc_sigma.linear": "sigma_head"}
    return {
        f"{ours}.{kind}": state[f"{theirs}.{kind}"] for theirs, ours in names.items() for kind in ("weight", "bias")
    }


def _mmpose_head(state: State, layout: _Layout) -> State:
    """One layer taken apart; its u and v count from a corner of the crop, ours from its middle."""
    made: State = {}
    for kind in ("weight", "bias"):
        mu, sigma = rearrange(state[f"{layout.first}.{kind}"], "(j part d) ... -> part (j d) ...", part=2, d=2)
        made |= {f"mu_head.{kind}": mu - 0.5 if kind == "bias" else mu, f"sigma_head.{kind}": sigma}
    return made


def _checked(flow: State, where: str) -> State:
    """The flow after checking that its masks are masks and its noise is N(0, I)."""
    if not ((flow["mask"] == 0) | (flow["mask"] == 1)).all():
        raise InputError(f"{where}mask: expected zeros and ones, got {flow['mask'].tolist()}")
    for name, expected in (("loc", [0.0, 0.0]), ("cov", [[1.0, 0.0], [0.0, 1.0]])):
        if name in flow and flow[name].tolist() != expected:
            raise InputError(f"{where}{name}: expected {expected}, got {flow[name].tolist()}")
    return {name: weight for name, weight in flow.items() if name not in ("loc", "cov")}
