"""The Human3.6M converter: every layout comes out alike, and what cannot be believed is refused."""

import importlib.util
import io
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from lifting.command import InputError
from lifting.datasets.pose_checks import left_of_body
from lifting.datasets.store import PoseStore
from lifting.geometry import h36m
from lifting.geometry.skeleton import H36M17
from lifting.safe_npz import npz_keys, read_npz
from lifting.sources import h36m_poses as h36m_sources

ROOT = Path(__file__).parents[2]
STAND_IN = ROOT.parent / "shared/data/h36m_standin"
MIRROR = list(H36M17.mirror)
METADATA = {"layout_name": "h36m", "num_joints": 17, "keypoints_symmetry": [list(H36M17.left), list(H36M17.right)]}


def load(script: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(script, ROOT / "data" / f"{script}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def person(frames: int = 12, seed: int = 0) -> np.ndarray:
    """(T, 32, 3) metres: somebody with bent knees who turns and wanders; the joints outside the 17 are far off."""
    side = np.array([[0, -0.13, 0.9], [0.1, -0.13, 0.5], [0, -0.13, 0.1]])
    arm = np.array([[0, -0.18, 1.4], [0, -0.2, 1.1], [0.1, -0.2, 0.85]])
    flip = np.array([1, -1, 1])
    middle = np.array([[0, 0, 1.15], [0, 0, 1.4], [0.05, 0, 1.5], [0, 0, 1.6]])
    pose = np.concatenate([[[0, 0, 0.9]], side, side * flip, middle, arm * flip, arm])
    random = np.random.default_rng(seed)
    angle = random.uniform(0, 6) + np.linspace(0, 3, frames)
    c, s = np.cos(angle), np.sin(angle)
    turn = np.stack([np.stack([c, -s, 0 * c], -1), np.stack([s, c, 0 * c], -1), np.tile([0.0, 0, 1], (frames, 1))], 1)
    place = np.append(random.uniform(-0.5, 0.5, 2), 0) + np.linspace(0, 0.3, frames)[:, None] * [1, 0, 0]
    moved = pose @ turn.swapaxes(1, 2) + place[:, None]
    full = np.full((frames, 32, 3), 50.0)
    full[:, list(h36m.KEEP_17_OF_32)] = moved
    return full.astype(np.float32)


def seventeen(positions: np.ndarray) -> np.ndarray:
    return positions[:, list(h36m.KEEP_17_OF_32)]


Poses = dict[str, dict[str, np.ndarray]]


def poses() -> Poses:
    return {"S1": {"Walking 1": person(12, 1), "Photo": person(9, 2)}, "S11": {"Eating": person(10, 3)}}


def seen(source: Poses, noise: float = 0.0, spare: int = 0) -> dict[str, dict[str, list[np.ndarray]]]:
    """Keypoints as VideoPose3D files them: for each sequence four arrays, here with frames to spare."""
    random = np.random.default_rng(0)
    found: dict[str, dict[str, list[np.ndarray]]] = {}
    for subject, sequences in source.items():
        for name, positions in sequences.items():
            points = torch.from_numpy(
                np.concatenate([seventeen(positions)] + [seventeen(positions)[:1]] * spare)
            ).double()
            views = [c.project(c.world_to_camera(points)).numpy() for c in h36m.cameras(subject).values()]
            made = [(view + random.normal(scale=noise, size=view.shape)).astype(np.float32) for view in views]
            found.setdefault(subject, {})[name] = made
    return found


def save(path: Path, **arrays: Any) -> Path:
    np.savez_compressed(path, **arrays)
    return path


def save_3d(folder: Path, source: Any = None) -> Path:
    return save(folder / "data_3d_h36m.npz", positions_3d=poses() if source is None else source)


def save_2d(folder: Path, detector: str, keypoints: Any, metadata: Any = METADATA) -> Path:
    return save(folder / f"data_2d_h36m_{detector}.npz", positions_2d=keypoints, metadata=metadata)


@pytest.fixture
def convert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., PoseStore]:
    """Runs the script in this process and opens what it wrote."""
    script = load("prepare_h36m")

    def run(source: Path, *options: str) -> PoseStore:
        output = tmp_path / "out" / "h36m.h5"
        monkeypatch.setattr(sys, "argv", ["prepare_h36m.py", str(source), "--output", str(output), *options])
        try:
            script.main()
        except InputError:
            assert not list(tmp_path.glob("out/*")), "a file was left by a refused source"
            raise
        return PoseStore(output)

    return run


def assert_holds(store: PoseStore, source: Poses) -> None:
    assert store.subjects == list(source)
    for subject, sequences in source.items():
        assert store.sequences(subject) == sorted(sequences)
        for name, positions in sequences.items():
            np.testing.assert_allclose(store.positions(subject, name), seventeen(positions), atol=1e-6)
        for name, camera in h36m.cameras(subject).items():
            got = store.cameras(subject)[name]
            for field in ("R", "t", "focal", "center", "radial", "tangential"):
                torch.testing.assert_close(getattr(got, field), getattr(camera, field), rtol=0, atol=1e-9)
            assert got.size == camera.size


# ---- VideoPose3D


@pytest.mark.parametrize("how", ["file", "folder", "another name"])
def test_videopose3d(
    tmp_path: Path, convert: Callable[..., PoseStore], capsys: pytest.CaptureFixture[str], how: str
) -> None:
    path = save_3d(tmp_path)
    save_2d(tmp_path, "gt", seen(poses()))
    cpn = seen(poses(), noise=3, spare=4)
    save_2d(tmp_path, "cpn_ft_h36m_dbb", {**cpn, "S2": cpn["S1"]})
    if how == "another name":
        path = path.rename(tmp_path / "mine.npz")
    with convert(tmp_path if how == "folder" else path) as store:
        assert_holds(store, poses())
        assert store.frame_rate == 50
        assert "VideoPose3D" in store.source
        assert store.checksum.startswith("sha256:")
        assert store.detectors == ["cpn_ft_h36m_dbb"]
        got = store.keypoints("S1", "Photo", "58860488", "cpn_ft_h36m_dbb")
        np.testing.assert_array_equal(got, cpn["S1"]["Photo"][2][:9])
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[:4] for line in printed[2:4]] == [["S1", "2", "21", "4"], ["S11", "1", "10", "4"]]
    assert printed[2].split()[4:] == ["412-412", "100%"]
    assert any("gt (for this proof only)" in line for line in printed)
    assert any("cpn_ft_h36m_dbb (stored): off by 3." in line for line in printed)


