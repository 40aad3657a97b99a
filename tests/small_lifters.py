"""Small lifters with random weights, as checkpoints and as an exported file."""

from pathlib import Path

import pytest
import torch

from lifting import lifter
from lifting.checkpoint import save_checkpoint
from lifting.config import load_config
from lifting.geometry.skeleton import H36M17
from lifting.inference.export import export_lifter

SMALL_FLOW = ["loss.flow.width=8", "loss.flow.couplings=2"]
SRNET, FC = ["model.name=srnet", "model.width=64"], ["model.width=32", "model.blocks=1"]
OVERRIDES = {
    "person": [*SRNET, *SMALL_FLOW, "model.input=person"],
    "screen": [*FC, *SMALL_FLOW],
    "both": [*FC, *SMALL_FLOW, "model.input=both"],
    "no_sigma": [*FC, "loss.name=l1", "train.flip=false"],
    "flow": [*FC, *SMALL_FLOW, "loss.name=flow"],
}


def write_checkpoint(path: Path, overrides: list[str]) -> Path:
    """A lifter whose weights and batch norms are random, so that every part of it matters."""
    torch.manual_seed(0)
    config = load_config(overrides=overrides)
    objective = lifter.build_objective(config, H36M17)
    with torch.no_grad():
        for weight in objective.network.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
        for module in objective.network.modules():
            if isinstance(module, torch.nn.BatchNorm1d) and module.running_mean is not None:
                module.running_mean.normal_(0, 0.3)
                assert module.running_var is not None
                module.running_var.uniform_(0.5, 2)
    if "loss.name=l1" in overrides:
        objective.likelihood.get_buffer("scale").fill_(0.05)
    states = {"network": objective.network.state_dict(), "likelihood": objective.likelihood.state_dict()}
    content = {"config": config.model_dump(mode="json"), "joint_set": H36M17.name, "licence": "CC0", **states}
    save_checkpoint(path, content)
    return path


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One of each kind of `OVERRIDES`."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return {name: write_checkpoint(folder / f"{name}.pt", overrides) for name, overrides in OVERRIDES.items()}


@pytest.fixture(scope="session")
def exported(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lifter ``person`` as ONNX."""
    if torch.__version__.startswith("2.6."):
        pytest.skip("torch 2.6 cannot export a number of rows that is left open")
    path = tmp_path_factory.mktemp("exported") / "person.onnx"
    export_lifter(checkpoints["person"], path)
    return path
