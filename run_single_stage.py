"""Estimate 3D joints, with a sigma each, from pictures of a person."""

import argparse
import math
from pathlib import Path
from typing import Any

from lifting import single_stage
from lifting.command import InputError, Parser, run_command, write_json
from lifting.config import SingleStageConfig
from lifting.drawing.pose_figures import check_ending
from lifting.estimate import STATURE, estimate_all, pictures, save_estimates
from lifting.metrics.pose_errors import format_pckh, format_report
from lifting.reports import image_evaluation, robustness
from lifting.training import ranks
from lifting.training.run_options import (
    OVERRIDES,
    add_evaluate,
    add_train,
    configured_run,
    parse_options,
    train_or_stop,
)

HEADLINE = "For single-stage networks the RLE paper gives the mean over all frames; compare that row with its tables."


def main() -> None:
    parser = Parser(prog="run_single_stage.py", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    train = verbs.add_parser("train", help="train a network; without --config a small one, on the embedded set")
    add_train(train, "configs/single_stage/resnet50_rle.yaml")

    evaluate = verbs.add_parser("evaluate", help="both protocols on the test pictures, PCKh where there are 2D ones")
    add_evaluate(evaluate)
    evaluate.add_argument("--occlusion", type=Path, metavar="FIGURE", help="a grey square over each group of joints")
    evaluate.add_argument("--truncation", type=Path, metavar="FIGURE", help="boxes that leave a part of the person out")

    estimate = verbs.add_parser("estimate", help="joints with sigma of a picture, or of a folder of them")
    estimate.add_argument("--checkpoint", type=Path, required=True)
    estimate.add_argument("--input", type=Path, required=True, help="a picture, or a folder of pictures")
    estimate.add_argument("--boxes", type=Path, metavar="JSON", help='{"name.jpg": [[x, y, width, height], ...], ...}')
    estimate.add_argument("--output", type=Path, required=True, help=".json or .npz")
    estimate.add_argument("--figures", type=Path, metavar="FOLDER", help="draw every person into this folder")
    estimate.add_argument(
        "--camera",
        type=float,
        nargs=2,
        metavar=("FOCAL", "DEPTH"),
        help="focal length in pixels, metres to the pelvis",
    )
    estimate.add_argument("--stature", type=float, default=STATURE, help="without --camera: metres (%(default)s)")
    estimate.add_argument("overrides", **OVERRIDES)

    cost = verbs.add_parser("cost", help="parameters and multiply-adds of the networks, beside the published ones")
    cost.add_argument("--size", type=int, default=256, help="side of the crop, pixels (%(default)s)")

    convert = verbs.add_parser("convert", help="the authors' released weights into a checkpoint, or back")
    convert.add_argument("--input", type=Path, required=True, help="h36m-laplace-rle.pth, or a checkpoint")
    convert.add_argument("--output", type=Path, required=True)

    options = parse_options(parser)
    run = {
        "train": run_train,
        "evaluate": run_evaluate,
        "estimate": run_estimate,
        "cost": run_cost,
        "convert": run_convert,
    }
    run[options.verb](options)


def run_train(options: argparse.Namespace) -> None:
    config, folder = configured_run(SingleStageConfig, options, single_stage.CONFIGS / "demo.yaml")
    report = train_or_stop(single_stage.train, config, folder, "run_single_stage.py")
    if report is not None:
        print(f"\n{format_all(report)}\n\npictures: {folder / 'poses.png'}")


def run_evaluate(options: argparse.Namespace) -> None:
    for figure in filter(None, (options.figure, options.occlusion, options.truncation)):
        check_ending(figure)
    objective, config = single_stage.load(options.checkpoint, options.overrides)
    images, flat = single_stage.test_set(config), single_stage.flat_test_set(config)
    report, prediction, matrix = single_stage.evaluate_all(objective, images, flat, config)
    if options.occlusion:
        report["occlusion"] = robustness.occlusion_report(objective, images, prediction, matrix, config)
    if options.truncation:
        report["truncation"] = robustness.truncation_report(objective, images, config)
    if not ranks.stop():
        return
    if options.json:
        write_json(options.json, report)
    if options.occlusion:
        robustness.draw_occlusion(options.occlusion, report["occlusion"])
    if options.truncation:
        robustness.draw_truncation(options.truncation, report["truncation"])
    if options.figure:
        image_evaluation.draw(options.figure, objective, images, prediction, matrix, config)
    print(format_all(report))


def format_all(report: dict[str, Any]) -> str:
    """Every part of a report that is there, for the screen."""
    texts = [format_report(report), HEADLINE]
    if "mean_pose_mpjpe_mm" in report:
        texts.append(f"the mean training pose: {report['mean_pose_mpjpe_mm']:.1f} mm over all frames")
    if "sigma_error_r" in report:
        texts.append(f"r(sigma, error) {report['sigma_error_r']:.2f}")
    if "flat" in report:
        texts.append(format_pckh(report["flat"]))
    if "occlusion" in report:
        texts.append(robustness.format_occlusion(report["occlusion"]))
    if "truncation" in report:
        texts.append(robustness.format_truncation(report["truncation"]))
    return "\n\n".join(texts)


def run_estimate(options: argparse.Namespace) -> None:
    if options.output.suffix not in (".json", ".npz"):
        raise InputError(f"estimate: --output: expected .json or .npz, got {options.output}")
    if not 0.3 <= options.stature <= 3:
        raise InputError(f"estimate: --stature: expected metres from 0.3 to 3, got {options.stature:g}")
    if options.camera and not all(0 < value < math.inf for value in options.camera):
        raise InputError(f"estimate: --camera: expected numbers above zero, got {options.camera}")
    objective, config = single_stage.load(options.checkpoint, options.overrides)
    people = list(pictures(options.input, options.boxes))
    camera = None if options.camera is None else (options.camera[0], options.camera[1])
    if not people:
        raise InputError(f"estimate: expected people, found no box in {options.boxes}")
    found = estimate_all(objective, config, people, options.figures, camera, options.stature)
    save_estimates(options.output, found)
    print(f"{len(found)} people in {len({one.name for one in found})} pictures: {options.output}")


def run_cost(options: argparse.Namespace) -> None:
    if options.size < 64 or options.size % 32:
        raise InputError(f"cost: --size: expected a multiple of 32 from 64 on, got {options.size}")
    print(single_stage.format_cost(single_stage.cost_table(options.size)))


def run_convert(options: argparse.Namespace) -> None:
    print(single_stage.convert(options.input, options.output))


if __name__ == "__main__":
    run_command(main)