def test_the_frame_rate_can_be_given(tmp_path: Path, convert: Callable[..., PoseStore]) -> None:
    with convert(save_3d(tmp_path), "--fps", "60") as store:
        assert store.frame_rate == 60


def test_17_joints_are_taken_as_they_are(tmp_path: Path, convert: Callable[..., PoseStore]) -> None:
    reduced = {s: {n: seventeen(p) for n, p in sequences.items()} for s, sequences in poses().items()}
    with convert(save_3d(tmp_path, reduced)) as store:
        assert_holds(store, poses())


def test_keypoints_of_other_joints_are_left_out(tmp_path: Path, convert: Callable[..., PoseStore]) -> None:
    save_2d(tmp_path, "coco", seen(poses()), {**METADATA, "keypoints_symmetry": [[1, 3, 5], [2, 4, 6]]})
    save_2d(tmp_path, "mpii", seen(poses()), {**METADATA, "num_joints": 16})
    with convert(save_3d(tmp_path)) as store:
        assert store.detectors == []


def edited(change: Callable[[Poses], object]) -> Poses:
    source = poses()
    change(source)
    return source


def scaled(factor: float) -> Poses:
    return {s: {n: p * factor for n, p in sequences.items()} for s, sequences in poses().items()}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (scaled(1000), "S1: expected thighs of 0.2 to 0.8 m, got 412.3 m: millimetres in place of metres"),
        (scaled(0.1), "S1: expected thighs"),
        (
            edited(lambda p: p["S1"].update({"Photo": person()[:, :20]})),
            r"S1 Photo: expected \(T, 32, 3\), got \(12, 20, 3\)",
        ),
        (edited(lambda p: p["S1"].update({"Photo": person()[:0]})), r"got \(0, 32, 3\)"),
        (edited(lambda p: p["S11"]["Eating"].__setitem__((3, 1, 2), np.nan)), r"S11 Eating: .*nan at \[3, 1, 2\]"),
        (edited(lambda p: p["S1"].update({"Photo": np.array(["a"])})), "S1 Photo: expected"),
        (edited(lambda p: p.update({"S3": p["S1"]})), "no cameras are known of S3"),
        (edited(lambda p: p["S1"].update({"Photo": [[1.0], [1.0, 2.0]]})), "S1 Photo: expected an array"),  # type: ignore
        ({"S1": 5}, "S1: expected a dict, got int"),
        ([1, 2], "expected a dict, got"),
        ({"S1": {"W": person()[..., [1, 0, 2]]}}, "left and right are exchanged, or the world is mirrored"),
        ({"S1": {"W": seventeen(person())[:, MIRROR]}}, "left and right are exchanged"),
        ({"S1": {"W": person()[..., [0, 2, 1]] * [1, -1, 1] + [0, 0, 30]}}, "in the pictures; another world frame"),
    ],
)
def test_3d_that_cannot_be_is_refused(
    tmp_path: Path, convert: Callable[..., PoseStore], source: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        convert(save_3d(tmp_path, source))


def changed_2d(change: Callable[[dict[str, dict[str, list[np.ndarray]]]], object]) -> Any:
    keypoints = seen(poses(), noise=3)
    return change(keypoints) or keypoints


@pytest.mark.parametrize(
    ("keypoints", "message"),
    [
        (seen({s: {n: p[::-1] for n, p in q.items()} for s, q in poses().items()}), "do not belong to these poses"),
        (
            changed_2d(lambda k: {s: {n: [v[:, MIRROR] for v in w] for n, w in q.items()} for s, q in k.items()}),
            "exchanged",
        ),
        (changed_2d(lambda k: {s: {n: w[::-1] for n, w in q.items()} for s, q in k.items()}), "S1, camera 54138969"),
        (changed_2d(lambda k: k["S1"].pop("Photo") and None), "S1 Photo: expected keypoints of 4 cameras, got 0"),
        (changed_2d(lambda k: k["S1"]["Photo"].pop() is None or None), "expected keypoints of 4 cameras, got 3"),
        (changed_2d(lambda k: k["S1"].update(Photo=[v[:5] for v in k["S1"]["Photo"]])), "9 frames or more, got 5"),
        (changed_2d(lambda k: k["S1"].update(Photo=[v[:, :9] for v in k["S1"]["Photo"]])), r"expected \(T, 17, 2\)"),
        (changed_2d(lambda k: k["S1"].update(Photo=[])), "4 cameras, got 0"),
        (changed_2d(lambda k: k["S1"]["Photo"][1].fill(np.inf)), "S1 Photo, 55011271: expected finite"),
    ],
)
def test_2d_that_does_not_belong_is_refused(
    tmp_path: Path, convert: Callable[..., PoseStore], keypoints: Any, message: str
) -> None:
    save_2d(tmp_path, "cpn", keypoints)
    with pytest.raises(InputError, match=message):
        convert(save_3d(tmp_path))


def test_ground_truth_has_to_be_exact(tmp_path: Path, convert: Callable[..., PoseStore]) -> None:
    keypoints = seen(poses())
    keypoints["S11"]["Eating"][3][4, 2] += 0.2
    save_2d(tmp_path, "gt", keypoints)
    with pytest.raises(InputError, match=r"'gt' do not belong.*S11, camera 60457274"):
        convert(save_3d(tmp_path))


# ---- what is not a source


def test_sources_that_are_none_are_refused(tmp_path: Path, convert: Callable[..., PoseStore]) -> None:
    empty, folder = tmp_path / "empty.npz", tmp_path / "folder"
    empty.touch()
    folder.mkdir()
    half = save_3d(tmp_path).read_bytes()
    (tmp_path / "half.npz").write_bytes(half[: len(half) // 2])
    only_2d = save_2d(folder, "gt", {})
    for source, message in [
        (tmp_path / "absent", "nothing at"),
        (empty, "is empty"),
        (tmp_path / "half.npz", "only a part"),
        (only_2d, "expected positions_3d or .* found positions_2d, metadata"),
        (folder, "expected an npz with positions_3d"),
    ]:
        with pytest.raises(InputError, match=message):
            convert(source)


def test_two_3d_files_have_to_be_told_apart(tmp_path: Path, convert: Callable[..., PoseStore]) -> None:
    (save_3d(tmp_path)).rename(tmp_path / "other.npz")
    save_3d(tmp_path)
    with pytest.raises(InputError, match="name one of them"):
        convert(tmp_path)


def test_damage_within_the_zip_is_said(tmp_path: Path, convert: Callable[..., PoseStore]) -> None:
    path = save_3d(tmp_path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match="positions_3d cannot be read, the file is broken"):
        convert(path)


# ---- pickles


class Attack:
    """Pickles as a call."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call = call, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def npz_of(path: Path, content: bytes, key: str = "positions_3d") -> Path:
    """An npz whose only array is the given pickle."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|O", "fortran_order": False, "shape": ()})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{key}.npy", header.getvalue() + content)
    return path


def test_a_pickle_cannot_run_code(tmp_path: Path, convert: Callable[..., PoseStore]) -> None:
    trap = tmp_path / "trap"
    path = save_3d(tmp_path, {"S1": {"Walking": Attack(os.mkdir, str(trap))}})
    with pytest.raises(InputError, match=r"posix.mkdir, which is not data"):
        convert(path)
    assert not trap.exists()
    np.load(path, allow_pickle=True)["positions_3d"]
    assert trap.exists(), "the trap itself has to work"


@pytest.mark.parametrize(
    "content",
    [
        b"cos\nmkdir\n(S'trap'\ntR.",
        b"(S'trap'\nios\nmkdir\n.",
        b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x01x\x85R.",
        b"\x80\x04\x8c\x05numpy\x8c\x04load\x93.",
        b"cnumpy._core.multiarray\nfromfile\n.",
        b"cnumpy\nndarray.tofile\n.",
        b"ccopyreg\n_reconstructor\n.",
        b"c__builtin__\ngetattr\n.",
        pickle.dumps(Attack(__import__, "os"), 2),
    ],
)
def test_no_global_is_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="which is not data"):
        read_npz(npz_of(tmp_path / "x.npz", content), "positions_3d")
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"


