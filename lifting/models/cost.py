"""The cost of a network: its parameters, and its multiply-adds as computed and as papers count them."""

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lifting.geometry.crops import Size, extent


@torch.no_grad()
def cost_of(module: nn.Module, call: Callable[[Tensor], Any], x: Tensor) -> dict[str, int]:
    """Parameters, and the multiply-adds of convolutions and linear layers in ``call(x)``, in eval mode."""
    module.eval()  # a single pose has no batch statistics
    with _Operations() as operations:
        call(x)
    parameters = sum(p.numel() for p in module.parameters())
    return {"parameters": parameters, "multiply_adds": operations.floating // 2}


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts floating-point operations as torch's `FlopCounterMode` does.

    That one imports ``torch._dynamo``, which can take as long as the whole evaluation of a lifter.
    """

    def __init__(self) -> None:
        from torch.utils.flop_counter import flop_registry  # takes a tenth of a second

        super().__init__()  # type: ignore[no-untyped-call]
        self.floating, self._registry = 0, flop_registry

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if count := self._registry.get(func._overloadpacket):
            self.floating += count(*args, **(kwargs or {}), out_val=result)
        return result


# Without the wrapper that its base class has put around it, which does the import; nothing is compiled within.
_Operations.__torch_dispatch__ = inspect.unwrap(_Operations.__torch_dispatch__)  # type: ignore[method-assign]


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
