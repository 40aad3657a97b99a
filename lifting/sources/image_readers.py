"""Human3.6M, MPII and COCO with their pictures, in whichever files people hold them."""

import logging
from pathlib import Path

from lifting.command import InputError
from lifting.datasets.image_index import write_index
from lifting.datasets.image_packing import pack
from lifting.datasets.store import checksum_of
from lifting.sources.annotations import Source, check_pictures, table
from lifting.sources.coco_images import read_keypoints
from lifting.sources.h36m_images import read_posenet, read_rle, wrong_s9
from lifting.sources.mpii_images import read_persons

__all__ = [
    "Source",
    "check_pictures",
    "read_coco",
    "read_h36m_images",
    "read_mpii",
    "table",
    "write_source",
    "wrong_s9",
]

log = logging.getLogger(__name__)

POSENET_FILES = "Human36M_subject*_data.json"
RLE_FILES = "Sample_*Human36M*.json"
COCO_FILES = "person_keypoints_*.json"
MPII_FILES = ("train.json", "valid.json", "annot_mpii.json")

_FOLDERS = ("", "annot", "annotations")  # where annotations lie below what people name


def read_h36m_images(source: Path, images: Path | None = None, every: tuple[int, int] = (1, 1)) -> Source:
    """The annotated pictures of Human3.6M in PoseNet's files or in RLE's; see `h36m_images`.

    Args:
        source: a file of annotations, or the folder with them or above them.
        images: the folder of the pictures; without it, ``images`` in the folder of the annotations or beside that.
        every: takes only frames whose number is a multiple of the first, those of S9 and S11 of the second.

    Raises:
        InputError: none of these files, or something in them that is missing or cannot be.
    """
    if source.is_file():
        posenet = [source] if source.match(POSENET_FILES) else []
        rle = [] if posenet else [source]
    else:
        posenet, rle = _find(source, POSENET_FILES), _find(source, RLE_FILES)
    if posenet and rle:
        raise InputError(f"{source}: expected one layout, got {posenet[0].name} and {rle[0].name}; name a file")
    if not posenet and not rle:
        raise InputError(f"{source}: expected {POSENET_FILES} or {RLE_FILES}, found none of them")
    return read_posenet(posenet, images, every) if posenet else read_rle(rle, images, every)


def read_mpii(source: Path, images: Path | None = None) -> Source:
    """Every labelled person of MPII in HRNet's files or in a COCO-style dict; see `mpii_images`.

    Args and raises as above; pictures may also lie in the folder of the annotations or above it.
    """
    paths = [source] if source.is_file() else [path for name in MPII_FILES for path in _find(source, name)]
    if not paths:
        raise InputError(f"{source}: expected one of {', '.join(MPII_FILES)}, found none of them")
    if len(paths) > 1 and any(path.name == MPII_FILES[-1] for path in paths):
        raise InputError(f"{source}: expected one layout, got {paths[0].name} and {paths[-1].name}; name one of them")
    return read_persons(paths, images)


def read_coco(source: Path, images: Path | None = None, boxes: Path | None = None) -> Source:
    """Every labelled person of COCO's person keypoints; see `coco_images`.

    Args:
        source: a file of annotations, or the folder with ``person_keypoints_*.json`` or above it.
        images: the folder of the pictures, or the one above ``train2017`` and ``val2017``.
        boxes: a detector's people on the pictures to test on.

    Raises as above.
    """
    paths = [source] if source.is_file() else _find(source, COCO_FILES)
    if not paths:
        raise InputError(f"{source}: expected {COCO_FILES}, found none of them")
    return read_keypoints(paths, images, boxes)


def write_source(path: Path, found: Source, title: str, packed: bool) -> None:
    """Writes what a reader found, with its pictures (`image_packing.pack`) or without, and says what it noted.

    Raises:
        InputError: a picture is missing, and what `image_packing.pack` and `image_index.write_index` raise.
    """
    check_pictures(found.images)
    write = pack if packed else write_index
    write(path, found.images, source=title, checksum=checksum_of(found.files), truth=found.truth)
    for note in found.notes:
        log.info(note)


def _find(folder: Path, pattern: str) -> list[Path]:
    """Files of the first of the usual folders that has any, those with numbers in the order of these."""
    for below in _FOLDERS:
        found = sorted((folder / below).glob(pattern), key=lambda path: (len(path.name), path.name))
        if found:
            return found
    return []
