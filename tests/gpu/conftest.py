"""The devices that the tests marked ``gpu`` run on: the CPU, and a GPU where there is one."""

from pathlib import Path

import pytest
import torch

from tests.gpu.setting import Setting, sets

DEVICES = ["cpu", *(f"cuda:{index}" for index in range(min(2, torch.cuda.device_count())))]


@pytest.fixture(params=DEVICES[:2])
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


@pytest.fixture(scope="session")
def tiny_sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the sets of a short run."""
    folder = tmp_path_factory.mktemp("sets")
    sets(Setting("cpu", True, folder))
    return folder


@pytest.fixture
def setting(device: torch.device, tiny_sets: Path) -> Setting:
    return Setting(str(device), True, tiny_sets)
