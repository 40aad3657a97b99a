"""Pretrained weights, read from files without running any code in them."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from lifting.checkpoint import FORMAT, load_checkpoint, read_tensors
from lifting.command import InputError
from lifting.config import SingleStageConfig, expect_track

# Prefixes of a backbone's weights: in torchvision's and SimplePose's files, in ours and mmpose's, in the RLE authors'.
PREFIXES = ("", "backbone.", "preact.")


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights in a file by their names, without a leading ``module.``.

    From our checkpoints it takes the network's weights, from other files those under ``state_dict`` or ``model`` if
    there is such an entry.

    Raises:
        InputError: the file is absent, empty, broken, has no weights, is a checkpoint of the lifting track, or contains
            objects that would run code.
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
        raise InputError(f"weights: {path}: expected named weights, got none")
    return named


def load_backbone(network: nn.Module, path: Path) -> str:
    """Initialises the ``backbone`` of a network, a `ResNet`, from a file that may hold other weights as well.

    Args:
        network: has a submodule ``backbone``.
        path: torchvision's weights, one of our checkpoints, or weights of the reference, SimplePose or mmpose.

    Returns:
        A line for the log: what was loaded and what was left out.

    Raises:
        InputError: `read_weights` cannot read the file, or it has no backbone or one of other shapes.
    """
    weights = read_weights(path)
    backbone = network.get_submodule("backbone")
    own = backbone.state_dict()
    prefix = max(PREFIXES, key=lambda prefix: sum(prefix + name in weights for name in own))
    parts = tuple(f"{name}." for name, _ in backbone.named_children())
    plain = {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}
    given = {name: weight for name, weight in plain.items() if name.startswith(parts)}
    if not given.keys() & own.keys():
        example = next(iter(own))
        raise InputError(f"weights: {path}: expected weights of a ResNet, such as {example}, got {_some(weights)}")
    expect_shapes(own, given, f"weights: {path}")
    backbone.load_state_dict(own | given)
    left_out = [name for name in weights if name.removeprefix(prefix) not in given]
    message = f"{len(given)} of {len(own)} backbone weights from {path}"
    return f"{message}; left out {_some(left_out)}" if left_out else message


def expect_shapes(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], where: str) -> None:
    """Compares names and shapes. Batch norm's counters may be absent, because older files lack them.

    Raises:
        InputError: a weight is missing, unknown or of another shape; the message names the first one.
    """
    for name in [*expected, *given]:
        wanted = tuple(expected[name].shape) if name in expected else "no such weight"
        found = tuple(given[name].shape) if name in given else "nothing"
        if wanted != found and not (found == "nothing" and name.endswith(".num_batches_tracked")):
            raise InputError(f"{where}: {name}: expected {wanted}, got {found}")


def _some(names: Mapping[str, Tensor] | list[str], most: int = 4) -> str:
    first, rest = list(names)[:most], len(names) - most
    return ", ".join(first) + (f" and {rest} more" if rest > 0 else "")
