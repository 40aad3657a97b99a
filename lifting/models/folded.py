"""SRNet in the form for use: the same function of keypoints in evaluation mode, in a few large products.

In training, batch norm needs its own step and each group its own product. Afterwards batch norm is a fixed scale and
shift, which the weights can take up, and the groups fit into one batched product with a few zeros for padding. For one
pose, where the time goes into the number of steps, this takes a third of the time.

Shape letters: G groups, B poses, F features of the widest group.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lifting.geometry.skeleton import H36M17
from lifting.models.person import SEEN, seen_by
from lifting.models.srnet import GroupLayer, SRNet
from lifting.prediction import Prediction


class FoldedSRNet(nn.Module):
    """Predicts what an `SRNet` predicts in evaluation mode, up to rounding; it cannot be trained.

    Args:
        network: the trained network, whose weights are copied.
    """

    places: Tensor
    mu_at: Tensor
    sigma_at: Tensor

    def __init__(self, network: SRNet) -> None:
        super().__init__()
        self.known, self.input, self.channels = network.known, network.input, network.channels
        widest = max(network.entry.product.inputs)
        of_group = torch.split(network.get_buffer("seen"), network.entry.product.inputs)
        nothing = SEEN[self.input] * len(H36M17)  # the zero that `forward` puts behind the last joint
        places = torch.full((len(of_group), widest), nothing)
        for row, inputs in zip(places, of_group, strict=True):
            row[: len(inputs)] = inputs
        self.register_buffer("places", places, persistent=False)
        self.entry = _folded(network.entry.product, network.entry.norm)
        layers = [layer for pair in network.pairs for layer in pair.children()]
        self.layers = nn.ModuleList(_folded(layer.product, layer.norm) for layer in layers)  # type: ignore[arg-type]
        self.head, mu_at, sigma_at = _folded_head(network)
        self.register_buffer("mu_at", mu_at, persistent=False)
        self.register_buffer("sigma_at", sigma_at, persistent=False)

    def forward(self, keypoints: Tensor) -> Prediction:
        """As `SRNet.forward`."""
        flat = F.pad(seen_by(self.input, keypoints).flatten(1), (0, 1))
        hidden = F.leaky_relu(self.entry(flat[:, self.places].transpose(0, 1)))
        for first, second in zip(self.layers[::2], self.layers[1::2], strict=True):
            hidden = hidden + F.leaky_relu(second(F.leaky_relu(first(hidden))))
        out = self.head(hidden).transpose(0, 1).flatten(1)
        mu = F.pad(out[:, self.mu_at], (0, 0, 1, 0))
        if not self.sigma_at.numel():
            return Prediction(mu)
        log_sigma = F.pad(F.logsigmoid(out[:, self.sigma_at]), (0, 0, 1, 0), value=-torch.inf)
        return Prediction(mu, log_sigma.expand_as(mu))


class _FoldedLayer(nn.Module):
    """A `GroupLayer`, and the batch norm after it, as one batched product with G more columns for the numbers.

    Args:
        weight: (G, F, F' + G): of each group's inputs, first for its outputs, then for the number of every group.
        number_bias: (G, 1, 1).
        column: (G, 1, F'), what a number is multiplied by before it is added; None if it multiplies the product.
        bias: (G, 1, F').
    """

    weight: Tensor
    number_bias: Tensor
    column: Tensor | None
    bias: Tensor

    def __init__(self, weight: Tensor, number_bias: Tensor, column: Tensor | None, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("number_bias", number_bias)
        self.register_buffer("column", column)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """(G, B, F) -> (G, B, F')."""
        out = x @ self.weight
        features = self.bias.shape[-1]
        product, numbers = out[..., :features], out[..., features:].sum(0).T[..., None] + self.number_bias
        if self.column is None:
            return product * numbers.sigmoid() + self.bias
        return product + self.column * F.leaky_relu(numbers) + self.bias


@torch.no_grad()
def _folded(layer: GroupLayer, norm: nn.BatchNorm1d | None, rows: list[Tensor] | None = None) -> _FoldedLayer:
    """Folds a layer and its batch norm; ``rows`` replace the layer's weights of each group."""
    groups, sizes = len(layer.inputs), layer.inputs
    weights = list(layer.weights) if rows is None else rows
    outputs = [len(weight) for weight in weights]
    scale, shift = _affine(norm, sum(outputs))
    context = layer.context_weights()
    number_scale, number_shift = _affine(layer.norm, groups)
    widest, features = max(sizes), max(outputs)
    weight = context.new_zeros(groups, widest, features + groups)
    column, bias = context.new_zeros(groups, 1, features), context.new_zeros(groups, 1, features)
    parts = zip(
        weights,
        torch.split(scale, outputs),
        torch.split(shift, outputs),
        torch.split(context, sizes, 1),
        sizes,
        strict=True,
    )
    for g, (own, a, b, of_others, inputs) in enumerate(parts):
        weight[g, :inputs, : len(own)] = (own[:, :inputs] * a[:, None]).T
        weight[g, :inputs, features:] = (of_others * number_scale[:, None]).T
        column[g, 0, : len(own)] = a * (own.sum(1) if layer.recombine == "add" else own[:, -1])
        bias[g, 0, : len(own)] = b
    number_bias = (layer.bias * number_scale + number_shift)[:, None, None]
    return _FoldedLayer(weight, number_bias, None if layer.recombine == "multiply" else column, bias)


def _affine(norm: nn.BatchNorm1d | None, features: int) -> tuple[Tensor, Tensor]:
    """Scale and shift that batch norm stands for in evaluation mode; 1 and 0 without one."""
    if norm is None:
        return torch.ones(features), torch.zeros(features)
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


@torch.no_grad()
def _folded_head(network: SRNet) -> tuple[_FoldedLayer, Tensor, Tensor]:
    """The head, whose rows are made relative to each group's root, and where mu and sigma are in its outputs.

    Returns:
        the layer; (J - 1, 3) and (J - 1, 1 or 3) places in its outputs, flattened to G F'; the latter is empty without
        a sigma.
    """
    head = network.head
    rows = []
    for weight, (mu, _), inputs in zip(head.product.weights, head.sizes, head.inputs, strict=True):
        places = weight[:mu].unflatten(0, (-1, 3))
        rows.append(torch.cat([(places[1:] - places[:1]).flatten(0, 1) * inputs**-0.5, weight[mu:]]))
    layer = _folded(head.product, None, rows)
    features = layer.bias.shape[-1]
    mu_at, sigma_at, done = [], [], 0
    for g, (mu, sigmas) in enumerate(head.sizes):
        start = torch.arange(mu - 3) + g * features
        mu_at.append(start.view(-1, 3))
        sigma_at.append((torch.arange(sigmas) + g * features + mu - 3).view(mu // 3 - 1, -1))
        if head.sigma_bias is not None:
            biases = head.sigma_bias[done : done + mu // 3 - 1].flatten()
            layer.bias[g, 0, mu - 3 : mu - 3 + sigmas] = biases
        done += mu // 3 - 1
    return layer, torch.cat(mu_at), torch.cat(sigma_at)
