"""Anybody's motion capture in BVH -> one pose store, by a map of its joints. See data/README.md.

    python data/prepare_bvh.py SOURCE --map data/maps/100style.yaml --output data/100style.h5

SOURCE is a file, a folder or a zip. The cameras are virtual, placed around each person.
"""

import argparse
from pathlib import Path

from lifting.command import InputError, Parser, errors_in_one_line, hdf5_output, needing, run_command
from lifting.geometry.skeleton import H36M17
from lifting.sources.bvh_map import read_map

with errors_in_one_line(), needing("prepare_bvh.py"):
    from lifting.sources.recorded_motion import H36M, JOINT_SETS, OWN, read_bvh_motion, write_motion


def main() -> None:
    arguments = parse_arguments()
    if arguments.fps is not None and not 1 <= arguments.fps <= 1000:
        raise InputError(f"--fps: expected 1 to 1000, got {arguments.fps:g}")
    bvh_map, joint_set = read_map(arguments.map), JOINT_SETS[arguments.joints]
    places = OWN if bvh_map.cmu is None else H36M
    motion = read_bvh_motion(arguments.source, bvh_map, places, joint_set, arguments.fps)
    table = write_motion(arguments.output, motion, f"BVH, {arguments.source.name}, map {arguments.map.name}")
    print(f"BVH, {motion.frame_rate:g} frames a second, {joint_set.name}, map {arguments.map.name}")
    print(*table, sep="\n")
    print(f"wrote {arguments.output}")


def parse_arguments() -> argparse.Namespace:
    parser = Parser(description="Prepare motion capture: one pose store from BVH files and a map.")
    parser.add_argument("source", type=Path, help="a .bvh file, a folder of them, or a zip")
    parser.add_argument("--map", type=Path, required=True, help="which joints stand for the 17: see data/maps")
    parser.add_argument("--output", type=hdf5_output, required=True, help="store to write")
    parser.add_argument("--fps", type=float, help="frames a second to keep (all)")
    parser.add_argument("--joints", choices=JOINT_SETS, default=H36M17.name, help="joint set (%(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
