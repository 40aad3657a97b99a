"""A person of the rendered set as round cones around a skeleton: body, clothes, hair, and what shows front and back.

Both sides of a person look alike, so that a mirrored picture is still a possible one. Left and right follow from where
the front is, which shows in a face under hair, a trim on the chest, a pack on some backs, and feet that point forward.
"""

from dataclasses import dataclass

import numpy as np

from lifting.geometry.skeleton import H36M17
from lifting.synthetic.rendering import Array, Cones

STATURE = 1.75  # metres; the sizes below are those of a person of this height, others are scaled by their leg length

_SKINS = ((0.95, 0.78, 0.67), (0.87, 0.66, 0.52), (0.70, 0.48, 0.35), (0.45, 0.29, 0.20))
_HAIRS = ((0.07, 0.06, 0.06), (0.20, 0.12, 0.07), (0.36, 0.20, 0.09), (0.75, 0.58, 0.28), (0.52, 0.50, 0.49))

_Part = tuple[Array, Array, float, float, Array]  # start, end, their radii, colour


@dataclass(frozen=True)
class Look:
    """A person's build, hair and clothes; colours are red, green, blue in [0, 1].

    Attributes:
        girth: factor on the radii of trunk and limbs.
        sleeves, legs: share of the upper arm and the thigh that clothes cover; None if they reach to wrist and ankle.
        placket: whether the trim is a line down the chest; otherwise it is a round emblem.
        long_hair: whether the hair reaches the neck.
        pack: whether the person wears a backpack.
    """

    skin: Array
    hair: Array
    shirt: Array
    trousers: Array
    shoes: Array
    trim: Array
    girth: float
    sleeves: float | None
    legs: float | None
    placket: bool
    long_hair: bool
    pack: bool


def random_look(rng: np.random.Generator) -> Look:
    """A random look, in which the hair stands out from the skin and the trim from the shirt."""
    tone = rng.uniform(0, len(_SKINS) - 1)
    skin = np.array([np.interp(tone, np.arange(len(_SKINS)), channel) for channel in zip(*_SKINS, strict=True)])
    hairs = [np.array(hair) for hair in _HAIRS if abs(np.mean(hair) - skin.mean()) > 0.15]
    shirt = _dye(rng)
    trims = [dye for dye in (_dye(rng) for _ in range(8)) if np.abs(dye - shirt).sum() > 0.7]
    return Look(
        skin=skin,
        hair=hairs[rng.integers(len(hairs))],
        shirt=shirt,
        trousers=_dye(rng) * rng.uniform(0.5, 1),
        shoes=_dye(rng) * rng.uniform(0.3, 1),
        trim=trims[0] if trims else np.full(3, float(shirt.mean() < 0.5)),
        girth=rng.uniform(0.9, 1.2),
        sleeves=rng.uniform(0.3, 0.8) if rng.random() < 0.55 else None,
        legs=rng.uniform(0.5, 0.95) if rng.random() < 0.35 else None,
        placket=rng.random() < 0.5,
        long_hair=rng.random() < 0.4,
        pack=rng.random() < 0.25,
    )


