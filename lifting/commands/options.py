"""Options that both tracks share. Nothing here needs torch, so that a command line is read at once."""

import argparse
import json
from pathlib import Path
from typing import Any

from lifting.command import Parser

VERSION = "0.1.0"  # as in pyproject.toml; the metadata of an installed package would cost time, and a checkout has none

OVERRIDES: dict[str, Any] = {
    "nargs": "*",
    "metavar": "key.path=value",
    "help": "settings that replace those of the configuration, such as train.epochs=2",
}


def add_version(parser: argparse.ArgumentParser) -> None:
    """The option ``--version`` of a command."""
    parser.add_argument("--version", action="version", version=f"lifting {VERSION}")


def add_train(parser: argparse.ArgumentParser, example: str) -> None:
    """The options of ``train``."""
    parser.add_argument("--config", type=Path, help=f"a YAML file, such as {example}")
    parser.add_argument("--output", type=Path, help="folder of the new run (default: checkpoints/MODEL_LOSS_TIME)")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="resume the run in this folder")
    parser.add_argument("overrides", **OVERRIDES)


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    """The options of ``evaluate`` that both tracks have."""
    parser.add_argument("--checkpoint", type=Path, required=True, help="a trained model, such as last.pt of a run")
    parser.add_argument("--data", type=Path, help="a prepared file in place of the one used in training")
    parser.add_argument("--json", type=Path, help="also write all numbers to this file")
    parser.add_argument("--figure", type=Path, help="draw some of the test poses to this .png, .pdf or .svg")
    parser.add_argument("overrides", **OVERRIDES)


def add_export(parser: argparse.ArgumentParser, output: str = "a file") -> None:
    """The options of ``export`` that both tracks have."""
    parser.add_argument("--checkpoint", type=Path, required=True, help="a trained model, such as last.pt of a run")
    parser.add_argument("--output", type=Path, required=True, metavar="MODEL.onnx", help=output)
    parser.add_argument(
        "--licence",
        metavar="TEXT",
        help="of the weights, for the metadata (default: the checkpoint's)",
    )


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
        options.overrides.insert(0, f"data.path={json.dumps(str(options.data), ensure_ascii=False)}")
    return options
