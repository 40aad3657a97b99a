"""Finds the motion files of a source, which is a file, a folder or a zip, and reads their text into memory.

A zip is never unpacked to disk, so the names in it cannot lead out of a folder; and no more than `LARGEST` bytes of a
file in it are unpacked, whatever size the zip claims.
"""

import lzma
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from lifting.command import InputError, existing_file

LARGEST = 512 * 1024**2  # bytes of one motion file; an hour at 120 frames a second has less
DEPTH = 3  # a file lies at most this many names below the source


@dataclass(frozen=True)
class MotionFile:
    """One file.

    Attributes:
        stem: its name without folders and ending.
        folder: the name of the folder it is in, "" at the top of a zip.
        where: how messages call it.
        path: the file on disk: itself, or the zip that holds it.
        read: reads its bytes; InputError if it cannot be unpacked.
    """

    stem: str
    folder: str
    where: str
    path: Path
    read: Callable[[], bytes]

    def text(self) -> str:
        return self.read().decode("latin1")


def find_motion_files(source: Path, ending: str) -> list[MotionFile]:
    """All files of this ending (".bvh", in any case) in a folder or zip, or the single file, sorted by name.

    Raises:
        InputError: nothing is at ``source``, it is a broken zip, or it holds no such file.
    """
    if source.is_dir():
        found = [_on_disk(path) for path in _files(source) if path.suffix.lower() == ending]
    elif zipfile.is_zipfile(source):
        found = _in_zip(source, ending)
    else:
        found = [_on_disk(existing_file(source, "source"))]
    if not found:
        raise InputError(f"{source}: expected {ending} files at most {DEPTH} names below it, found none")
    return sorted(found, key=lambda file: (file.folder, file.stem))


def _files(folder: Path) -> list[Path]:
    patterns = ("/".join("*" * depth) for depth in range(1, DEPTH + 1))
    return [path for pattern in patterns for path in folder.glob(pattern) if path.is_file() and path.name[0] != "."]


def _on_disk(path: Path) -> MotionFile:
    return MotionFile(path.stem, path.absolute().parent.name, str(path), path, path.read_bytes)


def _in_zip(source: Path, ending: str) -> list[MotionFile]:
    found = []
    for member in members(source):
        path = PurePosixPath(member.filename.replace("\\", "/"))
        if path.suffix.lower() == ending and path.name[0] != "." and len(path.parts) <= DEPTH:
            where = f"{member.filename} in {source}"
            read = partial(zip_member, source, member, where)
            found.append(MotionFile(path.stem, path.parent.name, where, source, read))
    return found


def members(source: Path) -> list[zipfile.ZipInfo]:
    """What is in a zip; InputError if it is none."""
    try:
        with zipfile.ZipFile(source) as archive:
            return archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:  # a date, a name or a version that cannot be
        raise InputError(f"{source} is no zip file, or only a part of one ({error})") from error


def zip_member(source: Path, member: zipfile.ZipInfo, where: str) -> bytes:
    """A file in a zip; InputError, beginning with ``where``, if it is broken or unpacks to more than `LARGEST`."""
    try:
        with zipfile.ZipFile(source) as archive, archive.open(member) as file:
            content = file.read(LARGEST + 1)
    # The last four are what the decompressors and a place outside of the file raise.
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, zlib.error, lzma.LZMAError, ValueError, OSError,
            EOFError) as error:  # fmt: skip
        raise InputError(f"{where}: the zip is broken, encrypted or packed in a way not known ({error})") from error
    if len(content) > LARGEST:
        raise InputError(f"{where}: expected at most {LARGEST >> 20} MiB, it unpacks to more")
    return content
