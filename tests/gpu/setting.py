"""Where a case of `make gpu` runs: the device, the networks, the sets that they are trained on."""

import os
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from lifting import chosen_pictures, lifter, single_stage
from lifting.config import Config, SingleStageConfig, read_config
from lifting.datasets.image_batches import ImageBatches
from lifting.datasets.image_index import write_index
from lifting.datasets.pose_batches import PoseBatches
from lifting.datasets.poses import load_split
from lifting.datasets.store import write_store
from lifting.geometry import h36m
from lifting.synthetic.poses import sequences
from lifting.training.objective import AnyObjective
from lifting.training.steps import Batches
from tests.datasets.test_image_batches import image_set

ROOT = Path(__file__).parents[2]

Row = dict[str, str]  # the cells of a row by their columns

SHORT = ["loss.flow.width=8", "loss.flow.couplings=2", "train.bn_batches=2", "train.precision=fp32"]
TINY_RESNET = ["model.backbone=resnet18", "model.width=8"]


class Network(NamedTuple):
    """What is trained: its track, its leaf, overrides of it, and more of them for a run that takes a second."""

    track: Any
    leaf: str
    tiny: list[str]
    overrides: tuple[str, ...] = ()


NETWORKS = {
    "FC + RLE": Network(lifter, "lifting/fc_rle", ["model.width=64", "model.blocks=1"]),
    "SRNet + RLE": Network(lifter, "lifting/srnet_rle", ["model.width=80"]),
    "ResNet-50 + RLE": Network(single_stage, "single_stage/resnet50_rle", TINY_RESNET),
    "with heatmaps": Network(single_stage, "single_stage/resnet50_rle", TINY_RESNET, ("loss.heatmap=1",)),
    "Integral Pose": Network(single_stage, "single_stage/integral", TINY_RESNET),
}


@dataclass(frozen=True)
class Setting:
    """Where cases run.

    Attributes:
        device: what `torch.device` takes.
        short: tiny networks on tiny sets, a test of this command rather than of the device.
        folder: an existing one, for scratch.
    """

    device: str
    short: bool
    folder: Path

    def config(self, name: str, *overrides: str) -> Any:
        """The configuration of one of `NETWORKS`, on the sets of this setting."""
        network = NETWORKS[name]
        schema: type[Any] = Config if network.track is lifter else SingleStageConfig
        chosen = [*(self._poses() if network.track is lifter else self._pictures()), *network.overrides]
        chosen += [*SHORT, *network.tiny] if self.short else []
        leaf = ROOT / "configs" / f"{network.leaf}.yaml"
        return read_config(schema, leaf, [*chosen, f"train.device={self.device}", *overrides])

    def _poses(self) -> list[str]:
        if not self.short:
            return ["data.path=synthetic"]
        subjects = ["data.train_subjects=[S1]", "data.test_subjects=[S9]"]
        return [f"data.path={self.folder}/poses.h5", *subjects, "data.stride=4", "data.test_stride=10",
                "train.batch_size=32"]  # fmt: skip

    def _pictures(self) -> list[str]:
        if not self.short:
            workers = min(16, os.cpu_count() or 1)
            paths = ["data.path=rendered", "data.flat_path=rendered"]
            return [*paths, "data.stride=2", f"data.workers={workers}", "train.batch_size=64"]
        paths = [f"data.path={self.folder}/deep.h5", f"data.flat_path={self.folder}/flat.h5"]
        return [*paths, "data.train_parts=[S1]", "data.test_parts=[S9]", "data.size=64", "train.batch_size=4"]


def sets(setting: Setting) -> Row:
    """Makes the embedded sets if they are not there, or tiny ones for a short run; how much there is to train on."""
    if setting.short:
        _make_tiny(setting.folder)
    lifting, pictures = setting.config("FC + RLE"), setting.config("ResNet-50 + RLE")
    poses = load_split(lifting.data, lifter.data_paths(lifting, train=True), train=True)
    deep, flat = chosen_pictures.training_sets(pictures)
    return {"poses": f"{len(poses):,}", "pictures": f"{len(deep):,}", "with 2D labels": f"{len(flat or ()):,}"}


def _make_tiny(folder: Path) -> None:
    some = list(islice(sequences(seed=0), 3))
    people = [replace(sequence, subject=subject) for subject in ("S1", "S9") for sequence in some]
    cameras = {subject: h36m.cameras(subject) for subject in ("S1", "S9")}
    write_store(folder / "poses.h5", people, cameras, frame_rate=50.0, source="gpu", checksum="none")
    deep = replace(image_set(folder / "deep", 24, deep=True), part=np.repeat(["S1", "S9"], [16, 8]))
    flat = replace(image_set(folder / "flat", 16, deep=False), part=np.repeat("train", 16))
    for name, images in (("deep", deep), ("flat", flat)):
        write_index(folder / f"{name}.h5", images, source="gpu", checksum="none")


def made(setting: Setting, name: str, *overrides: str) -> tuple[AnyObjective, Batches, Any]:
    """Network and likelihood in training mode on the device, the batches of their training, the configuration."""
    config, device = setting.config(name, *overrides), torch.device(setting.device)
    torch.manual_seed(0)
    if isinstance(config, Config):
        poses = load_split(config.data, lifter.data_paths(config, train=True), train=True).to(device)
        objective = lifter.build_objective(config, poses.joint_set).to(device)
        return objective.train(), PoseBatches(poses, config.train.batch_size, flip=config.train.flip), config
    deep, flat = chosen_pictures.training_sets(config)
    pictures = single_stage.build_objective(config).to(device)
    return pictures.train(), ImageBatches(deep, flat, config, device), config
