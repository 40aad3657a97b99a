"""ONNX files that are not ours, broken or hostile: one line says what is wrong, and nothing else is read."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from lifting import Lifter
from lifting.command import InputError


def load_refused(path: Path, *words: str) -> None:
    with pytest.raises(InputError) as caught:
        Lifter.load(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    for word in words:
        assert word in message


def test_what_is_no_onnx_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    load_refused(path, "expected a file, found nothing")
    path.touch()
    load_refused(path, "empty")
    for content in (b"hello", b"PK\x03\x04 a zip", b"\x08\x07", b'{"a": 1}', bytes(1000)):
        path.write_bytes(content)
        load_refused(path, "expected an ONNX file")


def test_half_a_file(exported: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "half.onnx"
    path.write_bytes(exported.read_bytes()[:20_000])
    load_refused(path, "expected an ONNX file")
    assert capfd.readouterr().err == ""  # ONNX Runtime writes its errors there too, unless told not to


def somebody_elses() -> onnx.ModelProto:
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [value])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def test_a_model_of_somebody_else(exported: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    model = somebody_elses()
    path.write_bytes(model.SerializeToString())
    load_refused(path, "expected a file of run_lifting.py export", "format none")
    for entry in onnx.load(exported).metadata_props:  # it claims to be ours
        model.metadata_props.add(key=entry.key, value=entry.value)
    path.write_bytes(model.SerializeToString())
    load_refused(path, "expected inputs", "'x'")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("format", "lifting-single-stage", "lifting-single-stage"),
        ("format_version", "2", "expected version 1"),
        ("joint_names", '["a"]', "joint_names"),
        ("joint_names", "no json", "joint_names"),
        ("axes", "sideways", "axes"),
        ("takes_missing", "3", "takes_missing"),
    ],
)
def test_other_metadata(exported: Path, tmp_path: Path, key: str, value: str, words: str) -> None:
    model = onnx.load(exported)
    for entry in model.metadata_props:
        if entry.key == key:
            entry.value = value
    path = tmp_path / "changed.onnx"
    path.write_bytes(model.SerializeToString())
    load_refused(path, words)


@pytest.mark.parametrize("place", ["beside.bin", "../secret.bin", "{folder}/secret.bin"])
def test_weights_in_other_files_are_never_read(
    exported: Path, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tensor of our own file is said to lie elsewhere; the file there has the right size."""
    model = onnx.load(exported)
    tensor = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    secret = np.zeros(len(tensor.raw_data), np.uint8).tobytes()
    folder = tmp_path / "model"
    folder.mkdir()
    for path in (tmp_path / "secret.bin", folder / "beside.bin"):
        path.write_bytes(secret)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=place.format(folder=tmp_path))
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    monkeypatch.chdir(folder)
    load_refused(folder / "model.onnx", "weights inside")