def old_array(shape: str, code: str, data: bytes, order: str = "<", rest: str = "NNNI-1\nI-1\nI0\n") -> bytes:
    """An array as Python 2 pickled it: numpy 1's module, bytes as a string."""
    dtype = f"cnumpy\ndtype\n(S'{code}'\nI0\nI1\ntR(I3\nS'{order}'\n{rest}tb"
    head = f"(I1\n({shape}t{dtype}I00\n".encode()
    return RECONSTRUCT + head + b"T" + len(data).to_bytes(4, "little") + data + b"tb."


@pytest.mark.parametrize(
    "content",
    [
        old_array("I1000000000000\n", "f4", b""),
        old_array("I4\n", "f4", b"1234"),
        old_array("I-1\nI-1\n", "f4", b"1234"),
        old_array("I1000000000000\n", "S0", b""),
        old_array("I2\n", "V8", bytes(16)),
        old_array("I2\n", "O", bytes(16)),
        old_array("I1\n", "i4,i4", bytes(8), order=""),
        old_array("I1\n", "f4", b"1234", rest="N(S'a'\nt(dNI-1\nI-1\nI0\n"),
        RECONSTRUCT.replace(b"I0", b"I1000000000000") + b"(dS'x'\nI1\nsb.",
        b"cnumpy.core.multiarray\n_reconstruct\n(dS'__module__'\nI1\nsb.",
        b"\x80\x05\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\x00\x00\x00.",
        b"garbage",
        b"",
    ],
)
def test_arrays_that_lie_are_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InputError, match=r"is refused|the file is broken"):
        read_npz(npz_of(tmp_path / "x.npz", content), "positions_3d")


