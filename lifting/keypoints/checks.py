"""Mistakes that can be seen in keypoints, found before they become silently wrong 3D joints. Each is one line."""

import numpy as np

from lifting.command import InputError
from lifting.geometry.skeleton import COCO17, H36M17, JointSet
from lifting.keypoints.joint_sets import BEGINS_WITH, DETECTED, refuse_count, sets_of

FARTHEST = 100_000  # pixels; no picture is as wide
RATES = (1e-5, 1e5)  # frames per second, from one a day on
_HIGHEST_SCORE = 20.0  # SimCC scores of RTMPose reach about ten, AlphaPose's six


def check_rate(rate: float, where: str) -> None:
    """Raises `InputError` for frames per second that no clip has."""
    if not RATES[0] <= rate <= RATES[1]:
        raise InputError(f"{where}: expected frames per second from {RATES[0]:g} to {RATES[1]:g}, got {rate:g}")


def mark_missing(rows: np.ndarray, min_score: float, where: str) -> tuple[np.ndarray, bool]:
    """Brings scores to [0, 1] and marks joints that a detector did not find.

    A joint is missing if a coordinate is NaN, if it lies at exactly (0, 0), where OpenPose and Ultralytics put joints
    that they did not find, or if its score is 0 or under ``min_score``. Scores above one are cut to one: SimCC scores
    of RTMPose and AlphaPose's are heights of a peak, not probabilities. Whole numbers 0, 1 and 2 in place of all
    scores are COCO's flags of visibility, of which 0 alone means missing.

    Args:
        rows: (..., J, 3) x, y, score; a score of NaN is none.

    Returns:
        (..., J, 3) with x and y NaN and the score 0 where a joint is missing, and the score 1 for people without
        scores; and whether there are scores.
    """
    rows = rows.copy()
    if np.isinf(rows).any():
        *place, joint, column = np.argwhere(np.isinf(rows))[0]
        raise InputError(
            f"{where}: expected finite numbers, got an infinite {('x', 'y', 'score')[column]} at joint "
            f"{joint} of entry {', '.join(map(str, place))}; a missing joint is NaN or has score 0"
        )
    points, score = rows[..., :2], rows[..., 2]
    points[np.isnan(points).any(-1) | (points == 0).all(-1)] = np.nan
    given = score[~np.isnan(points[..., 0]) & ~np.isnan(score)]
    if given.size and (given.max() > _HIGHEST_SCORE or given.min() < -_HIGHEST_SCORE):
        raise InputError(
            f"{where}: expected x, y and a score in [0, 1] for each joint, got third numbers from "
            f"{given.min():.4g} to {given.max():.4g}; are these 3D joints?"
        )
    flags = bool(np.isin(given, (0, 1, 2)).all())
    # A person without any score counts as found, a joint without one among others that have one does not.
    score[...] = np.where(np.isnan(score), np.isnan(score).all(-1, keepdims=True), score)
    points[score < (np.finfo(float).tiny if flags else max(min_score, np.finfo(float).tiny))] = np.nan
    score[...] = np.where(np.isnan(points[..., 0]), 0, 1 if flags else np.clip(score, 0, 1))
    return rows, not flags


def choose_joints(points: np.ndarray, asked: str | None, known: str | None, where: str) -> tuple[JointSet, str]:
    """The joint set of (N, J, 2) points, and how it is known, in a few words.

    Args:
        asked: what the user says, or None.
        known: what the file says or what the format always has, or None.

    Raises:
        InputError: no set has J joints; the user names another; COCO-17 and Human3.6M-17 cannot be told apart, or the
            points contradict what is said.
    """
    count = points.shape[1]
    refuse_count(count, where)
    names = sets_of(count)
    for name, who in ((asked, "--joints says"), (known, "the file says")):
        if name is not None and name not in names:
            raise InputError(f"{where}: {who} {name}, but there are {count} joints, as {' or '.join(names)} has")
    if count != len(COCO17):
        head = f", the first {len(BEGINS_WITH[count].joints)} of {count}" if count in BEGINS_WITH else ""
        return DETECTED[names[0]], f"{names[0]} ({count} joints{head})"
    spread, likeness = _face_or_leg(points)
    span = f"joints 0 to 4 span {100 * spread:.0f} % of a person" if likeness == likeness else "there are few joints"
    if name := asked or known:
        other = {COCO17.name: (likeness > 0.8, H36M17.name, "hip, knee and ankle"),
                 H36M17.name: (likeness < 0.2, COCO17.name, "a face")}[name]  # fmt: skip
        if other[0]:
            raise InputError(
                f"{where}: said to be {name}, but {span}, as {other[2]} in {other[1]} do; try --joints {other[1]}"
            )
        return DETECTED[name], f"{name} ({'as asked' if asked else 'as the format says'})"
    if likeness < 0.35:
        return COCO17, f"coco17 ({span}, as a face does)"
    if likeness > 0.45:
        return H36M17, f"h36m17 ({span}, as pelvis, hip, knee and ankle do)"
    raise InputError(f"{where}: cannot tell COCO-17 from Human3.6M-17 ({span}); say --joints coco17 or --joints h36m17")


