"""The single-stage regressor of the RLE paper: a ResNet, its features averaged, one layer for mu and one for sigma."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lifting.models.fc import Head
from lifting.models.integral import HeatmapHead, relative_depth
from lifting.models.resnet import Normalise, ResNet
from lifting.prediction import Prediction

BLOB = 2 / 64  # deviation of a Gaussian of the auxiliary heatmaps, in units of the crop's side


class Regressor(nn.Module):
    """An image crop to joints in the coordinates of `crops`. Without sigma it is the direct regression baseline.

    ``mu = W x / |x| + b`` as in the reference, x the averaged features; what sigma is the sigmoid of is not divided.
    Both heads start small, for the reasons of `fc.FCBaseline`: a new network says "everything in the middle of the
    crop, sigma 12 % of its side". They work in full precision whatever the precision around them.

    Args:
        backbone: of `resnet.RESNETS`.
        width: features of its first stage.
        joints: J.
        with_sigma: whether there is a head for sigma.
        sigma: ``"coordinate"`` for a sigma in each coordinate, ``"joint"`` for one that the three of a joint share.
        input: ``"imagenet"``, or ``"reference"`` for weights of the authors' code: pixels are normalised as there (see
            `resnet.PIXELS`), and u and v moved by half a pixel of the crop, for there a joint at pixel x is at x / S -
            1/2 and here at (x + 1/2) / S - 1/2.
        heatmaps: whether there is a head for heatmaps, which nothing but an auxiliary loss uses.
        root: the joint that d is relative to.
    """

    pixel_offset: Tensor

    def __init__(
        self,
        backbone: str,
        width: int = 64,
        joints: int = 18,
        with_sigma: bool = True,
        sigma: str = "joint",
        input: str = "imagenet",
        heatmaps: bool = False,
        root: int = 0,
    ) -> None:
        super().__init__()
        self.joints, self.input, self.root = joints, input, root
        self.normalise = Normalise(input)
        self.backbone = ResNet(backbone, width)
        half = 0.5 if input == "reference" else 0.0
        self.register_buffer("pixel_offset", torch.tensor([half, half, 0.0]), persistent=False)
        features = self.backbone.channels
        self.mu_head = Head(features, joints * 3)
        scales = joints * (3 if sigma == "coordinate" else 1)
        self.sigma_head = Head(features, scales, bias=-2.0) if with_sigma else None
        self.heatmap_head = HeatmapHead(features, joints, 4 * width) if heatmaps else None

    def forward(self, images: Tensor) -> Prediction:
        """(B, 3, S, S) RGB in 0..255 -> (u, v, d) of `crops`, d of the root zero; every log sigma is finite."""
        return self._joints(self.backbone(self.normalise(images)), images.shape[-1])

    def forward_with_heatmaps(self, images: Tensor) -> tuple[Prediction, Tensor]:
        """As `forward`, and heatmaps (B, J, S / 4, S / 4) for `heatmap_losses`.

        Raises:
            ValueError: the network was made without them.
        """
        if self.heatmap_head is None:
            raise ValueError("forward_with_heatmaps: expected a network with heatmaps=True")
        features = self.backbone(self.normalise(images))
        return self._joints(features, images.shape[-1]), self.heatmap_head(features)

    def _joints(self, features: Tensor, size: int) -> Prediction:
        x = features.mean((2, 3), dtype=self.mu_head.weight.dtype)
        mu = relative_depth(self.mu_head(F.normalize(x)).view(-1, self.joints, 3), self.root)
        mu = mu + self.pixel_offset / size
        if self.sigma_head is None:
            return Prediction(mu)
        return Prediction(mu, F.logsigmoid(self.sigma_head(x)).view(len(mu), self.joints, -1).expand_as(mu))


def heatmap_losses(heatmaps: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Squared error against a Gaussian of height 1 at each joint, a mean over pixels, times the weight of the joint.

    Args:
        heatmaps: (B, J, H, W).
        target: (B, J, 2 or 3), u and v first; anything where the weight is zero.
        weight: (B, J) in [0, 1].

    Returns:
        the losses, (B, J), and the weights, (B, J): zero for joints more than three deviations outside the crop too.
    """
    uv = target[..., :2]
    weight = torch.where((uv.abs() < 0.5 + 3 * BLOB).all(-1), weight, 0)
    uv = torch.where(weight[..., None] > 0, uv, 0)
    columns, rows = _bump(uv[..., :1], heatmaps.shape[3]), _bump(uv[..., 1:], heatmaps.shape[2])
    error = heatmaps.to(rows.dtype) - rows[..., :, None] * columns[..., None, :]
    return weight * error.square().mean((2, 3)), weight


def _bump(middle: Tensor, cells: int) -> Tensor:
    """A Gaussian around (..., 1) at the middles of cells that share the crop's side: (..., cells)."""
    places = (torch.arange(cells, dtype=middle.dtype, device=middle.device) + 0.5) / cells - 0.5
    return torch.exp(-0.5 * ((places - middle) / BLOB).square())