def test_a_huge_memo_index_takes_no_memory(tmp_path: Path) -> None:
    """The C unpickler would ask for 32 GiB here; Python's takes one entry of a dict."""
    assert read_npz(npz_of(tmp_path / "x.npz", b"\x80\x02K\x07r\xff\xff\xff\x7f."), "positions_3d") == 7


def test_a_header_that_claims_too_much_is_refused(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)})
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("positions_3d.npy", header.getvalue() + bytes(80))
    with pytest.raises(InputError, match="data for 10 values"):
        read_npz(tmp_path / "x.npz", "positions_3d")


def test_pickles_of_every_age_are_read(tmp_path: Path) -> None:
    values = np.arange(6, dtype=">f4").reshape(2, 3)
    path = npz_of(tmp_path / "old.npz", old_array("I2\nI3\n", "f4", values.tobytes(), order=">"))
    np.testing.assert_array_equal(read_npz(path, "positions_3d"), values)
    for core in (b"numpy.core", b"numpy._core"):
        nested = {"a": [values, (values, 1.5, "x")], "n": np.float32(3), "f": np.asfortranarray(values)}
        content = pickle.dumps(nested, protocol=3).replace(b"numpy._core", core)
        got = read_npz(npz_of(tmp_path / "x.npz", content), "positions_3d")
        np.testing.assert_array_equal(got["a"][0], values)
        np.testing.assert_array_equal(got["f"], values)
        assert got["a"][1][1:] == (1.5, "x")
        assert got["n"] == 3


