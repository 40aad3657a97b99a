"""A learned density on R, where a coupling flow has no other coordinate to condition on."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lifting.likelihood.flow import Bijection

_SPREAD = 2.0  # the pivots start evenly on [-2, 2], where most of a standard normal lies
_STEEPEST = math.log(2)  # a bound for |log delta| of a layer, as tanh bounds the scales of RealNVP


class ScalarFlow(Bijection):
    """A density on R: a stack of monotone maps over a standard normal base.

    With D = 1, every coupling of RealNVP would be an affine map with constant coefficients, and the flow a normal
    density, whatever its size. Here each layer is a sinh-arcsinh map around a pivot p with a width w::

        z = p + w sinh(delta arcsinh((x - p) / w) - epsilon),      delta > 0, w > 0

    Its inverse and its derivative are closed forms. epsilon leans the density to one side; delta < 1 makes its tails
    heavier than the normal one's, delta > 1 lighter (Jones & Pewsey, "Sinh-arcsinh distributions", Biometrika 2009).
    Several pivots make it more than a shape with two parameters. One affine map stands before the layers, on the side
    of the data.

    delta starts at 1 and epsilon at 0, so that an untrained flow is exactly N(0, 1). x and z have the shape (..., 1).

    Args:
        layers: number of sinh-arcsinh layers, at least 1.
    """

    def __init__(self, layers: int = 6) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"ScalarFlow: expected layers >= 1, got {layers}")
        pivots = torch.linspace(-_SPREAD, _SPREAD, layers) if layers > 1 else torch.zeros(1)
        self.pivots = nn.Parameter(pivots)
        self.log_widths = nn.Parameter(torch.zeros(layers))
        self.steepness = nn.Parameter(torch.zeros(layers))  # delta = exp(_STEEPEST tanh(steepness))
        self.leans = nn.Parameter(torch.zeros(layers))
        self.shift, self.log_scale = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = (x - self.shift) * torch.exp(-self.log_scale)
        log_det = -self.log_scale.expand(x.shape)
        for pivot, width, log_delta, lean in self._layers():
            y = (z - pivot) / width
            bent = log_delta.exp() * torch.asinh(y) - lean
            z = pivot + width * torch.sinh(bent)
            log_det = log_det + log_delta + _log_cosh(bent) - 0.5 * torch.log1p(y.square())
        return z, log_det.squeeze(-1)

    def forward(self, z: Tensor) -> Tensor:
        for pivot, width, log_delta, lean in reversed(self._layers()):
            z = pivot + width * torch.sinh((torch.asinh((z - pivot) / width) + lean) * torch.exp(-log_delta))
        return self.shift + self.log_scale.exp() * z

    def _layers(self) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Pivot, width, log delta and epsilon of each layer, from data to noise."""
        columns = self.pivots, self.log_widths.exp(), _STEEPEST * torch.tanh(self.steepness), self.leans
        return list(zip(*(column.unbind() for column in columns), strict=True))

    def log_prob(self, x: Tensor) -> Tensor:
        z, log_det = self.inverse(x)
        return log_det - 0.5 * z.squeeze(-1).square() - 0.5 * math.log(2 * math.pi)

    def sample(self, shape: tuple[int, ...]) -> Tensor:
        drawn: Tensor = self(torch.randn(*shape, 1, dtype=self.shift.dtype, device=self.shift.device))
        return drawn


def _log_cosh(x: Tensor) -> Tensor:
    """log cosh x without overflow."""
    size = x.abs()
    return size + F.softplus(-2 * size) - math.log(2)
