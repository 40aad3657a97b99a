"""Checkpoints: everything that is needed to go on training, or to use a model, in one file without code in it."""

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
    image = io.BytesIO()  # in memory first: torch's own writer hides what the system said, a full disk mostly
    torch.save({"format": FORMAT, "version": VERSION, **content}, image)
    with whole_file(path) as temporary:
        temporary.write_bytes(image.getbuffer())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU without running any code that it may hold.

    The content always has ``joint_set``, the name of the joints that the network predicts. Old checkpoints do not
    record it: it is h36m17 for a lifter and h36m18 for a single-stage network, whose configuration has ``train_parts``.

    Raises:
        InputError: absent, empty, truncated, not a checkpoint of this package, of another version, or of a joint set
            that is not known.
    """
    content = read_tensors(path, "checkpoint")
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"checkpoint: {path}: expected a checkpoint that this package wrote, got something else")
    if content["version"] != VERSION:
        raise InputError(f"checkpoint: {path}: expected version {VERSION}, got {content['version']}")
    has_parts = "train_parts" in content.get("config", {}).get("data", {})
    joint_set = content.setdefault("joint_set", (H36M18 if has_parts else H36M17).name)
    if joint_set not in JOINT_SETS:
        raise InputError(f"checkpoint: {path}: expected a joint set of {', '.join(JOINT_SETS)}, got {joint_set!r}")
    return content


def expect_joints(content: dict[str, Any], joint_set: JointSet, where: str) -> None:
    """`InputError`, beginning with ``where``, unless what `load_checkpoint` returned is of these joints."""
    if content["joint_set"] != joint_set.name:
        raise InputError(f"{where}: expected a network of the joints {joint_set.name}, got {content['joint_set']}")


def read_tensors(path: Path, what: str) -> Any:
    """What a file of torch's holds, onto the CPU, without running any code that it may hold.

    Raises:
        InputError: absent, empty, broken, or with more in it than tensors and plain containers.
    """
    image = io.BytesIO(existing_file(path, what).read_bytes())
    try:
        return torch.load(image, map_location="cpu", weights_only=True)
    except Exception:  # of about ten kinds, for a file that is cut or altered
        raise InputError(f"{what}: {path} is broken, or holds more than tensors and plain containers") from None


def is_checkpoint(path: Path) -> bool:
    """Whether a file is a checkpoint of this package, of any version, rather than weights of somebody else's.

    Raises:
        InputError: absent, empty, broken, or with objects that would run code.
    """
    content = read_tensors(path, "weights")
    return isinstance(content, dict) and content.get("format") == FORMAT


def load_weights(module: nn.Module, state: dict[str, Any], where: str) -> None:
    """``module.load_state_dict`` with one line for what does not fit."""
    own = module.state_dict()
    for name in own.keys() | state.keys():
        expected = tuple(own[name].shape) if name in own else "no such weight"
        found = tuple(state[name].shape) if name in state else "nothing"
        if expected != found:
            raise InputError(f"{where} is of another model: {name}: expected {expected}, got {found}")
    module.load_state_dict(state)
