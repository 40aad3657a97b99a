"""What several tests use: a small store of the embedded set's people, and the small model that trains on it."""

from pathlib import Path

import pytest

from lifting import h36m
from lifting.datasets.store import write_store
from lifting.datasets.synthetic import sequences

SUBJECTS = ("S1", "S5", "S9")
SMALL = [
    "data.train_subjects=[S1, S5]",
    "data.test_subjects=[S9]",
    "data.stride=4",
    "data.test_stride=10",
    "model.width=64",
    "model.blocks=1",
    "train.batch_size=64",
    "train.epochs=2",
    "train.precision=fp32",
]


@pytest.fixture(scope="session")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three subjects with two sequences each, four cameras."""
    path = tmp_path_factory.mktemp("store") / "small.h5"
    chosen = [s for s in sequences(seed=0) if s.subject in SUBJECTS and s.name.startswith(("Walking", "Greeting"))]
    cameras = {subject: h36m.cameras(subject) for subject in SUBJECTS}
    write_store(path, chosen, cameras, frame_rate=50.0, source="test", checksum="none")
    return path


@pytest.fixture
def small(small_store: Path) -> list[str]:
    """Overrides for a run that takes a second."""
    return [f"data.path={small_store}", *SMALL]