def test_arrays_of_arrays_and_plain_arrays_are_read(tmp_path: Path) -> None:
    ragged = np.array([np.zeros((2, 3)), np.ones((4, 3))], dtype=object)
    path = save(tmp_path / "x.npz", a={"S1": ragged}, b=np.eye(3), c=np.array(["x", "yz"]), d=ragged)
    assert npz_keys(path) == ["a", "b", "c", "d"]
    for got in (read_npz(path, "a")["S1"], read_npz(path, "d")):
        assert [part.shape for part in got] == [(2, 3), (4, 3)]
        assert np.asarray(got[1]).sum() == 12
    np.testing.assert_array_equal(read_npz(path, "b"), np.eye(3))
    assert list(read_npz(path, "c")) == ["x", "yz"]
    with pytest.raises(InputError, match="no array 'z'; there are a, b, c, d"):
        read_npz(path, "z")


# ---- Martinez et al.


def martinez(folder: Path, source: Poses, transposed: bool | None = True, unit: float = 1000) -> Path:
    """Writes their folder, with its 2D siblings; cameras.h5 holds R transposed, as it is, or is not there (None)."""
    for subject, sequences in source.items():
        poses_folder = folder / subject / "MyPoses" / "3D_positions"
        poses_folder.mkdir(parents=True)
        for name, positions in sequences.items():
            with h5py.File(poses_folder / f"{name}.h5", "w") as file:
                file["3D_positions"] = positions.reshape(-1, 96).T.astype(np.float64) * unit
        (poses_folder / "Photo.54138969.h5").write_bytes(b"2D")
        (poses_folder / "Photo.h5h5").write_bytes(b"2D")
    if transposed is not None:
        with h5py.File(folder / "cameras.h5", "w") as file:
            for subject in source:
                for i, (name, camera) in enumerate(h36m.cameras(subject).items(), 1):
                    group = file.create_group(f"subject{subject[1:]}/camera{i}")
                    group["R"] = camera.R.T if transposed else camera.R
                    group["T"] = (-camera.R.T @ camera.t * 1000)[:, None]
                    group["f"], group["c"] = camera.focal[:, None], camera.center[:, None]
                    group["k"], group["p"] = camera.radial[:, None], camera.tangential.flip(0)[:, None]
                    group["Name"] = np.array([[ord(letter)] for letter in name], dtype=np.uint16)
    return folder


