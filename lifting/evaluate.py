"""Scores anybody's predictions under both protocols.

    python -m lifting.evaluate PREDICTIONS.h5 --data FILE [--json FILE]

The predictions are an HDF5 file of datasets ``/{subject}/{sequence}/{camera}``, each (T, J, 3) floats: one pose per
frame, in metres, in the camera's axes (x right, y down, z forward), relative to the root. The attribute ``stride`` of
the file (default 1) says that frame i of the file is frame ``i * stride`` of the data.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from einops import reduce
from torch import Tensor

from lifting import safe_hdf5
from lifting.command import InputError, Parser, RunError, existing_file, run_command, whole_file, write_json
from lifting.datasets.store import PoseStore
from lifting.geometry.cameras import Camera
from lifting.geometry.h36m import action_of
from lifting.metrics.bones import bone_report, pooled
from lifting.metrics.pose_errors import PoseSums, format_report, joint_errors

Clip = tuple[str, str, str]  # subject, sequence, camera

# A person's joints lie within 2 m of the root. A typical pose five times as large is not in metres.
_FARTHEST = 10.0
# Metres: a root farther from zero than this is reported to the user.
_ROOT_TOLERANCE = 1e-4

_log = logging.getLogger(__name__)


def write_predictions(path: str | Path, predictions: Mapping[Clip, np.ndarray], stride: int = 1) -> None:
    """Writes a prediction file, whole or not at all.

    Args:
        predictions: (subject, sequence, camera) -> (T, J, 3) metres, camera axes, root-relative; stored as float32.
        stride: frames of the data from one pose to the next.

    Raises:
        ValueError: an array is not (T, J, 3), or stride is below 1.
        RunError, OSError: the file could not be written.
    """
    if stride < 1:
        raise ValueError(f"stride: expected 1 or more, got {stride}")
    with whole_file(path) as temporary:
        try:
            with h5py.File(temporary, "w") as file:
                file.attrs["stride"] = stride
                for clip, poses in predictions.items():
                    if poses.ndim != 3 or poses.shape[-1] != 3:
                        raise ValueError(f"{' '.join(clip)}: expected (T, J, 3), got {poses.shape}")
                    file.create_dataset("/".join(clip), data=poses.astype(np.float32))
        except RuntimeError as error:  # how h5py reports a write that failed late, when the file is closed
            raise RunError(f"{path} could not be written: {error}") from error


def read_predictions(path: str | Path) -> tuple[dict[Clip, np.ndarray], int]:
    """Reads the poses of a prediction file, (T, J, 3) float64 for each clip, and its stride.

    Raises:
        InputError: the file is not HDF5, is empty, or holds anything but (T, J, 3) floats in the layout above.
    """
    with _predictions(path) as (file, clips, stride):
        return {clip: _read(file, clip, path) for clip in clips}, stride


@contextmanager
def _predictions(path: str | Path) -> Iterator[tuple[h5py.File, list[Clip], int]]:
    """Opens a prediction file: the file, its clips, which are of the right shape and kind but not read, and the stride.

    No dataset stays open: HDF5 keeps a buffer of 64 kB for each that was read, 1.2 GB for five million poses.
    """
    where = _expected(path)
    with safe_hdf5.open_hdf5(existing_file(path, "predictions"), str(path)) as file:
        clips = []
        for subject, sequences in _groups(file, where):
            for sequence, views in _groups(sequences, where):
                for camera in safe_hdf5.names(views, where):
                    _poses(views, camera, where)
                    clips.append((subject, sequence, camera))
        if not clips:
            raise InputError(f"{where}, found none")
        yield file, clips, _stride(file, str(path))


def _expected(path: str | Path) -> str:
    return f"{path}: expected datasets /subject/sequence/camera"


def _read(file: h5py.File, clip: Clip, path: str | Path) -> np.ndarray:
    return safe_hdf5.read(_poses(file, "/".join(clip), _expected(path)), np.float64, _expected(path))


def _groups(parent: h5py.Group, where: str) -> Iterator[tuple[str, h5py.Group]]:
    for name in safe_hdf5.names(parent, where):
        group = safe_hdf5.group(parent, name, where)
        assert group is not None
        yield name, group


def _poses(parent: h5py.Group, name: str, where: str) -> h5py.Dataset:
    found = safe_hdf5.dataset(parent, name, (-1, -1, 3), "f", where)
    assert found is not None
    return found


def _stride(file: h5py.File, where: str) -> int:
    stride = safe_hdf5.attribute(file, "stride", where)
    stride = 1 if stride is None else stride
    if not isinstance(stride, int) or stride < 1:
        raise InputError(f"{where}: attribute stride: expected a whole number of 1 or more, got {stride!r}")
    return stride


def score_predictions(path: str | Path, data_path: str | Path, device: str = "cpu") -> dict[str, Any]:
    """Scores a prediction file against a pose store, with `pose_errors.pose_report` and `bones.bone_report`.

    The root is subtracted from both. The report also has ``subjects``, ``stride``, ``n_clips`` and
    ``n_clips_in_data``. A clip is a sequence seen by one camera; ``n_clips`` were scored, and the data has
    ``n_clips_in_data`` for those subjects. One clip is in memory at a time, however many there are.

    Raises:
        InputError: a file cannot be used; the data does not have a clip; poses are of the wrong number or shape, not
            finite, or not in metres.
    """
    moved_roots, bones, cameras = 0, [], dict[str, dict[str, Camera]]()
    with _predictions(path) as (file, clips, stride), PoseStore(data_path) as store:
        joint_set = store.joint_set
        root = joint_set.root
        names = sorted({action_of(sequence) for _, sequence, _ in clips})
        sums = PoseSums(names, joint_set.joints)
        for clip in clips:
            target = _target(store, clip, stride, cameras)
            prediction = torch.from_numpy(_read(file, clip, path))
            _check(f"{path}: /{'/'.join(clip)}", prediction, target, stride)
            moved_roots += bool(prediction[:, root].norm(dim=-1).max() > _ROOT_TOLERANCE)
            relative = [(x - x[:, root : root + 1]).to(device) for x in (prediction, target)]
            one = torch.zeros(len(prediction), dtype=torch.int64)
            sums.add(joint_errors(*relative), (one + names.index(action_of(clip[1]))).to(device))
            bones.append((len(prediction), bone_report(prediction, joint_set, one)))
        subjects = [subject for subject in store.subjects if any(subject == clip[0] for clip in clips)]
        in_data = sum(len(store.sequences(subject)) * len(store.cameras(subject)) for subject in subjects)
    if moved_roots:
        _log.info("note: the root was not at zero in %d of %d clips; it was subtracted", moved_roots, len(clips))
    if len(clips) < in_data:
        _log.info("note: scored %d of the %d clips that the data has for %s", len(clips), in_data, ", ".join(subjects))
    scope = {"subjects": subjects, "stride": stride, "n_clips": len(clips), "n_clips_in_data": in_data}
    return {**sums.report(), **pooled(bones), **scope}


def _target(store: PoseStore, clip: Clip, stride: int, known: dict[str, dict[str, Camera]]) -> Tensor:
    """(T, J, 3) float64, every ``stride``-th pose of a clip in camera axes; `InputError` if there is no such clip.

    ``known`` keeps the cameras of each subject: reading them for every clip took as long as the errors.
    """
    subject, sequence, name = clip
    world = torch.from_numpy(store.positions(subject, sequence)[::stride]).double()
    if subject not in known:
        known[subject] = store.cameras(subject)
    cameras = known[subject]
    if name not in cameras:
        raise InputError(f"{store.path}: no camera {name!r} for {subject}; there are {', '.join(cameras)}")
    return cameras[name].world_to_camera(world)


def _check(what: str, prediction: Tensor, target: Tensor, stride: int) -> None:
    if prediction.shape != target.shape:
        raise InputError(
            f"{what}: expected {tuple(target.shape)} at a stride of {stride}, got {tuple(prediction.shape)}"
        )
    bad = reduce(~prediction.isfinite(), "t j d -> t", "any")
    if bad.any():
        first = int(bad.nonzero()[0])
        raise InputError(f"{what}: {int(bad.sum())} of {len(bad)} poses are not finite, the first at frame {first}")
    # The median, so that one wild prediction is scored as a failure instead of being mistaken for another unit.
    extent = (prediction.amax(1) - prediction.amin(1)).norm(dim=-1).median().item()
    if extent > _FARTHEST:
        raise InputError(f"{what}: expected metres, got poses {extent:.0f} across; are these millimetres?")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(prog="python -m lifting.evaluate", description="Score a file of predicted poses.")
    parser.add_argument("predictions", type=Path, help="HDF5 file with /subject/sequence/camera, (T, J, 3) metres")
    parser.add_argument("--data", type=Path, required=True, help="pose store with the ground truth, see data/README.md")
    parser.add_argument("--json", type=Path, help="also write all numbers to this file")
    options = parser.parse_args(arguments)
    report = score_predictions(options.predictions, options.data)
    if options.json:
        write_json(options.json, report)
    print(format_report(report))


if __name__ == "__main__":
    run_command(main)
