"""The loads: many calls from threads, millions of poses, many trainings, many readers. Each runs in its own process."""

import hashlib
import random
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lifting import lifter, single_stage
from lifting.config import SingleStageConfig, load_config, read_config
from lifting.datasets.image_index import read_encoded, read_index
from lifting.datasets.image_packing import pack
from lifting.datasets.store import PoseStore, Sequence, write_store
from lifting.evaluate import Clip, score_predictions, write_predictions
from lifting.geometry import h36m
from lifting.inference.lifter import Lifter, Pose
from lifting.keypoints.joint_sets import DETECTED
from lifting.shipped import released
from lifting.synthetic.poses import sequences
from tests.datasets.test_image_index import dotted
from tests.load.memory import Held, peak_of

Arrays = NDArray[Any]


# Many calls of Lifter.lift.


def requests(count: int) -> list[dict[str, Any]]:
    """Arguments of `Lifter.lift`, each of another shape or joint set, some with missing joints."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        joints = list(DETECTED)[number % len(DETECTED)]
        leading = tuple(rng.integers(1, 9, number % 4).tolist()) if number % 7 else (int(rng.integers(500, 700)),)
        people = rng.uniform((300, 200), (900, 500), (*leading, 1, 2))
        points = people + rng.normal(0, 60, (*leading, len(DETECTED[joints]), 2))
        points[rng.random(points.shape[:-1]) < 0.05 * (number % 3)] = np.nan
        found.append({"keypoints": points, "image_size": (1280, 720), "joints": joints})
    return found


def _same(found: Pose, expected: Pose) -> bool:
    names = ("joints", "sigma", "deviation")
    return all(np.array_equal(getattr(found, name), getattr(expected, name), equal_nan=True) for name in names)


def lifts(ending: str, calls: int, threads: int, kinds: int) -> tuple[int, int, Held, Held]:
    """Calls `Lifter.lift` of the released weights from several threads at once.

    Args:
        ending: ".onnx" or ".pt".
        kinds: how many different calls there are.

    Returns:
        how many calls gave what the same call gave alone, to the bit; how many poses were lifted; what this process
        held after all threads had made each kind of call at the same time, and at the end.
    """
    lifts = Lifter.load(released(f"srnet_rle{ending}"), threads=1)
    kept = requests(kinds)
    expected = [lifts.lift(**one) for one in kept]
    same, poses = [0] * threads, [0] * threads
    barrier = threading.Barrier(threads)

    def warm(thread: int) -> None:
        for one in kept:
            barrier.wait(600)
            lifts.lift(**one)
        order = random.Random(-1 - thread)  # kinds that meet by chance take memory of their own, once
        for _ in range(calls // threads):
            lifts.lift(**kept[order.randrange(kinds)])

    def work(thread: int) -> None:
        order = random.Random(thread)
        for _ in range(calls // threads):
            number = order.randrange(kinds)
            found = lifts.lift(**kept[number])
            same[thread] += _same(found, expected[number])
            poses[thread] += found.joints[..., 0, 0].size

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(warm, range(threads)))
        before = Held.now()
        list(pool.map(work, range(threads)))
        return sum(same), sum(poses), before, Held.now()


# Millions of poses to score.


def people(*subjects: str) -> list[Sequence]:
    """Some recordings of each of these subjects: of one person, since making motion takes time."""
    some = list(islice(sequences(seed=0), 6))
    return [replace(sequence, subject=subject) for subject in subjects for sequence in some]


class Noisy(Mapping[Clip, Arrays]):
    """Predictions for all of a store, made when they are asked for: the truth with noise of 30 mm in each coordinate.

    ``sums`` has the sum of the errors and the number of joints of each action, as far as predictions were made.
    """

    def __init__(self, store: PoseStore) -> None:
        self.store = store
        self.clips = [
            (subject, sequence, camera)
            for subject in store.subjects
            for sequence in store.sequences(subject)
            for camera in store.cameras(subject)
        ]
        self.cameras = {subject: store.cameras(subject) for subject in store.subjects}
        self.numbers = {clip: number for number, clip in enumerate(self.clips)}
        self.sums: dict[str, Arrays] = {}

    def __len__(self) -> int:
        return len(self.clips)

    def __iter__(self) -> Iterator[Clip]:
        return iter(self.clips)

    def __getitem__(self, clip: Clip) -> Arrays:
        subject, sequence, camera = clip
        world = torch.from_numpy(self.store.positions(subject, sequence)).double()
        truth = self.cameras[subject][camera].world_to_camera(world).numpy()
        noise = 0.03 * np.random.default_rng(self.numbers[clip]).standard_normal(truth.shape, dtype=np.float32)
        noise[:, 0] = 0
        error = np.linalg.norm(noise.astype(np.float64), axis=-1)
        self.sums.setdefault(h36m.action_of(sequence), np.zeros(2))[:] += error.sum(), error.size
        poses: Arrays = truth - truth[:, :1] + noise
        return poses


def write_motion(folder: Path, poses: int) -> tuple[Path, Path, float]:
    """A store and a file of predictions of about so many poses (four cameras), and their MPJPE in mm (action mean)."""
    motion = people("S9", "S11")
    each = 4 * sum(len(s.positions) for s in motion)
    store, predictions = folder / f"store{poses}.h5", folder / f"predictions{poses}.h5"
    takes = (
        replace(s, name=f"{h36m.action_of(s.name)} {1000 * take + i}")
        for take in range(max(1, round(poses / each)))
        for i, s in enumerate(motion)
    )
    cameras = {subject: h36m.cameras(subject) for subject in ("S9", "S11")}
    write_store(store, takes, cameras, frame_rate=50, source="a test", checksum="none")
    with PoseStore(store) as opened:
        noisy = Noisy(opened)
        write_predictions(predictions, noisy)
    return store, predictions, 1000 * float(np.mean([total / count for total, count in noisy.sums.values()]))


class Scored(NamedTuple):
    """A file of predictions that was scored: poses, its size and the memory that it took at most, and the errors."""

    poses: int
    size: int
    peak: int
    found: float
    expected: float


def scores(folder: Path, poses: int) -> Scored:
    """Scores a file of so many predictions, after a small one that warms up the process."""
    store, predictions, _ = write_motion(folder, 1)
    score_predictions(predictions, store)
    store, predictions, expected = write_motion(folder, poses)
    report, peak = peak_of(lambda: score_predictions(predictions, store))
    return Scored(report["n_poses"], predictions.stat().st_size, peak, report["mpjpe_mm"], expected)


# Many trainings, one after the other.

SMALL = ("loss.flow.width=8", "loss.flow.couplings=2", "train.bn_batches=2", "train.precision=fp32",
         "train.device=cpu", "train.epochs=1")  # fmt: skip


def write_sets(folder: Path, pictures: int) -> None:
    """In ``folder``: poses.h5, a store of two people; packed.h5, an index with so many pictures inside."""
    cameras = {subject: h36m.cameras(subject) for subject in ("S1", "S9")}
    write_store(folder / "poses.h5", people("S1", "S9"), cameras, frame_rate=50.0, source="test", checksum="none")
    pack(folder / "packed.h5", dotted(folder / "pictures", pictures), source="test", checksum="")


def train_once(sets: Path, target: Path, number: int, from_pictures: bool) -> None:
    """One short training of a lifter, or from pictures; in turns with and without a flow."""
    loss = "loss.name=rle" if number % 2 else "loss.name=l1"
    if from_pictures:
        pictures = (f"data.path={sets / 'packed.h5'}", "data.flat_path=null", "data.size=32", "data.stride=1",
                    "data.test_stride=1", "data.train_parts=[S1]", "data.test_parts=[S0]", "data.workers=0",
               "model.backbone=resnet18", "model.width=8", "train.batch_size=8")  # fmt: skip
        single_stage.train(read_config(SingleStageConfig, overrides=[*SMALL, *pictures, loss]), target)
    else:
        poses = (f"data.path={sets / 'poses.h5'}", "data.train_subjects=[S1]", "data.test_subjects=[S9]",
               "data.stride=40", "data.test_stride=200", "model.width=32", "train.batch_size=24",
               f"model.name={'srnet' if number % 3 else 'fc'}")  # fmt: skip
        lifter.train(load_config(overrides=[*SMALL, *poses, loss]), target)


def trainings(sets: Path, folder: Path, count: int, first: int, pictures: bool = True) -> tuple[Held, Held]:
    """What this process holds after the first few of so many trainings, and after all; every fourth from pictures."""
    held = []
    for number in range(count):
        train_once(sets, folder / f"run{number}", number, pictures and number % 4 == 3)
        if number + 1 in (first, count):
            held.append(Held.now())
    before, after = held
    return before, after


# Many readers of one file.


def digests(folder: Path, seed: int) -> dict[str, str]:
    """A hash of all that the prepared files in ``folder`` hold, read in an order of its own."""
    found = {}
    with PoseStore(folder / "poses.h5") as store:
        names = [(subject, name) for subject in store.subjects for name in store.sequences(subject)]
        random.Random(seed).shuffle(names)
        for subject, name in names:
            found[f"{subject} {name}"] = hashlib.sha256(store.positions(subject, name).tobytes()).hexdigest()
            cameras = repr({key: camera.R.tolist() for key, camera in store.cameras(subject).items()})
            found[subject] = hashlib.sha256(cameras.encode()).hexdigest()
    images = read_index(folder / "packed.h5")
    found["labels"] = hashlib.sha256(images.keypoints.tobytes() + images.box.tobytes()).hexdigest()
    rows = list(range(len(images)))
    random.Random(seed).shuffle(rows)
    for row in rows:
        found[f"picture {row}"] = hashlib.sha256(read_encoded(images, row)).hexdigest()
    return dict(sorted(found.items()))


def forked_digests(folder: Path, processes: int, rounds: int) -> list[bool]:
    """Whether each of some processes read what this one did, when they are forked from it with the files open."""
    expected = digests(folder, 0)  # this process keeps the packed index open
    context = get_context("fork")
    answers, barrier = context.SimpleQueue(), context.Barrier(processes)

    def read(seed: int) -> None:
        same = True
        for turn in range(rounds):
            barrier.wait(60)
            same &= digests(folder, seed + turn) == expected
        answers.put(same)

    readers = [context.Process(target=read, args=(seed,)) for seed in range(1, processes + 1)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert not any(reader.exitcode for reader in readers), [reader.exitcode for reader in readers]
    return [answers.get() for _ in readers]
