"""Makes docs/dance.npz, the example of the README: real motion as a phone and a 2D detector would give it.

    python data/prepare_cmu.py SOURCE --fps 30 --joints coco17 --output data/cmu_coco17.h5
    python -m tests.studies.example_keypoints data/cmu_coco17.h5 --output docs/dance.npz
    python -m tests.studies.example_keypoints data/cmu_coco17.h5 --output dance.npz --truth data/cmu_coco.h5 truth.npy
    run-lifting lift --input docs/dance.npz --output dance.json --truth truth.npy

The motion is CMU's trial 05_02, which the released weights were not trained on. The keypoints are its projections with
noise of 4 pixels that changes slowly, as a detector's does, scores, and some joints missing for a few frames.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d

from lifting.command import run_command
from lifting.datasets.store import PoseStore
from lifting.keypoints.array_formats import write_keypoints
from lifting.keypoints.detections import Keypoints
from tests.studies.unseen_cameras import camera

SUBJECT, TRIAL, KIND, AZIMUTH = "05", "05_02", "phone", 0.6
NOISE, SLOW = 4.0, 2.0  # pixels; frames over which the noise of a joint changes
GAPS, LENGTH = 40, 6  # joints that go missing, and the frames that each of them stays missing


def detected(pixels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(T, J, 2) pixels -> the same with noise and NaN where a joint is missing, and (T, J) scores."""
    noise = gaussian_filter1d(rng.standard_normal(pixels.shape), SLOW, axis=0)
    noise *= NOISE / noise.std()
    score = np.clip(0.95 - 0.03 * np.linalg.norm(noise, axis=-1), 0.3, 1)
    frames, joints = score.shape
    for start, joint in zip(rng.integers(0, frames - LENGTH, GAPS), rng.integers(0, joints, GAPS), strict=True):
        score[start : start + LENGTH, joint] = 0
    return np.where(score[..., None] > 0, pixels + noise, np.nan), score


def clip(store: PoseStore, frames: slice) -> np.ndarray:
    return store.positions(SUBJECT, TRIAL)[frames].astype(np.float64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--frames", type=int, nargs=2, default=(0, 281), metavar=("FROM", "TO"))
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument(
        "--truth", type=Path, nargs=2, metavar=("STORE", "OUT.npy"), help="true joints, for lift --truth"
    )
    options = parser.parse_args()
    frames = slice(*options.frames)
    with PoseStore(options.store) as store:
        positions = clip(store, frames)
        joint_set, rate = store.joint_set.name, store.frame_rate
    phone = camera(KIND, AZIMUTH, positions.reshape(-1, 3))
    pixels = phone.project(phone.world_to_camera(torch.from_numpy(positions))).numpy()
    points, scores = detected(pixels, np.random.default_rng(0))
    write_keypoints(
        options.output,
        Keypoints(
            points=np.round(points, 1)[:, None],
            confidence=np.round(scores, 2)[:, None],
            joint_set=joint_set,
            size=phone.size,
            frames=tuple(map(str, range(len(points)))),
            people=("0",),
            frame_rate=rate,
            has_scores=True,
            source=f"CMU {TRIAL}",
        ),
    )
    if options.truth:
        with PoseStore(options.truth[0]) as store:
            joints = phone.world_to_camera(torch.from_numpy(clip(store, frames)))
        np.save(options.truth[1], joints.numpy())
    focal, distance = float(phone.focal[0]), float(phone.t.norm())
    print(f"wrote {options.output}: {len(points)} frames, focal length {focal:.0f} px, {distance:.1f} m")


if __name__ == "__main__":
    run_command(main)
