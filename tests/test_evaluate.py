"""Scores of prediction files: right numbers for good files, one line for bad ones."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from lifting.command import run_command
from lifting.datasets.store import PoseStore, Sequence, write_store
from lifting.evaluate import Clip, main, read_predictions, score_predictions, write_predictions
from lifting.geometry.h36m import KEEP_17_OF_32, cameras

ROOT = Path(__file__).parents[1]
STANDIN = ROOT.parent / "shared/data/h36m_standin/data_3d_h36m.npz"
SUBJECTS = ("S9", "S11")
FRAMES = {"Walking 1": 11, "Walking 2": 5, "Eating": 8}
METRICS = ("mpjpe", "pa_mpjpe", "n_mpjpe")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "data.h5"
    random = np.random.default_rng(0)
    recordings = [
        Sequence(subject, name, (random.normal(size=(frames, 17, 3)) * 0.4 + [0.3, 1.0, 0.9]).astype(np.float32))
        for subject in SUBJECTS
        for name, frames in FRAMES.items()
    ]
    store(path, recordings)
    return path


def store(path: Path, recordings: list[Sequence]) -> None:
    views = {subject: cameras(subject) for subject in {recording.subject for recording in recordings}}
    write_store(path, recordings, views, frame_rate=50, source="a test", checksum="none")


def truth(data: Path, stride: int = 1) -> dict[Clip, np.ndarray]:
    """The content of a perfect prediction file, computed with numpy alone."""
    clips = {}
    with PoseStore(data) as opened:
        for subject in opened.subjects:
            for sequence in opened.sequences(subject):
                world = opened.positions(subject, sequence).astype(np.float64)[::stride]
                for name, camera in opened.cameras(subject).items():
                    clips[subject, sequence, name] = (world - world[:, :1]) @ camera.R.numpy().T
    return clips


def spoilt(data: Path, seed: int = 0) -> dict[Clip, np.ndarray]:
    random = np.random.default_rng(seed)
    noisy = {clip: poses + 0.03 * random.normal(size=poses.shape) for clip, poses in truth(data).items()}
    return {clip: poses - poses[:, :1] for clip, poses in noisy.items()}


def test_round_trip(tmp_path: Path, data: Path) -> None:
    written = truth(data, stride=3)
    write_predictions(tmp_path / "p.h5", written, stride=3)
    read, stride = read_predictions(tmp_path / "p.h5")
    assert stride == 3
    assert read.keys() == written.keys()
    for clip, poses in read.items():
        np.testing.assert_array_equal(poses, written[clip].astype(np.float32))
    with h5py.File(tmp_path / "p.h5") as file:
        assert file["S9/Walking 1/54138969"].dtype == np.float32


@pytest.mark.parametrize("stride", [1, 3])
def test_the_truth_has_no_error(tmp_path: Path, data: Path, stride: int) -> None:
    write_predictions(tmp_path / "p.h5", truth(data, stride), stride)
    report = score_predictions(tmp_path / "p.h5", data)
    assert all(report[f"{metric}_mm"] < 1e-3 for metric in METRICS)
    frames = sum(len(range(0, frames, stride)) for frames in FRAMES.values())
    assert report["n_poses"] == len(SUBJECTS) * 4 * frames
    assert report["pck_150mm"] == 100
    assert (report["stride"], report["subjects"]) == (stride, ["S9", "S11"])
    assert report["n_clips"] == report["n_clips_in_data"] == len(SUBJECTS) * 4 * len(FRAMES)


def test_scores_against_a_sum_by_hand(tmp_path: Path, data: Path) -> None:
    predicted, expected = spoilt(data), truth(data)
    write_predictions(tmp_path / "p.h5", predicted)
    report = score_predictions(tmp_path / "p.h5", data)
    errors: dict[str, list[float]] = {"Eating": [], "Walking": []}
    for clip, poses in predicted.items():
        errors[clip[1].split()[0]] += list(1000 * np.linalg.norm(poses - expected[clip], axis=-1).mean(1))
    assert {name: row["n_poses"] for name, row in report["per_action"].items()} == {"Eating": 64, "Walking": 128}
    for name, values in errors.items():
        assert report["per_action"][name]["mpjpe_mm"] == pytest.approx(np.mean(values), abs=1e-3)
    assert report["mpjpe_mm"] == pytest.approx(np.mean([np.mean(values) for values in errors.values()]), abs=1e-3)
    assert report["mpjpe_frame_mm"] == pytest.approx(np.mean(np.concatenate(list(errors.values()))), abs=1e-3)
    assert report["per_joint"]["pelvis"]["mpjpe_mm"] == 0


def test_poses_belong_to_their_camera(tmp_path: Path, data: Path) -> None:
    swapped = {"54138969": "55011271", "55011271": "54138969"}
    exchanged = {(s, q, swapped.get(c, c)): poses for (s, q, c), poses in truth(data).items()}
    write_predictions(tmp_path / "p.h5", exchanged)
    report = score_predictions(tmp_path / "p.h5", data)
    assert report["mpjpe_mm"] > 100  # seen from another side
    assert report["pa_mpjpe_mm"] < 1e-3  # yet the same pose


def test_a_root_off_zero_is_subtracted_and_noted(tmp_path: Path, data: Path, caplog: pytest.LogCaptureFixture) -> None:
    clips = truth(data)
    clips["S9", "Eating", "54138969"] = clips["S9", "Eating", "54138969"] + [0.1, -2.0, 4.5]
    write_predictions(tmp_path / "p.h5", clips)
    with caplog.at_level(logging.INFO):
        assert score_predictions(tmp_path / "p.h5", data)["mpjpe_mm"] < 1e-3
    assert "root was not at zero in 1 of 24 clips" in caplog.text


def test_a_part_of_the_data_is_scored_and_noted(tmp_path: Path, data: Path, caplog: pytest.LogCaptureFixture) -> None:
    clips = {clip: poses for clip, poses in truth(data).items() if clip[0] == "S11" and clip[1] != "Eating"}
    write_predictions(tmp_path / "p.h5", clips)
    with caplog.at_level(logging.INFO):
        report = score_predictions(tmp_path / "p.h5", data)
    assert caplog.messages == ["note: scored 8 of the 12 clips that the data has for S11"]
    assert (report["n_clips"], report["n_clips_in_data"], report["subjects"]) == (8, 12, ["S11"])


def test_nothing_is_noted_if_all_is_in_order(tmp_path: Path, data: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_predictions(tmp_path / "p.h5", spoilt(data))
    with caplog.at_level(logging.INFO):
        score_predictions(tmp_path / "p.h5", data)
    assert not caplog.messages


def test_one_wild_pose_counts_as_an_error_not_as_another_unit(tmp_path: Path, data: Path) -> None:
    clips = truth(data)
    clips["S9", "Walking 1", "54138969"][3, 4:] *= 1000
    write_predictions(tmp_path / "p.h5", clips)
    assert score_predictions(tmp_path / "p.h5", data)["mpjpe_mm"] > 1000


@pytest.mark.parametrize("kind", ["<f2", ">f4", "<f8"])
def test_any_float_is_read(tmp_path: Path, data: Path, kind: str) -> None:
    with h5py.File(tmp_path / "p.h5", "w") as file:
        for clip, poses in truth(data).items():
            file["/".join(clip)] = poses.astype(kind)
    assert score_predictions(tmp_path / "p.h5", data)["mpjpe_mm"] < 1


def test_a_failed_write_leaves_the_file_that_was_there(tmp_path: Path, data: Path) -> None:
    path = tmp_path / "p.h5"
    write_predictions(path, truth(data))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"S9 Eating 1: expected \(T, J, 3\), got \(4, 51\)"):
        write_predictions(path, {**truth(data), ("S9", "Eating", "1"): np.zeros((4, 51))})
    with pytest.raises(ValueError, match="stride"):
        write_predictions(path, truth(data), stride=0)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not STANDIN.exists(), reason="no real motion at hand")
def test_real_motion(tmp_path: Path) -> None:
    takes = np.load(STANDIN, allow_pickle=True)["positions_3d"].item()["S9"]
    recordings = [Sequence("S9", name, take[::25, list(KEEP_17_OF_32)]) for name, take in takes.items()]
    store(tmp_path / "data.h5", recordings)
    clips = truth(tmp_path / "data.h5")
    direction = np.array([2.0, -1.0, 2.0]) / 3
    for poses in clips.values():
        poses[:, 13] += 0.051 * direction  # the left wrist is 51 mm off: 3 mm in the mean over 17 joints
    write_predictions(tmp_path / "p.h5", clips)
    report = score_predictions(tmp_path / "p.h5", tmp_path / "data.h5")
    assert report["mpjpe_mm"] == pytest.approx(3, abs=1e-3)
    assert report["per_joint"]["left_wrist"]["mpjpe_mm"] == pytest.approx(51, abs=1e-3)
    assert report["n_poses"] == 4 * sum(len(recording.positions) for recording in recordings)
    assert set(report["per_action"]) == {name.rsplit(" ", 1)[0] for name in takes}


def evaluate(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lifting.evaluate", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_command(tmp_path: Path, data: Path) -> None:
    write_predictions(tmp_path / "p.h5", spoilt(data))
    done = evaluate(tmp_path / "p.h5", "--data", data, "--json", tmp_path / "new" / "report.json")
    assert (done.returncode, done.stderr) == (0, "")
    written = json.loads((tmp_path / "new" / "report.json").read_text())
    assert written == score_predictions(tmp_path / "p.h5", data)
    assert "MPJPE (protocol #1)" in done.stdout
    assert f"{written['mpjpe_mm']:.1f}" in done.stdout
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["report.json"]


WALK = ("S9", "Walking 1", "54138969")
Change = Callable[[dict[Clip, np.ndarray]], dict[Clip, np.ndarray]]
# How a good file is spoilt, and the words that the error message must have.
CHANGES: dict[str, tuple[Change, list[str]]] = {
    "no datasets": (lambda clips: {}, ["found none"]),
    "subject": (lambda clips: {**clips, ("S7", *WALK[1:]): clips[WALK]}, ["S7", "S9, S11"]),
    "sequence": (lambda clips: {**clips, ("S9", "Sitting", WALK[2]): clips[WALK]}, ["Sitting", "Eating, Walking 1"]),
    "camera": (lambda clips: {**clips, (*WALK[:2], "cam0"): clips[WALK]}, ["cam0", "54138969, 55011271"]),
    "length": (lambda clips: {**clips, WALK: clips[WALK][:-2]}, ["Walking 1", "(11, 17, 3)", "(9, 17, 3)"]),
    "joints": (lambda clips: {**clips, WALK: clips[WALK][:, :16]}, ["Walking 1", "(11, 17, 3)", "(11, 16, 3)"]),
    "not finite": (
        lambda clips: {**clips, WALK: np.where(np.isin(np.arange(11), (4, 7))[:, None, None], np.nan, clips[WALK])},
        ["S9/Walking 1/54138969", "2 of 11 poses", "frame 4"],
    ),
    "millimetres": (lambda clips: {clip: 1000 * poses for clip, poses in clips.items()}, ["metres", "millimetres?"]),
}
# A file made by hand, and the words that the error message must have.
FILES: dict[str, tuple[Callable[[Path, Path], object], list[str]]] = {
    "absent": (lambda path, data: None, ["expected a file"]),
    "empty": (lambda path, data: path.touch(), ["is empty"]),
    "text": (lambda path, data: path.write_text("S9,Walking,0.1"), ["not a readable HDF5"]),
    "cut short": (lambda path, data: path.write_bytes(data.read_bytes()[:4000]), ["not a readable HDF5"]),
    "another layout": (
        lambda path, data: path.write_bytes(data.read_bytes()),
        ["/subject/sequence/camera", "cameras/"],
    ),
    "no floats": (lambda path, data: dataset(path, np.zeros((11, 17, 3), int)), ["floats", "int64"]),
    "flat": (lambda path, data: dataset(path, np.zeros((11, 51))), ["expected (T, J, 3)", "(11, 51)"]),
    "stride": (lambda path, data: dataset(path, np.zeros((11, 17, 3)), stride="two"), ["stride", "'two'"]),
}


def dataset(path: Path, values: np.ndarray, stride: int | str = 1) -> None:
    with h5py.File(path, "w") as file:
        file["/".join(WALK)] = values
        file.attrs["stride"] = stride


ARGUMENTS: dict[str, tuple[list[str], list[str]]] = {
    "no --data": (["good.h5"], ["--data", "required"]),
    "no such option": (["good.h5", "--data", "data.h5", "--best"], ["--best"]),
    "data absent": (["good.h5", "--data", "none.h5"], ["expected a file", "none.h5"]),
    "data no store": (["good.h5", "--data", "good.h5"], ["good.h5", "format"]),
}
SAID = {name: said for table in (CHANGES, FILES, ARGUMENTS) for name, (_, said) in table.items()}


@pytest.fixture
def bad(tmp_path: Path, data: Path, name: str) -> list[str]:
    """The arguments with the mistake called ``name``; makes their files."""
    if name in ARGUMENTS:
        write_predictions(tmp_path / "good.h5", truth(data))
        return [str(tmp_path / word) if word.endswith(".h5") else word for word in ARGUMENTS[name][0]]
    path = tmp_path / "bad.h5"
    if name in CHANGES:
        write_predictions(path, CHANGES[name][0](truth(data)))
    else:
        FILES[name][0](path, data)
    return [str(path), "--data", str(data), "--json", str(tmp_path / "report.json")]


def check_refusal(code: object, out: str, err: str, name: str) -> None:
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("error: ")
    assert [words for words in SAID[name] if words not in err] == []


def test_no_dataset_stays_open(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HDF5 keeps a buffer for each: five million poses took 1.6 GB."""
    write_predictions(tmp_path / "p.h5", truth(data))

    def count(*_: object) -> int:
        return int(h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_DATASET))

    before, opened = count(), list[int]()
    monkeypatch.setattr("lifting.evaluate._check", lambda *_: opened.append(count()))
    score_predictions(tmp_path / "p.h5", data)
    assert set(opened) == {before}


@pytest.mark.parametrize("name", SAID)
def test_refusal(bad: list[str], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run_command(lambda: main(bad))
    check_refusal(stop.value.code, *capsys.readouterr(), name)
    assert not (tmp_path / "report.json").exists()


# A process takes seconds to import torch: all the other mistakes are made in this one.
@pytest.mark.parametrize("name", ["millimetres"])
def test_refusal_in_a_process_of_its_own(bad: list[str], name: str) -> None:
    done = evaluate(*bad)
    check_refusal(done.returncode, done.stdout, done.stderr, name)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_the_same_numbers(tmp_path: Path, data: Path) -> None:
    write_predictions(tmp_path / "p.h5", spoilt(data))
    on_cpu, on_gpu = (score_predictions(tmp_path / "p.h5", data, device) for device in ("cpu", "cuda"))
    assert on_gpu["pa_mpjpe_mm"] == pytest.approx(on_cpu["pa_mpjpe_mm"], abs=1e-6)