def _face_or_leg(points: np.ndarray) -> tuple[float, float]:
    """What joints 0 to 4 of 17 are: the part of a person that they span, and that part over a ratio of bone lengths.

    In COCO-17 they are a face, in Human3.6M-17 pelvis, right leg and left hip. The ratio is that of the mean lengths
    of the bones in Human3.6M's tree and in COCO's: joints read in the wrong order make long bones. On one frame alone,
    the second number was never above 0.26 for COCO-17 (people of val2017 cut off at the waist, and the stand-in's 2D
    in COCO's order) and never under 0.43 for Human3.6M-17 (14,804 poses of the stand-in); medians lie at 0.06 and 1.5.
    """
    with np.errstate(all="ignore"):
        whole = _extent(points)
        lengths = [_nanmean(np.linalg.norm(np.diff(points[:, joints.bones], axis=2)[:, :, 0], axis=-1))
                   for joints in (H36M17, COCO17)]  # fmt: skip
        spread = _extent(points[:, :5]) / whole
        likeness = spread * lengths[1] / lengths[0]
    usable = np.isfinite(likeness) & (~np.isnan(points[:, 5:, 0])).any(1)  # a face alone says nothing
    if not usable.any():
        return float("nan"), float("nan")
    return float(np.median(spread[usable])), float(np.median(likeness[usable]))


def _extent(points: np.ndarray) -> np.ndarray:
    """(N, J, 2) -> (N,): the longer side of the box around the joints that are there, -inf if there are none."""
    low = np.where(np.isnan(points), np.inf, points).min(1)
    high = np.where(np.isnan(points), -np.inf, points).max(1)
    return np.asarray((high - low).max(-1))


def _nanmean(values: np.ndarray) -> np.ndarray:
    """(N, K) -> (N,): the mean of the numbers that are there, NaN if there are none."""
    return np.asarray(np.where(np.isnan(values), 0, values).sum(1) / (~np.isnan(values)).sum(1))


def check_pixels(points: np.ndarray, size: tuple[int, int] | None, where: str) -> None:
    """Raises an InputError if (N, J, 2) points are no pixels, or none of a picture of that size."""
    there = points[~np.isnan(points[..., 0])]
    span = f"x from {there[:, 0].min():.4g} to {there[:, 0].max():.4g}, y from {there[:, 1].min():.4g} to " \
           f"{there[:, 1].max():.4g}"  # fmt: skip
    if np.quantile(np.abs(there).max(-1), 0.99) <= 2:
        raise InputError(
            f"{where}: expected pixels, got {span}, which looks normalised; multiply x by the width and y "
            "by the height of the picture (Ultralytics: .xy, not .xyn; OpenPose: --keypoint_scale 0)"
        )
    if np.abs(there).max() > FARTHEST:
        raise InputError(f"{where}: expected pixels of a picture, got {span}")
    width, height = size or (np.inf, np.inf)
    if size is None:
        negative = (there < 0).any(-1).mean()
        if negative > 0.25:
            raise InputError(
                f"{where}: expected pixels from the top left corner, got {span} with {100 * negative:.0f} "
                "% of the joints at negative x or y; were they made relative to a joint or the centre?"
            )
        return
    outside = _outside(there, width, height)
    swapped = width != height and outside > 0.05 and _outside(there, height, width) == 0
    if outside > 0.2 or swapped:
        advice = f"; did you mean {height} x {width}?" if swapped else ""
        raise InputError(
            f"{where}: {100 * outside:.0f} % of the joints lie outside a picture of {width} x {height}, "
            f"with {span}; give the size of the picture that was detected on{advice}"
        )


def _outside(points: np.ndarray, width: float, height: float) -> float:
    """The part of (M, 2) points that lie outside a picture by more than a tenth of its sides."""
    sides = np.array([width, height])
    return float(((points < -0.1 * sides) | (points > 1.1 * sides)).any(-1).mean())


def check_upright(points: np.ndarray, where: str) -> None:
    """Raises an InputError if (N, 17, 2) points of Human3.6M's joints have y up instead of down.

    In y-up keypoints ankles are above the head in the picture. So they are in a handstand, but there, and wherever
    somebody hangs head down, the hands are on the far side of the shoulders from the hips, as one stands on them.
    With y up, people whose arms hang down have them on the near side. Both are taken in the median over all poses.
    """
    names = H36M17.joints
    y = dict(zip(names, np.moveaxis(points[..., 1], -1, 0), strict=True))

    def height(name: str) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return _nanmean(np.stack([y[f"left_{name}"], y[f"right_{name}"]], 1))

    extent = _extent(points)
    with np.errstate(all="ignore"):
        head = np.where(np.isnan(y["neck"]), y["head"], y["neck"])
        standing = (height("ankle") - head) / extent
        hanging = (height("wrist") - height("shoulder")) / extent
    both = np.isfinite(standing) & np.isfinite(hanging)
    if both.any() and np.median(standing[both]) < -0.4 and np.median(hanging[both]) < -0.05:
        raise InputError(
            f"{where}: expected y to point down, got ankles above the head and hanging hands above the "
            f"shoulders in most of {both.sum()} poses; if your y points up, use height - y"
        )


def check_size(size: tuple[int, int], where: str) -> None:
    """Raises an InputError if a picture cannot have this width and height in pixels."""
    if not all(2 <= side <= FARTHEST for side in size):
        raise InputError(f"{where}: expected width and height of the picture in pixels, got {size[0]} x {size[1]}")
