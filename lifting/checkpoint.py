"""Checkpoints: one file with everything that is needed to resume training or to use a model, and no code in it."""

import io
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lifting.command import InputError, existing_file, whole_file
from lifting.geometry.skeleton import H36M17, H36M18, JOINT_SETS, JointSet

Module = TypeVar("Module", bound=nn.Module)

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
    version = content.get("version")
    if not isinstance(version, int) or version != VERSION:
        raise InputError(f"checkpoint: {path}: expected version {VERSION}, got {version!r:.60}")
    for name in ("config", "network", "likelihood"):
        if not isinstance(content.setdefault(name, {}), dict):
            raise InputError(f"checkpoint: {path}: expected a dict under {name}, got {type(content[name]).__name__}")
    data = content["config"].get("data")
    has_parts = isinstance(data, dict) and "train_parts" in data
    joint_set = content.setdefault("joint_set", (H36M18 if has_parts else H36M17).name)
    if not isinstance(joint_set, str) or joint_set not in JOINT_SETS:
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
    broken = f"{what}: {path} is broken, or holds more than tensors and plain containers"
    try:
        with warnings.catch_warnings():  # of torch, about details of pickles that it refuses or reads
            warnings.simplefilter("ignore")
            if zipfile.is_zipfile(image):
                _expect_stored(image)
            content = torch.load(image, map_location="cpu", weights_only=True)
        _expect_own_values(content, set())
    except Exception as error:  # a truncated or altered file raises one of about ten kinds
        raise InputError(broken) from error
    return content


def _expect_stored(image: io.BytesIO) -> None:
    """ValueError for a zip that unpacks to more than it has: torch packs nothing."""
    with zipfile.ZipFile(image) as archive:
        if sum(info.file_size for info in archive.infolist()) > image.getbuffer().nbytes:
            raise ValueError("a zip that is packed")
    image.seek(0)


def _expect_own_values(content: Any, known: set[int]) -> None:
    """ValueError for a tensor that is not dense, not real, or has more values than bytes, by strides of zero."""
    if isinstance(content, Tensor):
        if content.layout != torch.strided or content.device.type != "cpu" or content.is_complex():
            raise ValueError("a tensor that is not dense or not real")
        if content.nbytes > content.untyped_storage().nbytes():
            raise ValueError("a tensor that repeats its values")
    elif isinstance(content, (dict, list, tuple)) and id(content) not in known:
        known.add(id(content))
        for inner in content.values() if isinstance(content, dict) else content:
            _expect_own_values(inner, known)


def is_checkpoint(path: Path) -> bool:
    """Whether a file is a checkpoint of this package, of any version, rather than weights from elsewhere.

    Raises:
        InputError: the file is absent, empty or broken, or holds more than tensors and plain containers.
    """
    content = read_tensors(path, "weights")
    return isinstance(content, dict) and content.get("format") == FORMAT


def load_weights(module: nn.Module, state: dict[str, Any], where: str) -> None:
    """``module.load_state_dict``; raises an `InputError` that begins with ``where`` if a weight does not fit.

    Nor may one be NaN or infinite.
    """
    expect_weights(module, state, where)
    for name, weight in state.items():
        if not weight.isfinite().all():
            raise InputError(f"{where}: {name}: expected finite weights, got NaN or an infinite one")
    module.load_state_dict(state)


def expect_weights(module: nn.Module, state: dict[str, Any], where: str) -> None:
    """Raises an `InputError` that begins with ``where`` unless the state has the module's names and shapes."""
    own = module.state_dict()
    for name in own.keys() | state.keys():
        expected = tuple(own[name].shape) if name in own else "no such weight"
        weight = state.get(name)
        found = "nothing" if weight is None else tuple(weight.shape) if isinstance(weight, Tensor) else "no tensor"
        if expected != found:
            raise InputError(f"{where} belongs to another model: {name}: expected {expected}, got {found}")


def built(build: Callable[[], Module], content: dict[str, Any], where: str) -> Module:
    """``build()``, a module with a ``network`` and a ``likelihood``, with their weights of a loaded checkpoint.

    It is first built without memory, so that a configuration whose weights would be larger than those of the file is
    refused before it takes any. A constructor that computes with tensors there has torch import ``torch._dynamo``,
    which takes a second; those of this package make constants of lists, and draw no weights.

    Raises:
        InputError: beginning with ``where``: a weight does not fit, or is not finite.
    """
    parts = ("network", "likelihood")
    with suppress(NotImplementedError), torch.device("meta"):  # the flows of zuko cannot be built so
        claimed = build()
        for part in parts:
            expect_weights(claimed.get_submodule(part), content[part], f"{where}: the {part}")
    module = build()
    for part in parts:
        load_weights(module.get_submodule(part), content[part], f"{where}: the {part}")
    return module
