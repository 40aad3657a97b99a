"""The verbs of the single-stage track, all of which need torch."""

import argparse
import math
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from lifting import chosen_pictures, single_stage
from lifting.command import InputError, write_json
from lifting.commands.runs import configured_run, train_or_stop
from lifting.config import SingleStageConfig
from lifting.estimate import STATURE, Estimate, estimate_all, pictures, save_estimates
from lifting.inference.export import export_single_stage
from lifting.inference.lifter import Lifter
from lifting.inference.picture_lifter import lift_estimate
from lifting.inference.picture_report import format_picture_report, picture_report
from lifting.metrics.pckh import format_pckh
from lifting.metrics.pose_errors import format_report
from lifting.reports import robustness
from lifting.reports.keypoint_evaluation import coco_results, format_keypoints
from lifting.shipped import configs
from lifting.training import ranks
from lifting.training.objective import ImageObjective

RELEASED_LIFTER = "released"
HEADLINE = "For single-stage networks the RLE paper gives the mean over all frames; compare that row with its tables."


def train(options: argparse.Namespace) -> None:
    config, folder = configured_run(SingleStageConfig, options, configs("single_stage") / "demo.yaml")
    report = train_or_stop(single_stage.train, config, folder)
    if report is not None:
        print(f"\n{format_all(report)}\n\npictures: {folder / 'poses.png'}")


def evaluate(options: argparse.Namespace) -> None:
    figures = [path for path in (options.figure, options.occlusion, options.truncation) if path]
    if figures:
        from lifting.drawing.pose_figures import check_ending

        for figure in figures:
            check_ending(figure)
    objective, config = single_stage.load(options.checkpoint, options.overrides)
    if objective.dims == 2 and (options.occlusion or options.truncation):
        raise InputError("evaluate: --occlusion, --truncation: expected a 3D network, got one with model.dims 2")
    if options.cut and options.lifter is None:
        raise InputError("evaluate: --cut: expected --lifter too")
    if not 0 <= options.cut < 1:
        raise InputError(f"evaluate: --cut: expected a share from 0 up to 1, got {options.cut:g}")
    lifter = None if options.lifter is None else two_step_lifter(objective, options)
    deep, flat = chosen_pictures.deep_test_set(config), chosen_pictures.flat_test_set(config)
    images = chosen_pictures.for_network(deep, config)
    if options.results and images.picture is None:
        raise InputError(f"evaluate: --results: expected pictures of COCO, got {config.data.path}")
    report, prediction, matrix = single_stage.evaluate_all(objective, images, flat, config)
    if options.occlusion:
        report["occlusion"] = robustness.occlusion_report(objective, images, prediction, matrix, config)
    if options.truncation:
        report["truncation"] = robustness.truncation_report(objective, images, config)
    if lifter is not None:
        report["lifted"] = picture_report(objective, config, deep, lifter, cut=options.cut)
    if not ranks.stop():
        return
    if options.json:
        write_json(options.json, report)
    if options.occlusion:
        robustness.draw_occlusion(options.occlusion, report["occlusion"])
    if options.truncation:
        robustness.draw_truncation(options.truncation, report["truncation"])
    if options.figure:
        single_stage.DRAWINGS[objective.dims](options.figure, objective, images, prediction, matrix, config)
    if options.results:
        write_json(options.results, coco_results(images, prediction, matrix, config))
    print(format_all(report))


def two_step_lifter(objective: ImageObjective, options: argparse.Namespace) -> Lifter:
    """The lifter that ``--lifter`` names, for what a 2D network finds.

    Raises:
        InputError: the network is a 3D one, or `Lifter.load` refuses the file.
    """
    if objective.dims == 3:
        raise InputError(f"--lifter: expected a 2D network (model.dims 2), got {options.checkpoint}")
    return Lifter.load(None if options.lifter == RELEASED_LIFTER else Path(options.lifter))


