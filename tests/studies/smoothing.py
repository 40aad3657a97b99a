"""Smoothing over time: none, equal weights at their best, and `inference.smoothing` with the predicted deviations.

    python -m tests.studies.smoothing CHECKPOINT --data FILE [--fps 60] [key.path=value ...]

Reads every frame of the checkpoint's test subjects (``data.noise_px=5``, ``data.test_subjects=[S7]`` and the like are
overrides) and prints MPJPE and MPJVE. The equal-weight smoother is the same Rauch-Tung-Striebel smoother with one
measurement noise for everything. It is given the setting that is best *on these very frames*, one for each measure.
The other rows have the constants of `inference.smoothing`, which were chosen on other people; the last take parts away.

The stand-in's motion has 60 frames a second; its file says 50 because Human3.6M has 50.
"""

import argparse
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lifting import lifter
from lifting.command import InputError, run_command
from lifting.inference.rts import rts
from lifting.inference.smoothing import hold_lengths, smooth_track
from lifting.metrics.pose_errors import velocity_errors
from lifting.training.evaluation import predict

Array = NDArray[np.float64]
POWERS = np.geomspace(30, 3e5, 9)  # of the acceleration over that of the measurement noise, 1/s^3
FLOOR = 1e-4  # metres


class Clip:
    """One sequence as its cameras see it: joints, deviations and truth, (T, cameras, 17, 3)."""

    def __init__(self, joints: Array, deviation: Array, truth: Array) -> None:
        self.joints, self.deviation, self.truth = joints, deviation, truth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--fps", type=float, default=60.0)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_intermixed_args()
    clips = load(options.checkpoint, [f"data.path={options.data}", "data.test_stride=1", *options.overrides])
    fps = options.fps
    same = np.mean([clip.deviation.mean((0, 1)) for clip in clips], axis=0)  # (17, 3)

    def equal(power: float) -> Callable[[Clip], Array]:
        def smoothed(clip: Clip) -> Array:
            y = clip.joints.reshape(len(clip.joints), -1)
            return rts(y, np.ones_like(y), np.full_like(y, power), 1 / fps)[0].reshape(clip.joints.shape)

        return smoothed

    def full(clip: Clip, deviation: Array, *, held: bool = True) -> Array:
        joints = hold_lengths(clip.joints, deviation) if held else clip.joints
        return smooth_track(joints, deviation, fps, 0).values

    def constant(clip: Clip) -> Array:
        return np.broadcast_to(same, clip.deviation.shape)

    def line(name: str, numbers: tuple[float, float]) -> None:
        print(f"{name:<58}{numbers[0]:>8.2f}{numbers[1]:>8.2f}", flush=True)

    print(f"{'millimetres, millimetres per frame':<58}{'MPJPE':>8}{'MPJVE':>8}")
    line("none", score(clips, lambda clip: clip.joints))
    scanned = [score(clips, equal(power)) for power in POWERS]
    for measure, name in enumerate(("MPJPE", "MPJVE")):
        best = min(range(len(POWERS)), key=lambda i, measure=measure: scanned[i][measure])  # type: ignore[misc]
        line(f"equal weights, best {name} (power {POWERS[best]:.0f})", scanned[best])
    line("predicted deviations", score(clips, lambda clip: full(clip, clip.deviation)))
    line("  bones not held", score(clips, lambda clip: full(clip, clip.deviation, held=False)))
    line("  a constant deviation for each joint and coordinate", score(clips, lambda clip: full(clip, constant(clip))))
    line("  only bones held", score(clips, lambda clip: hold_lengths(clip.joints, clip.deviation)))
    line(
        "  only bones held, all deviations equal",
        score(clips, lambda c: hold_lengths(c.joints, np.ones_like(c.joints))),
    )
    print_errors_over_time(clips)
    print_calibration(clips, fps)


def load(checkpoint: Path, overrides: list[str]) -> list[Clip]:
    """The clips of the test subjects, lifted."""
    objective, config = lifter.load(checkpoint, overrides)
    poses = lifter.load_test(config, objective)
    prediction = predict(objective, poses, flip_test=config.train.flip)
    if prediction.log_sigma is None:
        raise InputError(f"{checkpoint}: expected a lifter with sigma")
    deviation = objective.likelihood.deviation(prediction).clamp(min=FLOOR)
    arrays = [x.double().cpu().numpy() for x in (prediction.mu, deviation, poses.target)]
    groups = [list(views) for _, views in groupby(poses.clips, key=lambda clip: (clip.subject, clip.sequence))]
    return [Clip(*(np.stack([x[c.start : c.stop] for c in views], 1) for x in arrays)) for views in groups]


def score(clips: list[Clip], smoothed: Callable[[Clip], Array]) -> tuple[float, float]:
    """MPJPE and MPJVE over all frames, in millimetres."""
    errors, velocities = [], []
    for clip in clips:
        x, y = torch.from_numpy(np.ascontiguousarray(smoothed(clip))), torch.from_numpy(clip.truth)
        errors.append((x - y).norm(dim=-1).flatten())
        velocities.append(velocity_errors(x, y).flatten())
    return 1000 * float(torch.cat(errors).mean()), 1000 * float(torch.cat(velocities).mean())


def print_errors_over_time(clips: list[Clip]) -> None:
    """Correlation of the errors of frames that are some frames apart, for x, y and depth."""
    print("correlation of errors, by frames apart")
    for lag in (1, 3, 10, 40):
        pairs = [(c.joints - c.truth)[:, :, 1:] for c in clips if len(c.joints) > lag]
        product = sum((e[lag:] * e[:-lag]).sum((0, 1, 2)) for e in pairs)
        square = sum((e[lag:] ** 2 + e[:-lag] ** 2).sum((0, 1, 2)) / 2 for e in pairs)
        print(f"{lag:>6}  " + "  ".join(f"{value:.2f}" for value in product / square))


def print_calibration(clips: list[Clip], fps: float) -> None:
    """Root mean square of error / deviation, before and after."""
    before, after = [], []
    for clip in clips:
        track = smooth_track(hold_lengths(clip.joints, clip.deviation), clip.deviation, fps, 0)
        before.append((((clip.joints - clip.truth) / clip.deviation)[:, :, 1:] ** 2).reshape(-1, 3))
        after.append((((track.values - clip.truth) / track.deviation)[:, :, 1:] ** 2).reshape(-1, 3))
    for name, squares in (("before", before), ("after", after)):
        values = np.sqrt(np.concatenate(squares).mean(0))
        print(f"error / deviation {name}: " + "  ".join(f"{value:.2f}" for value in values))


if __name__ == "__main__":
    run_command(main)
