"""From people found frame by frame to people over time: the order of frames, tracks, and who is who without tracks."""

import re
from dataclasses import dataclass, field
from math import gcd

import numpy as np

# Without tracks, a person goes on as himself if he is found again within this many frames and his joints have moved,
# in the mean, by less than this part of his size (the longer side of the box around his joints). A runner seen whole
# at 30 frames a second moves a sixth of it from frame to frame.
LONGEST_GAP = 10
FARTHEST_MOVE = 0.5
LONGEST_STEP = 60
FEWEST_OF_RUNS = 10  # frames that show by their numbers that they are a video, however long it is

# People times frames: the joints of so many fill about 400 MB.
MOST_POSES = 1_000_000

_NUMBERED = re.compile(r"(.*?)(\d{1,18})(\D*(?:\.[A-Za-z]\w*)?)")  # what is before the last number, it, the ending


@dataclass
class Found:
    """People as a detector's file lists them: one row for each person in each frame.

    Attributes:
        frames: the name of every frame, those without people too; equal names are one frame.
        rows: (J, 3) of each person: x, y, score; the score is NaN where the file has none.
        at: for each row, its index in ``frames``.
        tracks: for each row, the detector's name for the person over time, or None.
    """

    frames: list[str] = field(default_factory=list)
    rows: list[np.ndarray] = field(default_factory=list)
    at: list[int] = field(default_factory=list)
    tracks: list[str | None] = field(default_factory=list)
    _places: dict[str, int] = field(default_factory=dict)

    def frame(self, name: str) -> int:
        """The index of the frame of that name, which is added if it is new."""
        if name not in self._places:
            self._places[name] = len(self.frames)
            self.frames.append(name)
        return self._places[name]

    def add(self, frame: int, row: np.ndarray, track: str | None) -> None:
        """Adds one person."""
        self.rows.append(row)
        self.at.append(frame)
        self.tracks.append(track)


@dataclass(frozen=True)
class Arranged:
    """(T, P, J, 3) x, y and score, NaN where a person is absent, with names and a remark for the user."""

    values: np.ndarray
    frames: tuple[str, ...]
    people: tuple[str, ...]
    remark: str
    sequence: bool = True  # whether the frames follow each other


@dataclass(frozen=True)
class Reading:
    """What a reader makes of a file, before anything is checked.

    Attributes:
        people: people found frame by frame, or already arranged over time.
        what: the format, for the user.
        joint_set: the set that the file or its format names; None leaves it to the number of joints and to anatomy.
        size: width and height of the picture in pixels, if the file says so.
        frame_rate: frames a second, if the file says so.
        one_size: False if the file says that its pictures have several sizes.
    """

    people: Found | Arranged
    what: str
    joint_set: str | None = None
    size: tuple[int, int] | None = None
    frame_rate: float | None = None
    one_size: bool = True


def arrange(found: Found, rows: np.ndarray) -> Arranged:
    """People over time: by the detector's tracks if it gives any, otherwise by nearness from frame to frame.

    Frames with numbered names stand in the order of their numbers, and frames left out because nobody was seen in
    them become frames without people. Frames whose names are no sequence are taken as unrelated pictures: there, the
    k-th person of a picture is called k, whoever that is.

    Args:
        found: frames and tracks.
        rows: (N, J, 3), the rows of ``found`` with x and y NaN where a joint is missing. People of whom nothing is
            left are dropped; somebody must be left.
    """
    names, place, step = order_frames(found.frames)
    sequence = step > 0
    at = place[np.array(found.at, dtype=int)]
    by_time = np.argsort(at, kind="stable")
    by_time = by_time[~np.isnan(rows[by_time, :, 0]).all(1)]
    at, rows, tracks = at[by_time], rows[by_time], [found.tracks[k] for k in by_time]
    if not _are_tracks(at, tracks):
        tracks = [None] * len(tracks)
    loose = np.array([track is None for track in tracks])
    labels: list[str] = [track or "" for track in tracks]
    if loose.any():
        numbers = follow(at[loose], rows[loose, :, :2]) if sequence else _place_in_frame(at[loose])
        for row, number in zip(np.flatnonzero(loose), numbers, strict=True):
            labels[row] = str(number) if loose.all() else f"untracked {number}"
    people, left_out = _most_seen(labels, len(names))
    index = {name: number for number, name in enumerate(people)}
    kept = np.array([label in index for label in labels])
    values = np.full((len(names), len(people), *rows.shape[1:]), np.nan)
    values[at[kept], [index[label] for label in labels if label in index]] = rows[kept]
    how = "tracks of the file" if not loose.all() else "people followed by nearness"
    remark = ", pictures that are no sequence" if not sequence else "" if len(people) == 1 else f", {how}"
    if step > 1:
        remark += f", every frame {step} numbers after the one before (frames per second are those of these frames)"
    if left_out:
        remark += f", of {len(people) + left_out} people the {len(people)} seen most often"
    return Arranged(values, names, tuple(people), remark, sequence)


