"""CMU motion capture (ASF/AMC or BVH) -> one pose store. See data/README.md.

    python data/prepare_cmu.py SOURCE --output data/cmu.h5

Joints are brought to where Human3.6M has them (or COCO: --joints coco17); --places cmu leaves them where CMU has them,
and --places coco puts Human3.6M's joints where a detector of COCO's joints would.
The cameras are virtual, placed around each subject. Numbers got on this set compare with nothing but numbers got on
this set.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lifting.command import InputError, Parser, errors_in_one_line, hdf5_output, needing, run_command
from lifting.geometry.skeleton import H36M17
from lifting.sources.asf_amc import read_amc, read_asf
from lifting.sources.bone_frames import BoneFrames
from lifting.sources.bvh_map import read_map
from lifting.sources.joint_places import CHEST, Body

with errors_in_one_line(), needing("prepare_cmu.py"):
    from lifting.datasets.store import Sequence, checksum_of
    from lifting.sources.recorded_motion import (
        COCO,
        H36M,
        JOINT_SETS,
        OWN,
        Motion,
        placing,
        read_bvh_motion,
        write_motion,
    )

RECORDED_FPS = 120
MAP = Path(__file__).parent / "maps" / "cmu.yaml"
PLACES = {"cmu": OWN, "h36m": H36M, "coco": COCO}
# The end of this bone stands where Human3.6M has its joint, in the order of H36M17.
BONES = (
    *("root", "rhipjoint", "rfemur", "rtibia", "lhipjoint", "lfemur", "ltibia"),
    *("lowerback", "thorax", "upperneck", "head"),
    *("lclavicle", "lhumerus", "lradius", "rclavicle", "rhumerus", "rradius"),
)
CHEST_BONE = "upperback"
AXES = {"pelvis": "root", "chest": "thorax", "head": "head"}


def main() -> None:
    arguments = parse_arguments()
    if arguments.fps < 1 or RECORDED_FPS % arguments.fps:
        raise InputError(f"--fps: expected a divisor of {RECORDED_FPS}, got {arguments.fps}")
    joint_set, places = JOINT_SETS[arguments.joints], PLACES[arguments.places]
    if is_acclaim(arguments.source):
        place = placing(places, joint_set)
        files = find_files(arguments.source)
        sequences = read_sequences(files, RECORDED_FPS // arguments.fps, place)
        paths = [path for skeleton, motions in files.values() for path in (skeleton, *motions)]
        motion = Motion(sequences, joint_set, arguments.fps, checksum_of(paths))
    else:
        motion = read_bvh_motion(arguments.source, read_map(MAP), places, joint_set, arguments.fps)
    name = f"CMU Graphics Lab Motion Capture Database, {arguments.source.name}, places of {arguments.places}"
    table = write_motion(arguments.output, motion, name)
    print(f"CMU motion capture, {arguments.fps} frames a second, {joint_set.name}, places of {arguments.places}")
    print(*table, sep="\n")
    print(f"wrote {arguments.output}")


def parse_arguments() -> argparse.Namespace:
    parser = Parser(description="Prepare CMU motion capture (ASF/AMC or BVH): one pose store.")
    parser.add_argument("source", type=Path, help="a folder of ASF/AMC, or a folder or zip of BVH; of all or of one")
    parser.add_argument("--output", type=hdf5_output, default="data/cmu.h5", help="store to write (%(default)s)")
    parser.add_argument("--fps", type=int, default=60, help="frames a second to keep of 120 (%(default)s)")
    parser.add_argument("--places", choices=PLACES, default="h36m", help="whose joint places (%(default)s)")
    parser.add_argument("--joints", choices=JOINT_SETS, default=H36M17.name, help="joint set (%(default)s)")
    return parser.parse_args()


def is_acclaim(source: Path) -> bool:
    """Whether to read ASF/AMC: from anything but a file or a folder of BVH; InputError for a folder of both."""
    kinds = [kind for kind in (".asf", ".bvh") if source.is_dir() and any(_below(source, kind))]
    if len(kinds) == 2:
        raise InputError(f"{source}: expected files of one kind, found both .asf and .bvh; give the folder of one kind")
    return not source.is_file() and kinds != [".bvh"]


def _below(source: Path, ending: str) -> list[Path]:
    return [path for depth in ("*", "*/*", "*/*/*") for path in sorted(source.glob(depth + ending))]


def find_files(source: Path) -> dict[str, tuple[Path, list[Path]]]:
    """Subject -> its skeleton and its motions, in the source's folder or up to two levels below."""
    if not source.is_dir():
        raise InputError(f"source: expected a folder, found nothing at {source}")
    skeletons = _below(source, ".asf")
    if not skeletons:
        wanted = "subjects/NN/NN.asf with NN_MM.amc beside it, or NN_MM.bvh"
        raise InputError(f"{source}: expected {wanted}; found no .asf file and no .bvh file")
    files: dict[str, tuple[Path, list[Path]]] = {}
    for skeleton in skeletons:
        subject = skeleton.stem
        if subject in files:
            raise InputError(f"{source}: expected one skeleton of {subject}, got {files[subject][0]} and {skeleton}")
        beside = sorted(skeleton.parent.glob(f"{subject}_*"))
        motions = [path for path in beside if path.suffix.lower() == ".amc"]
        if not motions:
            raise InputError(f"{skeleton}: expected {subject}_*.amc beside it, found none")
        files[subject] = skeleton, motions
    return files


def read_sequences(
    files: dict[str, tuple[Path, list[Path]]], step: int, place: Callable[[Body], np.ndarray]
) -> list[Sequence]:
    """All motions, every ``step``-th frame, z up."""
    sequences = []
    with tqdm(total=sum(len(motions) for _, motions in files.values()), desc="reading", disable=None) as bar:
        for subject, (path, motions) in files.items():
            skeleton = read_asf(path)
            if missing := sorted({*BONES, CHEST_BONE} - set(skeleton.bones)):
                raise InputError(f"{path}: expected CMU's skeleton, it has no bone {', '.join(missing)}")
            for motion in motions:
                bones = skeleton.frames(read_amc(motion, skeleton, step)).turned_up()
                sequences.append(Sequence(subject, motion.stem, place(body_of(bones)).astype(np.float32)))
                bar.update()
    return sequences


def body_of(bones: BoneFrames) -> Body:
    joints = {joint: bones.positions[bone] for joint, bone in zip(H36M17.joints, BONES, strict=True)}
    axes = {part: bones.rotations[bone] for part, bone in AXES.items()}
    return Body(joints | {CHEST: bones.positions[CHEST_BONE]}, axes)


if __name__ == "__main__":
    run_command(main)
