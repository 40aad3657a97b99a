"""Crops around a person, and the coordinates of joints in them that the single-stage track predicts.

A crop of W x H pixels is an affine image of the picture. In both, the centre of a pixel has integer coordinates. A
joint at (x, y) in the crop and at depth z in the camera frame has the label::

    u = (x + 1/2) / W - 1/2        v = (y + 1/2) / H - 1/2        d = (z - z_root) / 2 m

Crops of 3D networks are square, S x S; those of 2D networks may be taller than wide (256 x 192 on COCO).

u and v are zero in the middle of the crop and +-1/2 at its borders, and u changes sign when the crop is mirrored.
Joints outside the crop have labels too, with u or v beyond +-1/2. The camera is a pinhole without distortion, as in the
annotations of all single-stage work on Human3.6M.
"""

import torch
from torch import Tensor

DEPTH = 2.0  # the unit of d, in metres
AROUND = 1.25  # the crop over the box of a person, on COCO and MPII: SimplePose, HRNet and RLE
Size = int | tuple[int, int]  # of a crop, pixels: the side of a square, or width and height


def extent(size: Size) -> tuple[int, int]:
    """Width and height."""
    return (size, size) if isinstance(size, int) else size


def crop_matrix(
    box: Tensor, size: Size, scale: float | Tensor = 1.0, angle: float | Tensor = 0.0, mirrored: bool | Tensor = False
) -> Tensor:
    """The affine map from picture to crop: (..., 2, 3) float64, for pixels as columns (x, y, 1).

    The centre of the box goes to the centre of the crop. At ``scale`` 1 the crop is the smallest that holds the box.

    Args:
        box: (..., 4) x, y, width, height in pixels.
        size: of the crop.
        scale: factor on what the crop shows; above one, it shows more than the box.
        angle: radians, clockwise as seen in the picture.
        mirrored: whether left and right are exchanged, after the rotation.

    Raises:
        ValueError: a box whose longer side is not above zero.
    """
    box = box.double()
    scale = torch.as_tensor(scale, dtype=torch.float64)
    side = box[..., 2:].amax(-1) * scale
    if not (side > 0).all():
        raise ValueError(f"box: expected a side above zero, got {float(side.min()):g}")
    whole = _extent_of(size, box)
    zoom = 1 / ((box[..., 2:] / whole).amax(-1) * scale)
    turn = torch.as_tensor(angle, dtype=torch.float64)
    cos, sin = zoom * torch.cos(turn), zoom * torch.sin(turn)
    sign = 1 - 2 * torch.as_tensor(mirrored, dtype=torch.float64)
    linear = torch.stack([torch.stack([sign * cos, -sign * sin], -1), torch.stack([sin, cos], -1)], -2)
    middle = box[..., :2] + box[..., 2:] / 2
    shift = (whole[:, None] - 1) / 2 - (linear @ middle[..., None])
    return torch.cat([linear, shift], -1)


def _extent_of(size: Size, like: Tensor) -> Tensor:
    """(2,) width and height, on the device and in the dtype of another tensor."""
    return torch.tensor(extent(size), dtype=like.dtype, device=like.device)


def transform(matrix: Tensor, points: Tensor) -> Tensor:
    """Applies an affine map (..., 2, 3) to points: (..., J, 2) pixels -> (..., J, 2), in the points' dtype."""
    moved = points.double() @ matrix[..., :2].mT + matrix[..., None, :, 2]
    return moved.to(points.dtype)


def inverse(matrix: Tensor) -> Tensor:
    """The inverse of an affine map, (..., 2, 3) -> (..., 2, 3)."""
    linear = torch.linalg.inv(matrix[..., :2])
    return torch.cat([linear, -linear @ matrix[..., 2:]], -1)


def crop_labels(pixels: Tensor, depth: Tensor, matrix: Tensor, size: Size) -> Tensor:
    """(u, v, d) of joints.

    Args:
        pixels: (..., J, 2) in the picture.
        depth: (..., J) metres, relative to the root; any value where it is unknown.
        matrix: (..., 2, 3) of `crop_matrix`.
        size: of the crop.

    Returns:
        (..., J, 3).
    """
    uv = (transform(matrix, pixels) + 0.5) / _extent_of(size, pixels) - 0.5
    return torch.cat([uv, depth[..., None] / DEPTH], -1)


def picture_points(uvd: Tensor, matrix: Tensor, size: Size) -> Tensor:
    """(u, v, ...) of `crop_labels` back to pixels of the picture: (..., J, 2)."""
    return transform(inverse(matrix), (uvd[..., :2] + 0.5) * _extent_of(size, uvd) - 0.5)


def camera_points(uvd: Tensor, matrix: Tensor, size: Size, focal: Tensor, center: Tensor, root_depth: Tensor) -> Tensor:
    """Maps predictions back into the camera frame, given the intrinsics and the depth of the root.

    Args:
        uvd: (..., J, 3).
        matrix: (..., 2, 3) of `crop_matrix`.
        size: of the crop.
        focal, center: (..., 2) pixels.
        root_depth: (...,) metres.

    Returns:
        (..., J, 3) metres in the camera frame, not relative to the root.
    """
    z = root_depth[..., None] + DEPTH * uvd[..., 2]
    rays = (picture_points(uvd, matrix, size) - center[..., None, :]) / focal[..., None, :]
    return torch.cat([rays * z[..., None], z[..., None]], -1)
