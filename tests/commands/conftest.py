"""The small lifters of the inference tests."""

from tests.inference.conftest import checkpoints, exported

__all__ = ["checkpoints", "exported"]
