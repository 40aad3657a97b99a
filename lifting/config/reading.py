"""Reads a configuration from defaults, a YAML file and ``key.path=value`` overrides, and writes it as YAML."""

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from lifting.command import InputError
from lifting.config.sections import MODELS, Config, RunConfig, SingleStageConfig
from lifting.safe_yaml import parse_yaml, read_yaml

Schema = TypeVar("Schema", Config, SingleStageConfig)


def load_config(
    file: Path | None = None, overrides: list[str] | None = None, base: dict[str, Any] | None = None
) -> Config:
    """`read_config` for the lifting track."""
    return read_config(Config, file, overrides, base)


def read_config(
    schema: type[Schema],
    file: Path | None = None,
    overrides: list[str] | None = None,
    base: dict[str, Any] | None = None,
) -> Schema:
    """Merges the defaults, ``base``, the YAML ``file`` and ``overrides`` such as ``train.epochs=2``; the last one wins.

    Raises:
        InputError: the file is missing, is not YAML, or configures a run of the other track; a key is unknown (the
            message names the nearest one); a value is out of range.
    """
    tree: dict[str, Any] = base or {}
    if file is not None:
        leaf = read_yaml(file, "config") or {}
        if not isinstance(leaf, dict):
            raise InputError(f"config: {file}: expected a mapping such as 'loss: {{name: rle}}', got {leaf!r:.60}")
        expect_track(schema, leaf, f"config: {file}")
        tree = _merged(tree, leaf)
    for override in overrides or []:
        key, equals, text = override.partition("=")
        if not equals:
            raise InputError(f"config: expected key.path=value, got {override!r}")
        value = parse_yaml(text, f"config: {key}: {text!r} is not a YAML value")
        for name in reversed(key.split(".")):
            value = {name: value}
        tree = _merged(tree, value)
    try:
        return schema.model_validate(tree)
    except ValidationError as error:
        raise InputError(_first_line(error, schema)) from None


def expect_run_of(config: RunConfig, folder: Path, who: str) -> None:
    """Raises `InputError`, which ``who`` begins, if ``folder`` holds a run of another configuration."""
    schema: type[Any] = type(config)
    there = folder / "config.yaml"
    if there.exists() and read_config(schema, there) != config:
        raise InputError(f"{who}: {folder} holds a run of another configuration or data; name another --output")


def read_trained(schema: type[Schema], trained: dict[str, Any], overrides: list[str] | None, where: str) -> Schema:
    """The configuration of a checkpoint, with overrides of anything except its model and its loss.

    Weights often load under another loss as well, but they were not trained with it: its numbers would mislead.

    Raises:
        InputError: the checkpoint is of the other track, or an override changes the model or the loss (both messages
            begin with ``where``); and whatever `read_config` raises.
    """
    expect_track(schema, trained, where)
    before, config = read_config(schema, base=trained), read_config(schema, overrides=overrides, base=trained)
    for section, old, new in (("model", before.model, config.model), ("loss", before.loss, config.loss)):
        if old != new:
            raise InputError(
                f"{where}: expected the {section} that it was trained with, got other {section}.* settings"
            )
    return config


def expect_track(schema: type[Config] | type[SingleStageConfig], trained: dict[str, Any], where: str) -> None:
    """Raises `InputError`, beginning with ``where``, if the configuration of a run belongs to the other track."""
    other, key = (SingleStageConfig, "train_parts") if schema is Config else (Config, "train_subjects")
    data = trained.get("data")
    if isinstance(data, dict) and key in data:
        raise InputError(
            f"{where}: expected a run of the {schema.track} track, got one of the {other.track} track, "
            f"which run_{other.track}.py reads"
        )


def dump_config(config: RunConfig) -> str:
    """The whole configuration as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def valid_keys(model: str = "fc", section: type[BaseModel] = Config, prefix: str = "") -> Iterator[str]:
    """Every key path of a configuration with this model, such as ``loss.flow.width``."""
    for name, field in section.model_fields.items():
        yield prefix + name
        below = MODELS[model] if prefix + name == "model" else field.annotation
        if isinstance(below, type) and issubclass(below, BaseModel):
            yield from valid_keys(model, below, f"{prefix}{name}.")


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _first_line(error: ValidationError, schema: type[Config] | type[SingleStageConfig]) -> str:
    first = error.errors()[0]
    section, *parts = map(str, first["loc"])
    if first["type"] == "union_tag_invalid":
        names = first["ctx"]["expected_tags"].replace("'", "")
        return f"config: {section}.name: input should be one of {names}, got {first['ctx']['tag']!r}"
    # In the model section, pydantic puts the model's name between section and key.
    model = parts.pop(0) if section == "model" and parts else schema().model.name
    key = ".".join([section, *parts])
    if first["type"] == "extra_forbidden":
        nearest = difflib.get_close_matches(key, valid_keys(model, schema), n=1, cutoff=0.0)[0]
        return f"config: unknown key {key}; the nearest is {nearest}"
    message = first["msg"][0].lower() + first["msg"][1:]
    return f"config: {key}: {message}, got {first['input']!r}"
