"""Residual networks (He et al. 2016) without the last fc layer, under torchvision's names so that its weights fit."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Whether the blocks are bottlenecks, and the number of blocks in each of the four stages.
RESNETS = {
    "resnet18": (False, (2, 2, 2, 2)),
    "resnet34": (False, (3, 4, 6, 3)),
    "resnet50": (True, (3, 4, 6, 3)),
    "resnet101": (True, (3, 4, 23, 3)),
    "resnet152": (True, (3, 8, 36, 3)),
}

# Mean and standard deviation of red, green and blue, in 0..1. The reference's values are nearly ImageNet's in the order
# blue, green, red, but its code applies them to RGB images, and its weights were trained that way. Its code for 2D
# (`simple_transform.py`) subtracts the mean only.
PIXELS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "reference": ((0.406, 0.457, 0.480), (0.225, 0.224, 0.229)),
    "reference_2d": ((0.406, 0.457, 0.480), (1.0, 1.0, 1.0)),
    "mmpose": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


class ResNet(nn.Module):
    """Features of an image at 1/32 of its resolution.

    Parameters and buffers have torchvision's names and, at width 64, its shapes. In a bottleneck the 3x3 convolution
    has the stride ("v1.5"), as in torchvision's weights.

    Args:
        name: a key of `RESNETS`.
        width: features of the first stage; each stage has twice as many as the one before, and bottlenecks output four
            times as many as their stage.
    """

    def __init__(self, name: str, width: int = 64) -> None:
        super().__init__()
        self.name, self.width = name, width
        bottleneck, stages = RESNETS[name]
        block = Bottleneck if bottleneck else BasicBlock
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.channels = width
        layers = []
        for i, count in enumerate(stages):
            blocks = []
            for j in range(count):
                blocks.append(block(self.channels, width * 2**i, stride=2 if i > 0 and j == 0 else 1))
                self.channels = width * 2**i * block.expansion
            layers.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = layers
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and not module.weight.is_meta:  # see `checkpoint.built`
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) normalised -> (B, channels, S / 32, S / 32)."""
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return x


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, features: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, features, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(features)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(features)
        self.downsample = _shortcut(inputs, features, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return F.relu(out, inplace=True)


class Bottleneck(nn.Module):
    """A 1x1 convolution that narrows, a 3x3 and a 1x1 that widens, beside a shortcut."""

    expansion = 4

    def __init__(self, inputs: int, features: int, stride: int) -> None:
        super().__init__()
        outputs = features * self.expansion
        self.conv1 = nn.Conv2d(inputs, features, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(features)
        self.conv2 = nn.Conv2d(features, features, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(features)
        self.conv3 = nn.Conv2d(features, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return F.relu(out, inplace=True)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """A projection for blocks whose output differs in shape from their input; None for the others."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class Normalise(nn.Module):
    """Normalises RGB in 0..255, integers or floats, by the mean and deviation that the weights were trained with.

    Args:
        pixels: a key of `PIXELS`.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, pixels: str) -> None:
        super().__init__()
        mean, std = PIXELS[pixels]
        scale, shift = [1 / (255 * s) for s in std], [-m / s for m, s in zip(mean, std, strict=True)]
        for name, values in (("scale", scale), ("shift", shift)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, 3, S, S), in the same memory layout."""
        return torch.addcmul(self.shift, images.to(self.scale.dtype), self.scale)


def near_zero_(weight: Tensor) -> None:
    """Draws weights so small that the heatmaps of a new network are flat."""
    if not weight.is_meta:  # see `checkpoint.built`
        nn.init.normal_(weight, std=0.001)
