"""A hostile file of each kind, and a marker that must not appear: what SECURITY.md promises."""

import json
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest
import torch
import yaml
from scipy.io import savemat

import run_lifting
import run_single_stage
from lifting.checkpoint import load_checkpoint, save_checkpoint
from lifting.datasets.decode import decode
from lifting.datasets.image_index import read_encoded, read_index
from lifting.evaluate import main as score
from lifting.evaluate import read_predictions
from lifting.safe_json import read_json
from lifting.safe_npz import read_npy, read_npz
from lifting.safe_yaml import read_yaml
from lifting.series import main as series
from lifting.sources import apart
from lifting.sources.bvh_map import read_map
from lifting.sources.h36m_poses import read_source
from lifting.sources.image_readers import read_mpii
from lifting.sources.motion_files import find_motion_files
from tests.conftest import Shell, refused
from tests.fuzz.readers import Reader, readers
from tests.small_lifters import OVERRIDES, write_checkpoint
from tests.sources.test_bvh import ARM
from tests.sources.test_image_readers import persons, save_heads, save_mpii

READERS = {reader.name: reader for reader in readers()}
ROOT = Path(__file__).parents[2]


def made(name: str, folder: Path) -> tuple[Reader, Path]:
    """A reader of the fuzz, and its valid input."""
    (folder / "input").mkdir(parents=True)
    return READERS[name], READERS[name].make(folder / "input")


class Attack:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return open, (str(self.marker), "w")


# ---- pickles: checkpoints and npz


@pytest.mark.parametrize("zipped", [True, False])
def test_no_command_runs_what_is_in_a_checkpoint(shell: Shell, tmp_path: Path, zipped: bool) -> None:
    marker, evil = tmp_path / "marker", tmp_path / "evil.pt"
    torch.save({"network": Attack(marker)}, evil, _use_new_zipfile_serialization=zipped)
    torch.load(evil, weights_only=False)
    assert marker.exists(), "the attack works on whoever trusts the file"
    marker.unlink()
    run = tmp_path / "run"
    run.mkdir()
    (run / "last.pt").write_bytes(evil.read_bytes())
    (run / "config.yaml").write_text("{}")
    np.save(tmp_path / "keypoints.npy", np.random.default_rng(0).uniform(0, 400, (2, 17, 2)))
    lift = ["--input", tmp_path / "keypoints.npy", "--output", tmp_path / "out.npz", "--joints", "h36m17"]
    out = tmp_path / "out.onnx"
    lifting: list[list[object]] = [
        ["evaluate", "--checkpoint", evil],
        ["export", "--checkpoint", evil, "--output", out],
        ["lift", "--checkpoint", evil, *lift],
        ["train", "--resume", run],
    ]
    single: list[list[object]] = [
        ["evaluate", "--checkpoint", evil],
        ["export", "--checkpoint", evil, "--output", out],
        ["convert", "--input", evil, "--output", out],
        ["estimate", "--checkpoint", evil, "--input", tmp_path, "--output", tmp_path / "out.json"],
    ]
    for main, commands in ((run_lifting.main, lifting), (run_single_stage.main, single)):
        for arguments in commands:
            code, _, err = shell(*arguments, main=main)
            assert code == 2 and "broken, or holds more than tensors" in err, (arguments, err)
            assert len(err.strip().splitlines()) == 1
    assert not marker.exists()


def test_a_configuration_that_claims_more_than_its_weights_takes_no_memory(tmp_path: Path) -> None:
    lifter, source = made("checkpoint", tmp_path)
    for key, value in (("width", 60_000), ("blocks", 900)):
        content = load_checkpoint(write_checkpoint(source, OVERRIDES["screen"]))
        content["config"]["model"][key] = value
        save_checkpoint(source, content)
        with pytest.raises(Exception, match="belongs to another model"):
            lifter.read(source)
    content["config"]["model"]["width"] = 10**12
    save_checkpoint(source, content)
    with pytest.raises(Exception, match="less than or equal to 65536"):
        lifter.read(source)