@pytest.mark.parametrize("transposed", [True, False, None])
@pytest.mark.parametrize("how", ["folder", "above", "subject", "zip"])
def test_martinez(tmp_path: Path, convert: Callable[..., PoseStore], transposed: bool | None, how: str) -> None:
    source = {"S1": poses()["S1"]} if how == "subject" else poses()
    folder = martinez(tmp_path / "top" / "h36m", source, transposed)
    if how == "zip":
        with zipfile.ZipFile(tmp_path / "h36m.zip", "w") as archive:
            for path in sorted(folder.rglob("*")):
                archive.write(path, path.relative_to(folder.parent))
    where = {"folder": folder, "above": folder.parent, "subject": folder / "S1", "zip": tmp_path / "h36m.zip"}[how]
    with convert(where) as store:
        assert_holds(store, source)
        assert "Martinez" in store.source


def test_s11_directions_is_left_out(tmp_path: Path, convert: Callable[..., PoseStore]) -> None:
    source = poses()
    source["S11"] |= {"Directions": person(), "Directions 1": person()}
    with convert(martinez(tmp_path / "h36m", source)) as store:
        assert store.sequences("S11") == ["Directions 1", "Eating"]


def test_bad_martinez_files_are_refused(tmp_path: Path, convert: Callable[..., PoseStore]) -> None:
    with pytest.raises(InputError, match="metres in place of millimetres"):
        convert(martinez(tmp_path / "metres", poses(), unit=1))
    folder = martinez(tmp_path / "h36m", poses())
    file = folder / "S1/MyPoses/3D_positions/Photo.h5"
    content = file.read_bytes()
    file.write_bytes(content[:1000])
    with pytest.raises(InputError, match=r"Photo.h5 is not a readable HDF5"):
        convert(folder)
    with h5py.File(file, "w") as opened:
        opened["3D_positions"] = np.zeros((90, 5))
    with pytest.raises(InputError, match=r"Photo.h5: 3D_positions: expected \(96, T\), got \(90, 5\)"):
        convert(folder)
    with h5py.File(file, "w") as opened:
        opened["2D"] = np.zeros((90, 5))
    with pytest.raises(InputError, match="no array '3D_positions'"):
        convert(folder)


def test_bad_martinez_cameras_are_refused(tmp_path: Path, convert: Callable[..., PoseStore]) -> None:
    folder = martinez(tmp_path / "h36m", poses())
    with h5py.File(folder / "cameras.h5", "r+") as file:
        file["subject1/camera2/R"][...] = np.diag([1, -1, -1])
    with pytest.raises(InputError, match="S1 is not in the picture of every camera"):
        convert(folder)
    with h5py.File(folder / "cameras.h5", "r+") as file:
        del file["subject1"]
    with pytest.raises(InputError, match=r"cameras.h5: without subject1/camera1"):
        convert(folder)
    (folder / "cameras.h5").write_bytes(b"not HDF5")
    with pytest.raises(InputError, match=r"cameras.h5 is not a readable HDF5 file"):
        convert(folder)


# ---- the official files


def official(folder: Path, source: Poses, variable: str = "Pose", columns: int = 96) -> Path:
    cdfwrite = pytest.importorskip("cdflib.cdfwrite")
    for subject, sequences in source.items():
        for kind in ("D3_Positions", "D3_Positions_mono"):
            (folder / subject / "MyPoseFeatures" / kind).mkdir(parents=True)
        for name, positions in sequences.items():
            values = positions.reshape(1, -1, 96)[..., :columns] * 1000
            file = cdfwrite.CDF(folder / subject / "MyPoseFeatures/D3_Positions" / f"{name}.cdf")
            spec = {"Variable": variable, "Data_Type": 44, "Num_Elements": 1, "Rec_Vary": True}
            file.write_var({**spec, "Dim_Sizes": list(values.shape[1:])}, var_data=values.astype(np.float32))
            file.close()
    return folder


def test_official(tmp_path: Path, convert: Callable[..., PoseStore]) -> None:
    usual = {"S9": {"Photo 1": person(8), "WalkDog": person(9), "Walking": person(7)}}
    spelt = {"S9": dict(zip(("TakingPhoto 1", "WalkingDog", "Walking"), usual["S9"].values(), strict=True))}
    with convert(official(tmp_path / "h36m", spelt)) as store:
        assert_holds(store, usual)
        assert "official" in store.source


