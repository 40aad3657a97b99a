"""Renders people whom the embedded set in COCO's layout does not have, so that its test people do not choose a method.

    python -m tests.studies.choice_pictures --output data/choice.h5
    python run_single_stage.py evaluate --checkpoint LAST.pt --data data/choice.h5

1,600 pictures from another seed: other bodies, poses, cameras and looks.
"""

import argparse
import tempfile
from pathlib import Path

from lifting.command import run_command
from lifting.sources.image_readers import read_coco, write_source
from lifting.synthetic.group_pictures import make_groups

SEED = 1
PICTURES = 1600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_groups(Path(folder), seed=SEED, train=1, val=PICTURES)
        write_source(options.output, read_coco(Path(folder)), f"rendered_coco, seed {SEED}", packed=True)
    print(f"wrote {options.output}")


if __name__ == "__main__":
    run_command(main)
