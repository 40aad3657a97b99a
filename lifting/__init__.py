"""3D human pose by regression with residual log-likelihood estimation (RLE).

``Lifter`` is the library for whoever has 2D keypoints: arrays in, arrays out (`lifting.inference.lifter`).
"""

import os
from typing import TYPE_CHECKING, Any

# OpenCV refuses larger pictures, whose few bytes may unpack to gigabytes. It looks once, when it is first imported.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 27))

if TYPE_CHECKING:
    from lifting.inference.lifter import Lifter

__all__ = ["Lifter"]


def __getattr__(name: str) -> Any:
    """Imports `Lifter` when it is first asked for, so that importing any part of the package stays cheap."""
    if name == "Lifter":
        from lifting.inference.lifter import Lifter

        return Lifter
    raise AttributeError(f"module 'lifting' has no attribute {name!r}")
