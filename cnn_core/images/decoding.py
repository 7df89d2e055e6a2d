"""Decode any image file to RGB, or say why not. It may come from a camera or an attacker."""

from __future__ import annotations

import dataclasses
import hashlib
import io

import numpy as np
from PIL import Image, ImageOps

MAX_PIXELS = 50_000_000  # 0.15 GB as RGB; read from the header, so a decompression bomb is refused before it unpacks
MIN_SIDE = 8  # pixels
MAX_ASPECT = 20  # longer side : shorter side
BACKGROUND = (255, 255, 255)  # behind whatever is transparent
THUMBNAIL = (17, 16)  # width, height: each of 16 rows has 16 differences between neighbours

EMPTY = "empty file"
NOT_AN_IMAGE = "not an image"
DAMAGED = "damaged image"
TOO_MANY_PIXELS = "too many pixels"
TOO_SMALL = "too small"
TOO_NARROW = "too long and narrow"
UNKNOWN_RANGE = "pixel values of unknown range"

# Formats that Pillow recognises by their first bytes and decodes itself. EPS is none: it would
# start Ghostscript.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000")
_ORIENTATION = 0x0112  # EXIF; 1 is upright, 2-8 are turned or mirrored
_PNG_RGB8 = bytes([8, 2])  # bit depth and colour type in a PNG's header, bytes 24 and 25


class BadImage(Exception):  # noqa: N818
    """An image is refused: ``reason`` is one of a few texts, ``detail`` says more."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """An image as it is stored.

    Attributes:
        image: PNG or JPEG bytes that decode to 8-bit RGB, upright.
        sha256: `pixels_sha256` of the decoded pixels.
        thumbnail: uint8 (16, 17), grey, by which near-duplicates are found.
    """

    image: bytes
    height: int
    width: int
    sha256: str
    thumbnail: np.ndarray


def read_picture(data: bytes) -> Picture:
    """Check, decode and hash an image file. Plain 8-bit RGB JPEG and PNG files keep their bytes; others become PNG.

    Raises:
        BadImage: empty, no image, damaged, cut short, too large, small or narrow, or of unknown range.
    """
    rgb, plain = _decode(data)
    pixels = np.asarray(rgb)
    thumbnail = np.asarray(rgb.convert("L").resize(THUMBNAIL, Image.Resampling.BOX))
    return Picture(
        image=data if plain else encode_png(pixels),
        height=rgb.height,
        width=rgb.width,
        sha256=pixels_sha256(pixels),
        thumbnail=thumbnail,
    )


def decode_rgb(data: bytes) -> np.ndarray:
    """Decode any image file to uint8 (H, W, 3), upright by its EXIF, 16 bits scaled to 8, on `BACKGROUND`.

    Raises:
        BadImage: as `read_picture`.
    """
    return np.asarray(_decode(data)[0])


def _decode(data: bytes) -> tuple[Image.Image, bool]:
    """Decode to mode RGB, and tell whether ``data`` is already plain RGB that needs no change."""
    if not data:
        raise BadImage(EMPTY, "0 bytes")
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check_size(image.size)
            image.load()
            return _to_rgb(image, data)
    except (BadImage, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage(TOO_MANY_PIXELS, str(error)) from None
    except Image.UnidentifiedImageError:
        raise BadImage(NOT_AN_IMAGE, f"{len(data):,} bytes that begin with {data[:8]!r}") from None
    except Exception as error:  # on damaged bytes, Pillow raises anything: OSError, SyntaxError, struct.error
        raise BadImage(DAMAGED, f"{type(error).__name__}: {' '.join(str(error).split())}") from None


def _check_size(size: tuple[int, int]) -> None:
    width, height = size
    pixels = f"{width}x{height} pixels"
    if width * height > MAX_PIXELS:
        raise BadImage(TOO_MANY_PIXELS, f"{pixels}, more than {MAX_PIXELS:,} in all")
    if min(size) < MIN_SIDE:
        raise BadImage(TOO_SMALL, f"{pixels}, less than {MIN_SIDE} on a side")
    if max(size) > MAX_ASPECT * min(size):
        raise BadImage(TOO_NARROW, f"{pixels}, more than {MAX_ASPECT}:1")


def _to_rgb(image: Image.Image, data: bytes) -> tuple[Image.Image, bool]:
    turned = _is_turned(image)
    plain = (
        image.mode == "RGB"
        and not turned
        and "transparency" not in image.info
        and getattr(image, "n_frames", 1) == 1
        and (image.format == "JPEG" or (image.format == "PNG" and data[24:26] == _PNG_RGB8))
    )
    upright = ImageOps.exif_transpose(image) if turned else image
    if upright.mode[0] in "IF":  # I, I;16, I;16B, F: Pillow's own conversion clips at 255
        upright = Image.fromarray(_scale(np.asarray(upright), upright.mode))
    if upright.has_transparency_data:
        ground = Image.new("RGBA", upright.size, (*BACKGROUND, 255))
        upright = Image.alpha_composite(ground, upright.convert("RGBA"))
    return upright.convert("RGB"), plain


def _is_turned(image: Image.Image) -> bool:
    try:
        return image.getexif().get(_ORIENTATION, 1) in range(2, 9)
    except Exception:  # the pixels are good even if the EXIF cannot be read; it then turns nothing
        return False


def _scale(values: np.ndarray, mode: str) -> np.ndarray:
    """Scale grey of 16 bits, or floats in 0..1 or 0..255, to uint8. No range is guessed from an image's extremes."""
    low, high = values.min(), values.max()
    if mode == "F":
        if not (low >= 0 and high <= 255):  # a NaN included
            raise BadImage(UNKNOWN_RANGE, f"floats in {low}..{high}, not in 0..1 or 0..255")
        return np.rint(values * (255 if high <= 1 else 1)).astype(np.uint8)
    if low < 0 or high > 65535:
        raise BadImage(UNKNOWN_RANGE, f"whole numbers in {low}..{high}, not in 0..65535")
    return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


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