def test_tensors_that_claim_more_than_they_have_are_refused(tmp_path: Path) -> None:
    reference, source = made("reference", tmp_path)
    state = torch.load(source, weights_only=True)
    for spoilt in (torch.zeros(1).expand(10**6, 3, 7, 7), torch.eye(3).to_sparse()):
        torch.save(state | {"preact.conv1.weight": spoilt}, source)
        with pytest.raises(Exception, match="is broken, or holds more"):
            reference.read(source)
    torch.save(state, source)
    with zipfile.ZipFile(source) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data + bytes(10**6) if "/data/0" in name else data)
    with pytest.raises(Exception, match="is broken, or holds more"):
        reference.read(source)


@pytest.mark.parametrize("key", ["keypoints", "positions_2d", "positions_3d", "joints"])
def test_no_command_runs_what_is_in_an_npz(tmp_path: Path, key: str) -> None:
    """As people run it: in a process of its own, which also shows that the marker is not written as Python ends."""
    marker, evil = tmp_path / "marker", tmp_path / "evil.npz"
    np.savez(evil, **{key: np.array([Attack(marker)], dtype=object)})  # type: ignore[arg-type]
    if key == "positions_3d":
        command = ["data/prepare_h36m.py", str(evil), "--output", str(tmp_path / "out.h5")]
    else:
        command = ["run_lifting.py", "lift", "--checkpoint", "none.onnx", "--input", str(evil), "--output"]
        command += [str(tmp_path / "out.npz")]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "which is not data" in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not marker.exists()


def npz(path: Path, name: str, content: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr(f"{name}.npy", content)
    return path


def header(shape: str, descr: str = "'<f8'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def test_arrays_that_unfold_are_refused(tmp_path: Path) -> None:
    a: Any = [np.zeros(1000)] * 100
    for _ in range(5):
        a = [a] * 100
    np.savez(tmp_path / "laughs.npz", a=np.array({"x": a}, dtype=object))
    cycle: list[Any] = []
    cycle.append(cycle)
    np.savez(tmp_path / "cycle.npz", a=np.array({"x": cycle}, dtype=object))
    for name in ("laughs", "cycle"):
        with pytest.raises(Exception, match="its pickle unfolds to"):
            read_npz(tmp_path / f"{name}.npz", "a")
    with pytest.raises(Exception, match=r"a claims \d+ MiB, at most 512 are read"):
        read_npz(npz(tmp_path / "bomb.npz", "a", header("(100000000,)") + bytes(6 * 10**8)), "a")
    with pytest.raises(Exception, match=r"claims|broken|refused"):
        read_npz(npz(tmp_path / "claim.npz", "a", header("(10000000000000,)") + bytes(80)), "a")
    (tmp_path / "claim.npy").write_bytes(header("(10000000000000,)") + bytes(80))
    with pytest.raises(Exception, match="cannot be read"):
        read_npy(tmp_path / "claim.npy")
    pickled = header("()", "'|O'") + b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"."  # BYTEARRAY8
    with pytest.raises(Exception, match="cannot be read"):
        read_npz(npz(tmp_path / "bytes.npz", "a", pickled), "a")


# ---- YAML and JSON


def test_yaml_makes_no_objects(shell: Shell, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    call = f"!!python/object/apply:os.system ['touch {marker}']"
    (tmp_path / "evil.yaml").write_text(f"seed: {call}\n")
    yaml.unsafe_load((tmp_path / "evil.yaml").read_text())
    assert marker.exists(), "the attack works on whoever trusts the file"
    marker.unlink()
    evil = tmp_path / "evil.yaml"
    for main in (run_lifting.main, run_single_stage.main):
        refused(shell("train", "--config", evil, main=main), "is not YAML")
        refused(shell("train", f"seed={call}", main=main), "is not a YAML value")
    refused(shell(evil, "--output", tmp_path / "runs", main=series), "is not YAML")
    with pytest.raises(Exception, match="is not YAML"):
        read_map(evil)
    assert not marker.exists()


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
            f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
        ),
        "a: &a [*a]",
        "a: " + "[" * 5000,
        "a: 2001-99-99",
        "a: !!bool maybe",
        "a: !!timestamp x",
        "? [a, {b: c}]\n: 1",
        "#" * (1 << 21),
    ],
    ids=["laughs", "cycle", "deep", "date", "bool", "timestamp", "key", "huge"],
)  # fmt: skip
def test_yaml_that_unfolds_or_cannot_be_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(Exception, match="YAML"):
        read_yaml(tmp_path / "a.yaml", "config")


