"""What a lifter sees of a person: where he is on the screen, and how his joints lie relative to him."""

import torch
import torch.nn.functional as F
from torch import Tensor

# Numbers of a joint by the ``input`` of a model: those that it is given, and those that its first layer sees.
CHANNELS = {"screen": 2, "both": 2, "person": 3}
SEEN = {"screen": 2, "both": 4, "person": 3}


def seen_by(input: str, keypoints: Tensor) -> Tensor:
    """What the first layer of a lifter with this ``input`` sees.

    Args:
        input: ``"screen"``: the place on the screen; ``"person"``: the place relative to the person, and the
            confidence; ``"both"``: the place on the screen, and the place relative to the person.
        keypoints: (B, J, `CHANNELS`): normalised screen coordinates, and the confidence for ``"person"``.

    Returns:
        (B, J, `SEEN`).
    """
    if input == "screen":
        return keypoints
    if input == "person":
        return relative_to_person(keypoints)
    return torch.cat([keypoints, relative_to_person(F.pad(keypoints, (0, 1), value=1.0))[..., :2]], -1)


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
