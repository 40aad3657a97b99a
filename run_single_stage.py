"""Estimate 3D joints from pictures of a person: a thin caller of `lifting.commands.single_stage_track`."""

from lifting.command import run_command
from lifting.commands.single_stage_track import main

__all__ = ["main"]

if __name__ == "__main__":
    run_command(main)