def order_frames(names: list[str]) -> tuple[tuple[str, ...], np.ndarray, int]:
    """Names of all frames in order, where each given one stands in them, and their step; 0 if they are no sequence.

    Names that differ in their last number alone (``0001.jpg``, ``0002.jpg``, ``0004.jpg``) are a sequence with a fixed
    step of at most `LONGEST_STEP`, and the missing ones are put in. If that makes far more frames than there are, most
    of them still have to follow the one before directly, as where a video shows people now and then. Otherwise they
    are pictures of a collection.
    """
    parts = [_NUMBERED.fullmatch(name) for name in names]
    around = {(part[1], part[3]) for part in parts if part}
    if len(names) < 2 or not all(parts) or len(around) > 1:
        return tuple(names), np.arange(len(names)), int(len(names) < 2)
    numbers = np.array([int(part[2]) for part in parts if part], dtype=object)
    first, last = min(numbers), max(numbers)
    step = gcd(*(number - first for number in numbers))
    dense = (last - first) // max(step, 1) < 4 * len(names) + 100
    runs = 2 * np.count_nonzero(np.diff(np.sort(numbers)) == step) >= len(names) >= FEWEST_OF_RUNS
    apart = len(set(numbers)) == len(names)  # unlike 1.jpg and 01.jpg
    if not (apart and 0 < step <= LONGEST_STEP and (dense or runs) and (last - first) // step < MOST_POSES):
        return tuple(names), np.arange(len(names)), 0
    (before, after), digits = around.pop(), min(len(part[2]) for part in parts if part)
    place = ((numbers - first) // step).astype(int)
    filled = [f"{before}{number:0{digits}d}{after}" for number in range(first, last + 1, step)]
    return tuple(filled), place, step


def follow(at: np.ndarray, points: np.ndarray) -> np.ndarray:
    """A number for each of N people found in frames, equal for the same person in different frames.

    From frame to frame, people are matched so that the mean distances of their joints, as parts of their sizes, have
    the smallest sum (Kuhn's algorithm); `LONGEST_GAP` and `FARTHEST_MOVE` say who is matched at all.

    Args:
        at: (N,) frame of each, ascending.
        points: (N, J, 2), NaN where a joint is missing.
    """
    label = np.empty(len(at), dtype=int)
    there = ~np.isnan(points[..., 0])
    spread = np.nanmax(points, 1) - np.nanmin(points, 1)
    size = np.maximum(spread.max(-1), 1.0)
    last: np.ndarray = np.empty(0, dtype=int)  # the row where each person that may go on was seen last
    total = 0
    starts = np.flatnonzero(np.diff(at, prepend=at[0] - 1))
    for start, stop in zip(starts, [*starts[1:], len(at)], strict=True):
        now = np.arange(start, stop)
        last = last[at[start] - at[last] <= LONGEST_GAP]
        old, new = _matches(points, there, size, last, now)
        label[now] = -1
        label[now[new]] = label[last[old]]
        fresh = now[label[now] < 0]
        label[fresh] = np.arange(total, total + len(fresh))
        total += len(fresh)
        last = np.concatenate([np.delete(last, old), now])
    return label


def _matches(
    points: np.ndarray, there: np.ndarray, size: np.ndarray, last: np.ndarray, now: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Indices into ``last`` and ``now`` of people who are the same."""
    if not len(last):
        return np.empty(0, dtype=int), np.empty(0, dtype=int)
    both = there[last][:, None] & there[now]
    step = np.where(both[..., None], points[last][:, None] - points[now], 0)
    count = both.sum(-1)
    moved = np.hypot(step[..., 0], step[..., 1]).sum(-1) / np.maximum(count, 1)
    moved = np.where(count > 0, moved / np.maximum(size[last][:, None], size[now]), np.inf)
    cost = np.minimum(moved, 2 * FARTHEST_MOVE)
    if cost.size == 1:
        old, new = np.zeros(1, int), np.zeros(1, int)
    else:
        from scipy.optimize import linear_sum_assignment  # takes half a second to import, and one person needs none

        old, new = linear_sum_assignment(cost)
    near = moved[old, new] < FARTHEST_MOVE
    return old[near], new[near]


def _are_tracks(at: np.ndarray, tracks: list[str | None]) -> bool:
    """Whether names tell people apart: none occurs twice in a frame."""
    named = [(frame, track) for frame, track in zip(at.tolist(), tracks, strict=True) if track is not None]
    return bool(named) and len(set(named)) == len(named)


def _place_in_frame(at: np.ndarray) -> np.ndarray:
    """0, 1, ... within each frame."""
    starts = np.flatnonzero(np.diff(at, prepend=at[0] - 1))
    return np.arange(len(at)) - np.repeat(starts, np.diff([*starts, len(at)]))


def _most_seen(labels: list[str], frames: int) -> tuple[list[str], int]:
    """Names in the order of their first appearance, and how many of the least seen were left out to save memory."""
    counts: dict[str, int] = {}
    for label in labels:
        counts[label] = counts.get(label, 0) + 1
    room = max(1, MOST_POSES // frames)
    often = set(sorted(counts, key=lambda name: -counts[name])[:room])
    return [name for name in counts if name in often], len(counts) - len(often)