def _dye(rng: np.random.Generator) -> Array:
    """A colour of cloth: any hue, often pale, sometimes nearly black or white."""
    pure = np.clip(np.abs((rng.random() * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    colour: Array = (0.12 + 0.85 * rng.random() ** 0.7) * (1 - rng.random() ** 1.3 * (1 - pure))
    return colour


def figure(joints: Array, look: Look, *, ears: bool = False) -> Cones:
    """The person around a skeleton.

    Args:
        joints: (17, 3) metres in the world, z up, the floor at zero; of `H36M17`.
        ears: whether they are drawn, for sets that label them.
    """
    at, unit = _skeleton(joints)
    parts = [*_trunk(at, look, unit), *_head(at, look, unit)]
    if ears:
        parts += [(place, place, 0.022 * unit, 0.022 * unit, look.skin) for place in face(joints)[3:]]
    for side in ("left", "right"):
        parts += [*_arm(at, look, unit, side), *_leg(at, look, unit, side)]
    return _cones(parts)


def head(joints: Array, look: Look) -> Cones:
    """Only the head of the same person, with its hair."""
    at, unit = _skeleton(joints)
    return _cones(_head(at, look, unit))


def face(joints: Array) -> Array:
    """Nose, left eye, right eye, left ear, right ear of the same person, (5, 3), where `figure` draws them."""
    at, unit = _skeleton(joints)
    front, left, up = _face_axes(at)
    places = ((0.122, 0.138, 0.0), (0.101, 0.10, 0.034), (0.101, 0.10, -0.034), (0.0, 0.115, 0.1), (0.0, 0.115, -0.1))
    return np.array([at["head"] + unit * (f * front - d * up + a * left) for f, d, a in places])


def _face_axes(at: dict[str, Array]) -> tuple[Array, Array, Array]:
    """Unit vectors to the head's front, left and up."""
    up = _unit(at["head"] - at["neck"])
    slope = at["neck"] - at["thorax"]
    front = _unit(slope - (slope @ up) * up)
    return front, np.cross(up, front), up


def _skeleton(joints: Array) -> tuple[dict[str, Array], float]:
    """Joints by name, and the person's size relative to `STATURE`."""
    at = dict(zip(H36M17.joints, np.asarray(joints, dtype=np.float64), strict=True))
    legs = [(at[f"{s}_hip"], at[f"{s}_knee"], at[f"{s}_ankle"]) for s in ("left", "right")]
    length = np.mean([np.linalg.norm(hip - knee) + np.linalg.norm(knee - ankle) for hip, knee, ankle in legs])
    return at, float(length) / (0.491 * STATURE)


def _cones(parts: list[_Part]) -> Cones:
    start, end, first, last, colour = (np.array(column) for column in zip(*parts, strict=True))
    return Cones(start, end, np.stack([first, last], 1), colour)


def _unit(vector: Array) -> Array:
    normed: Array = vector / np.linalg.norm(vector)
    return normed


def _axes(left: Array, up: Array) -> tuple[Array, Array, Array]:
    """Orthogonal unit vectors forward, left and up; the left one has the given direction."""
    left = _unit(left)
    up = _unit(up - (up @ left) * left)
    return np.cross(left, up), left, up


def _trunk(at: dict[str, Array], look: Look, unit: float) -> list[_Part]:
    """Hips, two columns from them to the chest, shoulders, neck, trim and pack."""
    wide = unit * look.girth
    forward, left, up = _axes(at["left_hip"] - at["right_hip"], at["spine"] - at["pelvis"])
    hips = [at["pelvis"] + unit * (sign * 0.085 * left - 0.015 * forward) for sign in (1, -1)]
    parts = [(hips[0], hips[1], 0.1 * wide, 0.1 * wide, look.trousers)]
    front, across, high = _axes(at["left_shoulder"] - at["right_shoulder"], at["thorax"] - at["spine"])
    waist, chest = at["spine"] + 0.01 * unit * front, at["thorax"] - 0.10 * unit * high
    parts.append((waist, chest, 0.094 * wide, 0.1 * wide, look.shirt))
    for sign in (1, -1):
        flank = waist + sign * 0.05 * unit * across
        low = at["pelvis"] + unit * (sign * 0.055 * left + 0.06 * up)
        parts.append((low, flank, 0.098 * wide, 0.092 * wide, look.shirt))
        parts.append((flank, chest + sign * 0.07 * unit * across, 0.092 * wide, 0.098 * wide, look.shirt))
    ends = [at[f"{s}_shoulder"] - 0.02 * unit * (high + sign * across) for s, sign in (("left", 1), ("right", -1))]
    middle = at["thorax"] - 0.03 * unit * high
    parts += [(end, middle, 0.062 * wide, 0.07 * wide, look.shirt) for end in ends]
    nape = at["neck"] - 0.04 * unit * _unit(at["neck"] - at["thorax"])
    parts.append((at["thorax"] + 0.01 * unit * front, nape, 0.058 * unit, 0.05 * unit, look.skin))
    breast, belly = chest + 0.088 * wide * front, waist + 0.078 * wide * front
    if look.placket:
        collar = at["thorax"] + (0.03 * wide + 0.02 * unit) * front - 0.03 * unit * high
        parts += [(breast, belly, 0.026 * unit, 0.026 * unit, look.trim)]
        parts += [(breast, collar + 0.02 * wide * front, 0.026 * unit, 0.026 * unit, look.trim)]
    else:
        parts.append((breast - 0.01 * unit * high, breast - 0.05 * unit * high, 0.05 * unit, 0.04 * unit, look.trim))
    if look.pack:
        back = [p - (0.11 * wide + 0.03 * unit) * front for p in (chest + 0.03 * unit * high, waist)]
        side = 0.055 * unit * across
        parts += [
            (back[0] + sign * side, back[1] + sign * side, 0.07 * unit, 0.08 * unit, look.trim) for sign in (1, -1)
        ]
    return parts


def _head(at: dict[str, Array], look: Look, unit: float) -> list[_Part]:
    """Face, nose, eyes and hair; the joint named neck is at the height of the nose, slightly in front of the axis."""
    top = at["head"]
    front, left, up = _face_axes(at)

    def put(forward: float, down: float, aside: float = 0.0) -> Array:
        place: Array = top + unit * (forward * front - down * up + aside * left)
        return place

    parts: list[_Part] = [
        (put(0.028, 0.10), put(0.055, 0.19), 0.082 * unit, 0.046 * unit, look.skin),
        (put(0.112, 0.115), put(0.122, 0.138), 0.012 * unit, 0.018 * unit, look.skin),
        (put(-0.012, 0.080), put(-0.025, 0.130), 0.095 * unit, 0.080 * unit, look.hair),
    ]
    dark = np.full(3, 0.04)
    parts += [(put(0.101, 0.10, a), put(0.101, 0.10, a), 0.014 * unit, 0.014 * unit, dark) for a in (0.034, -0.034)]
    if look.long_hair:
        parts.append((put(-0.03, 0.10), put(-0.055, 0.24), 0.085 * unit, 0.06 * unit, look.hair))
    return parts


def _arm(at: dict[str, Array], look: Look, unit: float, side: str) -> list[_Part]:
    wide = unit * look.girth
    shoulder, elbow, wrist = (at[f"{side}_{name}"] for name in ("shoulder", "elbow", "wrist"))
    bare = look.sleeves is not None
    hand = wrist + 0.085 * unit * _unit(wrist - elbow)
    sleeve = look.shirt if not bare else look.skin
    parts: list[_Part] = [
        (shoulder, elbow, 0.052 * wide, 0.040 * wide, sleeve),
        (elbow, wrist, 0.040 * wide, 0.029 * wide, sleeve),
        (wrist, hand, 0.032 * unit, 0.036 * unit, look.skin),
    ]
    if look.sleeves is not None:
        hem = shoulder + look.sleeves * (elbow - shoulder)
        parts.append((shoulder, hem, 0.058 * wide, 0.054 * wide, look.shirt))
    return parts


def _leg(at: dict[str, Array], look: Look, unit: float, side: str) -> list[_Part]:
    """The foot points the same way as the knee, at a right angle to the shank, and does not enter the floor."""
    wide = unit * look.girth
    hip, knee, ankle = (at[f"{side}_{name}"] for name in ("hip", "knee", "ankle"))
    down = _unit(ankle - knee)
    bend = knee - (hip + ankle) / 2
    toes = _unit(bend - (bend @ down) * down)
    sole = ankle + 0.035 * unit * down
    foot = np.array([sole - 0.045 * unit * toes, sole + 0.15 * unit * toes])
    foot[:, 2] = np.maximum(foot[:, 2], 0.035 * unit)
    cover = look.trousers if look.legs is None else look.skin
    parts: list[_Part] = [
        (hip, knee, 0.080 * wide, 0.056 * wide, cover),
        (knee, ankle, 0.056 * wide, 0.040 * wide, cover),
        (ankle, foot[0], 0.042 * unit, 0.040 * unit, look.shoes),
        (foot[0], foot[1], 0.042 * unit, 0.036 * unit, look.shoes),
    ]
    if look.legs is not None:
        hem = hip + look.legs * (knee - hip)
        parts.append((hip, hem, 0.086 * wide, 0.078 * wide, look.trousers))
    return parts
