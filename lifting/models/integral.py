"""Integral Pose (Sun et al. 2018), the heatmap baseline, and the head that turns features into heatmaps."""

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

from lifting.models.resnet import Normalise, ResNet, near_zero_
from lifting.prediction import Prediction


class Integral(nn.Module):
    """Maps an image crop to joints: the mean of a heatmap over u and v, and over d in 3D, for each joint.

    Cell k of n along an axis has its centre at (k + 1/2) / n - 1/2, so all coordinates are within +-1/2 (see `crops`).
    There is no sigma.

    Args:
        backbone: a key of `resnet.RESNETS`.
        width: features of its first stage.
        joints: J.
        dims: D, 3 for u, v and d, 2 for u and v.
        depth: cells along d; there are W / 4 along u and H / 4 along v, 64 at the 256 pixels of the paper.
        root: the joint that d is relative to; of no consequence without d.
    """

    def __init__(
        self, backbone: str, width: int = 64, joints: int = 18, dims: int = 3, depth: int = 64, root: int = 0
    ) -> None:
        super().__init__()
        self.joints, self.dims, self.depth, self.root = joints, dims, depth if dims == 3 else 1, root
        self.normalise = Normalise("imagenet")
        self.backbone = ResNet(backbone, width)
        self.heatmap_head = HeatmapHead(self.backbone.channels, joints * self.depth, 4 * width)

    def forward(self, images: Tensor) -> Prediction:
        """(B, 3, H, W) RGB in 0..255 -> (u, v, d) of `crops`, where the root has d = 0, or (u, v)."""
        maps = self.heatmap_head(self.backbone(self.normalise(images)))
        volume = rearrange(maps, "b (j d) h w -> b j d h w", d=self.depth)
        uvd = soft_argmax(volume)
        return Prediction(relative_depth(uvd, self.root) if self.dims == 3 else uvd[..., :2])


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
            near_zero_(deconvolution.weight)
            layers += [deconvolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        last = nn.Conv2d(width, outputs, 1)
        near_zero_(last.weight)  # so that the heatmaps of a new network are flat
        nn.init.zeros_(last.get_parameter("bias"))
        super().__init__(*layers, last)


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
