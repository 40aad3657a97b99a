"""MPII, in HRNet's files or in RLE's, -> one index of pictures. See data/README.md.

python data/prepare_mpii.py SOURCE --output data/mpii.h5
"""

import argparse
from pathlib import Path

from lifting.command import Parser, errors_in_one_line, hdf5_output, needing, run_command

with errors_in_one_line(), needing("prepare_mpii.py"):
    from lifting.sources.image_readers import read_mpii, table, write_source


def main() -> None:
    arguments = parse_arguments()
    found = read_mpii(arguments.source, arguments.images)
    print(f"MPII, {found.layout} layout")
    for line in table(found.images):
        print(line)
    write_source(arguments.output, found, f"MPII, {found.layout} layout, {arguments.source.name}", arguments.pack)
    print(f"wrote {arguments.output}")


def parse_arguments() -> argparse.Namespace:
    parser = Parser(description="Prepare MPII: one index of pictures with 2D labels.")
    parser.add_argument("source", type=Path, help="train.json, annot_mpii.json, or a folder; see data/README.md")
    parser.add_argument("--output", type=hdf5_output, default="data/mpii.h5", help="file to write (%(default)s)")
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of the pictures, if it is not beside")
    parser.add_argument("--pack", action="store_true", help="put the pictures into the file, cut around the people")
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
