"""The verb ``lift``: from the keypoints of any 2D detector to 3D joints with a sigma each, without torch."""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lifting.command import InputError
from lifting.inference.intrinsics import Intrinsics, intrinsics_of_focal, read_intrinsics
from lifting.inference.lifted_people import lift_all
from lifting.inference.lifter import Lifter
from lifting.inference.root import with_root
from lifting.keypoints.checks import check_rate
from lifting.keypoints.detections import Keypoints
from lifting.keypoints.formats import read_keypoints, with_size
from lifting.lifted import Lifted

ENDINGS = {
    "output": (".npz", ".json", ".bvh"),
    "view": (".html",),
    "video": (".mp4", ".gif"),
    "figure": (".png", ".pdf", ".svg"),
}


def lift(options: argparse.Namespace) -> None:
    """Reads, lifts, writes, and says in a few lines what it did.

    Raises:
        InputError: an option, the input or the checkpoint cannot be used.
    """
    _check_options(options)
    size = None if options.size is None else (options.size[0], options.size[1])
    keypoints = read_keypoints(options.input, joints=options.joints, size=size, min_score=options.min_score)
    print(keypoints.source)
    if options.fps is not None:
        keypoints = replace(keypoints, frame_rate=options.fps)
    if keypoints.frame_rate is None and (options.smooth or options.output.suffix == ".bvh"):
        raise InputError(f"lift: {options.input}: expected frames per second, found none: add --fps N")
    if not keypoints.sequence and (options.smooth or options.output.suffix == ".bvh"):
        what = "--smooth" if options.smooth else ".bvh"
        raise InputError(f"lift: {options.input}: {what}: expected frames that follow each other, got single pictures")
    camera = _camera(options, keypoints)
    if camera is not None and camera.size is not None and keypoints.size is None:
        keypoints = with_size(keypoints, camera.size, f"{options.input}, with the size of {options.camera}")
    lifted = lift_all(Lifter.load(options.checkpoint), keypoints, scores=options.scores)
    print(_summary(lifted))
    if camera is not None:
        lifted = with_root(lifted, camera)
        print(_place(lifted))
    if options.smooth:
        from lifting.inference.smoothing import smooth

        lifted = smooth(lifted)
        print(f"smoothed at {keypoints.frame_rate:g} frames per second")
    if np.isfinite(lifted.deviation).any():
        mean = np.nanmean(np.linalg.norm(lifted.deviation, axis=-1))  # as page, film and figure show it, beside MPJPE
        print(f"mean standard deviation of a joint {1000 * mean:.0f} mm")
    truth = None
    if options.truth is not None:
        from lifting.commands.truth import error_line, read_truth

        truth = read_truth(options.truth, lifted)
        print(error_line(lifted, truth))
    print(f"wrote {', '.join(map(str, [*_write(options.output, lifted), *_show(options, lifted, truth)]))}")


def _check_options(options: argparse.Namespace) -> None:
    """Raises `InputError` for what would otherwise fail only after the work is done."""
    for name, endings in ENDINGS.items():
        path: Path | None = getattr(options, name)
        if path is not None and path.suffix not in endings:
            raise InputError(f"lift: --{name}: expected {' or '.join(endings)}, got {path}")
    read = {path.resolve() for path in (options.input, options.camera, options.truth) if path is not None}
    for name in ENDINGS:
        path = getattr(options, name)
        if path is not None and path.resolve() in read:
            raise InputError(f"lift: --{name}: expected another file than one that is read, got {path}")
        if path is not None and path.is_dir():
            raise InputError(f"lift: --{name}: expected a file, got the folder {path}")
    if options.focal is not None and not 0 < options.focal < float("inf"):
        raise InputError(f"lift: --focal: expected a number above zero, got {options.focal:g}")
    if options.fps is not None:
        check_rate(options.fps, "lift: --fps")


def _camera(options: argparse.Namespace, keypoints: Keypoints) -> Intrinsics | None:
    if (options.camera or options.focal) and not keypoints.one_size:
        raise InputError(f"lift: {options.input}: expected pictures of one camera, got some of several sizes")
    if options.camera is not None:
        return read_intrinsics(options.camera, keypoints.size)
    return None if options.focal is None else intrinsics_of_focal(options.focal, keypoints.size)


def _summary(lifted: Lifted) -> str:
    T, P = lifted.joints.shape[:2]
    count = int(lifted.present.sum())
    poses, frames = "pose" if count == 1 else "poses", "frame" if T == 1 else "frames"
    people = "person" if P == 1 else "people"
    return f"{count:,} {poses} of {P:,} {people} in {T:,} {frames}, lifted by {lifted.checkpoint}"


def _place(lifted: Lifted) -> str:
    assert lifted.root is not None and lifted.root_deviation is not None
    found = int(np.isfinite(lifted.root).all(-1).sum())
    if not found:
        return "nobody could be placed in space: too few joints are seen, or they do not fit"
    depth, deviation = (float(np.nanmedian(x[..., 2])) for x in (lifted.root, lifted.root_deviation))
    return f"placed {found:,} of them in space: median distance {depth:.2f} m, standard deviation {deviation:.2f} m"


def _write(output: Path, lifted: Lifted) -> list[Path]:
    """Writes the result; the files, of which BVH has one for each person."""
    if output.suffix != ".bvh":
        lifted.save(output)
        return [output]
    from lifting.inference.bvh import write_bvh

    return [file.path for file in write_bvh(output, lifted)]


def _show(options: argparse.Namespace, lifted: Lifted, truth: NDArray[np.float64] | None) -> list[Path]:
    """Writes the page, the film and the picture that were asked for; returns them."""
    if options.view is not None:
        from lifting.drawing.viewer import write_page

        write_page(options.view, lifted, truth, input_name=options.input.resolve().name)
    if options.video is not None or options.figure is not None:
        from lifting.drawing.moving_figures import write_figure, write_video

        if options.video is not None:
            write_video(options.video, lifted, truth)
        if options.figure is not None:
            write_figure(options.figure, lifted, truth)
    return [path for path in (options.view, options.video, options.figure) if path is not None]
