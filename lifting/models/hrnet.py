"""High-resolution networks (Sun et al. 2019) under the names of their authors' code, so that its weights fit.

A stem takes the image to 1/4 of its resolution. Branches at 1/4, 1/8, 1/16 and 1/32, each with twice the features of
the one before, then run side by side; one more starts with every stage. Stages are made of modules, and a module ends
in an exchange, where every branch receives the sum of all. The last module keeps the branch at 1/4 alone.
"""

from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lifting.models.resnet import BasicBlock, Bottleneck, near_zero_

# Features of the branch at 1/4 of the resolution.
HRNETS = {"hrnet_w32": 32, "hrnet_w48": 48}
_MODULES = (1, 4, 3)  # of the stages with two, three and four branches
_BLOCKS = 4  # in layer1, and in each branch of a module


def heatmap_layer(features: int, joints: int) -> nn.Conv2d:
    """What turns the features of an `HRNet` into heatmaps, flat ones in a new network: its authors' ``final_layer``."""
    layer = nn.Conv2d(features, joints, 1)
    near_zero_(layer.weight)
    nn.init.zeros_(layer.get_parameter("bias"))
    return layer


class HRNet(nn.Module):
    """Features of an image at 1/4 of its resolution.

    Parameters and buffers have the names of the authors' code (deep-high-resolution-net.pytorch, ``pose_hrnet.py``)
    and, at width 64, its shapes, but there is no ``final_layer``. A pose network of W32 with one for 17 joints has
    28.5M parameters, of W48 63.6M.

    Args:
        name: a key of `HRNETS`.
        width: features of the stem; all others are in proportion, and 64 gives the published networks.

    Raises:
        ValueError: a width that is not a multiple of 4.
    """

    # Exchanges of the last module to the lower resolutions: files of ImageNet classifiers hold them, too.
    unused = tuple(f"stage4.{_MODULES[-1] - 1}.fuse_layers.{i}." for i in (1, 2, 3))

    def __init__(self, name: str, width: int = 64) -> None:
        super().__init__()
        if width % 4:
            raise ValueError(f"HRNet: expected a width that is a multiple of 4, got {width}")
        self.name, self.width = name, width
        self.channels = HRNETS[name] * width // 64
        branches = [self.channels * 2**i for i in range(4)]
        self.conv1 = nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        inputs = [width] + [width * Bottleneck.expansion] * (_BLOCKS - 1)
        self.layer1 = nn.Sequential(*(Bottleneck(features, width, stride=1) for features in inputs))
        before = width * Bottleneck.expansion
        self.transition1 = nn.ModuleList([_unit(before, branches[0]), nn.Sequential(_down(before, branches[1]))])
        self.transition2, self.transition3 = (
            nn.ModuleList([*[nn.Identity()] * i, nn.Sequential(_down(branches[i - 1], branches[i]))]) for i in (2, 3)
        )
        self.stage2, self.stage3, self.stage4 = (
            nn.Sequential(*(_Module(branches[:count], only_first=count == 4 and i == modules - 1)
                            for i in range(modules)))
            for count, modules in zip((2, 3, 4), _MODULES, strict=True)
        )  # fmt: skip
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and not module.weight.is_meta:  # see `checkpoint.built`
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) normalised -> (B, channels, H / 4, W / 4).

        Raises:
            ValueError: H or W is not a multiple of 32.
        """
        height, width = x.shape[-2:]
        if height % 32 or width % 32:
            raise ValueError(f"HRNet: expected images whose sides are multiples of 32, got {height} x {width}")
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        maps = [self.layer1(x)] * 2
        maps = self.stage2([start(x) for start, x in zip(self.transition1, maps, strict=True)])
        for transition, stage in ((self.transition2, self.stage3), (self.transition3, self.stage4)):
            maps = stage([start(x) for start, x in zip(transition, [*maps, maps[-1]], strict=True)])
        features: Tensor = maps[0]
        return features


class _Module(nn.Module):
    """Branches side by side, and the exchange between them.

    Args:
        channels: features of each branch, from the highest resolution down.
        only_first: whether only the highest resolution is wanted.
    """

    def __init__(self, channels: list[int], only_first: bool) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(BasicBlock(features, features, stride=1) for _ in range(_BLOCKS))) for features in channels
        )
        count = len(channels)
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_path(channels, start, end) for start in range(count))
            for end in range(1 if only_first else count)
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        maps = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        sums = []
        for paths in self.fuse_layers:
            assert isinstance(paths, nn.ModuleList)
            parts = [path(x) for path, x in zip(paths, maps, strict=True)]
            sums.append(F.relu(reduce(torch.add, parts), inplace=True))
        return sums


def _path(channels: list[int], start: int, end: int) -> nn.Module:
    """From the resolution and features of one branch to those of another."""
    if start == end:
        return nn.Identity()
    if start > end:
        upsample = nn.Upsample(scale_factor=2.0 ** (start - end), mode="nearest")
        return nn.Sequential(
            nn.Conv2d(channels[start], channels[end], 1, bias=False), nn.BatchNorm2d(channels[end]), upsample
        )
    steps = [_down(channels[start], channels[start]) for _ in range(end - start - 1)]
    return nn.Sequential(*steps, _down(channels[start], channels[end])[:2])  # without a ReLU in the last step


def _down(inputs: int, outputs: int) -> nn.Sequential:
    """To half the resolution."""
    return _unit(inputs, outputs, stride=2)


def _unit(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