def test_json_that_is_deep_or_huge_is_refused(tmp_path: Path) -> None:
    deep, huge, number = (tmp_path / f"{name}.json" for name in ("deep", "huge", "number"))
    for depth in (65, 100_000):
        deep.write_text("[" * depth + "]" * depth)
        with pytest.raises(Exception, match="nested too deeply"):
            read_json(deep, "annotations")
    with huge.open("wb") as file:
        file.truncate((1 << 30) + 1)  # a hole, so it costs no disk
    with pytest.raises(Exception, match="at most 1 GiB"):
        read_json(huge, "annotations")
    number.write_text("9" * 100_000)
    with pytest.raises(Exception, match="is not JSON"):
        read_json(number, "annotations")


# ---- HDF5

SECRET = 12345.0


def outside(folder: Path) -> Path:
    """What a hostile file wants to be read: an HDF5 file, and a raw one beside it."""
    path = folder / "secret.h5"
    with h5py.File(path, "w") as file:
        file["secret"] = np.full((6, 17, 3), SECRET, np.float32)
    np.full((6, 17, 3), SECRET, np.float32).tofile(folder / "secret.raw")
    return path


def external(file: h5py.File, name: str, secret: Path) -> None:
    file[name] = h5py.ExternalLink(str(secret), "/secret")


def soft(file: h5py.File, name: str, secret: Path) -> None:
    file["elsewhere"] = h5py.ExternalLink(str(secret), "/secret")
    file[name] = h5py.SoftLink("/elsewhere")


def virtual(file: h5py.File, name: str, secret: Path) -> None:
    layout = h5py.VirtualLayout((6, 17, 3), np.float32)
    layout[...] = h5py.VirtualSource(str(secret), "secret", (6, 17, 3))
    file.create_virtual_dataset(name, layout)


def raw(file: h5py.File, name: str, secret: Path) -> None:
    storage = [(str(secret.with_suffix(".raw")), 0, 6 * 17 * 3 * 4)]
    file.create_dataset(name, (6, 17, 3), np.float32, external=storage)


def unwritten(file: h5py.File, name: str, secret: Path) -> None:
    file.create_dataset(name, (10**9, 17, 3), np.float32, chunks=(100, 17, 3))


def packed(file: h5py.File, name: str, secret: Path) -> None:
    """20 MB of zeros in 20 kB; the test makes the limit smaller, since half a gigabyte would take a while to write."""
    file.create_dataset(name, data=np.zeros((100_000, 17, 3), np.float32), chunks=(100_000, 17, 3), compression=9)


Spoil = Callable[[h5py.File, str, Path], None]
SPOILT: list[Spoil] = [external, soft, virtual, raw, unwritten, packed]


