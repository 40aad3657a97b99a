"""SimplePose (Xiao et al. 2018) and HRNet (Sun et al. 2019), the 2D baselines: heatmaps, and their highest cells."""

import torch
from einops import rearrange
from torch import Tensor, nn

from lifting.models.hrnet import HRNETS, HRNet, heatmap_layer
from lifting.models.integral import HeatmapHead
from lifting.models.resnet import Normalise, ResNet
from lifting.prediction import Prediction


class SimplePose(nn.Module):
    """Maps an image crop to joints in 2D by heatmaps at a quarter of its resolution.

    A joint is at the centre of its heatmap's highest cell, moved by a quarter of a cell along each axis towards the
    higher of the two neighbours, as in the authors' code. The height of that cell is its confidence. No gradient
    reaches the joints: the network learns from `regressor.heatmap_losses` alone.

    Args:
        backbone: a key of `resnet.RESNETS`, or of `hrnet.HRNETS` for HRNet's pose network. Its heatmaps come from one
            ``final_layer``, in the place of deconvolutions.
        width: features of its first stage.
        joints: J.
    """

    def __init__(self, backbone: str, width: int = 64, joints: int = 17) -> None:
        super().__init__()
        self.joints, self.dims = joints, 2
        self.normalise = Normalise("imagenet")
        self.backbone: HRNet | ResNet
        if backbone in HRNETS:
            self.backbone = HRNet(backbone, width)
            self.final_layer = heatmap_layer(self.backbone.channels, joints)
        else:
            self.backbone = ResNet(backbone, width)
            self.heatmap_head = HeatmapHead(self.backbone.channels, joints, 4 * width)

    def forward(self, images: Tensor) -> Prediction:
        """(B, 3, H, W) RGB in 0..255 -> (u, v) of `crops`, and peaks (B, J)."""
        return self.forward_with_heatmaps(images)[0]

    def forward_with_heatmaps(self, images: Tensor) -> tuple[Prediction, Tensor]:
        """As `forward`, and heatmaps (B, J, H / 4, W / 4)."""
        features = self.backbone(self.normalise(images))
        heatmaps = (self.final_layer if isinstance(self.backbone, HRNet) else self.heatmap_head)(features)
        uv, peak = highest_cells(heatmaps.detach().float())
        return Prediction(uv, peak=peak.clamp(0, 1)), heatmaps


def highest_cells(heatmaps: Tensor) -> tuple[Tensor, Tensor]:
    """The highest cells, (B, J, 2) u and v with the quarter shift, and their heights, (B, J).

    A cell at the border is not moved across it.

    Args:
        heatmaps: (B, J, H, W).
    """
    rows, columns = heatmaps.shape[2:]
    height, cell = rearrange(heatmaps, "b j h w -> b j (h w)").max(-1)
    row, column = cell // columns, cell % columns

    def at(r: Tensor, c: Tensor) -> Tensor:
        place = r.clamp(0, rows - 1) * columns + c.clamp(0, columns - 1)
        return rearrange(heatmaps, "b j h w -> b j (h w)").gather(2, place[..., None])[..., 0]

    inside = (column > 0) & (column < columns - 1) & (row > 0) & (row < rows - 1)
    right = torch.sign(at(row, column + 1) - at(row, column - 1)) * inside
    down = torch.sign(at(row + 1, column) - at(row - 1, column)) * inside
    u = (column + 0.5 + right / 4) / columns - 0.5
    v = (row + 0.5 + down / 4) / rows - 0.5
    return torch.stack([u, v], -1), height
