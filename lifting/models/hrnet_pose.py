"""RLE on HRNet: positions from heatmaps by soft-argmax, and one layer for sigma (section 4.1 of the RLE paper)."""

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lifting.models.fc import Head
from lifting.models.hrnet import HRNet, heatmap_layer
from lifting.models.integral import soft_argmax
from lifting.models.resnet import Normalise
from lifting.prediction import Prediction


class HRNetPose(nn.Module):
    """Maps an image crop to joints in the coordinates of `crops`, without depth.

    ``mu`` is the mean place under the softmax of a joint's heatmap, and ``sigma = sigmoid(W x + b)``, where x are the
    features averaged over the crop. mu is within +-1/2: a joint outside the crop is predicted at its border. The layers
    are those of the authors' pose network, whose weights serve as a start. For soft-argmax they have to be trained on,
    because its heatmaps are no logarithms of densities; `SimplePose` takes them as they are.

    A new network predicts every joint in the middle of the crop, with a sigma of 12 % of its sides, as `Regressor`
    does. Soft-argmax and the head of sigma compute in full precision, also under autocast.

    Args:
        backbone: a key of `hrnet.HRNETS`.
        width: see `HRNet`.
        joints: J.
        with_sigma: whether the network predicts sigma.
        sigma: ``"coordinate"`` for one sigma per coordinate, ``"joint"`` for one per joint.
    """

    dims = 2

    def __init__(
        self, backbone: str, width: int = 64, joints: int = 17, with_sigma: bool = True, sigma: str = "joint"
    ) -> None:
        super().__init__()
        self.joints = joints
        self.normalise = Normalise("imagenet")
        self.backbone = HRNet(backbone, width)
        features = self.backbone.channels
        self.final_layer = heatmap_layer(features, joints)
        scales = joints * (2 if sigma == "coordinate" else 1)
        self.sigma_head = Head(features, scales, bias=-2.0) if with_sigma else None

    def forward(self, images: Tensor) -> Prediction:
        """(B, 3, H, W) RGB in 0..255 -> (u, v) of `crops`, each a share of its own side; every log sigma is finite.

        Raises:
            ValueError: H or W is not a multiple of 32.
        """
        return self.forward_with_heatmaps(images)[0]

    def forward_with_heatmaps(self, images: Tensor) -> tuple[Prediction, Tensor]:
        """As `forward`, and the heatmaps (B, J, H / 4, W / 4) that mu is read from."""
        features = self.backbone(self.normalise(images))
        maps: Tensor = self.final_layer(features)
        mu = soft_argmax(rearrange(maps, "b j h w -> b j 1 h w"))[..., :2]
        if self.sigma_head is None:
            return Prediction(mu), maps
        x = features.mean((2, 3), dtype=self.sigma_head.weight.dtype)
        log_sigma = rearrange(F.logsigmoid(self.sigma_head(x)), "b (j d) -> b j d", j=self.joints)
        return Prediction(mu, log_sigma.expand_as(mu)), maps