@pytest.mark.parametrize("spoil", SPOILT)
def test_hdf5_stays_in_its_file_and_in_memory(
    shell: Shell, tmp_path: Path, spoil: Spoil, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lifting.safe_hdf5._LARGEST", 1 << 20)
    secret = outside(tmp_path)
    _, store = made("store", tmp_path)
    name = "poses/S9/Walking/positions"
    with h5py.File(store, "r+") as file:
        del file[name]
        spoil(file, name, secret)
        if spoil not in (unwritten, packed):
            assert (file[name][()] == SECRET).all(), "the attack works on whoever trusts the file"
    evaluate = ["evaluate", "--checkpoint", write_checkpoint(tmp_path / "x.pt", OVERRIDES["screen"])]
    words: dict[Spoil, str] = {
        unwritten: "claims 204,000,000,000 bytes, of which the file holds 0",
        packed: "claims 20,400,000 bytes",
    }
    words |= dict.fromkeys((external, soft), "got a link at")
    expected = words.get(spoil, "expected its values inside of the file")
    subjects = ["data.test_subjects=[S9]", "data.train_subjects=[S1]"]
    refused(shell(*evaluate, "--data", store, *subjects), expected)
    predictions = tmp_path / "predictions.h5"
    with h5py.File(predictions, "w") as file:
        spoil(file, "S9/Walking/54138969", secret)
    refused(shell(predictions, "--data", tmp_path / "none.h5", main=score), expected)
    with pytest.raises(Exception, match=expected):
        read_predictions(predictions)


@pytest.mark.parametrize("spoil", SPOILT[:4])
def test_every_reader_of_hdf5_stays_in_its_file(tmp_path: Path, spoil: Spoil) -> None:
    secret = outside(tmp_path)
    index, path = made("image index", tmp_path / "a")
    martinez, folder = made("martinez", tmp_path / "b")
    for reader, source, file_name, name in (
        (index, path, path, "points"),
        (martinez, folder, next(folder.rglob("Photo.h5")), "3D_positions"),
        (martinez, folder, folder / "cameras.h5", "subject1/camera2/R"),
    ):
        content = file_name.read_bytes()
        with h5py.File(file_name, "r+") as file:
            del file[name]
            spoil(file, name, secret)
        with pytest.raises(Exception, match=r"got a link at|expected its values inside|expected \("):
            reader.read(source)
        file_name.write_bytes(content)
        reader.read(source)


def test_texts_in_one_place_do_not_fill_memory(tmp_path: Path) -> None:
    """A million rows that all are the same text of a megabyte: a terabyte, in 17 MB."""
    _, path = made("image index", tmp_path)
    with h5py.File(path, "r+") as file:
        count = len(file["camera"])
        del file["camera"]
        file.create_dataset("camera", data=["x" * 10**6, *[""] * (count - 1)], dtype=h5py.string_dtype())
        place = file["camera"].id.get_offset()
    content = bytearray(path.read_bytes())
    for row in range(1, count):
        content[place + 16 * row : place + 16 * row + 16] = content[place : place + 16]
    path.write_bytes(content)
    with h5py.File(path) as file:
        assert len(file["camera"][1]) == 10**6, "the attack works on whoever trusts the file"
    with pytest.raises(Exception, match="a text of 1,000,000 bytes"):
        read_index(path)


# ---- zip


def test_a_zip_writes_nothing_and_unpacks_no_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lifting.sources.motion_files.LARGEST", 64 << 20)
    inner = tmp_path / "inner"
    inner.mkdir()
    path = inner / "motion.zip"
    link = zipfile.ZipInfo("link.bvh")
    link.external_attr = 0o120777 << 16  # a symbolic link
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../marker.bvh", ARM)
        archive.writestr(f"{tmp_path}/marker.bvh", ARM)
        archive.writestr("..\\marker.bvh", ARM)
        archive.writestr(link, f"{tmp_path}/secret.bvh")
        with archive.open("bomb.bvh", "w") as file:
            for _ in range(65):
                file.write(bytes(1 << 20))
    (tmp_path / "secret.bvh").write_text("secret")
    found = {motion.where.split(" in ")[0]: motion for motion in find_motion_files(path, ".bvh")}
    assert "secret" not in found["link.bvh"].text().splitlines()
    with pytest.raises(Exception, match="expected at most 64 MiB, it unpacks to more"):
        found["bomb.bvh"].read()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["inner", "secret.bvh"]
    assert [p.name for p in inner.iterdir()] == ["motion.zip"]
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("S1/MyPoses/3D_positions/Walking.h5", "w") as file,
    ):
        for _ in range(65):
            file.write(bytes(1 << 20))
    with pytest.raises(Exception, match="expected at most 64 MiB, it unpacks to more"):
        read_source(path)


# ---- pictures


