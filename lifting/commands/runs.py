"""What the verb ``train`` of both tracks shares: the configuration and folder of a run, stop and resume."""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from lifting.command import InputError, Terminated
from lifting.config import Schema, read_config

Report = TypeVar("Report")


def configured_run(schema: type[Schema], options: argparse.Namespace, default: Path) -> tuple[Schema, Path]:
    """The configuration and folder of ``train``: those of the run to resume, or of a new run.

    Raises:
        InputError: ``--resume`` does not name a run, or comes with ``--config`` or ``--output``; the folder of a new
            run already holds one, unless torchrun has restarted its processes.
    """
    if options.resume is not None:
        if options.config or options.output:
            raise InputError(
                "train: --resume takes the configuration and folder of the run; only key.path=value can be added"
            )
        if not (options.resume / "config.yaml").is_file():
            raise InputError(f"train: --resume: expected the folder of a run, found no config.yaml in {options.resume}")
        return read_config(schema, options.resume / "config.yaml", options.overrides), options.resume
    config = read_config(schema, options.config or default, options.overrides)
    folder = options.output
    if folder is None:
        folder = Path("checkpoints") / f"{config.model.name}_{config.loss.name}_{time.strftime('%Y%m%d-%H%M%S')}"
    # Where torchrun starts the processes again after one of them failed, they find the run that they began.
    restarted = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    if (folder / "last.pt").exists() and not restarted:
        hint = f"continue it with --resume {folder}, or " if (folder / "config.yaml").exists() else ""
        raise InputError(f"train: {folder} already holds a run; {hint}choose another --output")
    return config, folder


def train_or_stop(train: Callable[[Schema, Path], Report], config: Schema, folder: Path) -> Report:
    """Calls ``train`` and returns its report; on Ctrl-C and SIGTERM, says how to resume the run."""
    try:
        return train(config, folder)
    except (KeyboardInterrupt, Terminated) as stop:
        if (folder / "last.pt").exists():
            hint = f"resume with: {_as_called()} train --resume {folder}"
            raise type(stop)(f"stopped; {folder / 'last.pt'} holds the run so far; {hint}") from None
        raise type(stop)("stopped before the first step; there is nothing to resume") from None


def _as_called() -> str:
    """How this command was called: ``python run_lifting.py`` or ``run-lifting``."""
    script = sys.argv[0]
    return f"python {script}" if script.endswith(".py") else Path(script).name
