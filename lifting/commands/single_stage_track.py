"""Estimate 3D joints, with a sigma each, from pictures of a person."""

import argparse
from functools import partial
from pathlib import Path

from lifting.command import Parser, needing, run_command
from lifting.commands.options import OVERRIDES, add_evaluate, add_export, add_train, add_version, parse_options


def script() -> None:
    """The command ``run-single-stage`` of an installed package."""
    run_command(partial(main, "run-single-stage"))


def main(name: str = "run_single_stage.py") -> None:
    """Parses the command line and calls its verb. What a verb needs is imported only then.

    Args:
        name: of the command, for its help.
    """
    parser = Parser(prog=name, description=__doc__)
    add_version(parser)
    verbs = parser.add_subparsers(dest="verb", required=True)
    train = verbs.add_parser("train", help="train a network; without --config a small one, on the embedded set")
    add_train(train, "configs/single_stage/resnet50_rle.yaml")
    evaluate = verbs.add_parser("evaluate", help="both protocols on the test pictures; AP on COCO, PCKh on MPII")
    add_evaluate(evaluate)
    evaluate.add_argument("--occlusion", type=Path, metavar="FIGURE", help="a grey square over each group of joints")
    evaluate.add_argument("--truncation", type=Path, metavar="FIGURE", help="boxes that leave a part of the person out")
    evaluate.add_argument("--results", type=Path, metavar="JSON", help="write the joints as COCO's server takes them")
    evaluate.add_argument("--lifter", metavar="FILE", help="lift a 2D network's joints: a checkpoint, or released")
    evaluate.add_argument("--cut", type=float, default=0.0, help="with --lifter: cut this share off the box's bottom")
    _add_estimate(verbs.add_parser("estimate", help="joints with sigma of a picture, or of a folder of them"))
    export = verbs.add_parser("export", help="write a network as an ONNX file: RGB crops in, joints and sigma out")
    add_export(export)
    export.add_argument("--floats", action="store_true", help="crops as float32 in 0..255 (default: uint8)")
    cost = verbs.add_parser("cost", help="parameters and multiply-adds of the networks, beside the published ones")
    cost.add_argument("--size", type=int, default=256, help="side of the crop, pixels (%(default)s)")
    convert = verbs.add_parser("convert", help="the authors' released weights into a checkpoint, or back")
    convert.add_argument("--input", type=Path, required=True, help="the authors' or mmpose's .pth, or a checkpoint")
    convert.add_argument("--output", type=Path, required=True)

    options = parse_options(parser)
    with needing(options.verb, "export" if options.verb == "export" else None):
        from lifting.commands import single_stage_verbs

        run = {
            "train": single_stage_verbs.train,
            "evaluate": single_stage_verbs.evaluate,
            "estimate": single_stage_verbs.estimate,
            "export": single_stage_verbs.export,
            "cost": single_stage_verbs.cost,
            "convert": single_stage_verbs.convert,
        }
        run[options.verb](options)


def _add_estimate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--input", type=Path, required=True, help="a picture, or a folder of pictures")
    parser.add_argument("--boxes", type=Path, metavar="JSON", help='{"name.jpg": [[x, y, width, height], ...], ...}')
    parser.add_argument(
        "--around", type=float, help="side of the crop over that of a box (1.25 for COCO's and MPII's joints, else 1)"
    )
    parser.add_argument("--output", type=Path, required=True, help=".json or .npz")
    parser.add_argument("--figures", type=Path, metavar="FOLDER", help="draw every person into this folder")
    parser.add_argument(
        "--camera",
        type=float,
        nargs=2,
        metavar=("FOCAL", "DEPTH"),
        help="focal length in pixels, metres to the pelvis",
    )
    parser.add_argument("--lifter", metavar="FILE", help="lift a 2D network's joints: a checkpoint, or released")
    parser.add_argument("--focal", type=float, help="with --lifter: focal length in pixels; gives the place in space")
    parser.add_argument("--stature", type=float, help="without --camera: metres (1.7)")
    parser.add_argument("overrides", **OVERRIDES)


if __name__ == "__main__":
    script()
