"""Checkpoints: one file with everything that is needed to resume training or to use a model, and no code in it."""

import io
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lifting.command import InputError, existing_file, whole_file
from lifting.geometry.skeleton import H36M17, H36M18, JOINT_SETS, JointSet

FORMAT = "lifting-checkpoint"
VERSION = 1


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Writes tensors and plain containers, whole or not at all."""
    image = io.BytesIO()  # in memory first: torch's own writer hides the system's error, usually a full disk
    torch.save({"format": FORMAT, "version": VERSION, **content}, image)
    with whole_file(path) as temporary:
        temporary.write_bytes(image.getbuffer())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU without running any code that it may hold.

    The content always has ``joint_set``, the name of the joints that the network predicts. Old checkpoints do not
    record it and get h36m17 for a lifter, h36m18 for a single-stage network (its configuration has ``train_parts``).

    Raises:
        InputError: the file is absent, empty, truncated, not a checkpoint of this package, or of another version; or
            its joint set is unknown.
    """
    content = read_tensors(path, "checkpoint")
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"checkpoint: {path}: expected a checkpoint written by this package, got another file")
    if content["version"] != VERSION:
        raise InputError(f"checkpoint: {path}: expected version {VERSION}, got {content['version']}")
    has_parts = "train_parts" in content.get("config", {}).get("data", {})
    joint_set = content.setdefault("joint_set", (H36M18 if has_parts else H36M17).name)
    if joint_set not in JOINT_SETS:
        known = ", ".join(JOINT_SETS)
        raise InputError(f"checkpoint: {path}: expected one of the joint sets {known}, got {joint_set!r}")
    return content


def expect_joints(content: dict[str, Any], joint_set: JointSet, where: str) -> None:
    """Raises `InputError`, beginning with ``where``, unless a loaded checkpoint is of this joint set."""
    if content["joint_set"] != joint_set.name:
        raise InputError(f"{where}: expected a network for the joints {joint_set.name}, got {content['joint_set']}")


def read_tensors(path: Path, what: str) -> Any:
    """Reads a file of `torch.save` onto the CPU without running any code that it may hold.

    Raises:
        InputError: the file is absent, empty or broken, or holds more than tensors and plain containers.
    """
    image = io.BytesIO(existing_file(path, what).read_bytes())
    try:
        return torch.load(image, map_location="cpu", weights_only=True)
    except Exception:  # a truncated or altered file raises one of about ten kinds
        raise InputError(f"{what}: {path} is broken, or holds more than tensors and plain containers") from None


def is_checkpoint(path: Path) -> bool:
    """Whether a file is a checkpoint of this package, of any version, rather than weights from elsewhere.

    Raises:
        InputError: the file is absent, empty or broken, or holds more than tensors and plain containers.
    """
    content = read_tensors(path, "weights")
    return isinstance(content, dict) and content.get("format") == FORMAT


def load_weights(module: nn.Module, state: dict[str, Any], where: str) -> None:
    """``module.load_state_dict``; raises an `InputError` that begins with ``where`` if a weight does not fit."""
    own = module.state_dict()
    for name in own.keys() | state.keys():
        expected = tuple(own[name].shape) if name in own else "no such weight"
        found = tuple(state[name].shape) if name in state else "nothing"
        if expected != found:
            raise InputError(f"{where} belongs to another model: {name}: expected {expected}, got {found}")
    module.load_state_dict(state)
