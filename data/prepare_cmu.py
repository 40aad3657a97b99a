"""CMU motion capture (ASF/AMC) -> one pose store with Human3.6M's 17 joints. See data/README.md.

    python data/prepare_cmu.py SOURCE --output data/cmu.h5

The joints are CMU's, put in the places of Human3.6M's; the cameras are virtual, placed around each subject. Numbers
got on this set compare with nothing but numbers got on this set.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.spatial import ConvexHull
from tqdm import tqdm

from lifting.command import InputError, run_command
from lifting.datasets.pose_checks import check_person, share_in_picture, thigh_lengths
from lifting.datasets.store import Sequence, checksum_of, write_store
from lifting.geometry import h36m
from lifting.geometry.cameras import Camera
from lifting.sources.asf_amc import read_amc, read_asf

RECORDED_FPS = 120
# The end of this bone stands where Human3.6M has its joint, in the order of H36M17.
BONES = (
    *("root", "rhipjoint", "rfemur", "rtibia", "lhipjoint", "lfemur", "ltibia"),
    *("lowerback", "thorax", "upperneck", "head"),
    *("lclavicle", "lhumerus", "lradius", "rclavicle", "rhumerus", "rradius"),
)


def main() -> None:
    arguments = parse_arguments()
    if arguments.fps < 1 or RECORDED_FPS % arguments.fps:
        raise InputError(f"--fps: expected a divisor of {RECORDED_FPS}, got {arguments.fps}")
    files = find_files(arguments.source)
    sequences = read_sequences(files, RECORDED_FPS // arguments.fps)
    print(f"CMU motion capture, {arguments.fps} frames a second")
    print(f"{'subject':<8}{'sequences':>10}{'frames':>9}{'thigh (mm)':>12}{'cameras':>9}{'distance (m)':>14}")
    cameras = {}
    for subject in files:
        parts = [sequence.positions for sequence in sequences if sequence.subject == subject]
        positions = np.concatenate(parts)
        check_person(positions, f"subject {subject}")
        cameras[subject], distance = surround(positions)
        thigh = 1000 * np.median(thigh_lengths(positions))
        print(
            f"{subject:<8}{len(parts):>10}{len(positions):>9}{thigh:>12.0f}{len(cameras[subject]):>9}{distance:>14.1f}"
        )
    write_store(
        arguments.output,
        sequences,
        cameras,
        frame_rate=arguments.fps,
        source=f"CMU Graphics Lab Motion Capture Database, {arguments.source.name}",
        checksum=checksum_of(path for skeleton, motions in files.values() for path in (skeleton, *motions)),
    )
    print(f"wrote {arguments.output}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Prepare CMU motion capture: one pose store from ASF/AMC files.")
    parser.add_argument("source", type=Path, help="the folder of all subjects (subjects/NN/NN.asf) or of one")
    parser.add_argument("--output", type=Path, default=Path("data/cmu.h5"), help="store to write (%(default)s)")
    parser.add_argument("--fps", type=int, default=60, help="frames a second to keep of 120 (%(default)s)")
    return parser.parse_args()


def find_files(source: Path) -> dict[str, tuple[Path, list[Path]]]:
    """Subject -> its skeleton and its motions, in the source's folder or up to two levels below."""
    if not source.is_dir():
        raise InputError(f"source: expected a folder, found {'a file' if source.exists() else 'nothing'} at {source}")
    skeletons = [path for pattern in ("*.asf", "*/*.asf", "*/*/*.asf") for path in sorted(source.glob(pattern))]
    if not skeletons:
        raise InputError(f"{source}: expected subjects/NN/NN.asf with NN_MM.amc beside it, found no .asf file")
    files = {path.stem: (path, sorted(path.parent.glob(f"{path.stem}_*.amc"))) for path in skeletons}
    for subject, (skeleton, motions) in files.items():
        if not motions:
            raise InputError(f"{skeleton}: expected {subject}_*.amc beside it, found none")
    return files


def read_sequences(files: dict[str, tuple[Path, list[Path]]], step: int) -> list[Sequence]:
    """All motions, every ``step``-th frame, z up."""
    sequences = []
    with tqdm(total=sum(len(motions) for _, motions in files.values()), desc="reading", disable=None) as bar:
        for subject, (path, motions) in files.items():
            skeleton = read_asf(path)
            if missing := sorted(set(BONES) - set(skeleton.bones)):
                raise InputError(f"{path}: expected CMU's skeleton, it has no bone {', '.join(missing)}")
            for motion in motions:
                x, y, z = np.moveaxis(skeleton.ends(read_amc(motion, skeleton, step), BONES), -1, 0)
                positions = np.stack([x, -z, y], -1).astype(np.float32)
                sequences.append(Sequence(subject, motion.stem, positions))
                bar.update()
    return sequences


def surround(positions: np.ndarray) -> tuple[dict[str, Camera], float]:
    """The four cameras of Human3.6M's S1 around the (T, 17, 3) of a subject, and their mean distance in metres.

    As a rig they are carried to where the subject is and drawn apart about the point they look at until every joint
    of every frame is in every picture; directions and lenses stay.
    """
    rig = h36m.cameras("S1")
    centres = torch.stack([-camera.R.T @ camera.t for camera in rig.values()])
    axes = torch.stack([camera.R[2] for camera in rig.values()])
    across = torch.eye(3) - axes[:, :, None] * axes[:, None, :]  # what of a vector is not along the axis
    focus = torch.linalg.solve(across.sum(0), (across @ centres[:, :, None]).sum(0))[:, 0]
    points = positions.reshape(-1, 3)
    outermost = points[ConvexHull(points).vertices]  # a view is convex: where these are seen, all are
    target = focus.clone()
    target[:2] = torch.from_numpy(outermost[:, :2].min(0) + outermost[:, :2].max(0)) / 2
    spread = 1.0
    while True:
        moved = {
            name: replace(camera, t=-camera.R @ (target + spread * (centre - focus)))
            for (name, camera), centre in zip(rig.items(), centres, strict=True)
        }
        if all(share_in_picture(outermost, camera) == 1 for camera in moved.values()):
            return moved, float((spread * (centres - focus)).norm(dim=1).mean())
        spread *= 1.05


if __name__ == "__main__":
    run_command(main)
