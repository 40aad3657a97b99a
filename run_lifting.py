"""Lift 2D keypoints to 3D joints with a sigma each: a thin caller of `lifting.commands.lifting_track`."""

from lifting.command import run_command
from lifting.commands.lifting_track import main

__all__ = ["main"]

if __name__ == "__main__":
    run_command(main)
