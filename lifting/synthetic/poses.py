"""The embedded set of poses: parametric people who perform the fifteen actions of Human3.6M, generated from a seed.

`motion` models the body and `action_scripts` what it does. This module composes random sequences of them and writes a
store, with the cameras of Human3.6M. The set contains no recorded motion.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from einops import repeat

from lifting.command import InputError
from lifting.datasets.store import PoseStore, Sequence, checksum_of, write_store
from lifting.geometry import h36m
from lifting.geometry.skeleton import H36M17
from lifting.synthetic import action_scripts, motion
from lifting.synthetic.action_scripts import ACTIONS, ARM_NAMES, ARMS, POSTURES, SEATED, Action
from lifting.synthetic.motion import RANGES, SIDES, STATURES, Array, Body, Steps, ease, wander, within

log = logging.getLogger(__name__)

SOURCE = "synthetic: parametric skeletons, no recorded motion"
CENTRE = np.array([0.25, 0.55])  # metres; all four cameras of every subject see the floor around this point
FRAMES = (235, 266)  # length of the shortest sequence, and one more than that of the longest
MARGIN = 75  # frames before and after a sequence, cut off at the end, so that a walk is already under way


def synthetic_store(folder: Path = Path("data")) -> Path:
    """The cached set ``folder/synthetic.h5``, made if it is missing, broken, or from another recipe."""
    path = folder / "synthetic.h5"
    if path.exists():
        try:
            with PoseStore(path) as store:
                if store.checksum == _checksum(seed=0):
                    return path
        except InputError as error:
            log.warning("%s", error)
    log.info("making the synthetic set %s (a few seconds, once)", path)
    make_synthetic(path)
    return path


def make_synthetic(path: Path, seed: int = 0) -> None:
    """Writes a store: seven subjects, fifteen actions, two sequences each of about five seconds at 50 Hz.

    Raises:
        OSError: the file could not be written.
    """
    cameras = {subject: h36m.cameras(subject) for subject in h36m.SUBJECTS}
    write_store(path, sequences(seed), cameras, frame_rate=h36m.FRAME_RATE, source=SOURCE, checksum=_checksum(seed))


def _checksum(seed: int) -> str:
    """The checksum of the recipe, which is these files: after a change to one of them the set is made anew."""
    return f"{checksum_of(Path(str(m)) for m in (__file__, action_scripts.__file__, motion.__file__))} seed {seed}"


class Plan(NamedTuple):
    """A sequence of the set that has not been performed.

    Its ``key`` seeds a random generator of its own, so a change to one sequence leaves the others as they are.
    """

    subject: str
    name: str
    body: Body
    action: Action
    ground: str
    key: tuple[int, ...]

    @property
    def frames(self) -> int:
        """How many it will have: the first number that `perform` draws."""
        return _frames(np.random.default_rng(self.key))

    def performed(self) -> Sequence:
        positions = perform(np.random.default_rng(self.key), self.body, self.action, self.ground)
        return Sequence(self.subject, self.name, positions.astype(np.float32))


def plans(seed: int) -> Iterator[Plan]:
    """All sequences of the set, for whoever needs only some: performing one takes as long as planning hundreds."""
    for s, (subject, body) in enumerate(bodies(seed).items()):
        for a, (name, action) in enumerate(ACTIONS.items()):
            for i, ground in enumerate(action.grounds):
                yield Plan(subject, f"{name} {i}" if i else name, body, action, ground, (seed, s, a, i))


def sequences(seed: int) -> Iterator[Sequence]:
    """All sequences of the set."""
    return (plan.performed() for plan in plans(seed))


def _frames(rng: np.random.Generator) -> int:
    return int(rng.integers(*FRAMES))


def bodies(seed: int) -> dict[str, Body]:
    """The people, whose statures are spread evenly over the range, in random order."""
    rng = np.random.default_rng(seed)
    share = (rng.permutation(len(h36m.SUBJECTS)) + rng.random(len(h36m.SUBJECTS))) / len(h36m.SUBJECTS)
    low, high = STATURES
    return {s: motion.random_body(rng, low + (high - low) * f) for s, f in zip(h36m.SUBJECTS, share, strict=True)}


def perform(rng: np.random.Generator, body: Body, action: Action, ground: str) -> Array:
    """One sequence of one person, mirrored half of the time: (T, 17, 3) world positions in metres."""
    frames = _frames(rng)
    time = np.arange(-MARGIN, frames + MARGIN) / h36m.FRAME_RATE
    steps = _walk(rng, body, action, time) if ground == "walk" else _stand(rng, time, still=ground != "stand")
    pose = _choreography(rng, action, ground, time)
    if ground != "chair":
        pose = motion.gait_angles(steps, pose)
    names = list(RANGES)
    low, high = np.array([RANGES[name][:2] for name in names]).T
    values = within(np.stack([pose[name] for name in names], 1), low, high)
    positions: Array = motion.place_joints(body, steps, dict(zip(names, values.T, strict=True)))[MARGIN:-MARGIN]
    if rng.random() < 0.5:
        positions = positions[:, H36M17.mirror] * [-1, 1, 1]
    positions[..., :2] += CENTRE
    return positions


def _choreography(rng: np.random.Generator, action: Action, ground: str, time: Array) -> dict[str, Array]:
    """The degrees of freedom over time, from posture to posture; trunk and arms each start a little early or late."""
    names = list(RANGES)
    habit, spread, drift = np.array([RANGES[name][2:] for name in names]).T
    arms = [f"{side}_{name}" for side in SIDES for name in ARM_NAMES]
    part = np.array([1 + arms.index(n) // len(ARM_NAMES) if n in arms else 0 for n in names])  # trunk, left, right arm
    base = rng.normal(0, habit)
    if ground == "chair":
        base = base + _offsets(SEATED, POSTURES[rng.choice(action.legs)])
    usual = _offsets({"height": 0.985 if ground == "walk" else 1.0})  # a walker's knees are never quite straight
    values, clock, last = wander(rng, time, len(names)) * drift, time[0] - rng.uniform(0, 1.5), None
    while clock < time[-1]:
        for step in rng.choice(action.phrases).split(","):
            key = base + usual + rng.normal(0, spread) + _posture(rng, step)
            if last is None:
                values, last = values + key, key
            move = rng.uniform(*action.move)
            begin = clock + rng.uniform(-0.12, 0.12, 3)
            share = ease((time[:, None] - begin) / (move * rng.uniform(0.85, 1.2, 3)))
            values, last = values + share[:, part] * (key - last), key
            clock += move + rng.uniform(*action.hold)
    return dict(zip(names, values.T, strict=True))


def _posture(rng: np.random.Generator, step: str) -> Array:
    """The offsets of one step of a phrase, with one of each "a|b" drawn at random."""
    trunk, right, left = (str(rng.choice(words.split("|"))) for words in step.split())
    arms = {
        f"{side}_{name}": value
        for side, arm in zip(SIDES, (left, right), strict=True)
        for name, value in zip(ARM_NAMES, ARMS[arm], strict=True)
    }
    return _offsets(arms, *(POSTURES[name] for name in trunk.split("+")))


def _offsets(*postures: dict[str, float]) -> Array:
    """The sum of postures, with a value for each name of `RANGES`."""
    return np.array([sum(posture.get(name, 0.0) for posture in postures) for name in RANGES])


def _stand(rng: np.random.Generator, time: Array, still: bool) -> Steps:
    """Standing, and unless ``still`` now and then two steps to a place nearby with another heading."""
    path = repeat(rng.normal(0, 0.3, 2), "xy -> t xy", t=len(time))
    heading = np.full(len(time), rng.uniform(0, 2 * np.pi))
    phase = np.full(len(time), 0.05)
    clock = time[0] + rng.uniform(0.5, 3)
    while not still and clock < time[-1] - 2:
        share = ease((time - clock) / 1.4)
        path = path + np.outer(share, rng.normal(0, 0.17, 2) - 0.4 * path[-1])
        heading = heading + share * rng.normal(0, 0.6)
        phase = phase + share
        clock += rng.uniform(1.8, 4.5)
    return Steps(path, heading, phase, swing=0.4, lift=0.06, width=rng.uniform(0.1, 0.16), give=0.004)


def _walk(rng: np.random.Generator, body: Body, action: Action, time: Array) -> Steps:
    """A walk round an ellipse that fits the floor, at a slightly varying speed, slower in sharper turns."""
    axes = np.array([rng.uniform(0.8, 1.1), rng.uniform(0.95, 1.4)])
    angle = np.linspace(0, 2 * np.pi, 400)
    tangent = np.stack([-axes[0] * np.sin(angle), axes[1] * np.cos(angle)], 1)
    rate = np.linalg.norm(tangent, axis=1)  # metres per radian
    turning = axes.prod() / rate**3  # curvature, 1 / metre
    slowness = np.maximum(turning / 1.3, 1) ** 0.5 * rate
    lap = np.append(0, np.cumsum((slowness[1:] + slowness[:-1]) / 2 * np.diff(angle)))
    speed = rng.uniform(*action.speed) * (1 + 0.1 * wander(rng, time, 1)[:, 0])
    run = rng.uniform(0, lap[-1]) + np.cumsum(speed) / h36m.FRAME_RATE
    at = np.interp(run % lap[-1], lap, angle)
    path = axes * np.stack([np.cos(at), np.sin(at)], 1) + rng.normal(0, 0.06, 2)
    heading = np.unwrap(np.arctan2(axes[1] * np.cos(at), -axes[0] * np.sin(at)))
    stride = 1.75 * body.leg * (speed.mean() / 1.3) ** 0.5
    phase = rng.random() + np.cumsum(speed) / h36m.FRAME_RATE / stride
    return Steps(path, heading, phase, swing=0.58, lift=0.17 * body.leg, width=rng.uniform(0.04, 0.08), give=0.012)
