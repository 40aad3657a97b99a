"""Which pictures a configuration of the single-stage track trains and tests on."""

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from lifting.command import InputError
from lifting.config import SingleStageConfig
from lifting.datasets.decode import decode
from lifting.datasets.image_index import read_encoded, read_index, write_index
from lifting.datasets.image_set import ImageSet, recordings_of, select
from lifting.datasets.recordings import refuse_shared
from lifting.datasets.store import checksum_of
from lifting.geometry.joint_maps import coco17_to_h36m18, h36m18_to_mpii16
from lifting.geometry.skeleton import COCO17, H36M18, MPII16, JointSet
from lifting.sources.image_readers import read_coco, read_h36m_images, read_mpii, wrong_s9

log = logging.getLogger(__name__)

# What data.path and data.flat_path may name in place of a file.
EMBEDDED = ("rendered", "rendered_mpii", "rendered_coco")


def training_sets(config: SingleStageConfig) -> tuple[ImageSet, ImageSet | None]:
    """The configured training pictures, with 3D labels for a 3D network, and those mixed in with their 2D labels only.

    Raises:
        InputError: a set does not have the parts, the labels or the joints that the configuration asks for.
    """
    data = config.data
    main = main_pictures(config, data.train_parts, data.stride)
    main = for_network(main, config)
    if data.flat_path is None:
        return main, None
    if data.flat_path in EMBEDDED and data.path not in EMBEDDED:
        raise InputError(f"data.flat_path: expected a file or null beside {data.path}, got {data.flat_path}")
    flat = chosen(load_index(data.flat_path, flat=True), data.flat_train_parts, data.flat_path)
    return main, with_joints(flat, main.joint_set, f"data.flat_path: {data.flat_path}")


def test_set(config: SingleStageConfig) -> ImageSet:
    """The configured test pictures, with 3D labels for a 3D network and without for a 2D network.

    Raises:
        InputError: a picture cannot be read. If ``data.on_broken`` is skip, it is left out with a warning instead.
    """
    return for_network(deep_test_set(config), config)


def deep_test_set(config: SingleStageConfig) -> ImageSet:
    """Like `test_set`, but keeps 3D labels for a 2D network too."""
    images = main_pictures(config, config.data.test_parts, config.data.test_stride)
    return readable(images, skip=config.data.on_broken == "skip")


def main_pictures(config: SingleStageConfig, parts: tuple[str, ...], stride: int) -> ImageSet:
    """Every ``stride``-th picture of these parts of ``data.path`` with all its people.

    Where no ids tell pictures apart, as on Human3.6M and MPII, it is every ``stride``-th person.

    Raises:
        InputError: the set does not have one of the parts; or, for a 3D network, it has no 3D labels; or nothing is
            left of them.
    """
    path = config.data.path
    images = chosen(load_index(path), parts, path)
    if config.model.dims == 3 and images.points is None:
        raise InputError(
            f"data.path: {path}: expected pictures with 3D labels, got only 2D labels; a 2D network has model.dims=2"
        )
    if config.data.drop_wrong_s9:
        images = select(images, ~wrong_s9(images))
    if not len(images):
        raise InputError(f"data.path: {path}: no picture of {', '.join(parts)} is left with data.drop_wrong_s9")
    if images.picture is None:
        return select(images, np.arange(0, len(images), stride))
    return select(images, np.isin(images.picture, np.unique(images.picture)[::stride]))


def for_network(images: ImageSet, config: SingleStageConfig) -> ImageSet:
    """The set with its 3D labels for a 3D network, without them for a 2D network."""
    return images if config.model.dims == 3 else replace(images, points=None, focal=None, center=None)


def flat_test_set(config: SingleStageConfig) -> ImageSet | None:
    """The configured test pictures with 2D labels and a known head size, or None if there are none."""
    data = config.data
    if data.flat_path is None:
        return None
    images = load_index(data.flat_path, flat=True)
    images = select(images, np.isin(images.part, data.flat_test_parts) & np.isfinite(images.head_size))
    if not len(images):
        log.info(f"no PCKh: no picture of {', '.join(data.flat_test_parts)} in {data.flat_path} has a known head size")
        return None
    return readable(images, skip=data.on_broken == "skip")


