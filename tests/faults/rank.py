"""One rank of a training run under torchrun: python -m tests.faults.rank HURT SCRIPT ARGUMENTS."""

import os
import sys

import torch

from lifting.command import run_command
from tests.faults import hurts
from tests.forked import main_of

if __name__ == "__main__":
    _, hurt, *sys.argv = sys.argv
    torch.set_num_threads(1)
    first_time = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    if hurt != "none" and first_time and os.environ["RANK"] == "1":
        getattr(hurts, hurt)(15)
    run_command(main_of(sys.argv[0]))
