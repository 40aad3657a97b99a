"""Networks by the names that a configuration uses."""

from collections.abc import Callable

from torch import nn

from lifting.config import LifterConfig
from lifting.models.fc import FCBaseline
from lifting.models.srnet import SRNet

LIFTERS: dict[str, Callable[..., nn.Module]] = {"fc": FCBaseline, "srnet": SRNet}


def build_lifter(config: LifterConfig, *, joints: int, with_sigma: bool) -> nn.Module:
    """A lifter for ``joints`` joints; the fields of ``config`` beside the name are its keyword arguments."""
    return LIFTERS[config.name](joints=joints, with_sigma=with_sigma, **config.model_dump(exclude={"name"}))
