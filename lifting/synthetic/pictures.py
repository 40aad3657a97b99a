"""The embedded set of pictures, generated from a seed: rendered people with 3D labels, and others with 2D labels.

The poses are those of `poses`, the bodies those of `body_shape`, and the files have the layout of the real ones::

    h36m/images/s_01_act_02_subact_01_ca_01/s_01_act_02_subact_01_ca_01_000001.jpg
    h36m/annotations/Sample_rendered_Human36M_protocol_2.json         as the code released with RLE reads them
    mpii/images/000000001.jpg
    mpii/annot/train.json, valid.json, gt_valid.mat                    as HRNet's code reads them
    recipe.json                                                        the checksum, seed and counts of the set

The two sets share neither people nor poses. They contain no recorded motion and no photographs.
"""

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from einops import rearrange
from scipy.io import savemat
from tqdm import tqdm

from lifting.command import write_json
from lifting.geometry import h36m
from lifting.geometry.joint_maps import h36m17_to_h36m18, h36m18_to_mpii16
from lifting.synthetic import body_shape, making, rendering, scenery
from lifting.synthetic.making import Pose
from lifting.synthetic.rendering import Array, View

MPII_JOINTS = (
    "rank", "rkne", "rhip", "lhip", "lkne", "lank", "pelv", "thor",
    "neck", "head", "rwri", "relb", "rsho", "lsho", "lelb", "lwri",
)  # fmt: skip
SOLID_SIZE, FLAT_SIZE = (256, 256), (288, 256)  # pictures of the 3D and of the 2D set, pixels
BOX_MARGIN = 1.1  # side of a box over the longer side of the person
UNLABELLED = 0.05  # share of the joints of the 2D set that have no label
QUALITY = 92  # of the JPEG files
FLAT_SEED = 1000  # added to the seed for the people of the 2D set


class Shot(NamedTuple):
    """A picture to take."""

    file: Path
    joints: Array  # (17, 3) metres
    key: tuple[int, ...]  # seed of the picture's own random generator
    wild: bool  # more varied cameras and backgrounds


class Taken(NamedTuple):
    """What is known of a picture once it is taken; boxes are x, y, width, height in pixels."""

    view: View
    box: Array  # (4,) of the person
    head: Array  # (4,)


def rendered_folder(folder: Path = Path("data")) -> Path:
    """The cached set ``folder/rendered``, made if it is missing or from another recipe."""
    counts = {"train": 5000, "test": 800, "flat_train": 4000, "flat_valid": 500}
    return making.cached(folder / "rendered", __file__, counts, make_rendered, "a minute or two")


def make_rendered(
    folder: Path,
    *,
    seed: int = 0,
    train: int = 5000,
    test: int = 800,
    flat_train: int = 4000,
    flat_valid: int = 500,
    workers: int | None = None,
) -> None:
    """Writes both sets, whole or not at all. The result does not depend on the number of workers.

    Args:
        folder: a new or empty folder, or one with a rendered set, which is replaced.
        train, test: numbers of pictures with 3D labels, of training and of test subjects; at least 1.
        flat_train, flat_valid: numbers of pictures with 2D labels; at least 2 and 1.
        workers: number of processes; by default one for each core.

    Raises:
        InputError: the folder contains something else, or a number is larger than that of the frames to choose from.
        OSError: a file could not be written.
    """
    making.check_replaceable(folder)
    counts = {"train": train, "test": test, "flat_train": flat_train, "flat_valid": flat_valid}
    half = flat_train // 2
    casts = [
        (seed, [(h36m.TRAIN_SUBJECTS, train), (h36m.TEST_SUBJECTS, test)]),
        (seed + FLAT_SEED, [(h36m.TRAIN_SUBJECTS, half), (h36m.TEST_SUBJECTS, flat_valid)]),
        (seed + FLAT_SEED + 1, [(h36m.SUBJECTS, flat_train - half)]),
    ]
    with making.whole_folder(folder) as temporary, making.processes(workers or os.cpu_count() or 1) as spread:
        (solid_train, solid_test), (flat_first, flat_test), (flat_second,) = spread(making.some_poses, casts, 1)
        with tqdm(total=sum(counts.values()), desc="rendered set", unit="picture", disable=None) as bar:
            takes = partial(making.counted, spread, bar, take)
            _write_solid(temporary / "h36m", solid_train + solid_test, seed, takes)
            _write_flat(temporary / "mpii", "train", flat_first + flat_second, seed, takes)
            _write_flat(temporary / "mpii", "valid", flat_test, seed, takes)
        write_json(temporary / "recipe.json", making.recipe(__file__, seed, counts))


