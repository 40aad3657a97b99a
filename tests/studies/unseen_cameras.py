"""Writes a pose store anew with cameras that no training here sees, to test lifters of any camera.

    python -m tests.studies.unseen_cameras data/cmu_bvh.h5 --output data/cmu_unseen.h5

Eight kinds of cameras stand around each person: phones, a webcam, a security camera, a long lens, an action camera with
distortion, a camera on the floor and a drone. Each is as near as the person can be seen whole in every frame.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from scipy.spatial import ConvexHull

from lifting.command import run_command
from lifting.datasets.pose_checks import share_in_picture
from lifting.datasets.store import PoseStore, Sequence, checksum_of, write_store
from lifting.geometry.cameras import Camera

# Picture, focal length over the width, height above the floor and roll of the camera, first radial term.
KINDS = {
    "phone_upright": ((1080, 1920), 1.28, 1.5, 2.0, 0.0),
    "phone": ((1920, 1080), 0.72, 1.6, -3.0, 0.0),
    "webcam": ((1280, 720), 0.7, 0.9, 0.0, 0.0),
    "security": ((1920, 1080), 0.6, 3.5, 1.0, 0.0),
    "long_lens": ((1920, 1080), 3.0, 2.0, 0.0, 0.0),
    "action": ((1920, 1080), 0.55, 1.2, 8.0, -0.1),
    "floor": ((1920, 1080), 0.72, 0.3, 0.0, 0.0),
    "drone": ((1920, 1080), 0.75, 8.0, 0.0, 0.0),
}


def camera(kind: str, azimuth: float, points: np.ndarray) -> Camera:
    """A camera of this kind that looks at the middle of the (N, 3) points from a direction, and sees them all."""
    size, focal, height, roll, k1 = KINDS[kind]
    low, high = points.min(0), points.max(0)
    middle = (low + high) / 2
    distance = 2.0
    while True:
        offset = distance * np.array([math.cos(azimuth), math.sin(azimuth), 0])
        centre = np.array([*(middle + offset)[:2], low[2] + height])
        ahead = (middle - centre) / np.linalg.norm(middle - centre)
        right = np.cross(ahead, [0, 0, 1.0])
        right /= np.linalg.norm(right)
        down = np.cross(ahead, right)
        s, c = math.sin(math.radians(roll)), math.cos(math.radians(roll))
        R = torch.from_numpy(np.stack([c * right + s * down, c * down - s * right, ahead]))
        made = Camera(
            size=size,
            focal=torch.tensor([focal * size[0]] * 2, dtype=torch.float64),
            center=torch.tensor(size, dtype=torch.float64) / 2,
            radial=torch.tensor([k1, 0, 0], dtype=torch.float64),
            tangential=torch.zeros(2, dtype=torch.float64),
            R=R,
            t=-R @ torch.from_numpy(centre),
        )
        if share_in_picture(points, made) == 1:
            return made
        distance *= 1.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    with PoseStore(options.store) as store:
        sequences, cameras = [], {}
        for number, subject in enumerate(store.subjects):
            own = [Sequence(subject, name, store.positions(subject, name)) for name in store.sequences(subject)]
            points = np.concatenate([sequence.positions.reshape(-1, 3) for sequence in own]).astype(np.float64)
            outermost = points[ConvexHull(points).vertices]
            turns = (2 * math.pi * (i / len(KINDS) + number / 5) for i in range(len(KINDS)))
            cameras[subject] = {kind: camera(kind, turn, outermost) for kind, turn in zip(KINDS, turns, strict=True)}
            sequences += own
        source = f"{store.source}, seen by the cameras of tests/studies/unseen_cameras.py"
        write_store(
            options.output,
            sequences,
            cameras,
            frame_rate=store.frame_rate,
            source=source,
            checksum=checksum_of([options.store]),
            joint_set=store.joint_set,
        )
    print(f"wrote {options.output}")


if __name__ == "__main__":
    run_command(main)
