"""What the two tracks' command lines share: overrides anywhere, a run's configuration and folder, stop and resume."""

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
    "help": "over the configuration, such as train.epochs=2",
}


def add_train(parser: argparse.ArgumentParser, example: str) -> None:
    """The options of ``train``."""
    parser.add_argument("--config", type=Path, help=f"a YAML file, such as {example}")
    parser.add_argument("--output", type=Path, help="folder of the new run (checkpoints/<model>_<loss>_<time>)")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="go on with the run in this folder")
    parser.add_argument("overrides", **OVERRIDES)


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    """The options of ``evaluate`` that both tracks have."""
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="a prepared file other than the one of the training")
    parser.add_argument("--json", type=Path, help="write all numbers to this file too")
    parser.add_argument("--figure", type=Path, help="draw some of the test poses, .png, .pdf or .svg")
    parser.add_argument("overrides", **OVERRIDES)


def parse_options(parser: Parser) -> argparse.Namespace:
    """The command line; overrides may stand anywhere, where argparse takes those of one place only; --data is one."""
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
    """Configuration and folder of ``train``: those of the run to resume, or of a new one.

    Raises:
        InputError: ``--resume`` of no run, or beside what it takes from the run; a new run in the folder of an old one.
    """
    if options.resume is not None:
        if options.config or options.output:
            raise InputError(
                "train: --resume takes configuration and folder from the run; only key.path=value go with it"
            )
        if not (options.resume / "config.yaml").is_file():
            raise InputError(f"train: --resume: expected the folder of a run, found no config.yaml in {options.resume}")
        return read_config(schema, options.resume / "config.yaml", options.overrides), options.resume
    config = read_config(schema, options.config or default, options.overrides)
    folder = options.output
    if folder is None:
        folder = Path("checkpoints") / f"{config.model.name}_{config.loss.name}_{time.strftime('%Y%m%d-%H%M%S')}"
    if (folder / "last.pt").exists():
        raise InputError(f"train: {folder} holds a run already; go on with --resume {folder}, or name another --output")
    return config, folder


def train_or_stop(train: Callable[[Schema, Path], Report], config: Schema, folder: Path, script: str) -> Report:
    """What ``train`` returns; Ctrl-C says how to go on."""
    try:
        return train(config, folder)
    except KeyboardInterrupt:
        if (folder / "last.pt").exists():
            hint = f"go on with: python {script} train --resume {folder}"
            raise KeyboardInterrupt(f"stopped; the last whole epoch is in {folder / 'last.pt'}; {hint}") from None
        raise KeyboardInterrupt("stopped before the end of the first epoch; nothing to go on with") from None
