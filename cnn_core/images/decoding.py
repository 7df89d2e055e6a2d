"""Decode any image file to RGB, or say why not. It may come from a camera or an attacker."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import IO

import numpy as np
from PIL import Image, ImageOps

from cnn_core.files import MAX_PIXELS

MAX_BYTES = 8 * MAX_PIXELS  # of a file: four channels of 16 bits without compression
MIN_SIDE = 8  # pixels
THUMBNAIL = 32  # pixels of the side of a thumbnail
MAX_ASPECT = 20  # longer side : shorter side
BACKGROUND = (255, 255, 255)  # behind whatever is transparent

EMPTY = "empty file"
NOT_AN_IMAGE = "not an image"
DAMAGED = "damaged image"
UNREADABLE = "cannot be read"
TOO_MANY_PIXELS = "too many pixels"
TOO_MANY_BYTES = "too many bytes"
TOO_SMALL = "too small"
TOO_NARROW = "too long and narrow"
UNKNOWN_RANGE = "pixel values of unknown range"
FIRST_OF_SEVERAL = "the first picture of an animated file or one with several pages"
FEWER_BITS = "values of 8 to 14 bits in a file of 16 bits, scaled by the smallest depth that holds them"

# A file with one of these endings is meant to be an image: when it is none, it is a bad one. Ultralytics' own, and what
# else Pillow or OpenCV read; a .gif counts as a video there.
ENDINGS = frozenset(
    "avif bmp dng heic heif jp2 jpeg jpg mpo png tif tiff webp jfif jpe j2k pbm pgm pnm ppm tga ico qoi".split()  # noqa: SIM905
)
# Formats that Pillow recognises by their first bytes and decodes itself. EPS is none: it would
# start Ghostscript.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF", "ICO", "QOI")
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # brands of an ISO media file
_TGA_END = b"TRUEVISION-XFILE.\0"  # TGA has no first bytes to be known by
_ORIENTATION = 0x0112  # EXIF; 1 is upright, 2-8 are turned or mirrored
_MAX_SAMPLE_VALUE = 281  # TIFF
_DEPTHS = (8, 10, 12, 14, 16)  # bits of cameras and scanners
_HEADER_FIRST = 1 << 20  # bytes: larger files are read only when their header is in order
_END_MARK = b"\xff\xd9"  # JPEG


class BadImage(Exception):  # noqa: N818
    """An image is refused: ``reason`` is one of a few texts, ``detail`` says more."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """An image file that `decode_rgb` decodes.

    Attributes:
        image: the file's own bytes (of a file that only its name makes an image, a PNG).
        sha256: `pixels_sha256` of the decoded pixels.
        thumbnail: uint8 (THUMBNAIL, THUMBNAIL), grey, by which near-duplicates are found.
        notes: what a person should know of how it was read.
    """

    image: bytes
    height: int
    width: int
    sha256: str
    thumbnail: np.ndarray
    notes: tuple[str, ...]


def read_picture(data: bytes, name: str = "") -> Picture:
    """Check, decode and hash an image file; ``name`` is needed for formats that only their ending tells.

    Raises:
        BadImage: empty, no image, damaged, cut short, too large, small or narrow, or of unknown range.
    """
    rgb, notes = _decode(data, name)
    nameless = name.lower().endswith(".tga") and not data.endswith(_TGA_END)  # nothing but its name tells what it is
    return Picture(
        image=encode_png(np.asarray(rgb)) if nameless else data,
        height=rgb.height,
        width=rgb.width,
        sha256=pixels_sha256(np.asarray(rgb)),
        thumbnail=np.asarray(rgb.convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)),
        notes=notes,
    )


def read_file(file: IO[bytes], size: int, name: str) -> bytes:
    """Read an image file of ``size`` bytes, the header first: what the limits refuse is not read into memory.

    Raises:
        BadImage: too many bytes, or a header that `decode_rgb` refuses.
    """
    if size > MAX_BYTES:
        raise BadImage(TOO_MANY_BYTES, f"{size:,} bytes, more than {MAX_BYTES:,}")
    if size > _HEADER_FIRST:
        with _opened(file, _formats(b"", name)) as image:
            _check_size(image.size)
        file.seek(0)
    return file.read(size)


def check_header(file: IO[bytes], size: int, name: str) -> bool:
    """Refuse a file of too many pixels or bytes, and say whether other decoders would take its values for 8 bits.

    Raises:
        BadImage: it has too many.
    """
    if size > MAX_BYTES:
        raise BadImage(TOO_MANY_BYTES, f"{size:,} bytes, more than {MAX_BYTES:,}")
    file.seek(0)
    try:
        with _opened(file, _formats(b"", name)) as image:
            if image.width * image.height > MAX_PIXELS:
                _check_size(image.size)
            return image.mode[0] in "IF"
    except BadImage as error:
        if error.reason == TOO_MANY_PIXELS:
            raise
        return False  # decoding it says what is wrong


def is_image_name(name: str) -> bool:
    return PurePath(name).suffix[1:].lower() in ENDINGS


def has_image_header(file: IO[bytes]) -> bool:
    """Whether a file that its name does not call an image begins like one."""
    try:
        with _opened(file, _FORMATS):
            return True
    except BadImage as error:
        return error.reason != NOT_AN_IMAGE


def decode_rgb(data: bytes, name: str = "") -> np.ndarray:
    """Decode any image file to uint8 (H, W, 3), upright by its EXIF, 16 bits scaled to 8, on `BACKGROUND`.

    Raises:
        BadImage: as `read_picture`.
    """
    return np.asarray(_decode(data, name)[0])


def decode_square(data: bytes, side: int, mode: str = "RGB", name: str = "") -> np.ndarray:
    """Decode an image file as networks take it, in training and later: uint8 (C, S, S), C = 1 for mode L, else 3.

    Args:
        side: S, that of its middle `square`; 0 = leave it (C, H, W) as it is.

    Raises:
        BadImage: as `read_picture`.
    """
    rgb = _decode(data, name)[0]
    picture = rgb if mode == "RGB" else rgb.convert(mode)
    pixels = np.asarray(square(picture, side) if side else picture)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def read_rgb(path: str | Path) -> np.ndarray:
    """Read an image file, the header first, and decode it as `decode_rgb` does; no file is a BadImage too."""
    try:
        with Path(path).open("rb") as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            return decode_rgb(read_file(file, size, str(path)), str(path))
    except OSError as error:
        raise BadImage(UNREADABLE, str(error.strerror)) from None


def _decode(data: bytes, name: str) -> tuple[Image.Image, tuple[str, ...]]:
    """Decode to mode RGB, with notes."""
    if not data:
        raise BadImage(EMPTY, "0 bytes")
    try:
        return _loaded(data, name)
    except BadImage as error:
        if error.reason == DAMAGED and (loaded := _without_end_mark(data)):
            return loaded
        raise


def _loaded(data: bytes, name: str) -> tuple[Image.Image, tuple[str, ...]]:
    with _opened(io.BytesIO(data), _formats(data, name)) as image:
        _check_size(image.size)
        several = image.format != "MPO" and getattr(image, "is_animated", False)  # phones add a map of depth or light
        image.load()
        rgb, fewer_bits = _to_rgb(image)
    return rgb, (FIRST_OF_SEVERAL,) * several + (FEWER_BITS,) * fewer_bits


@contextlib.contextmanager
def _opened(file: IO[bytes], formats: tuple[str, ...]) -> Iterator[Image.Image]:
    """Open an image and turn whatever Pillow raises inside the block into `BadImage`."""
    try:
        with Image.open(file, formats=formats) as image:
            yield image
    except (BadImage, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage(TOO_MANY_PIXELS, str(error)) from None
    except Image.UnidentifiedImageError:
        file.seek(0)
        raise BadImage(NOT_AN_IMAGE, _what_it_is(file.read(64), file.seek(0, io.SEEK_END))) from None
    except Exception as error:  # on damaged bytes, Pillow raises anything: OSError, SyntaxError, struct.error
        raise BadImage(DAMAGED, f"{type(error).__name__}: {' '.join(str(error).split())}") from None


def _formats(data: bytes, name: str) -> tuple[str, ...]:
    return (*_FORMATS, "TGA") if name.lower().endswith(".tga") or data.endswith(_TGA_END) else _FORMATS


def _what_it_is(head: bytes, size: int) -> str:
    if head[4:8] == b"ftyp" and head[8:12] in _HEIC:
        return "a HEIC photograph, which is not read: convert it to JPEG (phones can be set to take JPEG)"
    if head.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS: run `git lfs pull` to get the image"
    return f"{size:,} bytes that begin with {head[:8]!r}"


def _without_end_mark(data: bytes) -> tuple[Image.Image, tuple[str, ...]] | None:
    """Decode a JPEG that lacks its end mark alone; None if a row is missing, or it is something else.

    A decoder fills missing rows from whatever follows. So different continuations give the same pixels only if every
    row was there.
    """
    if data[:2] != b"\xff\xd8" or _END_MARK in data[-64:]:
        return None
    body = data.removesuffix(b"\xff")
    try:
        loaded, *others = (_loaded(body + more + _END_MARK, "") for more in (b"", b"\x55" * 64, b"\xaa" * 64))
    except BadImage:
        return None
    return loaded if all(other[0].tobytes() == loaded[0].tobytes() for other in others) else None


def _check_size(size: tuple[int, int]) -> None:
    width, height = size
    pixels = f"{width}x{height} pixels"
    if width * height > MAX_PIXELS:
        raise BadImage(TOO_MANY_PIXELS, f"{pixels}, more than {MAX_PIXELS:,} in all")
    if min(size) < MIN_SIDE:
        raise BadImage(TOO_SMALL, f"{pixels}, less than {MIN_SIDE} on a side")
    if max(size) > MAX_ASPECT * min(size):
        raise BadImage(TOO_NARROW, f"{pixels}, more than {MAX_ASPECT}:1")


def _to_rgb(image: Image.Image) -> tuple[Image.Image, bool]:
    """The image upright in mode RGB, and whether its values had fewer bits than the file holds."""
    upright, fewer_bits = (ImageOps.exif_transpose(image) if _is_turned(image) else image), False
    if upright.mode[0] in "IF":  # I, I;16, I;16B, F: Pillow's own conversion clips at 255
        stated = getattr(image, "tag_v2", {}).get(_MAX_SAMPLE_VALUE)
        values, fewer_bits = _scale(np.asarray(upright), upright.mode, stated)
        upright = Image.fromarray(values)
    if upright.has_transparency_data:
        ground = Image.new("RGBA", upright.size, (*BACKGROUND, 255))
        upright = Image.alpha_composite(ground, upright.convert("RGBA"))
    return upright.convert("RGB"), fewer_bits


def _is_turned(image: Image.Image) -> bool:
    try:
        return image.getexif().get(_ORIENTATION, 1) in range(2, 9)
    except Exception:  # the pixels are good even if the EXIF cannot be read; it then turns nothing
        return False


def _scale(values: np.ndarray, mode: str, stated: object) -> tuple[np.ndarray, bool]:
    """Scale grey of up to 16 bits, or floats in 0..1 or 0..255, to uint8, and say whether the 16 bits hold fewer.

    Cameras and scanners of 10 to 14 bits write 16 and rarely say so. Unless the file states its largest value, the
    depth is the smallest of `_DEPTHS` that holds the largest one.
    """
    low, high = values.min(), values.max()
    if mode == "F":
        if not (low >= 0 and high <= 255):  # a NaN included
            raise BadImage(UNKNOWN_RANGE, f"floats in {low}..{high}, not in 0..1 or 0..255")
        return np.rint(values * (255 if high <= 1 else 1)).astype(np.uint8), False
    if low < 0 or high > 65535:
        raise BadImage(UNKNOWN_RANGE, f"whole numbers in {low}..{high}, not in 0..65535")
    largest = next(2**bits - 1 for bits in _DEPTHS if high < 2**bits)
    if isinstance(stated, int) and max(high, 1) <= stated <= 65535:
        largest = stated
    return ((values.astype(np.uint32) * 255 + largest // 2) // largest).astype(np.uint8), largest < 65535


def square(picture: Image.Image, side: int) -> Image.Image:
    """Crop the largest middle square and resize it to ``side`` (area-aware when it shrinks)."""
    if picture.size == (side, side):
        return picture
    width, height = picture.size
    edge = min(width, height)
    left, upper = (width - edge) / 2, (height - edge) / 2
    return picture.resize(
        (side, side), Image.Resampling.BILINEAR, box=(left, upper, left + edge, upper + edge), reducing_gap=3.0
    )


def encode_png(pixels: np.ndarray) -> bytes:
    """Encode uint8 (H, W) or (H, W, 3) as PNG; the same pixels give the same bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def pixels_sha256(pixels: np.ndarray) -> str:
    """Hash an image's shape and pixels: equal pixels, equal hashes, whatever their encoding."""
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).tobytes())
    return digest.hexdigest()
