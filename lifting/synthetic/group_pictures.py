"""The embedded set in COCO's layout, generated from a seed: pictures of one to three people, with noses, eyes and ears.

::

    train/000000000001.jpg  val/...
    annotations/person_keypoints_train.json, person_keypoints_val.json
    annotations/person_detections_val.json      boxes as a detector finds them: shifted, doubled, missed, of nobody
    recipe.json                                 the checksum, seed and counts of the set

Whether a joint is seen follows from the depth buffer of the whole scene. As in COCO, hidden joints of the body have a
label as a rule, and those of the face have none. People, poses and cameras are none of the other embedded sets.
"""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lifting.command import write_json
from lifting.geometry import h36m
from lifting.geometry.skeleton import COCO17, H36M17
from lifting.synthetic import body_shape, making, rendering, scenery
from lifting.synthetic.rendering import Array, Cones, Single, View

SIZE = (320, 256)  # of a picture, pixels
SHARES = (0.55, 0.3, 0.15)  # of pictures with one, two, three people
APART = 0.75  # metres from one person to the next, about
ROOM = 1.0  # margin of `scenery.random_view`: people reach the border, and are not cut
SEED = 2000  # added to the seed for the people of this set
QUALITY = 92  # of the JPEG files
NEAR = {"face": 0.03, "body": 0.12}  # metres by which a joint may lie behind the surface that hides only itself
UNLABELLED = {"seen": 0.03, "hidden": 0.3}  # shares of joints of the body without a label
LEAST = 80  # pixels of a person that are seen, otherwise it has no keypoints
FACE = 5  # joints of COCO17 that belong to the face; they come first


class Shot(NamedTuple):
    """A picture to take."""

    file: Path
    people: list[Array]  # each (17, 3) metres
    key: tuple[int, ...]  # seed of the picture's own random generator


class Person(NamedTuple):
    """What is known of a person in a picture that is taken."""

    joints: Array  # (17, 2) pixels of COCO17
    flags: Array  # (17,) COCO's: 0 no label, 1 hidden, 2 seen
    box: Array  # (4,) x, y, width, height, of what is seen
    area: float  # square pixels that are seen


def group_folder(folder: Path = Path("data")) -> Path:
    """The cached set ``folder/rendered_coco``, made if it is missing or from another recipe."""
    counts = {"train": 3000, "val": 400}
    return making.cached(folder / "rendered_coco", __file__, counts, make_groups, "a minute")


def make_groups(folder: Path, *, seed: int = 0, train: int = 3000, val: int = 400, workers: int | None = None) -> None:
    """Writes the set, whole or not at all. The result does not depend on the number of workers.

    Args:
        folder: a new or empty folder, or one with a rendered set, which is replaced.
        train, val: numbers of pictures, of training and of test subjects; at least 1.
        workers: number of processes; by default one for each core.

    Raises:
        InputError: the folder contains something else, or a number is larger than that of the frames to choose from.
        OSError: a file could not be written.
    """
    making.check_replaceable(folder)
    counts = {"train": train, "val": val}
    rng = np.random.default_rng([seed, SEED])
    crowds = {split: 1 + rng.choice(len(SHARES), count, p=SHARES) for split, count in counts.items()}
    subjects = {"train": h36m.TRAIN_SUBJECTS, "val": h36m.TEST_SUBJECTS}
    cast = (seed + SEED, [(subjects[split], int(crowds[split].sum())) for split in counts])
    with making.whole_folder(folder) as temporary, making.processes(workers or os.cpu_count() or 1) as spread:
        poses = dict(zip(counts, next(iter(spread(making.some_poses, [cast], 1))), strict=True))
        (temporary / "annotations").mkdir()
        with tqdm(total=train + val, desc="rendered set", unit="picture", disable=None) as bar:
            for part, split in enumerate(counts):
                (temporary / split).mkdir()
                joints = [poses[split][i].joints for i in rng.permutation(len(poses[split]))]
                ends = np.cumsum(crowds[split])
                groups = [joints[end - n : end] for end, n in zip(ends.tolist(), crowds[split].tolist(), strict=True)]
                shots = [
                    Shot(temporary / split / f"{i + 1:012}.jpg", people, (seed, SEED, part, i))
                    for i, people in enumerate(groups)
                ]
                taken = making.counted(spread, bar, take, shots)
                _write(temporary / "annotations", split, shots, taken)
                if split == "val":
                    detections = _detections(np.random.default_rng([seed, SEED, 2]), taken)
                    (temporary / "annotations" / "person_detections_val.json").write_text(
                        json.dumps(detections), encoding="utf-8"
                    )
        write_json(temporary / "recipe.json", making.recipe(__file__, seed, counts))


