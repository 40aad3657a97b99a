"""How far a run has come, and the checkpoint that takes it on from there."""

import logging
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lifting.checkpoint import expect_joints, load_checkpoint, load_weights
from lifting.command import InputError
from lifting.config import RunConfig
from lifting.training import ranks
from lifting.training.objective import AnyObjective

log = logging.getLogger(__name__)


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        epoch: complete epochs.
        best_error: the lowest of these epochs, MPJPE in millimetres or, of a 2D network, NME in percent.
        step: steps done of the epoch after them.
        steps: what `training_step` returned for each of these, (3,).
        skipped: how many of these changed no weight, because their loss or gradient was not finite.
        seconds: how long these took.
        random: the state of each rank's generators after these (`ranks.generators`).
    """

    epoch: int = 0
    best_error: float = math.inf
    step: int = 0
    steps: list[Tensor] = field(default_factory=list)
    skipped: int = 0
    seconds: float = 0.0
    random: list[list[Tensor]] = field(default_factory=list)


def state_of(
    objective: AnyObjective, optimizer: torch.optim.Optimizer, config: RunConfig, progress: Progress, epoch_steps: int
) -> dict[str, Any]:
    """The content of a checkpoint; ``unfinished`` is there only in the middle of an epoch of ``epoch_steps`` steps."""
    state = {
        "config": config.model_dump(mode="json"),
        "joint_set": objective.joint_set.name,
        "network": objective.network.state_dict(),
        "likelihood": objective.likelihood.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": progress.epoch,
        "best_error": progress.best_error,
    }
    if progress.step:
        state["unfinished"] = {
            "step": progress.step,
            "of": epoch_steps,
            "steps": torch.stack(progress.steps).cpu(),
            "skipped": progress.skipped,
            "seconds": progress.seconds,
            "random": progress.random,
        }
    return state


def resume(
    objective: AnyObjective, optimizer: torch.optim.Optimizer, folder: Path, config: RunConfig, epoch_steps: int
) -> Progress:
    """Loads ``last.pt`` of a run, if any, with the generators of a run that stopped in the middle of an epoch.

    If it had another number of ranks, or another device, the rest of that epoch draws other random numbers. If it was
    tested on other poses, the lowest error so far is none: errors on two tests do not compare.

    Raises:
        InputError: ``last.pt`` cannot be read, is of another model, loss, optimiser or joint set, or stopped in the
            middle of an epoch of another number of steps; or some ranks, of another machine, do not see it.
    """
    path = folder / "last.pt"
    progress = Progress()
    if path.exists():
        state = load_checkpoint(path)
        expect_joints(state, objective.joint_set, f"checkpoint: {path}")
        if not {"optimizer", "epoch"} <= state.keys():
            raise InputError(f"checkpoint: {path}: expected one that a training wrote, got weights alone")
        if not _agree(state["config"].get("loss", {}), config.model_dump(mode="json")["loss"]):
            raise InputError(f"checkpoint: {path}: expected to go on with the loss of its training, got another")
        load_weights(objective.network, state["network"], f"checkpoint: {path}: the network")
        load_weights(objective.likelihood, state["likelihood"], f"checkpoint: {path}: the likelihood")
        for group in state["optimizer"]["param_groups"]:
            if group["amsgrad"] != optimizer.defaults["amsgrad"]:  # its moments are others
                was = str(group["amsgrad"]).lower()
                raise InputError(f"checkpoint: {path}: expected train.amsgrad={was}, as it was trained")
            group["fused"] = optimizer.defaults["fused"]  # that of this device
        optimizer.load_state_dict(state["optimizer"])
        progress = Progress(state["epoch"], state["best_error"] if "best_error" in state else state["best_mpjpe_mm"])
        if not _agree(_test_of(state["config"]), _test_of(config.model_dump(mode="json"))):
            progress.best_error = math.inf
            if progress.epoch < config.train.epochs and ranks.rank() == 0:
                log.info("another test than before: best.pt is the best epoch from here on")
        if "unfinished" in state:
            _go_on(progress, state["unfinished"], config, next(objective.parameters()).device, path, epoch_steps)
    if not ranks.all_have((progress.epoch, progress.step)):
        raise InputError(f"train: {folder}: expected a folder that all machines share, got different checkpoints")
    return progress


def _test_of(config: dict[str, Any]) -> dict[str, Any]:
    """What decides how an error is measured and on which poses, apart from where the files lie."""
    names = ("drop_wrong_s9", "keypoints", "noise_px", "missing", "size", "test_subjects", "test_actions",
             "test_cameras", "test_parts", "test_stride")  # fmt: skip
    data = config.get("data", {})
    flip = {"flip": config["train"]["flip"]} if "flip" in config.get("train", {}) else {}
    return {name: data[name] for name in names if name in data} | flip


def _agree(one: Any, other: Any) -> bool:
    """Whether two configurations have no entry in which they differ; an earlier version had fewer."""
    if isinstance(one, dict) and isinstance(other, dict):
        return all(_agree(one[name], other[name]) for name in one.keys() & other.keys())
    return bool(one == other)


def _go_on(
    progress: Progress, unfinished: dict[str, Any], config: RunConfig, device: torch.device, path: Path, steps: int
) -> None:
    if unfinished["of"] != steps:
        raise InputError(
            f"checkpoint: {path}: stopped in the middle of an epoch of {unfinished['of']:,} steps, "
            f"expected to go on with as many, got {steps:,}: the data or the batch size have changed"
        )
    progress.step, progress.skipped = unfinished["step"], unfinished["skipped"]
    progress.steps = list(unfinished["steps"].to(device))
    progress.seconds, progress.random = unfinished["seconds"], unfinished["random"]
    if not ranks.set_generators(progress.random, device):
        ranks.seed_everything(config.seed, progress.epoch, progress.step)
