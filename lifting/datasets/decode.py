"""Decodes pictures in any file format to 8-bit RGB, and refuses broken and gigantic ones."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from lifting.command import InputError

_LARGEST = 1 << 30  # bytes
SHRINKS = (1, 2, 4, 8)  # factors by which libjpeg can shrink a picture while it decodes
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_JPEG_END, _PNG_END = b"\xff\xd9", b"IEND\xaeB`\x82"
_REDUCED = {  # the bits of these flags that say how much; that pictures become RGB is another flag
    1: 0,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}


class BrokenPictureError(InputError):
    """A picture is missing or cannot be decoded."""


def read_file(path: Path) -> bytes:
    """The contents of a picture file.

    Raises:
        BrokenPictureError: it cannot be read, or is too large.
    """
    try:
        size = path.stat().st_size
        if not path.is_file() or size > _LARGEST:
            raise BrokenPictureError(f"{path}: expected a picture, got {size:,} bytes or no file")
        return path.read_bytes()
    except OSError as error:
        raise BrokenPictureError(f"{path}: expected a readable picture ({error.strerror})") from error
    except ValueError as error:
        raise BrokenPictureError(f"{path}: expected the name of a picture ({error})") from error


def decode(encoded: bytes, name: str, *, shrink: int = 1, upright: bool = False) -> NDArray[np.uint8]:
    """Decodes the contents of a picture file.

    Grey becomes three equal channels, 16-bit channels keep their upper eight bits, and transparency is dropped. A file
    that ends too early is refused, but not one with damage inside that the decoder can skip.

    Args:
        encoded: JPEG, PNG, TIFF, or any other format that OpenCV reads.
        name: the picture's name in errors.
        shrink: one of `SHRINKS`; the picture is shrunk as by `reduce`, for a JPEG at almost no cost.
        upright: whether to turn the picture as its EXIF data say. The labels of data sets refer to the stored pixels.

    Returns:
        (ceil(H / shrink), ceil(W / shrink), 3) RGB.

    Raises:
        BrokenPictureError: the contents are not a picture, not a whole one, or one of more than 2^27 pixels
            (``lifting/__init__.py`` says so to OpenCV).
    """
    if not encoded:
        raise BrokenPictureError(f"{name}: expected a picture, got an empty file")
    if not _is_whole(encoded):
        raise BrokenPictureError(f"{name}: expected a whole picture, got a file that ends too early")
    early = shrink if encoded.startswith(_JPEG) else 1
    flags = cv2.IMREAD_COLOR_RGB | _REDUCED[early] | (0 if upright else cv2.IMREAD_IGNORE_ORIENTATION)
    try:
        picture = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
    except cv2.error:
        picture = None
    if picture is None:
        raise BrokenPictureError(f"{name}: expected a picture, got {len(encoded):,} bytes that cannot be decoded")
    return reduce(np.asarray(picture, dtype=np.uint8), shrink // early)


def reduce(picture: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Averages squares of ``factor`` x ``factor`` pixels; a point at x moves to (x + 1/2) / factor - 1/2.

    Args:
        picture: (H, W, 3).

    Returns:
        (ceil(H / factor), ceil(W / factor), 3); squares that extend past the border repeat its pixels.
    """
    if factor == 1:
        return picture
    height, width = (-(-side // factor) for side in picture.shape[:2])
    below, right = height * factor - picture.shape[0], width * factor - picture.shape[1]
    if below or right:
        picture = np.pad(picture, ((0, below), (0, right), (0, 0)), "edge")
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _is_whole(encoded: bytes) -> bool:
    """Whether a JPEG or a PNG has its end marker; other formats are left to the decoder.

    The decoders do not check this: they may return the part that is there and leave the rest grey.
    """
    if encoded.startswith(_PNG):
        return encoded.rfind(_PNG_END) >= 0
    if encoded.startswith(_JPEG):
        return encoded.rfind(_JPEG_END, _scan_start(encoded)) >= 0
    return True


def _scan_start(encoded: bytes) -> int:
    """Where a JPEG's pixels begin; an end marker before that belongs to a thumbnail in the header."""
    at = 2
    while 0 <= at < len(encoded) - 3:
        marker = encoded[at + 1]
        if encoded[at] != 0xFF:
            at = encoded.find(b"\xff", at)
        elif marker == 0xDA:
            return at
        elif marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD9:  # a marker without a length
            at += 1 if marker == 0xFF else 2
        else:
            at += 2 + int.from_bytes(encoded[at + 2 : at + 4], "big")
    return len(encoded)