def take(shot: Shot) -> list[Person]:
    """Renders people side by side, with random looks, light, camera and background, and writes the picture."""
    rng = np.random.default_rng(shot.key)
    people = [_placed(rng, joints, place) for place, joints in enumerate(shot.people)]
    figures = [body_shape.figure(joints, body_shape.random_look(rng), ears=True) for joints in people]
    cones = Cones(*(np.concatenate([getattr(f, name) for f in figures]) for name in Cones.__annotations__))
    owners = np.repeat(np.arange(len(people)), [len(f.start) for f in figures])
    light = scenery.random_light(rng)
    view = scenery.random_view(rng, cones, SIZE, ROOM, wild=True)
    drawn = rendering.draw(cones, view, light)
    picture = scenery.develop(rng, drawn, scenery.backdrop(rng, view, people[0], light, wild=True))
    encoded = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    shot.file.write_bytes(encoded.tobytes())
    depth, cone = rendering.depth_buffer(cones, view)
    whose = np.where(cone >= 0, owners[cone], -1)
    return [_known(rng, joints, view, depth, whose == number) for number, joints in enumerate(people)]


def _placed(rng: np.random.Generator, joints: Array, place: int) -> Array:
    """A person turned about the vertical, at the place-th place of a row."""
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    middle = np.array([*joints[0, :2], 0])
    where = np.array([APART * place, 0, 0]) + np.array([*rng.normal(0, 0.2, 2), 0])
    moved: Array = (joints - middle) @ turn.T + where
    return moved


def coco_joints(joints: Array) -> Array:
    """(17, 3) of `H36M17` -> (17, 3) of `COCO17`: the face as it is drawn, the other joints by name."""
    body = [joints[H36M17.joints.index(name)] for name in COCO17.joints[FACE:]]
    return np.concatenate([body_shape.face(joints), body])


def _known(rng: np.random.Generator, joints: Array, view: View, depth: Single, mine: NDArray[np.bool_]) -> Person:
    """What is known of a person, given the depth of the scene's surface and where it is this person's, both (H, W)."""
    at = coco_joints(joints)
    pixels, z = view.project(at), view.to_camera(at)[:, 2]
    column, row = (np.rint(pixels[:, axis]).astype(int) for axis in (0, 1))
    inside = (column >= 0) & (column < SIZE[0]) & (row >= 0) & (row < SIZE[1])
    surface = depth[np.clip(row, 0, SIZE[1] - 1), np.clip(column, 0, SIZE[0] - 1)]
    face = np.arange(len(at)) < FACE
    seen = inside & (z < surface + np.where(face, NEAR["face"], NEAR["body"]))
    left_out = rng.random(len(at)) < np.where(seen, UNLABELLED["seen"], np.where(face, 1.0, UNLABELLED["hidden"]))
    flags = np.where(~inside | left_out, 0, np.where(seen, 2, 1))
    rows, columns = np.nonzero(mine)
    if len(rows) < LEAST:
        return Person(pixels, np.zeros(len(at)), np.array([0, 0, 1, 1.0]), float(len(rows)))
    box = np.array([columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1], dtype=np.float64)
    return Person(pixels, flags, box, float(len(rows)))


def _write(folder: Path, split: str, shots: list[Shot], taken: list[list[Person]]) -> None:
    """The JSON of one split."""
    images = [
        {"id": i + 1, "file_name": shot.file.name, "width": SIZE[0], "height": SIZE[1]} for i, shot in enumerate(shots)
    ]
    annotations: list[dict[str, Any]] = []
    for i, people in enumerate(taken):
        for person in people:
            joints = np.where(person.flags[:, None] > 0, person.joints.round(1), 0)
            annotations.append({
                "id": len(annotations) + 1, "image_id": i + 1, "category_id": 1, "iscrowd": 0,
                "keypoints": np.column_stack([joints, person.flags]).ravel().tolist(),
                "num_keypoints": int((person.flags > 0).sum()),
                "bbox": person.box.tolist(), "area": person.area,
            })  # fmt: skip
    category = {"id": 1, "name": "person", "keypoints": list(COCO17.joints)}
    content = {"images": images, "annotations": annotations, "categories": [category]}
    (folder / f"person_keypoints_{split}.json").write_text(json.dumps(content), encoding="utf-8")


def _detections(rng: np.random.Generator, taken: list[list[Person]]) -> list[dict[str, Any]]:
    """Boxes as a detector finds them: sides and middles off by 5 %, a tenth found twice, a twentieth missed."""
    found = []
    for i, people in enumerate(taken):
        boxes = [person.box for person in people if person.flags.any()]
        boxes = [box for box in boxes if rng.random() >= 0.05]
        boxes += [box for box in boxes if rng.random() < 0.1]
        for box in boxes:
            off = np.concatenate([rng.normal(0, 0.05, 2) * box[2:], np.zeros(2)])
            scaled = np.concatenate([box[:2], box[2:] * np.exp(rng.normal(0, 0.05, 2))])
            found.append({"image_id": i + 1, "category_id": 1, "bbox": (scaled + off).round(2).tolist(),
                          "score": round(float(rng.beta(8, 2)), 4)})  # fmt: skip
        if rng.random() < 0.2:  # of nobody
            corner, sides = rng.uniform(0, 0.6, 2) * SIZE, rng.uniform(0.1, 0.4, 2) * SIZE
            found.append({"image_id": i + 1, "category_id": 1, "bbox": [*corner.round(2), *sides.round(2)],
                          "score": round(float(rng.beta(2, 8)), 4)})  # fmt: skip
    return found