def png(width: int, height: int) -> bytes:
    """A black picture in which every row is compressed away: a thousandth of its size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows, squeeze = bytes(1 + 3 * width), zlib.compressobj(9)
    data = b"".join(squeeze.compress(rows) for _ in range(min(height, 100))) + squeeze.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def tiff(width: int, height: int) -> bytes:
    whole = cv2.imencode(".tif", np.zeros((40, 30, 3), np.uint8))[1].tobytes()
    for tag, old, new in ((256, 30, width), (257, 40, height)):
        at = next(i for i in range(8, len(whole)) if whole[i : i + 2] == struct.pack("<H", tag)
                  and whole[i + 8 : i + 10] == struct.pack("<H", old))  # fmt: skip
        whole = whole[: at + 2] + struct.pack("<HII", 4, 1, new) + whole[at + 12 :]
    return whole


def bmp(width: int, height: int) -> bytes:
    whole = cv2.imencode(".bmp", np.zeros((40, 30, 3), np.uint8))[1].tobytes()
    return whole[:18] + struct.pack("<ii", width, height) + whole[26:]


@pytest.mark.parametrize("make", [png, tiff, bmp])
def test_pictures_with_too_many_pixels_are_refused(make: Callable[[int, int], bytes]) -> None:
    with pytest.raises(Exception, match=r"cannot be decoded|ends too early"):
        decode(make(30_000, 30_000), "a picture")


def test_a_picture_that_is_no_file_is_not_read(tmp_path: Path) -> None:
    """An index names its pictures, and may name a device that never ends."""
    _, path = made("image index", tmp_path)
    with h5py.File(path, "r+") as file:
        count = len(file["files"])
        file.attrs["root"] = "/dev"
        file["files"][...] = np.array([b"zero"] * count)
    with pytest.raises(Exception, match="/dev/zero: expected a picture"):
        read_encoded(read_index(path), 0)


# ---- MATLAB, ONNX, CDF


def test_mat_files_of_both_kinds(tmp_path: Path) -> None:
    valid = persons(4)
    folder = save_mpii(tmp_path / "mpii", persons(4), valid)
    path = folder / "annot" / "gt_valid.mat"
    save_heads(folder, valid)
    read_mpii(folder)
    savemat(path, {"headboxes_src": np.zeros((2, 2, 4)), "jnt_missing": np.zeros((16, 4)),
                   "pos_gt_src": np.zeros((16, 2, 100_000))}, do_compression=True)  # fmt: skip
    with pytest.raises(Exception, match=r"pos_gt_src: expected \(16, 2, 4\), got \(16, 2, 100000\)"):
        read_mpii(folder)
    with h5py.File(path, "w", userblock_size=512) as file:
        file["headboxes_src"] = h5py.ExternalLink("/etc/passwd", "/")
    content = path.read_bytes()
    text = b"MATLAB 7.3 MAT-file".ljust(116) + bytes(8) + struct.pack("<H", 0x0200) + b"IM"
    path.write_bytes(text + content[len(text) :])
    with pytest.raises(Exception, match=r"before version 7\.3"):
        read_mpii(folder)


def test_onnx_reads_no_other_file(tmp_path: Path) -> None:
    import onnx

    reader, path = made("onnx", tmp_path)
    model = onnx.load(path)
    (tmp_path / "secret.bin").write_bytes(bytes(10**7))
    for place in ("../secret.bin", str(tmp_path / "secret.bin"), "secret.bin"):
        tensor = model.graph.initializer[0]
        size = len(tensor.raw_data)
        del tensor.external_data[:]
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=place)
        tensor.external_data.add(key="length", value=str(size))
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        copy.graph.initializer[0].ClearField("raw_data")
        path.write_bytes(copy.SerializeToString())
        with pytest.raises(Exception, match="got weights elsewhere"):
            reader.read(path)


@pytest.mark.parametrize("damage", ["size", "circle"])
def test_a_cdf_that_asks_for_memory_or_turns_in_a_circle_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    """Two of the inputs of `make fuzz` on which cdflib took all memory, or did not end."""
    monkeypatch.setattr(apart, "_SECONDS", 2.0)  # the one that does not end would take all of them
    reader, folder = made("official cdf", tmp_path)
    path = next(folder.rglob("Photo.cdf"))
    content = bytearray(path.read_bytes())
    assert int.from_bytes(content[16:20], "big") == 1  # the first record, whose size is before its kind
    second = int.from_bytes(content[20:28], "big")
    if damage == "size":
        content[second : second + 8] = (1 << 44).to_bytes(8, "big")
    else:
        content[second + 56 : second + 60] = (2**31 - 1).to_bytes(4, "big")  # the number of dimensions
    path.write_bytes(content)
    with pytest.raises(Exception, match="expected a CDF file"):
        reader.read(folder)


# ---- terminals


def test_what_a_file_says_is_printed_as_one_line_without_commands_to_the_terminal(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "evil.yaml").write_text(json.dumps({"loss": {"name": "\x1b[2J\x1b]0;gone\x07\r\n" + "x" * 5000}}))
    code, _, err = shell("train", "--config", tmp_path / "evil.yaml")
    assert code == 2 and len(err) < 1100 and err.count("\n") == 1
    assert err.strip().isprintable()
