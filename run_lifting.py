"""Lift 2D keypoints to 3D joints with a sigma each."""

import argparse
from pathlib import Path

from lifting import lifter
from lifting.command import InputError, Parser, run_command, write_json
from lifting.config import Config, load_config
from lifting.drawing.diagrams import draw_density
from lifting.drawing.pose_figures import check_ending
from lifting.metrics.pose_errors import format_report
from lifting.reports import hypotheses, uncertainty
from lifting.training import ranks
from lifting.training.run_options import (
    OVERRIDES,
    add_evaluate,
    add_train,
    configured_run,
    parse_options,
    train_or_stop,
)

DEMO = Path(__file__).parent / "configs" / "lifting" / "demo.yaml"
HEADLINE = "For lifters the papers give the mean over the actions; compare that row with their tables."


def main() -> None:
    parser = Parser(prog="run_lifting.py", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    train = verbs.add_parser("train", help="train a lifter; without --config the demo's, on the embedded set")
    add_train(train, "configs/lifting/fc_rle.yaml")

    evaluate = verbs.add_parser("evaluate", help="both protocols on the test subjects")
    add_evaluate(evaluate)
    evaluate.add_argument("--save", type=Path, metavar="PREDICTIONS.h5", help="write the predicted poses")
    evaluate.add_argument(
        "--rare", action="store_true", help="also the rarest test poses, those farthest from training"
    )
    evaluate.add_argument("--uncertainty", action="store_true", help="evaluate sigma: scores, coverage, AUSE, r")
    evaluate.add_argument(
        "--calibrate",
        type=Path,
        metavar="CHECKPOINT",
        action="append",
        default=[],
        help="with --uncertainty: fit a scale for sigma on subjects that this one was not trained on; repeatable",
    )
    evaluate.add_argument(
        "--diagrams", type=Path, help="with --uncertainty: density, reliability and more as a picture"
    )
    evaluate.add_argument("--hypotheses", type=int, metavar="N", help="draw N poses per input and report the best of N")

    density = verbs.add_parser("density", help="draw the density that a likelihood has learned; needs no data")
    density.add_argument("--checkpoint", type=Path, required=True)
    density.add_argument("--output", type=Path, required=True, help="a picture, .png, .pdf or .svg")
    density.add_argument("overrides", **OVERRIDES)

    demo = verbs.add_parser("demo", help="FC with L1 and FC with RLE on the embedded set, side by side, and a figure")
    demo.add_argument("--output", type=Path, default=Path("checkpoints/demo"))
    demo.add_argument("overrides", **OVERRIDES)

    options = parse_options(parser)
    run = {"train": run_train, "evaluate": run_evaluate, "density": run_density, "demo": run_demo}
    run[options.verb](options)


def run_train(options: argparse.Namespace) -> None:
    config, folder = configured_run(Config, options, DEMO)
    train_or_stop(lifter.train, config, folder, "run_lifting.py")


def run_evaluate(options: argparse.Namespace) -> None:
    if (options.calibrate or options.diagrams) and not options.uncertainty:
        raise InputError("evaluate: --calibrate and --diagrams go with --uncertainty")
    if options.hypotheses is not None and not 2 <= options.hypotheses <= 10_000:
        raise InputError(f"evaluate: --hypotheses: expected 2 to 10,000, got {options.hypotheses:,}")
    for figure in filter(None, (options.figure, options.diagrams)):
        check_ending(figure)
    objective, config = lifter.load(options.checkpoint, options.overrides)
    poses = lifter.load_test(config, objective)
    report, prediction = lifter.evaluate(objective, poses, config)
    held_out = uncertainty.held_out_deviations(options.calibrate, config)
    if not ranks.stop():  # the ranks share the predictions; the first does everything that follows
        return
    report["cost"] = lifter.cost(objective, len(poses.joint_set))
    texts = [HEADLINE]
    if options.rare:
        report["rare"] = lifter.evaluate_rare(poses, prediction, config)
    if options.uncertainty:
        found = uncertainty.uncertainty_report(objective, poses, prediction, held_out)
        report["uncertainty"] = found
        texts.append(uncertainty.format_uncertainty(found))
    if options.hypotheses:
        report["hypotheses"] = hypotheses.hypotheses_report(objective, poses, prediction, options.hypotheses)
        texts.append(hypotheses.format_hypotheses(report["hypotheses"]))
    if options.json:
        write_json(options.json, report)
    if options.save:
        lifter.save_predictions(options.save, poses, prediction)
    if options.figure:
        lifter.draw(options.figure, objective, poses, prediction, config)
    if options.diagrams:
        uncertainty.draw(options.diagrams, objective, poses, prediction, report["uncertainty"])
    print("\n\n".join([format_report(report), *texts]))


def run_density(options: argparse.Namespace) -> None:
    objective, _ = lifter.load(options.checkpoint, options.overrides)
    draw_density(options.output, objective.likelihood)


def run_demo(options: argparse.Namespace) -> None:
    """Trains the two rows (what an earlier call finished is kept), prints them side by side and draws the second."""
    rows = []
    for loss in ("l1", "rle"):
        config = load_config(DEMO, [*options.overrides, f"loss.name={loss}"])
        train_or_stop(lifter.train, config, options.output / loss, "run_lifting.py")
        objective, config = lifter.load(options.output / loss / "last.pt")
        poses = lifter.load_test(config, objective)
        report, prediction = lifter.evaluate(objective, poses, config)
        write_json(options.output / loss / "report.json", report)
        rows.append((f"FC + {loss.upper()}", report))
    figure = options.output / "poses.png"
    lifter.draw(figure, objective, poses, prediction, config)
    print("Embedded synthetic set (no Human3.6M number), mean over the actions:\n")
    print(f"{'':12}{'MPJPE (protocol #1)':>22}{'PA-MPJPE (protocol #2)':>26}{'r(sigma, error)':>18}")
    for name, report in rows:
        r = f"{report['sigma_error_r']:.2f}" if "sigma_error_r" in report else "no sigma"
        print(f"{name:12}{report['mpjpe_mm']:>19.1f} mm{report['pa_mpjpe_mm']:>23.1f} mm{r:>18}")
    print(f"\nPoses with their predicted sigma: {figure}")


if __name__ == "__main__":
    run_command(main)