def format_all(report: dict[str, Any]) -> str:
    """Every part of a report that is there, for the screen."""
    texts = [format_report(report), HEADLINE] if "mpjpe_mm" in report else [format_keypoints(report)]
    if "mean_pose_mpjpe_mm" in report:
        texts.append(f"the mean training pose: {report['mean_pose_mpjpe_mm']:.1f} mm over all frames")
    if "sigma_error_r" in report:
        texts.append(f"r(sigma, error) {report['sigma_error_r']:.2f}")
    if "flat" in report:
        texts.append(format_pckh(report["flat"]))
    if "lifted" in report:
        texts.append(format_picture_report(report["lifted"]))
    if "occlusion" in report:
        texts.append(robustness.format_occlusion(report["occlusion"]))
    if "truncation" in report:
        texts.append(robustness.format_truncation(report["truncation"]))
    return "\n\n".join(texts)


def estimate(options: argparse.Namespace) -> None:
    if options.output.suffix not in (".json", ".npz"):
        raise InputError(f"estimate: --output: expected .json or .npz, got {options.output}")
    stature = STATURE if options.stature is None else options.stature
    if not 0.3 <= stature <= 3:
        raise InputError(f"estimate: --stature: expected metres from 0.3 to 3, got {stature:g}")
    if options.camera and not all(0 < value < math.inf for value in options.camera):
        raise InputError(f"estimate: --camera: expected numbers above zero, got {options.camera}")
    if options.focal is not None and not 0 < options.focal < math.inf:
        raise InputError(f"estimate: --focal: expected pixels, a number above zero, got {options.focal:g}")
    if options.focal is not None and options.lifter is None:
        raise InputError("estimate: --focal: expected --lifter too; a 3D network has --camera FOCAL DEPTH")
    if options.around is not None and not (0 < options.around < math.inf and options.boxes):
        raise InputError(f"estimate: --around: expected a number above zero, and --boxes, got {options.around:g}")
    objective, config = single_stage.load(options.checkpoint, options.overrides)
    if objective.dims == 2 and (options.camera or options.stature is not None):
        raise InputError("estimate: --camera, --stature: expected a 3D network; a 2D one has --lifter and --focal")
    lift = None
    if options.lifter is not None:
        lift = partial(lift_estimate, lifter=two_step_lifter(objective, options), focal=options.focal)
    people = list(pictures(options.input, options.boxes))
    camera = None if options.camera is None else (options.camera[0], options.camera[1])
    if not people:
        raise InputError(f"estimate: expected people, found no box in {options.boxes}")
    found: list[Estimate] = []
    part = options.output.with_suffix(f".part{options.output.suffix}")
    try:
        for one in estimate_all(objective, config, people, options.figures, camera, stature, lift, options.around):
            found.append(one)
    except BaseException:  # Ctrl-C or a broken picture, perhaps after hours
        if found:
            with suppress(OSError):  # what stopped it is what to report
                save_estimates(part, found)
                print(f"stopped after {_count(found)}: {part}")
        raise
    if not found:
        raise InputError(f"estimate: {options.input}: expected a picture that can be read, found none")
    save_estimates(options.output, found)
    part.unlink(missing_ok=True)
    print(f"{_count(found)}: {options.output}")


def _count(found: list[Estimate]) -> str:
    return f"{len(found)} people in {len({one.name for one in found})} pictures"


def cost(options: argparse.Namespace) -> None:
    if options.size < 64 or options.size % 32:
        raise InputError(f"cost: --size: expected a multiple of 32 from 64 on, got {options.size}")
    print(single_stage.format_cost(single_stage.cost_table(options.size)))


def convert(options: argparse.Namespace) -> None:
    print(single_stage.convert(options.input, options.output))


def export(options: argparse.Namespace) -> None:
    print(export_single_stage(options.checkpoint, options.output, licence=options.licence, floats=options.floats))
