"""How much sigma varies from pose to pose, beside the error: 1 / sigma is what weighs the poses in the gradient on mu.

    python -m tests.studies.sigma_spread CHECKPOINT ... --data FILE

``spread`` is the standard deviation of log sigma over the test poses, a mean over all coordinates but the root's;
``sigma / error`` the mean sigma over the mean absolute deviation.
"""

import argparse
from pathlib import Path

from lifting import lifter
from lifting.command import run_command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--data", required=True)
    options = parser.parse_args()
    print(f"{'MPJPE':>8}{'spread':>8}{'sigma / error':>15}{'r':>8}  checkpoint")
    for path in options.checkpoints:
        objective, config = lifter.load(path, [f"data.path={options.data}"])
        poses = lifter.load_test(config, objective)
        report, prediction = lifter.evaluate(objective, poses, config)
        free, target = objective.free(prediction, poses.target)
        if free.log_sigma is None or free.sigma is None:
            continue
        spread = float(free.log_sigma.std(0).mean())
        ratio = float(free.sigma.mean() / (free.mu - target).abs().mean())
        line = f"{report['mpjpe_frame_mm']:>8.2f}{spread:>8.3f}{ratio:>15.2f}{report['sigma_error_r']:>8.3f}"
        print(f"{line}  {path}", flush=True)


if __name__ == "__main__":
    run_command(main)
