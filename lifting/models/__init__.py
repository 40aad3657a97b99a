"""Networks by the names that a configuration uses."""

import logging
from collections.abc import Callable
from pathlib import Path

from torch import nn

from lifting.command import InputError
from lifting.config import ImageModelConfig, LifterConfig
from lifting.geometry.skeleton import H36M17, JointSet
from lifting.models.fc import FCBaseline
from lifting.models.heatmap import SimplePose
from lifting.models.hrnet_pose import HRNetPose
from lifting.models.integral import Integral
from lifting.models.pretrained import load_backbone
from lifting.models.regressor import Regressor
from lifting.models.srnet import SRNet

log = logging.getLogger(__name__)

LIFTERS: dict[str, Callable[..., nn.Module]] = {"fc": FCBaseline, "srnet": SRNet}
IMAGE_MODELS: dict[str, Callable[..., nn.Module]] = {
    "regressor": Regressor,
    "integral": Integral,
    "simplepose": SimplePose,
    "hrnet": HRNetPose,
}


def build_lifter(config: LifterConfig, joint_set: JointSet, *, with_sigma: bool) -> nn.Module:
    """A lifter for these joints; all fields of ``config`` but the name are its keyword arguments.

    Raises:
        InputError: SRNet with joints other than Human3.6M's 17.
    """
    options = config.model_dump(exclude={"name"}) | {"with_sigma": with_sigma}
    if config.name == "fc":
        options |= {"joints": len(joint_set), "root": joint_set.root}
    elif joint_set != H36M17:
        raise InputError(
            f"config: model.name srnet: expected the joints {H36M17.name}, which its groups are made of, "
            f"got {joint_set.name}"
        )
    return LIFTERS[config.name](**options)


def build_image_model(config: ImageModelConfig, *, joints: int, with_sigma: bool, heatmaps: bool = False) -> nn.Module:
    """An image model for ``joints`` joints; its backbone starts from ``config.weights``, if they are given.

    Raises:
        InputError: a network and a loss that do not belong together; weights that do not fit.
    """
    only_2d = config.name in ("simplepose", "hrnet")
    options = config.model_dump(exclude={"name", "weights", "dims"} if only_2d else {"name", "weights"})
    if config.name == "regressor":
        options |= {"with_sigma": with_sigma, "heatmaps": heatmaps}
    elif config.name == "hrnet":
        if heatmaps:
            raise InputError("config: model.name hrnet: expected loss.heatmap 0, got a higher weight")
        options |= {"with_sigma": with_sigma}
    elif config.name == "integral" and (with_sigma or heatmaps):
        sigma = "a loss without sigma (loss.name l1, l2 or mpjpe), got one with sigma"
        wanted = sigma if with_sigma else "loss.heatmap 0, got a higher weight"
        raise InputError(f"config: model.name integral: expected {wanted}")
    network = IMAGE_MODELS[config.name](joints=joints, **options)
    if config.weights is not None:
        log.info(load_backbone(network, Path(config.weights)))
    return network
