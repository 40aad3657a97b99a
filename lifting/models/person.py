"""The input of a lifter for any camera: a person relative to himself, with joints that may be missing."""

import torch
from torch import Tensor

CHANNELS = {"screen": 2, "person": 3}  # of a joint, by the ``input`` of a model


def relative_to_person(keypoints: Tensor) -> Tensor:
    """Centres and scales the joints that are seen, so that it does not matter where in the picture a person is.

    The centre c is the mean of the joints that are seen, and the scale their mean distance from it, so a lifter sees
    ``(uv - c) / scale``. Missing joints become zero.

    Args:
        keypoints: (B, J, 3): screen coordinates, at any scale, and a confidence in [0, 1], which is 0 for a missing
            joint; its coordinates are ignored, but have to be finite.

    Returns:
        (B, J, 3), the confidence as it was.
    """
    uv, confidence = keypoints[..., :2], keypoints[..., 2:]
    seen = (confidence > 0).to(uv.dtype)
    count = seen.sum(1, keepdim=True).clamp(min=1)
    offset = (uv - (uv * seen).sum(1, keepdim=True) / count) * seen
    distance = torch.linalg.vector_norm(offset, dim=-1, keepdim=True)
    scale = distance.sum(1, keepdim=True) / count
    return torch.cat([offset / scale.clamp(min=1e-6), confidence], -1)
