"""The split-and-recombine lifter of Zeng et al. 2020 (SRNet), for one frame.

Shape letters: B poses, G groups, C features of all groups together. Features come first and poses last, (C, B), so that
a group is one block of memory and its product needs no copy.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lifting.geometry.skeleton import H36M17
from lifting.models.fc import Dropout, in_full_precision
from lifting.models.person import CHANNELS, SEEN, seen_by
from lifting.prediction import Prediction

# The groups of Human3.6M's 17 joints, by their number. Each group starts with the root.
GROUPS = {
    5: ((0, 1, 2, 3), (0, 4, 5, 6), (0, 7, 8, 9, 10), (0, 11, 12, 13), (0, 14, 15, 16)),
    3: ((0, 1, 2, 3, 4, 5, 6), (0, 7, 8, 9, 10), (0, 11, 12, 13, 14, 15, 16)),
    2: ((0, 1, 2, 3, 4, 5, 6, 7), (0, 8, 9, 10, 11, 12, 13, 14, 15, 16)),
}
RECOMBINE = ("multiply", "add", "concat")


class SRNet(nn.Module):
    """2D keypoints to root-relative 3D joints, in groups that learn of each other by a single number per layer.

    The joints are Human3.6M's 17, for which the groups are defined.

    The network has a first `GroupLayer` to ``width`` features, pairs of such layers with a skip connection, and a last
    one for the outputs. Batch norm, LeakyReLU and dropout follow each layer but the last. The defaults without sigma
    have 898,833 parameters. The authors' code has 899,029: its last group has 13 outputs, of which 12 are used, and the
    spare one has 196 weights.

    Every group predicts its joints relative to its own copy of the root. The root is therefore at zero, and the output
    passes nothing from one group to another. The outputs start small, and those of mu are divided by the square root of
    the number of their inputs, for the reasons that `fc.FCBaseline` gives.

    Args:
        width: features of a hidden layer, which the groups share in proportion to their joints.
        groups: 5, 3 or 2 (`GROUPS`).
        layers: number of layers, the first and the last included: even, at least 4.
        recombine: ``"multiply"``, ``"add"`` or ``"concat"``, see `GroupLayer`.
        dropout: probability that a feature is zeroed in training.
        with_sigma: whether each group has outputs for sigma.
        sigma: ``"coordinate"`` for one sigma per coordinate, ``"joint"`` for one that a joint's coordinates share.
        input: what it sees of a joint, see `fc.FCBaseline`.

    Raises:
        ValueError: ``groups``, ``layers`` or ``recombine`` is none of those above.
    """

    def __init__(
        self,
        width: int = 1024,
        groups: int = 5,
        layers: int = 6,
        recombine: str = "multiply",
        dropout: float = 0.0,
        with_sigma: bool = True,
        sigma: str = "joint",
        input: str = "screen",
    ) -> None:
        super().__init__()
        if groups not in GROUPS or layers < 4 or layers % 2:
            expected = "groups 5, 3 or 2 and an even number of layers from 4"
            raise ValueError(f"groups, layers: expected {expected}, got {groups} and {layers}")
        self.groups, self.known = GROUPS[groups], (H36M17.root,)
        self.input, self.channels = input, CHANNELS[input]
        c = SEEN[input]
        seen = torch.tensor([c * joint + channel for group in self.groups for joint in group for channel in range(c)])
        self.register_buffer("seen", seen, persistent=False)
        inputs = [c * len(group) for group in self.groups]
        hidden = _shared_out(width, inputs)
        self.entry = _Layer(EntryGroupLayer(inputs, hidden, recombine), dropout)
        self.pairs = nn.ModuleList(
            nn.Sequential(*(_Layer(GroupLayer(hidden, hidden, recombine), dropout) for _ in range(2)))
            for _ in range(layers // 2 - 1)
        )
        scales = (3 if sigma == "coordinate" else 1) if with_sigma else 0
        self.head = _Head(hidden, self.groups, recombine, scales)

    def forward(self, keypoints: Tensor) -> Prediction:
        """(B, J, C) -> metres, as in `fc.FCBaseline`."""
        seen: Tensor = self.get_buffer("seen")
        hidden = self.entry(rearrange(seen_by(self.input, keypoints), "b j d -> (j d) b")[seen])
        for pair in self.pairs:
            hidden = hidden + pair(hidden)
        mu, raw = self.head(hidden)
        if raw is None:
            return Prediction(mu)
        log_sigma = F.pad(F.logsigmoid(raw), (0, 0, 1, 0), value=-torch.inf)
        return Prediction(mu, log_sigma.expand_as(mu))


class GroupLayer(nn.Module):
    """A linear product for each group, which also takes one number from all inputs outside it.

    Let x_g be the inputs of group g, c_g the layer's inputs outside it, and a_g = w_g . c_g + b_g, where w_g and b_g
    start at zero. Then (Zeng et al. 2020, Sec. 3.2)

    - multiply: z_g = W_g (sigmoid(BN(a_g)) x_g)
    - add: z_g = W_g (x_g + LeakyReLU(a_g))
    - concat: z_g = W_g [x_g, LeakyReLU(a_g)]

    The gate of multiply, which is the authors' choice, shuts on motion unlike the training (docs/results/srnet.md).

    All inputs of a group share the number m, so it can be applied after the product: W (m x) = m (W x), and
    W (x + m) = W x + m (W 1). All three ways therefore compute one product and change its result.

    Args:
        inputs, outputs: features of each group.
        recombine: one of the three ways.

    Raises:
        ValueError: ``recombine`` is another.
    """

    def __init__(self, inputs: list[int], outputs: list[int], recombine: str) -> None:
        super().__init__()
        if recombine not in RECOMBINE:
            raise ValueError(f"recombine: expected one of {', '.join(RECOMBINE)}, got {recombine!r}")
        self.inputs, self.outputs, self.recombine = inputs, outputs, recombine
        more = int(recombine == "concat")
        self.weights = nn.ParameterList(torch.empty(o, i + more) for i, o in zip(inputs, outputs, strict=True))
        for weight in self.weights:
            nn.init.kaiming_uniform_(weight, a=5**0.5)  # as nn.Linear does
        group = [number for number, count in enumerate(inputs) for _ in range(count)]
        outside = [[number != g for g in group] for number in range(len(inputs))]
        self.register_buffer("outside", torch.tensor(outside).flatten().nonzero()[:, 0], persistent=False)
        self.context = nn.Parameter(torch.zeros((len(inputs) - 1) * sum(inputs)))
        self.bias = nn.Parameter(torch.zeros(len(inputs)))
        self.norm = nn.BatchNorm1d(len(inputs)) if recombine == "multiply" else None

    def forward(self, x: Tensor) -> Tensor:
        """(C, B) -> (C', B)."""
        numbers = self.numbers(x)
        made = []
        for weight, part, number in zip(self.weights, torch.split(x, self.inputs), numbers, strict=True):
            z = weight[:, : len(part)] @ part
            number = number.to(z.dtype)
            if self.recombine == "multiply":
                made.append(z * number)
            else:
                column = weight.sum(1) if self.recombine == "add" else weight[:, -1]
                made.append(z + column.to(z.dtype)[:, None] * number)
        return torch.cat(made)

    def context_weights(self) -> Tensor:
        """(G, C): w_g for each group, zero at its own inputs."""
        w = self.context.new_zeros(len(self.inputs) * sum(self.inputs))
        return w.scatter(0, self.get_buffer("outside"), self.context).view(len(self.inputs), -1)

    def numbers(self, x: Tensor) -> Tensor:
        """(C, B) -> (G, B): the number that each group gets from the others."""
        a = (self.context_weights() @ x).to(self.bias.dtype) + self.bias[:, None]
        return F.leaky_relu(a) if self.norm is None else self.norm(a[None])[0].sigmoid()


class EntryGroupLayer(GroupLayer):
    """The group layer for keypoints, computed `in_full_precision`."""

    def forward(self, x: Tensor) -> Tensor:
        return in_full_precision(super().forward, x)


class _Layer(nn.Module):
    def __init__(self, product: GroupLayer, dropout: float) -> None:
        super().__init__()
        self.product = product
        self.norm = nn.BatchNorm1d(sum(product.outputs))
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(C, B) -> (C', B)."""
        out: Tensor = self.dropout(F.leaky_relu(self.norm(self.product(x)[None])[0], inplace=True))
        return out


class _Head(nn.Module):
    """Features to mu and to the logits of sigma, in full precision even under autocast.

    Args:
        inputs: features of each group.
        groups: joints of each group, the root first.
        recombine: see `GroupLayer`.
        scales: outputs for sigma per joint: 0, 1 or 3.
    """

    def __init__(self, inputs: list[int], groups: tuple[tuple[int, ...], ...], recombine: str, scales: int) -> None:
        super().__init__()
        self.inputs, self.scales = inputs, scales
        self.sizes = [(3 * len(group), scales * (len(group) - 1)) for group in groups]
        self.product = GroupLayer(inputs, [mu + sigma for mu, sigma in self.sizes], recombine)
        for weight in self.product.weights:
            nn.init.xavier_uniform_(weight, gain=0.01)
        free = sum(len(group) - 1 for group in groups)
        self.sigma_bias = nn.Parameter(torch.full((free, scales), -2.0)) if scales else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(C, B) -> (B, J, 3), the root at zero, and (B, J - 1, scales) without the root."""
        with torch.autocast(x.device.type, enabled=False):
            out = self.product(x.to(self.product.bias.dtype))
        mu, raw = [], []
        parts = torch.split(out, [size for sizes in self.sizes for size in sizes])
        for places, sigmas, inputs in zip(parts[::2], parts[1::2], self.inputs, strict=True):
            joints = rearrange(places, "(j d) b -> j d b", d=3) * inputs**-0.5
            mu.append(joints[1:] - joints[:1])
            if self.scales:
                raw.append(rearrange(sigmas, "(j d) b -> j d b", d=self.scales))
        # One after the other, the groups' joints are in the order of the joint set.
        mu_BJD = F.pad(rearrange(torch.cat(mu), "j d b -> b j d"), (0, 0, 1, 0))
        if self.sigma_bias is None:
            return mu_BJD, None
        return mu_BJD, rearrange(torch.cat(raw), "j d b -> b j d") + self.sigma_bias


def _shared_out(width: int, inputs: list[int]) -> list[int]:
    """Features of each group in proportion to its inputs, rounded down; the last group takes the remainder."""
    shares = [width * i // sum(inputs) for i in inputs[:-1]]
    return [*shares, width - sum(shares)]
