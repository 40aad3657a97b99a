"""From a picture to joints in space in two steps: a 2D network's joints, lifted, with its sigma handed on."""

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lifting.command import InputError
from lifting.estimate import Estimate
from lifting.geometry.skeleton import COCO17, H36M17, JointSet
from lifting.inference.intrinsics import intrinsics_of_focal
from lifting.inference.lifted_people import lift_all
from lifting.inference.lifter import Lifter, Pose
from lifting.inference.root import with_root
from lifting.keypoints.detections import Keypoints
from lifting.keypoints.joint_sets import to_h36m17

Array = NDArray[np.float64]

DRAWS = 16  # of the keypoints; 64 take no more error off (docs/results/keypoints_2d.md)


def lift_estimate(one: Estimate, size: tuple[int, int], lifter: Lifter, focal: float | None) -> Estimate:
    """The same person with Human3.6M's 17 joints, in the picture and in space.

    A 2D sigma is handed on by `lift_draws`. With a focal length, the joints are also brought towards the rays of their
    keypoints, each ray trusted by its 2D deviation, and the pelvis is placed in space (`inference.root.with_root`).
    Without one, ``metres`` are in the lifter's own axes, see `Lifter.axes`.

    Args:
        size: width and height of the picture.
        focal: focal length in pixels; the optical axis is in the middle of the picture.

    Raises:
        InputError: the lifter needs a joint that the 2D network does not give.
    """
    pixels, deviation = lifter_keypoints(one.pixels, one.pixel_deviation, one.joint_set)
    seen = np.where(np.isfinite(pixels).all(-1), 1.0, 0.0)
    keypoints = Keypoints(pixels[None, None], seen[None, None], H36M17.name, size, (one.name,), ("0",))
    lifted = lift_all(lifter, keypoints)
    if deviation is not None:
        pose = lift_draws(lifter, pixels[None], deviation[None], size)
        confidence = 1 - pose.sigma.mean(-1)
        arrays = {"joints": pose.joints, "sigma": pose.sigma, "deviation": pose.deviation, "confidence": confidence}
        lifted = replace(lifted, **{name: array[None] for name, array in arrays.items()})
    if focal is not None:
        noise = None if deviation is None else deviation[None, None]
        lifted = with_root(lifted, intrinsics_of_focal(focal, size), pixel_noise=noise)
    has_deviation = bool(np.isfinite(lifted.deviation).any())
    return replace(
        one,
        joint_set=H36M17,
        pixels=pixels,
        confidence=lifted.confidence[0, 0].astype(np.float64) if has_deviation else seen,
        pixel_deviation=None if deviation is None else np.repeat(deviation[:, None], 2, 1),
        metres=lifted.joints[0, 0].astype(np.float64),
        deviation=lifted.deviation[0, 0].astype(np.float64) if has_deviation else None,
        root=None if lifted.root is None else lifted.root[0, 0].astype(np.float64),
    )


def lifter_keypoints(pixels: Array, deviation: Array | None, joint_set: JointSet) -> tuple[Array, Array | None]:
    """A 2D network's joints as the lifters' 17, (..., 17, 2), and their standard deviation, (..., 17) pixels.

    That of a joint made of two is the mean of theirs, as if they were wrong together.

    Args:
        pixels: (..., J, 2).
        deviation: (..., J, 2) pixels, or None.

    Raises:
        InputError: there is no way from these joints to Human3.6M's.
    """

    def mapped(x: Array) -> Array:
        if joint_set == COCO17:
            return to_h36m17(x, np.ones(x.shape[:-1]), COCO17.name)[0]
        return x[..., : len(H36M17), :]

    if joint_set != COCO17 and joint_set.joints[: len(H36M17)] != H36M17.joints:
        raise InputError(f"estimate: expected the joints coco17 or h36m18 to lift, got {joint_set.name}")
    return mapped(pixels), None if deviation is None else np.sqrt(np.square(mapped(deviation)).mean(-1))


def lift_draws(lifter: Lifter, pixels: Array, deviation: Array, size: ArrayLike, draws: int = DRAWS) -> Pose:
    """The mean and the spread of what a lifter makes of all the places where the 2D joints may be.

    Keypoints are drawn from normal distributions about what the 2D network found, half of them as mirror images of the
    others about it, and each draw is lifted. The mean over the draws is the expected pose; the variance of a coordinate
    is the mean of the lifter's own plus the variance between draws (the law of total variance). Sigma grows with it.

    Args:
        pixels: (N, 17, 2), NaN for a missing joint.
        deviation: (N, 17) pixels, the standard deviation of each coordinate.
        size: of the picture, (2,), or (N, 2).
        draws: an even number.

    Raises:
        InputError: as `Lifter.lift`.
    """
    half = np.random.default_rng(0).normal(size=(draws // 2, *pixels.shape)) * deviation[..., None]
    drawn = pixels + np.concatenate([half, -half])
    sizes = np.broadcast_to(np.asarray(size, dtype=np.float64), (draws, len(pixels), 2))
    poses = lifter.lift(drawn, sizes)
    own: Array = np.sqrt(np.square(poses.deviation, dtype=np.float64).mean(0))
    total: Array = np.sqrt(np.square(own) + poses.joints.var(0, dtype=np.float64))
    grown = np.divide(total, own, out=np.ones_like(total), where=own > 0)
    sigma = np.sqrt(np.square(poses.sigma, dtype=np.float64).mean(0)) * grown
    return Pose(poses.joints.mean(0), sigma.astype(np.float32), total.astype(np.float32))
