"""The single-stage regressor of the RLE paper: a ResNet, global average pooling, one layer for mu and one for sigma."""

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

from lifting.models.fc import Head
from lifting.models.integral import HeatmapHead, relative_depth
from lifting.models.resnet import Normalise, ResNet
from lifting.prediction import Prediction

BLOB = 2 / 64  # standard deviation of the Gaussians in heatmaps, in units of the crop's longer side


class Regressor(nn.Module):
    """Maps an image crop to joints in the coordinates of `crops`. Without sigma it is the direct regression baseline.

    ``mu = W x / |x| + b`` and ``sigma = sigmoid(W' x + b')``, as in the reference, where x are the averaged features.
    Both heads start with small weights, for the reasons given in `fc.FCBaseline`: a new network predicts every joint in
    the middle of the crop, with a sigma of 12 % of its side. The heads compute in full precision, also under autocast.

    Args:
        backbone: a key of `resnet.RESNETS`.
        width: features of its first stage.
        joints: J.
        dims: D, 3 for u, v and d, 2 for u and v.
        with_sigma: whether the network predicts sigma.
        sigma: ``"coordinate"`` for one sigma per coordinate, ``"joint"`` for one per joint.
        input: ``"imagenet"``, or, for weights of other code, ``"reference"`` and ``"reference_2d"`` (the authors', 3D
            and 2D) or ``"mmpose"``. Then pixels are normalised as in that code (see `resnet.PIXELS`), and u and v are
            moved by half a pixel of the crop, because a joint at pixel x has u = x / S - 1/2 in that code and
            (x + 1/2) / S - 1/2 here. With ``"mmpose"``, mu = W x + b.
        heatmaps: whether there is a heatmap head, which only an auxiliary loss uses.
        root: the joint that d is relative to; of no consequence without d.
    """

    def __init__(
        self,
        backbone: str,
        width: int = 64,
        joints: int = 18,
        dims: int = 3,
        with_sigma: bool = True,
        sigma: str = "joint",
        input: str = "imagenet",
        heatmaps: bool = False,
        root: int = 0,
    ) -> None:
        super().__init__()
        self.joints, self.dims, self.input, self.root = joints, dims, input, root
        self.normalise = Normalise(input)
        self.backbone = ResNet(backbone, width)
        features = self.backbone.channels
        self.mu_head = Head(features, joints * dims)
        scales = joints * (dims if sigma == "coordinate" else 1)
        self.sigma_head = Head(features, scales, bias=-2.0) if with_sigma else None
        self.heatmap_head = HeatmapHead(features, joints, 4 * width) if heatmaps else None

    def forward(self, images: Tensor) -> Prediction:
        """(B, 3, H, W) RGB in 0..255 -> (u, v, d) of `crops`, where the root has d = 0; every log sigma is finite."""
        return self._joints(self.backbone(self.normalise(images)), images)

    def forward_with_heatmaps(self, images: Tensor) -> tuple[Prediction, Tensor]:
        """As `forward`, and heatmaps (B, J, H / 4, W / 4) for `heatmap_losses`.

        Raises:
            ValueError: the network has no heatmap head.
        """
        if self.heatmap_head is None:
            raise ValueError("forward_with_heatmaps: expected a network made with heatmaps=True, got one without")
        features = self.backbone(self.normalise(images))
        return self._joints(features, images), self.heatmap_head(features)

    def _joints(self, features: Tensor, images: Tensor) -> Prediction:
        x = features.mean((2, 3), dtype=self.mu_head.weight.dtype)
        mu = rearrange(self.mu_head(x if self.input == "mmpose" else F.normalize(x)), "b (j d) -> b j d", d=self.dims)
        if self.dims == 3:
            mu = relative_depth(mu, self.root)
        if self.input != "imagenet":
            half_pixel = (0.5 / images.shape[-1], 0.5 / images.shape[-2], 0.0)
            mu = torch.stack([x + half for x, half in zip(mu.unbind(-1), half_pixel, strict=False)], -1)
        if self.sigma_head is None:
            return Prediction(mu)
        log_sigma = rearrange(F.logsigmoid(self.sigma_head(x)), "b (j d) -> b j d", j=self.joints)
        return Prediction(mu, log_sigma.expand_as(mu))  # one sigma per joint holds for its three coordinates


def heatmap_losses(heatmaps: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared error over cells against a Gaussian of height 1 at each joint, times the joint's weight.

    Args:
        heatmaps: (B, J, H, W).
        target: (B, J, 2 or 3), u and v first; anything where the weight is zero.
        weight: (B, J) in [0, 1].

    Returns:
        the losses, (B, J), and the weights used, (B, J), which are also zero for joints more than three standard
        deviations outside the crop.
    """
    height, width = heatmaps.shape[2:]
    blob_u, blob_v = (BLOB * max(height, width) / side for side in (width, height))
    u, v = target[..., :1], target[..., 1:2]
    weight = torch.where(((u.abs() < 0.5 + 3 * blob_u) & (v.abs() < 0.5 + 3 * blob_v))[..., 0], weight, 0)
    u, v = (torch.where(weight[..., None] > 0, x, 0) for x in (u, v))
    columns, rows = _bump(u, width, blob_u), _bump(v, height, blob_v)
    error = heatmaps.to(rows.dtype) - rows[..., :, None] * columns[..., None, :]
    return weight * reduce(error.square(), "b j h w -> b j", "mean"), weight


def _bump(middle: Tensor, cells: int, blob: float) -> Tensor:
    """A Gaussian around ``middle`` (..., 1), at the centres of cells that divide the crop's side: (..., cells)."""
    places = (torch.arange(cells, dtype=middle.dtype, device=middle.device) + 0.5) / cells - 0.5
    return torch.exp(-0.5 * ((places - middle) / blob).square())
