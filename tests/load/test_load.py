"""Under load: many calls, many poses, many trainings and many readers give right results and leave nothing behind.

`make load` does more of the same.
"""

import sys
from pathlib import Path

import pytest

from tests.load.loads import forked_digests, lifts, scores, trainings, write_sets
from tests.load.memory import alone

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    alone(write_sets, folder, 12)
    return folder


def test_many_lifts_from_threads() -> None:
    same, _, before, after = alone(lifts, ".onnx", 120, 4, 6)
    assert same == 120
    assert after.memory < 1.05 * before.memory
    assert after.files <= before.files


def test_memory_of_a_score_does_not_grow_with_the_poses(tmp_path: Path) -> None:
    scored = alone(scores, tmp_path, 30_000)
    assert scored.found == pytest.approx(scored.expected, abs=1e-4)
    assert scored.peak < 25 << 20  # of one clip; it took 40 MB when all were in memory


def test_many_trainings_leave_nothing(sets: Path, tmp_path: Path) -> None:
    before, after = alone(trainings, sets, tmp_path, 6, 3, False)
    assert (after.files, after.threads) == (before.files, before.threads)
    assert after.objects < 1.01 * before.objects
    assert after.memory < before.memory + (10 << 20)


def test_many_processes_read_one_file(sets: Path) -> None:
    assert alone(forked_digests, sets, 8, 1) == [True] * 8
