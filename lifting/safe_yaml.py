"""Reads YAML without trusting it: plain data, small, and not nested or repeated beyond what people write."""

import reprlib
from pathlib import Path
from typing import Any

import yaml

from lifting.command import InputError, existing_file

_LARGEST = 1 << 20  # bytes of a file
_MOST = 20_000  # values, those that aliases repeat counted each time


def read_yaml(path: Path, what: str) -> Any:
    """The content of a file; InputError if it is absent (says ``what`` it should be) or no YAML (`parse_yaml`)."""
    size = existing_file(path, what).stat().st_size
    if size > _LARGEST:
        raise InputError(f"{what}: {path}: expected at most {_LARGEST >> 10} KiB of YAML, got {size >> 10}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{what}: {path} is not YAML ({error})") from error
    return parse_yaml(text, f"{what}: {path} is not YAML")


def parse_yaml(text: str, problem: str) -> Any:
    """The value of a text.

    Raises:
        InputError: beginning with ``problem``: it is no YAML; it has tags that would make objects, or is nested too
            deeply; or aliases multiply a few lines to more values than anybody writes.
    """
    try:
        value = yaml.safe_load(text)
        count = _count(value, {})
    except RecursionError:  # nested too deeply, or a value within itself
        raise InputError(f"{problem}: it is nested too deeply") from None
    # A number, date or truth value with a wrong form makes the constructors of PyYAML raise what they stumble over.
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise InputError(f"{problem} ({' '.join(str(error).split())})") from error
    if count > _MOST:
        raise InputError(f"{problem}: expected at most {_MOST:,} values, got {reprlib.repr(count)}")
    return value


def _count(value: Any, known: dict[int, int]) -> int:
    """How many values there are, of which those that aliases share are looked at once and counted each time."""
    if not isinstance(value, (dict, list, tuple, set)):
        return 1
    if id(value) not in known:
        children = [*value, *value.values()] if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count(child, known) for child in children)
    return known[id(value)]
