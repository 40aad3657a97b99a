"""Lift 2D keypoints to 3D joints with a sigma each."""

import argparse
from functools import partial
from pathlib import Path

from lifting.command import Parser, needing, run_command
from lifting.commands.options import OVERRIDES, add_evaluate, add_export, add_train, add_version, parse_options


def script() -> None:
    """The command ``run-lifting`` of an installed package."""
    run_command(partial(main, "run-lifting"))


def main(name: str = "run_lifting.py") -> None:
    """Parses the command line and calls its verb. What a verb needs is imported only then.

    Args:
        name: of the command, for its help.
    """
    parser = Parser(prog=name, description=__doc__)
    add_version(parser)
    verbs = parser.add_subparsers(dest="verb", required=True)
    _add_lift(verbs.add_parser("lift", help="3D joints with a sigma each from the keypoints of any 2D detector"))
    export = verbs.add_parser("export", help="write a lifter as an ONNX file: pixels in, metres and sigma out")
    add_export(export, "an ONNX file, or .pt for the checkpoint without what only training needs")
    train = verbs.add_parser("train", help="train a lifter; without --config the demo's, on the embedded set")
    add_train(train, "configs/lifting/fc_rle.yaml")
    _add_evaluate(verbs.add_parser("evaluate", help="both protocols on the test subjects"))
    crossfit = verbs.add_parser("crossfit", help="fit the density to errors on people that the lifter does not know")
    crossfit.add_argument("--checkpoint", type=Path, required=True, help="a trained lifter; its mu and sigma stay")
    crossfit.add_argument("--output", type=Path, required=True, help="folder: a run without each person, and last.pt")
    density = verbs.add_parser("density", help="draw the density that a likelihood has learned; needs no data")
    density.add_argument("--checkpoint", type=Path, required=True)
    density.add_argument("--output", type=Path, required=True, help="a picture, .png, .pdf or .svg")
    density.add_argument("overrides", **OVERRIDES)
    demo = verbs.add_parser("demo", help="FC with L1 and FC with RLE on the embedded set, side by side, and a figure")
    demo.add_argument("--output", type=Path, default=Path("checkpoints/demo"))
    demo.add_argument("overrides", **OVERRIDES)

    options = parse_options(parser)
    if options.verb == "lift":
        from lifting.commands.lift import lift

        lift(options)
        return
    with needing(options.verb, "export" if options.verb == "export" else None):
        from lifting.commands import lifting_verbs

        run = {
            "train": lifting_verbs.train,
            "evaluate": lifting_verbs.evaluate,
            "density": lifting_verbs.density,
            "demo": lifting_verbs.demo,
            "crossfit": lifting_verbs.crossfit,
            "export": lifting_verbs.export,
        }
        run[options.verb](options)


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    add_evaluate(parser)
    parser.add_argument("--save", type=Path, metavar="PREDICTIONS.h5", help="write the predicted poses")
    parser.add_argument("--rare", action="store_true", help="also the rarest test poses, those farthest from training")
    parser.add_argument("--uncertainty", action="store_true", help="evaluate sigma: scores, coverage, AUSE, r")
    parser.add_argument(
        "--calibrate",
        type=Path,
        metavar="CHECKPOINT",
        action="append",
        default=[],
        help="with --uncertainty: fit a scale for sigma on the people whom CHECKPOINT was not trained on; repeatable",
    )
    parser.add_argument("--diagrams", type=Path, help="with --uncertainty: density, reliability and more as a picture")
    parser.add_argument(
        "--camera", action="store_true", help="also errors of joints moved towards the rays of their keypoints"
    )
    parser.add_argument(
        "--pixel-noise",
        type=float,
        metavar="PX",
        help="with --camera: noise of the keypoints in pixels (default: fitted to training poses)",
    )
    parser.add_argument(
        "--hypotheses",
        type=int,
        metavar="N",
        help="draw N poses per input and report the best of N; with --camera also given their rays",
    )
    parser.add_argument("--draw-hypotheses", type=Path, metavar="FIGURE", help="draw poses sampled from the density")


def _add_lift(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--input", type=Path, required=True, help="keypoints: .npy, .npz, or the JSON of a detector (file or folder)")
    add("--checkpoint", type=Path, help="a lifter, .pt or .onnx (default: the released weights)")
    add("--output", type=Path, required=True, help=".npz, .json or .bvh")
    add("--joints", metavar="SET", help="the joints of the input, such as coco17 or h36m17 (default: recognised)")
    add("--size", type=int, nargs=2, metavar=("W", "H"), help="width and height of the picture in pixels")
    add("--min-score", type=float, default=0.1, help="joints that a detector scores lower are missing (%(default)s)")
    add("--scores", action="store_true", help="pass the detector's scores to the lifter, if it was trained with scores")
    camera = parser.add_mutually_exclusive_group()
    camera.add_argument("--focal", type=float, metavar="PX", help="focal length in pixels: adds the place in space")
    camera.add_argument("--camera", type=Path, metavar="FILE", help="a file of intrinsics, in place of --focal")
    add("--smooth", action="store_true", help="smooth over time, by a smoother that knows each joint's sigma")
    add("--fps", type=float, metavar="N", help="frames per second, where the input does not say")
    add("--view", type=Path, metavar="OUT.html", help="also a page that shows the skeletons turning")
    add("--video", type=Path, metavar="OUT.mp4", help="also a film, .mp4 or .gif")
    add("--figure", type=Path, metavar="OUT.png", help="also a picture of some frames")
    add("--truth", type=Path, metavar="FILE", help="true joints, (T, 17, 3) or (T, P, 17, 3) metres, camera axes")


if __name__ == "__main__":
    script()
