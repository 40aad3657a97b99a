"""What the command lines of both tracks share: overrides, the configuration and folder of a run, stop and resume."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from lifting.command import InputError, Parser
from lifting.config import Schema, read_config

Report = TypeVar("Report")

OVERRIDES: dict[str, Any] = {
    "nargs": "*",
    "metavar": "key.path=value",
    "help": "settings that replace those of the configuration, such as train.epochs=2",
}


def add_train(parser: argparse.ArgumentParser, example: str) -> None:
    """The options of ``train``."""
    parser.add_argument("--config", type=Path, help=f"a YAML file, such as {example}")
    parser.add_argument("--output", type=Path, help="folder of the new run (default: checkpoints/MODEL_LOSS_TIME)")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="resume the run in this folder")
    parser.add_argument("overrides", **OVERRIDES)


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    """The options of ``evaluate`` that both tracks have."""
    parser.add_argument("--checkpoint", type=Path, required=True, help="a trained model, such as best.pt of a run")
    parser.add_argument("--data", type=Path, help="a prepared file in place of the one used in training")
    parser.add_argument("--json", type=Path, help="also write all numbers to this file")
    parser.add_argument("--figure", type=Path, help="draw some of the test poses to this .png, .pdf or .svg")
    parser.add_argument("overrides", **OVERRIDES)


def parse_options(parser: Parser) -> argparse.Namespace:
    """Parses the command line. Overrides may stand anywhere; argparse by itself takes them in one place only.

    ``--data FILE`` becomes the override ``data.path=FILE``.
    """
    options, more = parser.parse_known_args()
    for argument in more:
        if argument.startswith("-") or "=" not in argument or "overrides" not in options:
            parser.error(f"unrecognized argument {argument}")
    if more:
        options.overrides += more
    if getattr(options, "data", None) is not None:
        options.overrides.insert(0, f"data.path={options.data}")
    return options


def configured_run(schema: type[Schema], options: argparse.Namespace, default: Path) -> tuple[Schema, Path]:
    """The configuration and folder of ``train``: those of the run to resume, or of a new run.

    Raises:
        InputError: ``--resume`` does not name a run, or comes with ``--config`` or ``--output``; the folder of a new
            run already holds one.
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
    if (folder / "last.pt").exists():
        hint = f"continue it with --resume {folder}, or choose another --output"
        raise InputError(f"train: {folder} already holds a run; {hint}")
    return config, folder


def train_or_stop(train: Callable[[Schema, Path], Report], config: Schema, folder: Path, script: str) -> Report:
    """Calls ``train`` and returns its report; on Ctrl-C, says how to resume the run."""
    try:
        return train(config, folder)
    except KeyboardInterrupt:
        if (folder / "last.pt").exists():
            hint = f"resume with: python {script} train --resume {folder}"
            raise KeyboardInterrupt(f"stopped; the last complete epoch is in {folder / 'last.pt'}; {hint}") from None
        raise KeyboardInterrupt("stopped before the end of the first epoch; there is nothing to resume") from None
