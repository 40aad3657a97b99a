"""Configuration and checkpoints: what they read, and the messages with which they refuse the rest."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lifting.checkpoint import load_checkpoint, load_weights, save_checkpoint
from lifting.command import InputError, whole_file
from lifting.config import FCConfig, SingleStageConfig, SRNetConfig, dump_config, load_config, read_config, valid_keys

ROOT = Path(__file__).parents[1]


def test_leaf_and_overrides(tmp_path: Path) -> None:
    leaf = tmp_path / "leaf.yaml"
    leaf.write_text("train: {lr: 1e-2, epochs: 7}\nloss: {flow: {width: 32}}\n")
    config = load_config(leaf, ["train.epochs=9", "data.train_subjects=[S1]", "train.lr_decay=9e-1"])
    assert config.train.lr == 0.01
    assert config.train.epochs == 9
    assert config.train.lr_decay == 0.9
    assert config.loss.flow.width == 32
    assert config.loss.flow.couplings == 6
    assert config.data.train_subjects == ("S1",)
    (tmp_path / "again.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "again.yaml") == config


@pytest.mark.parametrize("leaf", sorted((ROOT / "configs" / "lifting").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_leaf_is_valid(leaf: Path) -> None:
    assert not load_config(leaf).data.drop_wrong_s9  # papers on lifters keep the three wrong recordings of S9


@pytest.mark.parametrize("leaf", sorted((ROOT / "configs" / "single_stage").glob("*.yaml")), ids=lambda p: p.stem)
def test_single_stage_leaves_for_human36m_drop_what_the_reference_drops(leaf: Path) -> None:
    of_human36m = leaf.stem != "demo" and not leaf.stem.startswith(("coco", "mpii"))
    assert read_config(SingleStageConfig, leaf).data.drop_wrong_s9 == of_human36m


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trian.epochs=2", "config: unknown key trian; the nearest is train"),
        ("train.epoch=3", "config: unknown key train.epoch; the nearest is train.epochs"),
        ("loss.flow.wdth=3", "config: unknown key loss.flow.wdth; the nearest is loss.flow.width"),
        ("train.lr=7", "config: train.lr: input should be less than or equal to 1, got 7"),
        ("train.lr=.nan", "config: train.lr: "),
        ("data.noise_px=-1", "config: data.noise_px: input should be greater than or equal to 0, got -1"),
        ("loss.name=rel", "got 'rel'"),
        ("model=3", "config: model: "),
        ("model.name=srnte", "config: model.name: input should be one of fc, srnet, got 'srnte'"),
        ("model.wdth=64", "config: unknown key model.wdth; the nearest is model.width"),
        ("data.train_cameras=[1.5]", "config: data.train_cameras.0: input should be a valid string, got 1.5"),
        ("data.train_subjects=[S1, S1]", "data.train_subjects: value error, expected each once, got ['S1', 'S1']"),
        ("data.test_stride=100000000000000000000000", "config: data.test_stride: "),
        ("epochs", "expected key.path=value, got 'epochs'"),
        ("train.epochs=[", "is not a YAML value"),
    ],
)
def test_wrong_overrides(override: str, message: str) -> None:
    with pytest.raises(InputError) as refusal:
        load_config(overrides=[override])
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "message"), [("- 1", "expected a mapping"), ("a: [", "is not YAML"), ("\x00", "is not YAML")]
)
def test_wrong_files(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        load_config(tmp_path / "x.yaml")
    with pytest.raises(InputError, match="found nothing at"):
        load_config(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.grups=3", "config: unknown key model.grups; the nearest is model.groups"),
        ("model.blocks=2", "config: unknown key model.blocks; the nearest is model.layers"),
        ("model.groups=4", "config: model.groups: input should be 5, 3 or 2, got 4"),
        ("train.epoch=3", "config: unknown key train.epoch; the nearest is train.epochs"),
    ],
)
def test_wrong_keys_of_the_chosen_model(override: str, message: str) -> None:
    with pytest.raises(InputError) as refusal:
        load_config(overrides=["model.name=srnet", override])
    assert str(refusal.value) == message


def test_a_model_without_a_name_is_fc() -> None:
    """Configurations and checkpoints from before there was a second model have no name."""
    assert load_config(base={"model": {"width": 64}}).model == FCConfig(width=64)
    assert load_config(base={"model": {"name": "srnet", "width": 64}}).model == SRNetConfig(width=64)


def test_cameras_are_names_although_yaml_reads_numbers() -> None:
    assert load_config(overrides=["data.train_cameras=[54138969, b]"]).data.train_cameras == ("54138969", "b")
    assert load_config(overrides=["data.test_cameras=[-54138969]"]).data.test_cameras == ("-54138969",)


@pytest.mark.parametrize("name", ["fc", "srnet"])
def test_valid_keys_are_all_keys(name: str) -> None:
    def leaves(tree: dict[str, Any], prefix: str = "") -> set[str]:
        found = set()
        for key, value in tree.items():
            found.add(prefix + key)
            found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else set()
        return found

    assert set(valid_keys(name)) == leaves(load_config(overrides=[f"model.name={name}"]).model_dump())


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pt", {"network": {"w": torch.arange(3)}, "epoch": 2})
    content = load_checkpoint(tmp_path / "a.pt")
    assert content["epoch"] == 2
    assert torch.equal(content["network"]["w"], torch.arange(3))
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_broken_and_hostile_checkpoints(tmp_path: Path) -> None:
    good = tmp_path / "good.pt"
    save_checkpoint(good, {"network": {"w": torch.randn(1000)}})
    (tmp_path / "half.pt").write_bytes(good.read_bytes()[:2000])
    (tmp_path / "text.pt").write_text("hello")
    torch.save(Evil(tmp_path / "ran"), tmp_path / "evil.pt")
    (tmp_path / "evil2.pt").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    torch.save({"model": 1}, tmp_path / "other.pt")
    torch.save({"format": "lifting-checkpoint", "version": 99}, tmp_path / "future.pt")
    for name in ("half", "text", "evil", "evil2", "other", "future", "none"):
        with pytest.raises(InputError, match=f"{name}.pt"):
            load_checkpoint(tmp_path / f"{name}.pt")
    assert not (tmp_path / "ran").exists()


def test_weights_that_do_not_fit_are_named() -> None:
    module = nn.Linear(3, 2)
    with pytest.raises(InputError, match=r"it belongs to another model: weight: expected \(2, 3\), got \(2, 4\)"):
        load_weights(module, {**module.state_dict(), "weight": torch.zeros(2, 4)}, "it")
    with pytest.raises(InputError, match="extra: expected no such weight"):
        load_weights(module, {**module.state_dict(), "extra": torch.zeros(1)}, "it")
    for value in (torch.nan, torch.inf):
        with pytest.raises(InputError, match="it: bias: expected finite weights, got NaN or an infinite one"):
            load_weights(module, {**module.state_dict(), "bias": torch.tensor([0.0, value])}, "it")


def test_a_whole_file_or_none(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.txt"
    with whole_file(path) as temporary:
        temporary.write_text("one")
    assert path.read_text() == "one"

    def fail() -> None:
        with whole_file(path) as temporary:
            temporary.write_text("tw")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"No space left on device: '.*x.txt'"):
        fail()
    assert path.read_text() == "one"
    assert [p.name for p in path.parent.iterdir()] == ["x.txt"]
