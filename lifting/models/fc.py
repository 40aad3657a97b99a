"""The fully connected lifter of Martinez et al. 2017, with a second head for sigma."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lifting.models.person import CHANNELS, SEEN, seen_by
from lifting.prediction import Prediction


class FCBaseline(nn.Module):
    """2D keypoints to root-relative 3D joints: J*2 -> width, residual blocks, -> J*3, and J or J*3 for sigma.

    A block has two hidden layers, each of linear, batch norm, ReLU, dropout. The sizes of the paper give 4.29M
    parameters without sigma.

    Two things keep the first training steps of a likelihood stable. The heads start small (xavier, gain 0.01), so that
    a new network predicts all joints near the root, with a sigma of 12 cm. And the product of the mu head is divided by
    sqrt(width): Adam moves every weight by the learning rate, whatever the gradient, so a step of an undivided head on
    1024 features of one sign would move all joints by decimetres. With the division, it is about a centimetre.

    Args:
        joints: J.
        width: features of the hidden layers.
        blocks: residual blocks.
        dropout: probability that a feature is zeroed in training.
        with_sigma: whether there is a head for sigma.
        sigma: ``"coordinate"`` for one sigma per coordinate, ``"joint"`` for one that a joint's coordinates share.
        root: the joint that is at zero by definition: mu is relative to it, and its sigma is 0. None for no root.
        input: what it sees of a joint (`person.seen_by`): ``"screen"`` for its place on the screen, ``"person"`` for
            its place relative to the person and its confidence, ``"both"`` for the two places.
    """

    def __init__(
        self,
        joints: int = 17,
        width: int = 1024,
        blocks: int = 2,
        dropout: float = 0.25,
        with_sigma: bool = True,
        sigma: str = "joint",
        root: int | None = 0,
        input: str = "screen",
    ) -> None:
        super().__init__()
        self.joints, self.root, self.input, self.channels = joints, root, input, CHANNELS[input]
        self.known: tuple[int, ...] = () if root is None else (root,)  # joints without information, see `Objective`
        self.entry = _Layer(joints * SEEN[input], width, dropout, EntryLinear)
        self.blocks = nn.ModuleList(
            nn.Sequential(_Layer(width, width, dropout), _Layer(width, width, dropout)) for _ in range(blocks)
        )
        self.mu_head = Head(width, joints * 3, scale=width**-0.5)
        scales = joints * (3 if sigma == "coordinate" else 1)
        self.sigma_head = Head(width, scales, bias=-2.0) if with_sigma else None

    def forward(self, keypoints: Tensor) -> Prediction:
        """(B, J, C) -> metres: with C = 2, screen coordinates -> camera frame; with C = 3, the confidence too -> ray
        frame (`views.rotation_to_ray`)."""
        hidden = self.entry(rearrange(seen_by(self.input, keypoints), "b j d -> b (j d)"))
        for block in self.blocks:
            hidden = hidden + block(hidden)
        mu = rearrange(self.mu_head(hidden), "b (j d) -> b j d", d=3)
        log_sigma = None
        if self.sigma_head is not None:
            raw = rearrange(self.sigma_head(hidden), "b (j d) -> b j d", j=self.joints)
            log_sigma = F.logsigmoid(raw).expand_as(mu)
        if self.root is not None:
            mu = mu - mu[:, self.root : self.root + 1]
            if log_sigma is not None:
                is_root = torch.arange(self.joints, device=mu.device)[:, None] == self.root
                log_sigma = log_sigma.masked_fill(is_root, -torch.inf)
        return Prediction(mu, log_sigma)


def in_full_precision(product: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Computes product(x) without autocast, then rounds the result, not the input, to the precision of autocast.

    Products with keypoints need this: rounding to bfloat16 moves a keypoint of a picture 1000 pixels wide by up to a
    pixel.
    """
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    with torch.autocast(kind, enabled=False):
        return product(x).to(dtype)


class EntryLinear(nn.Linear):
    """W x + b for keypoints x, computed `in_full_precision`."""

    def forward(self, x: Tensor) -> Tensor:
        return in_full_precision(super().forward, x)


class Head(nn.Linear):
    """scale W x + b, in full precision even under autocast: millimetres do not survive bfloat16."""

    def __init__(self, inputs: int, outputs: int, scale: float = 1.0, bias: float = 0.0) -> None:
        super().__init__(inputs, outputs)
        self.scale = scale
        nn.init.xavier_uniform_(self.weight, gain=0.01)
        nn.init.constant_(self.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.to(self.weight.dtype), self.weight * self.scale, self.bias)


class Dropout(nn.Module):
    """`nn.Dropout` that draws its mask as bytes on a CPU; torch draws a float per feature, at ten times the cost.

    The probability is rounded to a multiple of 1/256.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return F.dropout(x, self.p)
        dropped = min(round(self.p * 256), 255)
        words = torch.empty((x.numel() + 3) // 4, dtype=torch.int32).random_(-(2**31), 2**31)
        kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= dropped
        return x * kept.to(x.dtype).mul_(256 / (256 - dropped))


class _Layer(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, dropout: float, linear: type[nn.Linear] = nn.Linear) -> None:
        super().__init__(linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU(inplace=True), Dropout(dropout))