def take(shot: Shot) -> Taken:
    """Renders a person in this pose, with random look, light, camera and background, and writes the picture."""
    rng = np.random.default_rng(shot.key)
    look = body_shape.random_look(rng)
    cones, light = body_shape.figure(shot.joints, look), scenery.random_light(rng)
    size = FLAT_SIZE if shot.wild else SOLID_SIZE
    view = scenery.random_view(rng, cones, size, BOX_MARGIN, shot.wild)
    drawn = rendering.draw(cones, view, light)
    picture = scenery.develop(rng, drawn, scenery.backdrop(rng, view, shot.joints, light, shot.wild))
    encoded = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    shot.file.write_bytes(encoded.tobytes())
    there = np.nonzero(drawn.coverage > 0.5)[::-1]
    low, high = (np.array([bound(axis) for axis in there], float) for bound in (np.min, np.max))
    top, bottom = (body_shape.head(shot.joints, look).bounds(view)[i] for i in (0, 1))
    return Taken(view, np.concatenate([low, high - low]), np.concatenate([top.min(0), bottom.max(0) - top.min(0)]))


def _write_solid(folder: Path, poses: list[Pose], seed: int, takes: Callable[[list[Shot]], list[Taken]]) -> None:
    """Writes pictures and the JSON of the set with 3D labels; its translations t are camera centres: R (X - t)."""
    cameras = np.random.default_rng([seed, 0]).integers(1, 5, len(poses)).tolist()
    shots, images = [], []
    for i, (pose, ca) in enumerate(zip(poses, cameras, strict=True)):
        act = h36m.ACTIONS.index(h36m.action_of(pose.sequence)) + h36m.FIRST_ACTION
        again = 1 if pose.sequence in h36m.ACTIONS else 2  # the second sequence of an action is sub-action 2
        name = f"s_{int(pose.subject[1:]):02}_act_{act:02}_subact_{again:02}_ca_{ca:02}"
        file = f"{name}/{name}_{pose.frame + 1:06}.jpg"
        (folder / "images" / name).mkdir(parents=True, exist_ok=True)
        shots.append(Shot(folder / "images" / file, pose.joints, (seed, 0, i), wild=False))
        images.append({"id": i, "file_name": file, "width": SOLID_SIZE[0], "height": SOLID_SIZE[1]})
    annotations = []
    for i, (pose, taken) in enumerate(zip(poses, takes(shots), strict=True)):
        view = taken.view
        side = BOX_MARGIN * taken.box[2:].max()
        annotations.append({
            "id": i, "image_id": i,
            "bbox": [*(taken.box[:2] + (taken.box[2:] - side) / 2).round(2).tolist(), *[round(float(side), 2)] * 2],
            "keypoints_world": (1000 * pose.joints).round(3).tolist(),
            "cam_param": {
                "R": view.R.tolist(), "t": (1000 * view.position).tolist(),
                "f": [view.focal, view.focal], "c": view.center.tolist(),
            },
        })  # fmt: skip
    path = folder / "annotations" / "Sample_rendered_Human36M_protocol_2.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"images": images, "annotations": annotations}), encoding="utf-8")


def _write_flat(
    folder: Path, split: str, poses: list[Pose], seed: int, takes: Callable[[list[Shot]], list[Taken]]
) -> None:
    """Writes pictures and the JSON of one split of the set with 2D labels, in pixels that count from one (MATLAB)."""
    part = 1 if split == "train" else 2
    for name in ("images", "annot"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    files = [folder / "images" / f"{part}{i:08}.jpg" for i in range(len(poses))]
    shots = [Shot(file, poses[i].joints, (seed, part, i), wild=True) for i, file in enumerate(files)]
    rng = np.random.default_rng([seed, part])
    entries, heads = [], []
    for shot, taken in zip(shots, takes(shots), strict=True):
        eighteen = h36m17_to_h36m18(torch.from_numpy(taken.view.project(shot.joints)))
        visible = rng.random(len(MPII_JOINTS)) >= UNLABELLED
        joints = np.where(visible[:, None], h36m18_to_mpii16(eighteen).numpy() + 1, -1)
        scale = float(taken.box[2:].max()) / 200
        center = taken.box[:2] + taken.box[2:] / 2 + 1 - [0, 15 * scale]  # HRNet's code moves it down again
        entries.append({
            "image": shot.file.name, "center": center.round(4).tolist(), "scale": round(scale, 6),
            "joints": joints.round(4).tolist(), "joints_vis": visible.astype(int).tolist(),
        })  # fmt: skip
        heads.append(np.stack([taken.head[:2], taken.head[:2] + taken.head[2:]]) + 1)
    (folder / "annot" / f"{split}.json").write_text(json.dumps(entries), encoding="utf-8")
    if split == "valid":
        visible = np.array([entry["joints_vis"] for entry in entries])
        points = np.array([entry["joints"] for entry in entries]) * visible[..., None]
        savemat(folder / "annot" / "gt_valid.mat", {
            "headboxes_src": rearrange(heads, "n corner xy -> corner xy n"),
            "jnt_missing": rearrange(1.0 - visible, "n joint -> joint n"),
            "pos_gt_src": rearrange(points, "n joint xy -> joint xy n"),
            "dataset_joints": np.array([MPII_JOINTS], dtype=object),
        })  # fmt: skip
