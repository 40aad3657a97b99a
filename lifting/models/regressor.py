"""The single-stage regressor of the RLE paper: a ResNet, global average pooling, one layer for mu and one for sigma."""

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

from lifting.models.fc import Head
from lifting.models.integral import HeatmapHead, relative_depth
from lifting.models.resnet import Normalise, ResNet
from lifting.prediction import Prediction

BLOB = 2 / 64  # standard deviation of the Gaussians in auxiliary heatmaps, in units of the crop's side


class Regressor(nn.Module):
    """Maps an image crop to joints in the coordinates of `crops`. Without sigma it is the direct regression baseline.

    ``mu = W x / |x| + b`` and ``sigma = sigmoid(W' x + b')``, as in the reference, where x are the averaged features.
    Both heads start with small weights, for the reasons given in `fc.FCBaseline`: a new network predicts every joint in
    the middle of the crop, with a sigma of 12 % of its side. The heads compute in full precision, also under autocast.

    Args:
        backbone: a key of `resnet.RESNETS`.
        width: features of its first stage.
        joints: J.
        with_sigma: whether the network predicts sigma.
        sigma: ``"coordinate"`` for one sigma per coordinate, ``"joint"`` for one per joint.
        input: ``"imagenet"``, or ``"reference"`` for weights of the authors' code. Then pixels are normalised as in
            that code (see `resnet.PIXELS`), and u and v are moved by half a pixel of the crop, because a joint at pixel
            x has u = x / S - 1/2 in that code and (x + 1/2) / S - 1/2 here.
        heatmaps: whether there is a heatmap head, which only an auxiliary loss uses.
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
        """(B, 3, S, S) RGB in 0..255 -> (u, v, d) of `crops`, where the root has d = 0; every log sigma is finite."""
        return self._joints(self.backbone(self.normalise(images)), images.shape[-1])

    def forward_with_heatmaps(self, images: Tensor) -> tuple[Prediction, Tensor]:
        """As `forward`, and heatmaps (B, J, S / 4, S / 4) for `heatmap_losses`.

        Raises:
            ValueError: the network has no heatmap head.
        """
        if self.heatmap_head is None:
            raise ValueError("forward_with_heatmaps: expected a network made with heatmaps=True, got one without")
        features = self.backbone(self.normalise(images))
        return self._joints(features, images.shape[-1]), self.heatmap_head(features)

    def _joints(self, features: Tensor, size: int) -> Prediction:
        x = features.mean((2, 3), dtype=self.mu_head.weight.dtype)
        uvd = rearrange(self.mu_head(F.normalize(x)), "b (j d) -> b j d", d=3)
        mu = relative_depth(uvd, self.root) + self.pixel_offset / size
        if self.sigma_head is None:
            return Prediction(mu)
        log_sigma = rearrange(F.logsigmoid(self.sigma_head(x)), "b (j d) -> b j d", j=self.joints)
        return Prediction(mu, log_sigma.expand_as(mu))  # one sigma per joint holds for its three coordinates


def heatmap_losses(heatmaps: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared error over pixels against a Gaussian of height 1 at each joint, times the joint's weight.

    Args:
        heatmaps: (B, J, H, W).
        target: (B, J, 2 or 3), u and v first; anything where the weight is zero.
        weight: (B, J) in [0, 1].

    Returns:
        the losses, (B, J), and the weights used, (B, J), which are also zero for joints more than three standard
        deviations outside the crop.
    """
    uv = target[..., :2]
    weight = torch.where((uv.abs() < 0.5 + 3 * BLOB).all(-1), weight, 0)
    uv = torch.where(weight[..., None] > 0, uv, 0)
    columns, rows = _bump(uv[..., :1], heatmaps.shape[3]), _bump(uv[..., 1:], heatmaps.shape[2])
    error = heatmaps.to(rows.dtype) - rows[..., :, None] * columns[..., None, :]
    return weight * reduce(error.square(), "b j h w -> b j", "mean"), weight


def _bump(middle: Tensor, cells: int) -> Tensor:
    """A Gaussian around ``middle`` (..., 1), at the centres of cells that divide the crop's side: (..., cells)."""
    places = (torch.arange(cells, dtype=middle.dtype, device=middle.device) + 0.5) / cells - 0.5
    return torch.exp(-0.5 * ((places - middle) / BLOB).square())
