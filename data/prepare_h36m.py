"""Human3.6M, in whichever files you hold it, -> one pose store, or one index of pictures. See data/README.md.

    python data/prepare_h36m.py SOURCE --output data/h36m.h5
    python data/prepare_h36m.py SOURCE --images DIR --output data/h36m_images.h5

Nothing is believed before it is proved: lengths must be those of a person in metres, the left on the left, the person
in the cameras' pictures, and every 2D array or box where its camera would have seen the 3D.
"""

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lifting.command import InputError, Parser, errors_in_one_line, hdf5_output, needing, run_command

with errors_in_one_line(), needing("prepare_h36m.py"):
    from lifting.datasets.pose_checks import check_person, reprojection_errors, share_in_picture, thigh_lengths
    from lifting.datasets.store import GROUND_TRUTH, Sequence, checksum_of, write_store
    from lifting.geometry import h36m
    from lifting.sources.h36m_poses import Recordings, read_source
    from lifting.sources.image_readers import read_h36m_images, table, write_source

EXACT = 0.1  # pixels: ground truth is the projection itself, to float32
PLAUSIBLE = 40  # pixels, median: a detector that was trained on these pictures is within 10


def main() -> None:
    arguments = parse_arguments()
    if arguments.images is None:
        prepare_poses(arguments)
    else:
        prepare_images(arguments)


def prepare_poses(arguments: argparse.Namespace) -> None:
    recordings = read_source(arguments.source)
    print(f"Human3.6M, {recordings.layout} layout, {arguments.fps:g} frames a second")
    check_subjects(recordings)
    for detector in recordings.keypoints:
        check_keypoints(recordings, detector)
    write_store(
        arguments.output,
        stored(recordings),
        recordings.cameras,
        frame_rate=arguments.fps,
        source=f"Human3.6M, {recordings.layout} layout, {arguments.source.name}",
        checksum=checksum_of(recordings.files),
    )
    for note in recordings.notes:
        logging.info(note)
    print(f"wrote {arguments.output}")


def parse_arguments() -> argparse.Namespace:
    parser = Parser(description="Prepare Human3.6M: one pose store from the files you hold.")
    parser.add_argument("source", type=Path, help="data_3d_h36m.npz, h36m.zip, or a folder; see data/README.md")
    parser.add_argument(
        "--output", type=hdf5_output, help="file to write (data/h36m.h5; data/h36m_images.h5 of pictures)"
    )
    parser.add_argument("--fps", type=float, default=h36m.FRAME_RATE, help="frame rate of the source (%(default)s)")
    pictures = parser.add_argument_group("an index of pictures", "from PoseNet's annotations or RLE's")
    pictures.add_argument("--images", type=Path, metavar="DIR", help="folder of the pictures")
    pictures.add_argument("--pack", action="store_true", help="put the pictures into the file, cut around the people")
    for name, whose in (("--train-every", "training subjects"), ("--test-every", "S9 and S11")):
        text = f"of {whose} only frames whose number is a multiple of this (%(default)s)"
        pictures.add_argument(name, type=int, default=1, metavar="N", help=text)
    arguments = parser.parse_args()
    if arguments.images is None and (arguments.pack or arguments.train_every != 1 or arguments.test_every != 1):
        raise InputError("--pack, --train-every and --test-every need --images")
    if arguments.images is not None and arguments.fps != h36m.FRAME_RATE:
        raise InputError("--fps is of poses: an index of pictures has no frame rate")
    if min(arguments.train_every, arguments.test_every) < 1:
        raise InputError("--train-every and --test-every: expected 1 or more")
    if arguments.output is None:
        arguments.output = hdf5_output("data/h36m.h5" if arguments.images is None else "data/h36m_images.h5")
    return arguments


def prepare_images(arguments: argparse.Namespace) -> None:
    every = arguments.train_every, arguments.test_every
    found = read_h36m_images(arguments.source, arguments.images, every)
    print(f"Human3.6M, {found.layout} layout")
    for line in table(found.images):
        print(line)
    write_source(arguments.output, found, f"Human3.6M, {found.layout} layout, {arguments.source.name}", arguments.pack)
    print(f"wrote {arguments.output}")


def check_subjects(recordings: Recordings) -> None:
    """Proves the 3D of each subject and prints a line about it."""
    print(f"{'subject':<8}{'sequences':>10}{'frames':>9}{'cameras':>9}{'thigh (mm)':>12}{'in picture':>12}")
    for subject, sequences in recordings.positions.items():
        cameras = recordings.cameras[subject]
        frames = sum(map(len, sequences.values()))
        sample = np.concatenate([positions[::10] for positions in sequences.values()])
        check_person(sample, subject)
        thighs = 1000 * thigh_lengths(sample)
        seen = float(np.mean([share_in_picture(sample, camera) for camera in cameras.values()]))
        span = f"{thighs.min():.0f}-{thighs.max():.0f}"
        print(f"{subject:<8}{len(sequences):>10}{frames:>9}{len(cameras):>9}{span:>12}{seen:>12.0%}")
        if seen < 0.5:
            raise InputError(f"{subject}: only {seen:.0%} of the joints are in the pictures; another world frame?")


def check_keypoints(recordings: Recordings, detector: str) -> None:
    """Proves that a detector's keypoints belong to the 3D and prints by how many pixels they differ."""
    exact = detector == GROUND_TRUTH
    every = []
    for subject, cameras in tqdm(recordings.cameras.items(), f"checking {detector}", disable=None):
        for name, camera in cameras.items():
            pairs = [
                reprojection_errors(positions, recordings.keypoints[detector][subject][sequence][name], camera)
                for sequence, positions in recordings.positions[subject].items()
            ]
            errors, exchanged = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
            median, largest, median_exchanged = np.median(errors), errors.max(), np.median(exchanged)
            if not (largest < EXACT if exact else median < min(PLAUSIBLE, median_exchanged / 2)):
                raise InputError(
                    f"keypoints {detector!r} do not belong to these poses: {subject}, camera {name}: off by"
                    f" {median:.3g} px (median; {median_exchanged:.3g} with left and right exchanged),"
                    f" {largest:.3g} px at most"
                )
            every.append(errors)
    errors = np.concatenate(every)
    use = "for this proof only" if exact else "stored"
    print(f"keypoints {detector} ({use}): off by {np.median(errors):.2g} px (median), {errors.max():.2g} px at most")


def stored(recordings: Recordings) -> Iterator[Sequence]:
    total = sum(map(len, recordings.positions.values()))
    with tqdm(total=total, desc="writing", disable=None) as bar:
        for subject, sequences in recordings.positions.items():
            for name, positions in sequences.items():
                keypoints = {d: k[subject][name] for d, k in recordings.keypoints.items() if d != GROUND_TRUTH}
                yield Sequence(subject, name, positions, keypoints)
                bar.update()


if __name__ == "__main__":
    run_command(main)
