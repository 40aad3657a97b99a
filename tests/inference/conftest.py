"""Shared by these tests: keypoints of random people."""

import numpy as np
import pytest
from numpy.typing import NDArray


@pytest.fixture
def poses() -> NDArray[np.float64]:
    """(6, 17, 2) pixels of random people, all in a picture of 1280 x 720."""
    rng = np.random.default_rng(0)
    return rng.uniform((300, 200), (900, 500), (6, 1, 2)) + rng.normal(0, 60, (6, 17, 2))
