"""Integral regression of Sun et al. 2018, the heatmap baseline, and the head that makes heatmaps of features."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lifting.models.resnet import Normalise, ResNet
from lifting.prediction import Prediction


class Integral(nn.Module):
    """An image crop to joints: a heatmap over u, v and d for each joint, and its mean.

    The mean is taken over cells whose middles are at (k + 1/2) / n - 1/2 along each axis, so that all three
    coordinates are within +-1/2 (see `crops`). There is no sigma.

    Args:
        backbone: of `resnet.RESNETS`.
        width: features of its first stage.
        joints: J.
        depth: cells along d; there are S / 4 along u and v, 64 at the 256 pixels of the paper.
        root: the joint that d is relative to.
    """

    def __init__(self, backbone: str, width: int = 64, joints: int = 18, depth: int = 64, root: int = 0) -> None:
        super().__init__()
        self.depth, self.root = depth, root
        self.normalise = Normalise("imagenet")
        self.backbone = ResNet(backbone, width)
        self.heatmap_head = HeatmapHead(self.backbone.channels, joints * depth, 4 * width)

    def forward(self, images: Tensor) -> Prediction:
        """(B, 3, S, S) RGB in 0..255 -> (u, v, d) of `crops`, d of the root zero."""
        maps = self.heatmap_head(self.backbone(self.normalise(images)))
        return Prediction(relative_depth(soft_argmax(maps.unflatten(1, (-1, self.depth))), self.root))


class HeatmapHead(nn.Sequential):
    """Features at a 32nd of the image's size to maps at a quarter of it: three deconvolutions and a 1x1 convolution.

    Args:
        inputs: features.
        outputs: maps.
        width: features of the deconvolutions; 256 in the papers, for a backbone of width 64.
    """

    def __init__(self, inputs: int, outputs: int, width: int) -> None:
        layers: list[nn.Module] = []
        for features in (inputs, width, width):
            deconvolution = nn.ConvTranspose2d(features, width, 4, stride=2, padding=1, bias=False)
            nn.init.normal_(deconvolution.weight, std=0.001)
            layers += [deconvolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        last = nn.Conv2d(width, outputs, 1)
        nn.init.normal_(last.weight, std=0.001)  # a new network is undecided: every heatmap is flat
        nn.init.zeros_(last.get_parameter("bias"))
        super().__init__(*layers, last)


def soft_argmax(volume: Tensor) -> Tensor:
    """Mean (u, v, d), each within +-1/2, of the softmax over all cells: (B, J, D, H, W) -> (B, J, 3).

    In float32 at least. Only one other volume is made, in the layout of the first: the softmax but for its sum.
    """
    dtype = torch.promote_types(volume.dtype, torch.float32)
    highest = volume.detach().amax((2, 3, 4), keepdim=True).to(dtype)
    odds = (volume - highest).exp_()
    front = odds.sum(2)
    marginals = front.sum(2), front.sum(3), odds.sum((3, 4))  # over u, v, d
    return torch.stack([_mean(marginal) for marginal in marginals], -1)


def _mean(odds: Tensor) -> Tensor:
    n = odds.shape[-1]
    middles = (torch.arange(n, dtype=odds.dtype, device=odds.device) + 0.5) / n - 0.5
    return (odds * middles).sum(-1) / odds.sum(-1)


def relative_depth(uvd: Tensor, root: int) -> Tensor:
    """(B, J, 3) with d less that of the root."""
    return uvd - F.pad(uvd[:, root : root + 1, 2:], (2, 0))
