"""Typed configuration: defaults here, small YAML leaves over them, ``key.path=value`` over those."""

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, ValidationError

from lifting.command import InputError
from lifting.h36m import TEST_SUBJECTS, TRAIN_SUBJECTS

PositiveInt = Annotated[int, Field(ge=1)]
# Human3.6M's cameras are called by numbers, which YAML takes for numbers.
CameraName = Annotated[str, BeforeValidator(lambda name: str(name) if isinstance(name, int) else name)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataConfig(_Section):
    path: str = Field("synthetic", description="a prepared HDF5 file, or the embedded synthetic set")
    train_subjects: tuple[str, ...] = Field(TRAIN_SUBJECTS, min_length=1)
    test_subjects: tuple[str, ...] = Field(TEST_SUBJECTS, min_length=1)
    train_actions: tuple[str, ...] = Field((), description="names without numbers, or -name to leave out; none for all")
    test_actions: tuple[str, ...] = ()
    train_cameras: tuple[CameraName, ...] = Field((), description="as the actions")
    test_cameras: tuple[CameraName, ...] = ()
    drop_wrong_s9: bool = Field(False, description="leave out S9's recordings of wrong 3D: h36m.WRONG_S9")
    keypoints: str = Field("gt", description="gt projects the 3D; any other name is a detector of the file")
    stride: PositiveInt = Field(1, description="every how many frames to train on")
    test_stride: PositiveInt = Field(1, description="every how many frames to test on")
    noise_px: float = Field(
        0.0, ge=0, le=100, description="Gaussian noise on keypoints: fresh in training, fixed in test"
    )


class FCConfig(_Section):
    name: Literal["fc"] = "fc"
    width: PositiveInt = 1024
    blocks: int = Field(2, ge=0)
    dropout: float = Field(0.25, ge=0, lt=1)
    sigma: Literal["coordinate", "joint"] = Field("coordinate", description="one sigma a coordinate, or one a joint")


class SRNetConfig(_Section):
    name: Literal["srnet"] = "srnet"
    width: int = Field(1024, ge=8, description="features of a hidden layer, all groups together")
    groups: Literal[5, 3, 2] = 5
    layers: Literal[6, 8] = 6
    recombine: Literal["multiply", "add", "concat"] = Field("multiply", description="see srnet.GroupLayer")
    dropout: float = Field(0.0, ge=0, lt=1)
    sigma: Literal["coordinate", "joint"] = Field("coordinate", description="one sigma a coordinate, or one a joint")


ModelConfig = FCConfig | SRNetConfig
MODELS: dict[str, type[FCConfig] | type[SRNetConfig]] = {"fc": FCConfig, "srnet": SRNetConfig}


def _model_name(model: object) -> str:
    """Which keys a ``model`` section has: those of the name it gives, of fc if it gives none."""
    return str(model.get("name", "fc") if isinstance(model, dict) else getattr(model, "name", "fc"))


class FlowConfig(_Section):
    kind: Literal["realnvp", "nsf", "maf"] = Field("realnvp", description="nsf and maf are zuko's, an extra")
    couplings: PositiveInt = 6
    layers: int = Field(3, ge=2)
    width: PositiveInt = 64


class LossConfig(_Section):
    name: Literal["rle", "dle", "flow", "rle_reference", "laplace", "gaussian", "radial", "l1", "l2", "mpjpe"] = "rle"
    base: Literal["laplace", "gaussian", "radial"] = "laplace"
    beta: float = Field(0.0, ge=0, le=4, description="0 is the paper's; see likelihood.Likelihood")
    normalise: bool = Field(True, description="log s in the training loss of rle; the paper leaves it out")
    flow_steers_mu: bool = Field(True, description="whether the gradient of rle's flow reaches mu")
    flow: FlowConfig = FlowConfig()


class TrainConfig(_Section):
    epochs: PositiveInt = 80
    batch_size: int = Field(1024, ge=2, description="over all ranks")
    lr: float = Field(1e-3, gt=0, le=1)
    lr_decay: float = Field(0.95, gt=0, le=1, description="factor an epoch")
    warmup_steps: int = Field(200, ge=0, description="steps over which the learning rate rises from zero")
    clip_norm: float = Field(1.0, gt=0, description="largest norm of the whole gradient")
    bn_batches: PositiveInt = Field(32, description="batches over which batch norm's statistics are taken, every epoch")
    flip: bool = Field(True, description="mirror half of each batch, and average over the mirror image at test")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 where the machine has units for it"
    )
    compile: bool = False
    device: str = Field("auto", description="auto: a GPU if there is one")


class Config(_Section):
    data: DataConfig = DataConfig()
    model: Annotated[
        Annotated[FCConfig, Tag("fc")] | Annotated[SRNetConfig, Tag("srnet")], Discriminator(_model_name)
    ] = FCConfig()
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()
    seed: int = Field(0, ge=0)


def load_config(
    file: Path | None = None, overrides: list[str] | None = None, base: dict[str, Any] | None = None
) -> Config:
    """Defaults, then ``base``, then the YAML ``file``, then ``overrides`` such as ``train.epochs=2``.

    Raises:
        InputError: no such file, not YAML, an unknown key (the nearest is named), a value out of range.
    """
    tree: dict[str, Any] = base or {}
    if file is not None:
        try:
            leaf = yaml.safe_load(file.read_text()) or {}
        except OSError as error:
            raise InputError(f"config: cannot read {file}: {error.strerror}") from None
        except (yaml.YAMLError, UnicodeDecodeError):
            raise InputError(f"config: {file} is not YAML") from None
        if not isinstance(leaf, dict):
            raise InputError(f"config: {file}: expected a mapping such as 'loss: {{name: rle}}', got {leaf!r:.60}")
        tree = _merged(tree, leaf)
    for override in overrides or []:
        key, equals, text = override.partition("=")
        if not equals:
            raise InputError(f"config: expected key.path=value, got {override!r}")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise InputError(f"config: {key}: {text!r} is not a YAML value") from None
        for name in reversed(key.split(".")):
            value = {name: value}
        tree = _merged(tree, value)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise InputError(_first_line(error)) from None


def dump_config(config: Config) -> str:
    """The whole configuration as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def valid_keys(model: str = "fc", section: type[BaseModel] = Config, prefix: str = "") -> Iterator[str]:
    """Every key path of the configuration of this model, such as ``loss.flow.width``."""
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


def _first_line(error: ValidationError) -> str:
    first = error.errors()[0]
    section, *parts = map(str, first["loc"])
    if first["type"] == "union_tag_invalid":
        return f"config: {section}.name: input should be one of {', '.join(MODELS)}, got {first['ctx']['tag']!r}"
    # Within the model's section pydantic puts the model's name between section and key.
    model = parts.pop(0) if section == "model" and parts else "fc"
    key = ".".join([section, *parts])
    if first["type"] == "extra_forbidden":
        nearest = difflib.get_close_matches(key, valid_keys(model), n=1, cutoff=0.0)[0]
        return f"config: unknown key {key}; the nearest is {nearest}"
    message = first["msg"][0].lower() + first["msg"][1:]
    return f"config: {key}: {message}, got {first['input']!r}"
