"""The verbs of the lifting track that need torch: train, evaluate, density, demo, export.

What only some of them need, above all matplotlib, is imported where it is used.
"""

import argparse
import os

from lifting import lifter
from lifting.command import InputError, Terminated, write_json
from lifting.commands.runs import configured_run, train_or_stop
from lifting.config import Config, expect_run_of, load_config
from lifting.crossfit import crossfit as fit_density
from lifting.metrics.pose_errors import format_report
from lifting.reports import camera_evidence, hypotheses, uncertainty
from lifting.shipped import configs
from lifting.training import ranks

HEADLINE = "For lifters the papers give the mean over the actions; compare that row with their tables."


def train(options: argparse.Namespace) -> None:
    config, folder = configured_run(Config, options, configs("lifting") / "demo.yaml")
    train_or_stop(lifter.train, config, folder)


def evaluate(options: argparse.Namespace) -> None:
    if (options.calibrate or options.diagrams) and not options.uncertainty:
        raise InputError("evaluate: --calibrate and --diagrams go with --uncertainty")
    if options.hypotheses is not None and not 2 <= options.hypotheses <= 10_000:
        raise InputError(f"evaluate: --hypotheses: expected 2 to 10,000, got {options.hypotheses:,}")
    if options.pixel_noise is not None and not options.camera:
        raise InputError("evaluate: --pixel-noise goes with --camera")
    if options.pixel_noise is not None and not 0 < options.pixel_noise < 1000:
        raise InputError(
            f"evaluate: --pixel-noise: expected pixels above 0 and below 1,000, got {options.pixel_noise:g}"
        )
    figures = [path for path in (options.figure, options.diagrams, options.draw_hypotheses) if path]
    if figures:
        from lifting.drawing.pose_figures import check_ending

        for figure in figures:
            check_ending(figure)
    objective, config = lifter.load(options.checkpoint, options.overrides)
    poses = lifter.load_test(config, objective)
    report, prediction = lifter.evaluate(objective, poses, config)
    held_out = uncertainty.held_out_deviations(options.calibrate, config, objective.likelihood)
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
    if options.camera:
        report["camera"] = camera_evidence.camera_report(objective, config, poses, prediction, options.pixel_noise)
        texts.append(camera_evidence.format_camera(report["camera"], report))
    if options.hypotheses:
        noise = report["camera"]["pixel_noise"] if options.camera else None
        found = hypotheses.hypotheses_report(objective, poses, prediction, options.hypotheses, noise)
        report["hypotheses"] = found
        texts.append(hypotheses.format_hypotheses(found))
    if options.draw_hypotheses:
        hypotheses.draw(options.draw_hypotheses, objective, poses, prediction)
    if options.json:
        write_json(options.json, report)
    if options.save:
        lifter.save_predictions(options.save, poses, prediction)
    if options.figure:
        lifter.draw(options.figure, objective, poses, prediction)
    if options.diagrams:
        uncertainty.draw(options.diagrams, objective, poses, prediction, report["uncertainty"])
    print("\n\n".join([format_report(report), *texts]))


def crossfit(options: argparse.Namespace) -> None:
    try:
        written = fit_density(options.checkpoint, options.output)
        if os.environ.get("RANK", "0") == "0":
            print(f"wrote {written}")
    except (KeyboardInterrupt, Terminated) as stop:
        raise type(stop)(f"stopped; the same command goes on from what is in {options.output}") from None


def density(options: argparse.Namespace) -> None:
    from lifting.drawing.diagrams import draw_density

    objective, _ = lifter.load(options.checkpoint, options.overrides)
    draw_density(options.output, objective.likelihood)


def demo(options: argparse.Namespace) -> None:
    """Trains the two rows (what an earlier call finished is kept), prints them side by side and draws the second."""
    rows = []
    runs = {loss: load_config(configs("lifting") / "demo.yaml", [*options.overrides, f"loss.name={loss}"])
            for loss in ("l1", "rle")}  # fmt: skip
    for loss, config in runs.items():
        expect_run_of(config, options.output / loss, "demo")
    for loss, config in runs.items():
        train_or_stop(lifter.train, config, options.output / loss)
        objective, config = lifter.load(options.output / loss / "last.pt")
        poses = lifter.load_test(config, objective)
        report, prediction = lifter.evaluate(objective, poses, config)
        first = ranks.stop()
        if first:
            write_json(options.output / loss / "report.json", report)
        rows.append((f"FC + {loss.upper()}", report))
    if not first:
        return
    figure = options.output / "poses.png"
    lifter.draw(figure, objective, poses, prediction)
    print("Embedded synthetic set (no Human3.6M number), mean over the actions:\n")
    print(f"{'':12}{'MPJPE (protocol #1)':>22}{'PA-MPJPE (protocol #2)':>26}{'r(sigma, error)':>18}")
    for name, report in rows:
        r = f"{report['sigma_error_r']:.2f}" if "sigma_error_r" in report else "no sigma"
        print(f"{name:12}{report['mpjpe_mm']:>19.1f} mm{report['pa_mpjpe_mm']:>23.1f} mm{r:>18}")
    print(f"\nPoses with their standard deviations: {figure}")


def export(options: argparse.Namespace) -> None:
    from lifting.inference.export import export_lifter, export_weights

    write = export_weights if options.output.suffix == ".pt" else export_lifter
    print(write(options.checkpoint, options.output, licence=options.licence))
