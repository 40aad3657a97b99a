"""Writes trained networks of both tracks as ONNX files that need nothing of this package.

Pixels go in and joints with a sigma come out: normalisation, the average over the mirror image and the scale of the
density are inside. The metadata say what the numbers are. Before a file is written, ONNX Runtime has to compute from
random input what torch computes.
"""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lifting import single_stage
from lifting.checkpoint import load_checkpoint, save_checkpoint
from lifting.command import InputError, RunError, needing, whole_file
from lifting.config import Config, expect_track
from lifting.geometry.crops import extent
from lifting.geometry.skeleton import H36M17
from lifting.inference import onnx_backend
from lifting.inference.pixel_lifter import UNSTATED, identity, load_pixel_lifter, mean_of_pair, unit_deviation
from lifting.training.objective import ImageObjective

OPSET = 18
TOLERANCE = 1e-5  # largest difference between ONNX Runtime and torch: metres, or sides of the crop
SINGLE_STAGE = "lifting-single-stage"
AXES = {
    "ray": "camera axes (x right, y down, z forward), turned by the smallest rotation that takes the viewing ray of "
    "the pelvis to +z",
    "camera": "x right, y down, z forward",
}


class CropEstimator(nn.Module):
    """A trained single-stage network, of D = 3 or 2, from pixels of a crop to joints in it, see `geometry.crops`.

    Args:
        objective: the trained network and likelihoods. The module takes the network over and moves it to the CPU.
        flip_test: whether it averages over the crop and its mirror image.

    Raises:
        InputError: no likelihood, or one that needs its flow to place a joint.
    """

    unit: Tensor
    mirror: Tensor
    turned: Tensor

    def __init__(self, objective: ImageObjective, *, flip_test: bool) -> None:
        super().__init__()
        self.network, self.flip_test = objective.network.cpu().eval(), flip_test
        if objective.density is None:
            raise InputError("expected a network with a likelihood, got one that learns from heatmaps")
        self.register_buffer("unit", unit_deviation(objective.density.cpu()), persistent=False)
        self.register_buffer("mirror", torch.tensor(objective.joint_set.mirror), persistent=False)
        self.register_buffer("turned", torch.tensor([-1.0, 1.0, 1.0][: objective.dims]), persistent=False)

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, 3, H, W) RGB in 0..255 -> joints, sigma and deviation in (u, v, d) or (u, v), each (N, J, D).

        Sigma is NaN from a network that predicts none.
        """
        if not self.flip_test:
            one = self.network(crops)
            mu, sigma = one.mu, one.sigma
        else:
            both = self.network(torch.stack([crops, crops.flip(-1)]).flatten(0, 1))
            mu, sigma = mean_of_pair(both, crops.shape[0], self.mirror, self.turned)
        if sigma is None:
            return mu, torch.full_like(mu, torch.nan), self.unit.expand_as(mu)
        return mu, sigma, sigma * self.unit


def export_lifter(checkpoint: Path, output: Path, *, licence: str | None = None) -> str:
    """Writes a lifter as ONNX with the inputs and outputs of `pixel_lifter.PixelLifter`; returns what it did.

    Args:
        licence: of the weights, for the metadata; None for what the checkpoint says.

    Raises:
        InputError: `pixel_lifter.load_pixel_lifter` refuses the checkpoint; ``output`` has another ending; ONNX or
            ONNX Runtime is not installed.
        RunError: ONNX Runtime computes something else than torch.
    """
    _expect_onnx(output)
    module, about = load_pixel_lifter(checkpoint)
    missing = "0 for a missing joint" if about.takes_missing else "all above 0, otherwise the pose is NaN"
    metadata = {
        "format": onnx_backend.FORMAT,
        "format_version": onnx_backend.VERSION,
        "joint_set": H36M17.name,
        "joint_names": json.dumps(about.names),
        "units": "keypoints and image_size in pixels, y down; joints, sigma and deviation in metres",
        "axes": about.axes,
        "axes_meaning": f"{AXES[about.axes]}; joints are relative to the pelvis",
        "inputs": f"keypoints x, y; confidence in [0, 1], {missing}; image_size width, height",
        "outputs": "joints; sigma, the scale of their error (NaN: none); deviation, their standard deviation",
        "takes_missing": json.dumps(about.takes_missing),
        "licence": licence or about.licence,
        "checkpoint": about.checkpoint,
    }
    names = list(onnx_backend.INPUTS)
    return _export(module, _random_poses(module.takes_missing), names, metadata, output)


def export_weights(checkpoint: Path, output: Path, *, licence: str | None = None) -> str:
    """Writes a checkpoint without what only training needs; returns what it did.

    Args:
        licence: of the weights; None for what the checkpoint says.

    Raises:
        InputError: the checkpoint cannot be read, or is of the other track.
    """
    content = load_checkpoint(checkpoint)
    expect_track(Config, content["config"], f"checkpoint: {checkpoint}")
    names = ("config", "joint_set", "network", "likelihood", "density")
    kept = {name: content[name] for name in names if name in content}
    kept |= {"licence": licence or content.get("licence", UNSTATED)}
    save_checkpoint(output, kept)
    return f"wrote {output}: {output.stat().st_size / 1e6:.1f} MB"


def export_single_stage(checkpoint: Path, output: Path, *, licence: str | None = None, floats: bool = False) -> str:
    """Writes a single-stage network as ONNX with the outputs of `CropEstimator`; returns what it did.

    The input ``crops``, (N, 3, H, W) RGB in 0..255, is uint8, or float32 with ``floats``.

    Raises:
        InputError, RunError: as for `export_lifter`.
    """
    _expect_onnx(output)
    content = load_checkpoint(checkpoint)
    objective, config = single_stage.load(checkpoint, ["train.device=cpu"])
    try:
        module = CropEstimator(objective, flip_test=config.train.flip).eval()
    except InputError as error:
        raise InputError(f"checkpoint: {checkpoint}: {error}") from None
    width, height = extent(config.data.size)
    depth = "; d = depth relative to the pelvis / 2 m" if objective.dims == 3 else ""
    metadata = {
        "format": SINGLE_STAGE,
        "format_version": "1",
        "joint_set": objective.joint_set.name,
        "joint_names": json.dumps(objective.joint_set.joints),
        "units": f"u = (x + 1/2) / {width} - 1/2 and v = (y + 1/2) / {height} - 1/2 for the pixel (x, y) of the crop, "
        f"where the middle of the first pixel is (0, 0){depth}",
        "axes": "u right, v down, d away from the camera" if objective.dims == 3 else "u right, v down",
        "inputs": f"crops: RGB in 0..255, width {width}, height {height}, around the person",
        "outputs": "joints; sigma, the scale of their error (NaN: none); deviation, their standard deviation",
        "licence": licence or str(content.get("licence", UNSTATED)),
        "checkpoint": identity(checkpoint),
    }
    crops = torch.randint(0, 256, (3, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return _export(module, (crops.float() if floats else crops,), ["crops"], metadata, output)


def _expect_onnx(output: Path) -> None:
    if output.suffix != ".onnx":
        raise InputError(f"export: --output: expected .onnx, got {output}")


def _random_poses(takes_missing: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Five poses in pictures of two sizes; with ``takes_missing``, a fifth of the joints are missing."""
    generator = torch.Generator().manual_seed(0)
    size = torch.tensor([[1920.0, 1080.0]]).repeat(5, 1)
    size[1] = torch.tensor([480.0, 640.0])
    middle = torch.rand(5, 1, 2, generator=generator) * size[:, None]
    keypoints = middle + 100 * torch.randn(5, 17, 2, generator=generator)
    missing = torch.rand(5, 17, generator=generator) < (0.2 if takes_missing else 0)
    return keypoints.masked_fill(missing[..., None], torch.nan), (~missing).float(), size


