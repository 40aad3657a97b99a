"""The process in which CDF and MATLAB files are read."""

import mmap
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from lifting.sources.apart import read_mat


@pytest.mark.skipif(sys.platform != "linux", reason="the limit counts what a process has mapped on Linux alone")
def test_a_program_with_gigabytes_of_its_own_reads_a_file(tmp_path: Path) -> None:
    # As with CUDA's libraries. What a process has when it begins must not count against what it may take.
    values = np.random.default_rng(0).random((500, 500))
    savemat(tmp_path / "file.mat", {"values": values})
    with mmap.mmap(-1, 3 << 30, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS):
        assert np.array_equal(read_mat(tmp_path / "file.mat", {"values": (500, 500)})["values"], values)