def test_bad_official_files_are_refused(tmp_path: Path, convert: Callable[..., PoseStore]) -> None:
    source = {"S9": {"Walking": person()}}
    with pytest.raises(InputError, match="with a variable Pose"):
        convert(official(tmp_path / "a", source, variable="Other"))
    with pytest.raises(InputError, match=r"expected \(T, 96\), got \(12, 51\)"):
        convert(official(tmp_path / "b", source, columns=51))
    folder = official(tmp_path / "c", source)
    (folder / "S9/MyPoseFeatures/D3_Positions/Walking.cdf").write_bytes(b"not CDF")
    with pytest.raises(InputError, match="expected a CDF file"):
        convert(folder)


def test_cdflib_is_asked_for_only_where_it_is_needed(
    tmp_path: Path, convert: Callable[..., PoseStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "h36m/S9/MyPoseFeatures/D3_Positions"
    folder.mkdir(parents=True)
    (folder / "Walking.cdf").write_bytes(b"any")
    monkeypatch.setitem(sys.modules, "cdflib", None)
    with pytest.raises(InputError, match="pip install cdflib"):
        convert(tmp_path / "h36m")


def test_a_recording_found_twice_is_refused(tmp_path: Path, convert: Callable[..., PoseStore]) -> None:
    source = {"S9": {"Walking": person()}}
    martinez(martinez(tmp_path / "h36m", source) / "old", source, None)
    with pytest.raises(InputError, match="expected each recording once, got Walking a second time"):
        convert(tmp_path / "h36m")
    twice = {"S9": {"TakingPhoto 1": person(), "Photo 1": person()}}
    with pytest.raises(InputError, match="S9: expected each recording once, got Photo 1 a second time"):
        convert(save_3d(tmp_path, twice))


# ---- as people meet it


def test_an_error_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "data/prepare_h36m.py", str(tmp_path / "absent"), "--output", str(tmp_path / "x.h5")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: source: expected a file, found nothing")
    assert done.stderr.count("\n") == 1


def test_a_failing_disk_leaves_no_file(
    tmp_path: Path, convert: Callable[..., PoseStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> int:
        path.touch()
        raise OSError(28, "No space left on device")

    source = save_3d(tmp_path)
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        convert(source)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.skipif(not STAND_IN.is_dir(), reason="needs the stand-in for Human3.6M")
def test_the_stand_in(convert: Callable[..., PoseStore], capsys: pytest.CaptureFixture[str]) -> None:
    expected = np.load(STAND_IN / "data_3d_h36m.npz", allow_pickle=True)["positions_3d"].item()
    with convert(STAND_IN) as store:
        assert store.subjects == list(h36m.SUBJECTS)
        for subject, sequences in expected.items():
            assert sorted(store.sequences(subject)) == sorted(sequences)
            name = max(sequences)
            np.testing.assert_array_equal(store.positions(subject, name), seventeen(sequences[name]))
    lines = capsys.readouterr().out.splitlines()
    counts = {line.split()[0]: tuple(map(int, line.split()[1:4])) for line in lines if line.startswith("S1")}
    for subject, (sequences, frames, cameras) in counts.items():
        assert (sequences, cameras) == (len(expected[subject]), 4)
        assert frames == sum(map(len, expected[subject].values()))
    proof = next(line for line in lines if line.startswith("keypoints gt"))
    assert float(proof.split()[-4]) < 1e-3  # pixels, the largest of five million


@pytest.mark.skipif(not STAND_IN.is_dir(), reason="needs the stand-in for Human3.6M")
def test_left_and_right_of_real_people() -> None:
    for sequences in h36m_sources.read_source(STAND_IN / "data_3d_h36m.npz").positions.values():
        positions = np.concatenate(list(sequences.values()))[::5]
        assert (left_of_body(positions) > 0).mean() > 0.95
        assert (left_of_body(positions[:, MIRROR]) < 0).mean() > 0.95
