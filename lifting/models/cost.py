"""The cost of a network: its parameters, and its multiply-adds as computed and as papers count them."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lifting.geometry.crops import Size, extent


@torch.no_grad()
def cost_of(module: nn.Module, call: Callable[[Tensor], Any], x: Tensor) -> dict[str, int]:
    """Parameters, and the multiply-adds of convolutions and linear layers in ``call(x)``, in eval mode."""
    from torch.utils.flop_counter import FlopCounterMode  # takes a tenth of a second

    module.eval()  # a single pose has no batch statistics
    with FlopCounterMode(display=False) as counter:
        call(x)
    parameters = sum(p.numel() for p in module.parameters())
    return {"parameters": parameters, "multiply_adds": counter.get_total_flops() // 2}


def image_model_cost(network: nn.Module, size: Size) -> dict[str, int]:
    """The cost of one crop of this size, without its flip and without a flow.

    ``multiply_adds`` are those of `cost_of`. ``multiply_adds_as_published`` reproduce the 5.4 G and 14.1 G of the RLE
    paper (Tab. 8, 9; 256 pixels, ResNet-50), which count batch norm as two per element, and a transposed convolution as
    if its whole kernel applied at every output pixel, although with a stride of two only one in four of its weights
    does. Integral Pose is therefore counted at 14.1 G but computes 8.4 G.
    """
    network = copy.deepcopy(network)  # so that the caller's network gets no hooks
    published = [0]

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        published[0] += _published(module) * output.numel()

    for module in network.modules():
        if _published(module):
            module.register_forward_hook(count)
    width, height = extent(size)
    image = torch.zeros(1, 3, height, width, dtype=torch.uint8, device=next(network.parameters()).device)
    return {**cost_of(network, network, image), "multiply_adds_as_published": published[0]}


def _published(module: nn.Module) -> int:
    """Multiply-adds per output element as papers count them; 0 for layers that they do not count."""
    if isinstance(module, nn.BatchNorm2d):
        return 2
    if isinstance(module, nn.ConvTranspose2d):
        return module.weight[:, 0].numel()
    return module.weight[0].numel() if isinstance(module, nn.Conv2d | nn.Linear) else 0
