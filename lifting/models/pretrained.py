"""Pretrained weights, read from files without running any code in them."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from lifting.checkpoint import FORMAT, load_checkpoint, read_tensors
from lifting.command import InputError
from lifting.config import SingleStageConfig, expect_track

# Prefixes of a backbone's weights: in torchvision's, SimplePose's and HRNet's files, in ours and mmpose's, in the RLE
# authors'. And prefixes of the layer that makes heatmaps: in HRNet's files and ours, in those of mmpose 1 and 0.
PREFIXES = ("", "backbone.", "preact.")
_FINAL = ("final_layer.", "head.final_layer.", "keypoint_head.final_layer.")


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
    """Initialises the ``backbone`` of a network from a file that may hold other weights as well.

    A network that makes heatmaps in a ``final_layer`` gets this layer, too, if the file has one for as many joints.

    Args:
        network: has a submodule ``backbone``, a `ResNet` or `HRNet`.
        path: torchvision's weights, one of our checkpoints, or weights of the reference, SimplePose, HRNet or mmpose.

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
    unused: tuple[str, ...] = getattr(backbone, "unused", ())
    plain = {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}
    given = {name: weight for name, weight in plain.items() if name.startswith(parts) and not name.startswith(unused)}
    if not given.keys() & own.keys():
        kind, example = type(backbone).__name__, next(iter(own))
        raise InputError(f"weights: {path}: expected weights of a {kind}, such as {example}, got {_some(weights)}")
    expect_shapes(own, given, f"weights: {path}")
    backbone.load_state_dict(own | given)
    final = _load_final_layer(network, weights)
    left_out = [name for name in weights if name.removeprefix(prefix) not in given and name not in final]
    message = f"{len(given)} of {len(own)} backbone weights{' and final_layer' if final else ''} from {path}"
    return f"{message}; left out {_some(left_out)}" if left_out else message


def _load_final_layer(network: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    """Initialises ``final_layer``, if there is one and the file has one of the same shapes; returns the names used."""
    layer = getattr(network, "final_layer", None)
    own = layer.state_dict() if isinstance(layer, nn.Module) else {}
    for prefix in _FINAL:
        given = {name: weights[prefix + name] for name in own if prefix + name in weights}
        if own and all(name in given and given[name].shape == own[name].shape for name in own):
            layer.load_state_dict(given)  # type: ignore[union-attr]
            return [prefix + name for name in own]
    return []


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
