"""COCO's person keypoints -> one index of pictures. See data/README.md.

python data/prepare_coco.py SOURCE --output data/coco.h5
"""

import argparse
from pathlib import Path

from lifting.command import Parser, errors_in_one_line, hdf5_output, needing, run_command

with errors_in_one_line(), needing("prepare_coco.py"):
    from lifting.sources.image_readers import read_coco, table, write_source


def main() -> None:
    arguments = parse_arguments()
    found = read_coco(arguments.source, arguments.images, arguments.boxes)
    print("COCO, person keypoints")
    for line in table(found.images):
        print(line)
    write_source(arguments.output, found, f"COCO, {arguments.source.name}", arguments.pack)
    print(f"wrote {arguments.output}")


def parse_arguments() -> argparse.Namespace:
    parser = Parser(description="Prepare COCO: one index of pictures with 2D labels.")
    parser.add_argument("source", type=Path, help="person_keypoints_*.json, or a folder; see data/README.md")
    parser.add_argument("--output", type=hdf5_output, default="data/coco.h5", help="file to write (%(default)s)")
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of the pictures, if it is not beside")
    parser.add_argument(
        "--boxes", type=Path, metavar="JSON", help="a detector's people, for a test as on COCO's server"
    )
    parser.add_argument("--pack", action="store_true", help="put the pictures into the file, cut around the people")
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
