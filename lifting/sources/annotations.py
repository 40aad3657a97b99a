"""What readers of annotated pictures share: columns of JSON, whose mistakes are named, and where the pictures lie."""

from collections.abc import Iterator, Mapping, Sequence
from os.path import isfile  # which is False, and no OSError, for a name that cannot be
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lifting.command import InputError
from lifting.datasets.image_set import ImageSet

ABSURD = 1e15  # larger than any id, length or pixel


class Source(NamedTuple):
    """What a reader found.

    Attributes:
        images: the pictures and their labels; whether the files are there is `check_pictures`'s question.
        notes: what was decided or left out, a line each.
        layout: whose files they are, for people.
        files: the annotations that were read.
        truth: what `coco_truth.read_truth` is to return; None for other sets than COCO.
    """

    images: ImageSet
    notes: list[str]
    layout: str
    files: list[Path]
    truth: dict[str, Any] | None = None


def column(entries: Sequence[Any], key: str, shape: tuple[int, ...], where: str) -> NDArray[np.float64]:
    """What each entry has under ``key``, as (N, *shape).

    Raises:
        InputError: begins with ``where[row]`` and names the first entry that has no such key, no numbers under it, or
            numbers of another shape.
    """
    try:
        values = np.array([entry[key] for entry in entries], dtype=np.float64)
        if values.shape == (len(entries), *shape) and (np.abs(values) < ABSURD).all():
            return values
    except (KeyError, TypeError, ValueError, IndexError, OverflowError):
        pass
    row, problem = next((row, said) for row, entry in enumerate(entries) if (said := _problem(entry, key, shape)))
    expected = f"{key} of {' x '.join(map(str, shape))} numbers" if shape else f"a number for {key}"
    raise InputError(f"{where}[{row}]: expected {expected}, got {problem}")


def _problem(entry: Any, key: str, shape: tuple[int, ...]) -> str:
    if not isinstance(entry, Mapping) or key not in entry:
        return "none"
    try:
        value = np.asarray(entry[key], dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return repr(entry[key])[:40]
    if value.shape != shape:
        return " x ".join(map(str, value.shape)) or "one"
    return "" if (np.abs(value) < ABSURD).all() else "some that are not finite"


def texts(entries: Sequence[Any], key: str, where: str) -> NDArray[np.str_]:
    """What each entry has under ``key``; raises as `column`."""
    for row, entry in enumerate(entries):
        found = entry.get(key) if isinstance(entry, Mapping) else None
        if not isinstance(found, str):
            raise InputError(f"{where}[{row}]: expected a text for {key}, got {found!r:.40}")
    return np.array([entry[key] for entry in entries])


def lists(content: Any, path: Path) -> tuple[list[Any], list[Any]]:
    """The lists ``images`` and ``annotations`` of a JSON file in the style of COCO."""
    images, labels = (content.get(k) if isinstance(content, dict) else None for k in ("images", "annotations"))
    if not (isinstance(images, list) and isinstance(labels, list) and images and labels):
        raise InputError(f"{path}: expected lists of images and annotations, got {kind_of(content)}")
    return images, labels


def ids(entries: Sequence[Any], key: str, where: str) -> list[int]:
    """What each entry has under ``key``, a whole number; raises as `column`."""
    for row, (entry, number) in enumerate(zip(entries, column(entries, key, (), where), strict=True)):
        if isinstance(entry[key], str) or not number.is_integer():
            raise InputError(f"{where}[{row}]: expected a whole number for {key}, got {entry[key]!r:.40}")
    return [int(entry[key]) for entry in entries]


def by_id(images: Sequence[Any], path: Path) -> dict[int, int]:
    """Where each image stands, by its id; `InputError` for an id given twice, as where two files were joined."""
    numbers = ids(images, "id", f"{path}: images")
    rows = {number: row for row, number in enumerate(numbers)}
    for row, number in enumerate(numbers):
        if rows[number] != row:
            raise InputError(
                f"{path}: images[{rows[number]}]: expected another id, got {number}, that of images[{row}]"
            )
    return rows


def images_of(annotations: Sequence[Any], images: Sequence[Any], path: Path) -> list[Any]:
    """For each annotation the image that its ``image_id`` says."""
    known = by_id(images, path)
    asked = ids(annotations, "image_id", f"{path}: annotations")
    for row, number in enumerate(asked):
        if number not in known:
            raise InputError(f"{path}: annotations[{row}]: expected the id of an image, got {number}")
    return [images[known[number]] for number in asked]


def sizes(images: Sequence[Any], where: str) -> NDArray[np.float64]:
    """(N, 2) width, height."""
    return np.stack([column(images, key, (), where) for key in ("width", "height")], 1)


def kind_of(content: Any) -> str:
    """What a JSON file holds, for an error."""
    if isinstance(content, dict):
        return f"a dict of {', '.join(list(content)[:5]) or 'nothing'}"
    if isinstance(content, list):
        keys = ", ".join(list(content[0])[:5]) if content and isinstance(content[0], dict) else ""
        return f"a list of {len(content)} entries{keys and ' with '}{keys}"
    return f"a {type(content).__name__}"


def clipped(box: NDArray[np.float64], size: NDArray[np.float64]) -> NDArray[np.float64]:
    """Boxes (N, 4) as far as they lie between the middles of the outermost pixels of pictures of (N, 2) width, height.

    A box outside its picture gets a side of zero or less.
    """
    low = np.maximum(box[:, :2], 0)
    high = np.minimum(box[:, :2] + box[:, 2:], size - 1)
    return np.concatenate([low, high - low], 1)


def in_folder(
    names: NDArray[np.str_], images: Path | None, beside: Path, more: Sequence[Path] = ()
) -> NDArray[np.str_]:
    """Paths of pictures: in the folder that the user names, or in the usual one that has most of some of them.

    Args:
        names: as the annotations give them.
        images: the user's folder.
        beside: that of the annotations.
        more: further places to look in.
    """
    if images is not None and not images.is_dir():
        found = "a file" if images.exists() else "nothing"
        if images.suffix in (".zip", ".tar", ".lmdb", ".mdb"):
            found = f"a {images.suffix[1:]} file (unpack it into a folder first)"
        raise InputError(f"--images: expected a folder, found {found} at {images}")
    if images is not None and (images / "data.mdb").exists():
        raise InputError(f"--images: expected a folder of pictures, found an lmdb at {images} (unpack it first)")
    some = names[:: max(1, len(names) // 20)].tolist()
    places = [images] if images else [beside / "images", beside, beside.parent / "images", beside.parent, *more]
    folder = max(places, key=lambda place: sum(isfile(place / name) for name in some))
    return np.array([str(folder / name) for name in names.tolist()])


def check_pictures(images: ImageSet) -> None:
    """InputError unless every picture is a file; says how many are not, and which is the first."""
    files = dict.fromkeys(images.files.tolist())
    missing = [file for file in files if not isfile(file)]
    if missing:
        raise InputError(f"{len(missing):,} of {len(files):,} pictures are missing, the first is {missing[0]}")


def table(images: ImageSet) -> Iterator[str]:
    """Lines that say what there is of each part."""
    yield f"{'part':<8}{'pictures':>10}{'persons':>10}{'labelled joints':>17}"
    for part in dict.fromkeys(images.part.tolist()):
        rows = images.part == part
        pictures, joints = len(np.unique(images.files[rows])), images.labelled[rows].sum()
        yield f"{part:<8}{pictures:>10,}{rows.sum():>10,}{joints:>17,}"
