"""A camera for each pose of a batch, and the frame about the viewing ray of the pelvis.

`cameras.Camera` is one camera for any number of points; here every pose has its own, as tensors with the batch first.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from lifting.geometry.cameras import Camera, distort, undistort


@dataclass(frozen=True)
class Views:
    """B cameras; the fields are those of `cameras.Camera`, without its place.

    Attributes:
        size: (B, 2) width and height in pixels.
        focal, center: (B, 2) pixels.
        radial: (B, 3).
        tangential: (B, 2).
        tangential_factor: (B, 1).
        R: (B, 3, 3) world -> camera.
    """

    size: Tensor
    focal: Tensor
    center: Tensor
    radial: Tensor
    tangential: Tensor
    tangential_factor: Tensor
    R: Tensor

    @staticmethod
    def of(cameras: Sequence[Camera]) -> "Views":
        """The given cameras in float32, one row each."""

        def stacked(name: str) -> Tensor:
            return torch.stack([torch.as_tensor(getattr(c, name), dtype=torch.float32) for c in cameras])

        named = {f.name: stacked(f.name) for f in fields(Views)}
        return Views(**named | {"tangential_factor": named["tangential_factor"][:, None]})

    def __getitem__(self, rows: Tensor) -> "Views":
        """The cameras of these rows, (B',) indices."""
        return Views(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def to(self, device: torch.device) -> "Views":
        return Views(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def project(self, points: Tensor) -> Tensor:
        """(B, J, 3) camera frame, in front of the cameras -> (B, J, 2) pixels, as `Camera.project`."""
        radial, tangential, factor, focal, center = (
            x[:, None] for x in (self.radial, self.tangential, self.tangential_factor, self.focal, self.center)
        )
        return distort(points[..., :2] / points[..., 2:], radial, tangential, factor) * focal + center

    def rays(self, uv: Tensor) -> Tensor:
        """(B, J, 2) pixels -> (B, J, 3) unit vectors along their viewing rays, the inverse of `project`, in float64."""
        radial, tangential, factor, focal, center = (
            x[:, None].double() for x in (self.radial, self.tangential, self.tangential_factor, self.focal, self.center)
        )
        xy = undistort((uv.double() - center) / focal, radial, tangential, factor)
        return F.normalize(F.pad(xy, (0, 1), value=1.0), dim=-1)


def rotation_to_ray(ray: Tensor) -> Tensor:
    """(..., 3) directions in front of the camera -> (..., 3, 3), the smallest rotation R with R ray along +z.

    With d = ray / |ray|, v = d x z and [v] the matrix of the cross product with v::

        R = I + [v] + [v]^2 / (1 + d_z)

    (Rodrigues' formula for the axis v / |v| and the angle between d and z.) A lifter that predicts in this *ray frame*
    needs no intrinsics; with them, R^T brings its joints into the camera frame.
    """
    x, y, z = (ray / ray.norm(dim=-1, keepdim=True)).unbind(-1)
    s = 1 / (1 + z)
    rows = [[1 - x * x * s, -x * y * s, -x], [-x * y * s, 1 - y * y * s, -y], [x, y, z]]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)
