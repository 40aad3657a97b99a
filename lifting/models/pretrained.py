"""Weights that others trained, read from files without running code that these may hold."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from lifting.checkpoint import FORMAT, load_checkpoint, read_tensors
from lifting.command import InputError
from lifting.config import SingleStageConfig, expect_track

# Of a backbone's weights: in torchvision's and SimplePose's files, in ours and mmpose's, in the RLE authors'.
PREFIXES = ("", "backbone.", "preact.")


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights of a file by their names, without a ``module.`` before them.

    Of a checkpoint of ours the network's; of another what is under ``state_dict`` or ``model``, if there is that.

    Raises:
        InputError: absent, empty, broken, without weights, a checkpoint of the lifting track, or with objects that
            would run code.
    """
    content = read_tensors(path, "weights")
    if isinstance(content, dict) and content.get("format") == FORMAT:
        checkpoint = load_checkpoint(path)
        expect_track(SingleStageConfig, checkpoint.get("config", {}), f"weights: {path}")
        content = checkpoint["network"]
    for nest in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(nest), dict):
            content = content[nest]
    weights = content.items() if isinstance(content, dict) else ()
    named = {str(name).removeprefix("module."): weight for name, weight in weights if isinstance(weight, Tensor)}
    if not named:
        raise InputError(f"weights: {path}: expected weights by their names, got none")
    return named


def load_backbone(network: nn.Module, path: Path) -> str:
    """Starts the ``backbone`` of a network, a `ResNet`, from a file that holds one, whatever else that holds.

    Args:
        network: has a submodule ``backbone``.
        path: torchvision's weights, a checkpoint of ours, the reference's weights, or SimplePose's or mmpose's.

    Returns:
        What was loaded and what was not, for the log.

    Raises:
        InputError: no backbone there, or another one than this.
    """
    weights = read_weights(path)
    backbone = network.get_submodule("backbone")
    own = backbone.state_dict()
    prefix = max(PREFIXES, key=lambda prefix: sum(prefix + name in weights for name in own))
    parts = tuple(f"{name}." for name, _ in backbone.named_children())
    plain = {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}
    given = {name: weight for name, weight in plain.items() if name.startswith(parts)}
    if not given.keys() & own.keys():
        raise InputError(f"weights: {path}: expected a ResNet's, such as {next(iter(own))}, got {_some(weights)}")
    expect_shapes(own, given, f"weights: {path}")
    backbone.load_state_dict(own | given)
    left_out = [name for name in weights if name.removeprefix(prefix) not in given]
    message = f"{len(given)} of {len(own)} backbone weights from {path}"
    return f"{message}; left out {_some(left_out)}" if left_out else message


def expect_shapes(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], where: str) -> None:
    """Holds names and shapes against each other; batch norm's counters, which older files lack, may be absent.

    Raises:
        InputError: the first that differs.
    """
    for name in [*expected, *given]:
        wanted = tuple(expected[name].shape) if name in expected else "no such weight"
        found = tuple(given[name].shape) if name in given else "nothing"
        if wanted != found and not (found == "nothing" and name.endswith(".num_batches_tracked")):
            raise InputError(f"{where}: {name}: expected {wanted}, got {found}")


def _some(names: Mapping[str, Tensor] | list[str], most: int = 4) -> str:
    first, rest = list(names)[:most], len(names) - most
    return ", ".join(first) + (f" and {rest} more" if rest > 0 else "")
