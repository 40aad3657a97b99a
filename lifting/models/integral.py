"""Integral Pose (Sun et al. 2018), the heatmap baseline, and the head that turns features into heatmaps."""

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

from lifting.models.resnet import Normalise, ResNet
from lifting.prediction import Prediction


class Integral(nn.Module):
    """Maps an image crop to joints: the mean of a heatmap over u, v and d for each joint.

    Cell k of n along an axis has its centre at (k + 1/2) / n - 1/2, so all three coordinates are within +-1/2 (see
    `crops`). There is no sigma.

    Args:
        backbone: a key of `resnet.RESNETS`.
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
        """(B, 3, S, S) RGB in 0..255 -> (u, v, d) of `crops`, where the root has d = 0."""
        maps = self.heatmap_head(self.backbone(self.normalise(images)))
        volume = rearrange(maps, "b (j d) h w -> b j d h w", d=self.depth)
        return Prediction(relative_depth(soft_argmax(volume), self.root))


class HeatmapHead(nn.Sequential):
    """Maps features at 1/32 of the image's resolution to heatmaps at 1/4: three deconvolutions, a 1x1 convolution.

    Args:
        inputs: number of input features.
        outputs: number of heatmaps.
        width: features of the deconvolutions; 256 in the papers, for a backbone of width 64.
    """

    def __init__(self, inputs: int, outputs: int, width: int) -> None:
        layers: list[nn.Module] = []
        for features in (inputs, width, width):
            deconvolution = nn.ConvTranspose2d(features, width, 4, stride=2, padding=1, bias=False)
            _near_zero_(deconvolution.weight)
            layers += [deconvolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        last = nn.Conv2d(width, outputs, 1)
        _near_zero_(last.weight)  # so that the heatmaps of a new network are flat
        nn.init.zeros_(last.get_parameter("bias"))
        super().__init__(*layers, last)


def _near_zero_(weight: Tensor) -> None:
    if not weight.is_meta:  # see `checkpoint.built`
        nn.init.normal_(weight, std=0.001)


def soft_argmax(volume: Tensor) -> Tensor:
    """Mean (u, v, d), each within +-1/2, of the softmax over all cells: (B, J, D, H, W) -> (B, J, 3).

    It computes in float32 or better, and makes only one more volume, the unnormalised softmax, in the memory layout of
    the input.
    """
    dtype = torch.promote_types(volume.dtype, torch.float32)
    highest = volume.detach().amax((2, 3, 4), keepdim=True).to(dtype)
    odds = (volume - highest).exp_()
    front = reduce(odds, "b j d h w -> b j h w", "sum")
    over_u, over_v = reduce(front, "b j h w -> b j w", "sum"), reduce(front, "b j h w -> b j h", "sum")
    over_d = reduce(odds, "b j d h w -> b j d", "sum")
    return torch.stack([_mean(marginal) for marginal in (over_u, over_v, over_d)], -1)


def _mean(odds: Tensor) -> Tensor:
    """The mean cell centre under unnormalised probabilities: (..., n) -> (...,)."""
    n = odds.shape[-1]
    middles = (torch.arange(n, dtype=odds.dtype, device=odds.device) + 0.5) / n - 0.5
    return (odds * middles).sum(-1) / odds.sum(-1)


def relative_depth(uvd: Tensor, root: int) -> Tensor:
    """Subtracts the root's d from every d: (B, J, 3) -> (B, J, 3)."""
    return uvd - F.pad(uvd[:, root : root + 1, 2:], (2, 0))