def _export(
    module: nn.Module, example: tuple[Tensor, ...], names: list[str], metadata: dict[str, str], output: Path
) -> str:
    """Exports, checks and writes a module whose inputs have a first axis of any length."""
    with torch.no_grad():
        expected = module(*example)
    metadata["version"] = _own_version()
    content = _onnx_of(module, example, names, metadata)
    worst = max(_difference(content, names, tuple(x[rows] for x in example), tuple(y[rows] for y in expected))
                for rows in (slice(None), slice(1)))  # fmt: skip
    if not worst <= TOLERANCE:
        raise RunError(f"export: ONNX Runtime and torch differ by {worst:.1e}, more than {TOLERANCE:g}: not written")
    with whole_file(output) as temporary:
        temporary.write_bytes(content)
    return (
        f"wrote {output}: opset {OPSET}, {len(content) / 1e6:.1f} MB, within {worst:.0e} of torch on random input\n"
        f"  inputs {', '.join(names)}; outputs {', '.join(onnx_backend.OUTPUTS)}; any number at once"
    )


def _own_version() -> str:
    try:
        return version("lifting")
    except PackageNotFoundError:  # a clone that is not installed
        return "unknown"


def _onnx_of(module: nn.Module, example: tuple[Tensor, ...], names: list[str], metadata: dict[str, str]) -> bytes:
    if torch.__version__.startswith("2.6."):  # its exporter fixes the number of rows, and fails on batch norm
        raise InputError(f"export: expected torch 2.7 or newer, got {torch.__version__}")
    with needing("export"), _quiet():
        import onnxscript  # noqa: F401  torch says in several lines what it misses

        rows = torch.export.Dim("N")
        program = torch.onnx.export(
            module,
            example,
            dynamo=True,
            opset_version=OPSET,
            input_names=names,
            output_names=list(onnx_backend.OUTPUTS),
            dynamic_shapes=tuple({0: rows} for _ in example),
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    graph = model.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info):
        del part.metadata_props[:]  # the exporter's notes, paths on this machine among them
    for name, value in metadata.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = name, value
    return bytes(model.SerializeToString())


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's remarks about its own work off the screen."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _difference(content: bytes, names: list[str], inputs: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> float:
    """The largest difference between ONNX Runtime's and torch's outputs; infinite if only one is NaN somewhere."""
    with needing("export"):
        import onnxruntime
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    feed: dict[str, Any] = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
    worst = 0.0
    for found, wanted in zip(session.run(onnx_backend.OUTPUTS, feed), expected, strict=True):
        found = torch.from_numpy(found)
        if not torch.equal(found.isnan(), wanted.isnan()):
            return float("inf")
        worst = max(worst, float((found - wanted).nan_to_num().abs().max()))
    return worst
