"""3D human pose by regression with residual log-likelihood estimation (RLE).

``Lifter`` is the library for whoever has 2D keypoints: arrays in, arrays out (`lifting.inference.lifter`).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lifting.inference.lifter import Lifter

__all__ = ["Lifter"]


def __getattr__(name: str) -> Any:
    """Imports `Lifter` when it is first asked for, so that importing any part of the package stays cheap."""
    if name == "Lifter":
        from lifting.inference.lifter import Lifter

        return Lifter
    raise AttributeError(f"module 'lifting' has no attribute {name!r}")
