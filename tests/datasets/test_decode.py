"""Picture files of every kind become 8-bit RGB, at full size or shrunk, and broken ones are refused."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from lifting.command import InputError
from lifting.datasets.decode import SHRINKS, BrokenPictureError, decode, reduce


@pytest.mark.parametrize("ending", [".jpg", ".png", ".tif", ".bmp", ".webp"])
@pytest.mark.parametrize("shape", [(64, 48, 3), (61, 47, 3), (61, 47)], ids=str)
def test_every_format_and_shrink(ending: str, shape: tuple[int, ...]) -> None:
    ramp = np.add.outer(np.arange(shape[0]), 2 * np.arange(shape[1])).astype(np.uint8)
    picture = ramp if len(shape) == 2 else np.stack([ramp, 255 - ramp, ramp // 2], -1)
    bgr = picture if len(shape) == 2 else picture[..., ::-1]
    encoded = cv2.imencode(ending, bgr, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    whole = decode(encoded, "ramp")
    expected = np.broadcast_to(picture[..., None], (*shape, 3)) if len(shape) == 2 else picture
    assert np.abs(whole.astype(int) - expected).mean() < 3
    for shrink in SHRINKS:
        made = decode(encoded, "ramp", shrink=shrink)
        assert made.dtype == np.uint8 and made.shape == (-(-shape[0] // shrink), -(-shape[1] // shrink), 3)
        full = [side // shrink for side in shape[:2]]  # without the squares that extend past the border
        blocks = whole[: full[0] * shrink, : full[1] * shrink].reshape(full[0], shrink, full[1], shrink, 3)
        assert np.abs(made[: full[0], : full[1]] - blocks.mean((1, 3))).mean() < 2


def test_reduce_keeps_a_picture_as_it_is_and_repeats_its_border() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert reduce(picture, 1) is picture
    padded = picture[[0, 1, 2, 3, 4, 4]][:, [0, 1, 2, 3, 4, 5, 6, 6, 6]].astype(np.float64)
    expected = padded.reshape(2, 3, 3, 3, 3).mean((1, 3))
    assert np.abs(reduce(picture, 3) - expected).max() <= 0.51


@pytest.mark.parametrize("ending", [".jpg", ".png", ".tif", ".bmp", ".webp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_decoding_to_rgb_is_decoding_to_bgr_and_exchanging_them(ending: str, channels: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (61, 47, channels), dtype=np.uint8)
    encoded = cv2.imencode(ending, cv2.GaussianBlur(noise, (0, 0), 2))[1]
    reduced = (
        cv2.IMREAD_COLOR, cv2.IMREAD_REDUCED_COLOR_2, cv2.IMREAD_REDUCED_COLOR_4, cv2.IMREAD_REDUCED_COLOR_8,
    )  # fmt: skip
    for shrink, flag in zip(SHRINKS, reduced, strict=True):
        if ending == ".jpg" or shrink == 1:
            bgr = cv2.imdecode(encoded, flag)
            assert bgr is not None
            np.testing.assert_array_equal(decode(encoded.tobytes(), "noise", shrink=shrink), bgr[..., ::-1])


@pytest.mark.parametrize("ending", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_and_alpha(ending: str, channels: int) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (20, 30, channels), dtype=np.uint16)
    colours = np.broadcast_to(deep[..., :1], (20, 30, 3)) if channels == 1 else deep[..., :3]
    encoded = cv2.imencode(ending, deep)[1].tobytes()
    made = decode(encoded, "deep")
    assert np.abs(made[..., ::-1] - colours / 257).max() < 1
    for shrink in SHRINKS[1:]:
        np.testing.assert_array_equal(decode(encoded, "deep", shrink=shrink), reduce(made, shrink))


def test_transparency_is_dropped_and_not_mixed_in() -> None:
    picture = np.full((8, 8, 4), 90, np.uint8)
    picture[..., 3] = np.arange(8) * 30
    assert (decode(cv2.imencode(".png", picture)[1].tobytes(), "glass") == 90).all()


def with_orientation(encoded: bytes, orientation: int) -> bytes:
    """A JPEG with this EXIF orientation, as an APP1 segment right after its start."""
    entry = (0x0112).to_bytes(2, "big") + (3).to_bytes(2, "big") + (1).to_bytes(4, "big")
    directory = (1).to_bytes(2, "big") + entry + orientation.to_bytes(2, "big") + bytes(2) + bytes(4)
    content = b"Exif\0\0MM\0*" + (8).to_bytes(4, "big") + directory
    return encoded[:2] + b"\xff\xe1" + (len(content) + 2).to_bytes(2, "big") + content + encoded[2:]


def test_orientation_is_applied_only_on_request() -> None:
    picture = np.zeros((32, 48, 3), np.uint8)
    picture[:16, :16] = 255  # a white corner at the top left
    plain = cv2.imencode(".jpg", picture)[1].tobytes()
    turned = with_orientation(plain, 6)  # to be displayed rotated clockwise by a quarter turn
    for shrink in SHRINKS:
        stored = decode(turned, "turned", shrink=shrink)
        np.testing.assert_array_equal(stored, decode(plain, "plain", shrink=shrink))
    upright = decode(turned, "turned", upright=True)
    assert upright.shape == (48, 32, 3)
    np.testing.assert_array_equal(upright, np.rot90(decode(plain, "plain"), -1))
    np.testing.assert_array_equal(decode(plain, "plain", upright=True), decode(plain, "plain"))


def sample_picture(ending: str, *flags: int) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    return bytes(cv2.imencode(ending, noise, flags)[1].tobytes())


def cut(encoded: bytes) -> bytes:
    return encoded[: len(encoded) // 2]


def thumbnail_within(encoded: bytes) -> bytes:
    """Adds an APP1 segment that holds a whole small JPEG with its own end marker."""
    small = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    return encoded[:2] + b"\xff\xe1" + (len(small) + 2).to_bytes(2, "big") + small + encoded[2:]


BROKEN: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "got an empty file"),
    "text": (lambda: b"not a picture", "got 13 bytes that cannot be decoded"),
    "jpeg": (lambda: cut(sample_picture(".jpg")), "ends too early"),
    "progressive": (lambda: cut(sample_picture(".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1)), "ends too early"),
    "jpeg without its last byte": (lambda: sample_picture(".jpg")[:-1], "ends too early"),
    "jpeg of zeros from the middle on": (lambda: cut(sample_picture(".jpg")).ljust(9000, b"\0"), "ends too early"),
    "jpeg with a thumbnail": (lambda: cut(thumbnail_within(sample_picture(".jpg"))), "ends too early"),
    "start of a jpeg": (lambda: sample_picture(".jpg")[:3], "ends too early"),
    "header of a jpeg": (lambda: sample_picture(".jpg")[:200], "ends too early"),
    "png": (lambda: cut(sample_picture(".png")), "ends too early"),
    "jpeg of nothing": (lambda: b"\xff\xd8\xff\xda\xff\xd9", "cannot be decoded"),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("shrink", [1, 4])
def test_broken_pictures_are_named(kind: str, shrink: int, capfd: pytest.CaptureFixture[str]) -> None:
    make, message = BROKEN[kind]
    with pytest.raises(BrokenPictureError) as refusal:
        decode(make(), "somewhere/one.jpg", shrink=shrink)
    assert str(refusal.value).startswith("somewhere/one.jpg: expected a ")
    assert message in str(refusal.value)
    assert isinstance(refusal.value, InputError)
    assert capfd.readouterr().err == ""


def test_whole_jpegs_with_more_than_a_picture_are_read() -> None:
    plain = sample_picture(".jpg")
    expected = decode(plain, "plain")
    for other in (thumbnail_within(plain), plain + b"padding" * 100, plain[:2] + b"\xff\xff" + plain[3:]):
        np.testing.assert_array_equal(decode(other, "other"), expected)
    progressive = decode(sample_picture(".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1), "progressive")
    np.testing.assert_array_equal(progressive, expected)