def with_joints(images: ImageSet, joint_set: JointSet, path: str) -> ImageSet:
    """The set with other joints, where there is a way to them.

    COCO's 17 become Human3.6M's 18, for mixing; those that COCO does not have get no label. The 18 become MPII's 16.

    Raises:
        InputError: there is no such way; the message gives ``path``.
    """
    if images.joint_set == joint_set:
        return images
    keypoints, labelled = torch.from_numpy(images.keypoints), torch.from_numpy(images.labelled)
    if (images.joint_set, joint_set) == (COCO17, H36M18):
        keypoints, labelled = coco17_to_h36m18(keypoints, labelled)
    elif (images.joint_set, joint_set) == (H36M18, MPII16) and images.points is None:
        keypoints, labelled = h36m18_to_mpii16(keypoints), h36m18_to_mpii16(labelled[..., None])[..., 0]
    else:
        raise InputError(f"{path}: expected the joints {joint_set.name}, got {images.joint_set.name}")
    return replace(images, keypoints=keypoints.numpy(), labelled=labelled.numpy(), joint_set=joint_set)


def readable(images: ImageSet, *, skip: bool) -> ImageSet:
    """The pictures that can be read.

    Every epoch ends with an evaluation of the test pictures, so they are checked before hours of training, not after.

    Raises:
        InputError: a picture cannot be read; with ``skip``, only if none can.
    """

    def problem(row: int) -> str:
        name = str(images.files[row])
        try:
            decode(read_encoded(images, row), name, shrink=8)
        except InputError as error:
            return str(error)
        return ""

    _, first_rows, of_file = np.unique(images.files, return_index=True, return_inverse=True)
    with ThreadPoolExecutor() as pool:
        problems = list(pool.map(problem, first_rows.tolist()))
    good = np.array([not text for text in problems], dtype=np.bool_)[of_file]
    if good.all():
        return images
    first = next(filter(None, problems))
    if not skip or not good.any():
        raise InputError(first)
    log.warning(f"{(~good).sum():,} of {len(images):,} test pictures cannot be read and are left out: {first}, ...")
    return select(images, good)


def refuse_trained_on(config: SingleStageConfig, test: ImageSet, flat: ImageSet | None) -> None:
    """Raises `InputError` if a test recording is also a training recording, unless ``data.overfit`` allows it."""
    for shared, path in [] if config.data.overfit else trained_on(config, test, flat):
        refuse_shared(shared, path)


def trained_on(config: SingleStageConfig, test: ImageSet, flat: ImageSet | None) -> list[tuple[list[str], str]]:
    """For each test set, its recordings whose names are also among the training recordings, and its path."""
    data = config.data
    sets = [(test, data.train_parts, data.path)]
    if flat is not None and data.flat_path is not None:
        sets.append((flat, data.flat_train_parts, data.flat_path))
    return [(recordings_of(images, parts), path) for images, parts, path in sets]


def load_index(path: str, *, flat: bool = False) -> ImageSet:
    """Reads an index file, or that of an embedded rendered set, which is made on first use."""
    return read_index(index_of(path, flat=flat))


def index_of(path: str, *, flat: bool = False) -> Path:
    """The file that ``data.path`` or, if ``flat``, ``data.flat_path`` names. That of an embedded set is made first."""
    if path not in EMBEDDED:
        return Path(path)
    from lifting.synthetic.group_pictures import group_folder  # with the parts of scipy that make motion
    from lifting.synthetic.pictures import rendered_folder

    if path == "rendered_coco":
        folder, name = group_folder(), "coco"
    else:
        folder, name = rendered_folder(), "mpii" if flat or path == "rendered_mpii" else "h36m"
    index = folder / f"{name}.h5"
    if not index.exists():
        if name == "coco":
            read = read_coco(folder, boxes=folder / "annotations" / "person_detections_val.json")
        else:
            read = (read_mpii if name == "mpii" else read_h36m_images)(folder / name)
        checksum = checksum_of(read.files)
        write_index(index, read.images, source=read.layout, checksum=checksum, truth=read.truth)
    return index


def chosen(images: ImageSet, parts: tuple[str, ...], path: str) -> ImageSet:
    """The pictures of these parts.

    Raises:
        InputError: there is no such part.
    """
    there = np.unique(images.part)
    for part in parts:
        if part not in there:
            raise InputError(f"{path}: expected parts from {', '.join(there)}, got {part!r}")
    return select(images, np.isin(images.part, parts))
