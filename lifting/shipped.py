"""Files that come along with the code: configurations and released weights.

In a checkout they lie in ``configs/`` and ``checkpoints/released/``. A wheel holds the same files as
``lifting/configs`` and ``lifting/weights`` (see pyproject.toml).
"""

from pathlib import Path

_PACKAGE = Path(__file__).parent
_CHECKOUT = _PACKAGE.parent


def configs(track: str) -> Path:
    """The folder of a track's configurations: ``"lifting"``, ``"single_stage"`` or ``"series"``."""
    installed = _PACKAGE / "configs" / track
    return installed if installed.is_dir() else _CHECKOUT / "configs" / track


def released(name: str) -> Path:
    """Where the released weights of this file name are, whether or not there are any."""
    installed = _PACKAGE / "weights"
    return (installed if installed.is_dir() else _CHECKOUT / "checkpoints" / "released") / name
