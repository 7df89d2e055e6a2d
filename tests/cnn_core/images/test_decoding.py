"""Every kind of image becomes upright 8-bit RGB, or is refused with its reason."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from cnn_core.images.decoding import BadImage, decode_rgb, pixels_sha256, read_file, read_picture
from tests.helpers.image_files import encoded, scene

RGB = scene(0)
PIXELS = np.asarray(RGB).astype(int)
GREY = np.asarray(RGB.convert("L")).astype(int)


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    undo = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 5: Image.Transpose.TRANSPOSE}
    return encoded(RGB.transpose(undo[orientation]), "PNG", exif=exif)


def clear(mode: str) -> Image.Image:
    """Transparent in its left half."""
    image = RGB.convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 24, 40))
    return image.convert(mode)


def palette(**options: object) -> bytes:
    flat = Image.new("P", (48, 40), 1)
    flat.putpalette([0, 0, 0, 200, 30, 40])
    flat.paste(0, (0, 0, 24, 40))
    return encoded(flat, **options)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int = 8, kind: int = 2, data: bytes = b"") -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


WHITE_LEFT = np.where(np.arange(48)[None, :, None] < 24, 255, PIXELS)
GREY_RIGHT = np.where(np.arange(48)[None, :, None] < 24, 255, GREY[..., None].repeat(3, axis=2))
RAMP = np.linspace(0, 65535, 48 * 40).astype(np.uint16).reshape(40, 48)
GREYS = np.rint(RAMP / 257)[..., None].repeat(3, axis=2)
KINDS = {
    "grey png": (encoded(RGB.convert("L")), GREY[..., None].repeat(3, axis=2), 0),
    "one bit": (encoded(RGB.convert("1")), np.asarray(RGB.convert("1").convert("RGB")), 0),
    "grey jpeg": (encoded(RGB.convert("L"), "JPEG", quality=95), GREY[..., None].repeat(3, axis=2), 12),
    "cmyk jpeg": (encoded(RGB.convert("CMYK"), "JPEG", quality=100), PIXELS, 16),
    "cmyk tiff": (encoded(RGB.convert("CMYK"), "TIFF"), PIXELS, 1),
    "rgba": (encoded(clear("RGBA")), WHITE_LEFT, 0),
    "grey and alpha": (
        encoded(clear("LA")),
        GREY_RIGHT,
        0,
    ),
    "webp": (encoded(RGB, "WEBP", lossless=True), PIXELS, 0),
    "bmp": (encoded(RGB, "BMP"), PIXELS, 0),
    "gif": (encoded(RGB.quantize(256), "GIF"), PIXELS, 80),
    "jpeg 2000": (encoded(RGB, "JPEG2000"), PIXELS, 0),
    "palette": (palette(), np.where(np.arange(48)[None, :, None] < 24, 0, [[[200, 30, 40]]]).repeat(40, 0), 0),
    "clear palette": (
        palette(transparency=0),
        np.where(np.arange(48)[None, :, None] < 24, 255, [[[200, 30, 40]]]).repeat(40, 0),
        0,
    ),
    "clear colour": (encoded(Image.new("RGB", (9, 9), (1, 2, 3)), transparency=(1, 2, 3)), np.full((9, 9, 3), 255), 0),
    "turned right": (turned(6), PIXELS, 0),
    "upside down": (turned(3), PIXELS, 0),
    "mirrored": (turned(5), PIXELS, 0),
    "16-bit grey": (encoded(Image.fromarray(RAMP)), GREYS, 1),
    "16-bit tiff": (encoded(Image.fromarray(RAMP), "TIFF"), GREYS, 1),
    "16-bit in 32": (encoded(Image.fromarray(RAMP.astype(np.int32)), "TIFF"), GREYS, 1),
    "floats": (encoded(Image.fromarray((RAMP / 65535).astype(np.float32)), "TIFF"), GREYS, 1),
    "16-bit rgb": (png(9, 8, 16, 2, (b"\0" + b"\x80\x11\x40\x22\xff\xff" * 9) * 8), [[[128, 64, 255]] * 9] * 8, 0),
}


@pytest.mark.parametrize(("data", "pixels", "tolerance"), KINDS.values(), ids=KINDS)
def test_any_image_becomes_upright_rgb(data, pixels, tolerance):
    found = read_picture(data)
    decoded = decode_rgb(found.image)
    assert decoded.dtype == np.uint8
    assert decoded.shape == np.shape(pixels) == (found.height, found.width, 3)
    assert np.abs(decoded.astype(int) - pixels).max() <= tolerance
    assert found.image == data, "nothing is written anew"
    assert found.sha256 == pixels_sha256(decoded)
    assert (found.thumbnail.dtype, found.thumbnail.shape) == (np.uint8, (32, 32))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_plain_files_keep_their_bytes(kind):
    exif = Image.Exif()
    exif[0x0112], exif[0x0110] = 1, "camera"
    for data in (encoded(RGB, kind), encoded(RGB, kind, exif=exif)):
        found = read_picture(data)
        assert found.image == data
        assert found.sha256 == pixels_sha256(decode_rgb(data))


TEN_BITS = np.linspace(0, 1023, 48 * 40).astype(np.uint16).reshape(40, 48)


@pytest.mark.parametrize(
    ("data", "largest"),
    [
        (encoded(Image.fromarray(TEN_BITS)), 1023),
        (encoded(Image.fromarray(TEN_BITS * 4)), 4095),
        (encoded(Image.fromarray(TEN_BITS * 4), "TIFF"), 4095),
        (encoded(Image.fromarray(TEN_BITS // 2), "TIFF", tiffinfo={281: 1023}), 1023),  # the file states its range
        (encoded(Image.fromarray(TEN_BITS // 5)), 255),
    ],
)
def test_fewer_than_16_bits_in_16_do_not_come_out_black(data, largest):
    picture = read_picture(data)
    values = np.asarray(Image.open(io.BytesIO(data))).astype(int)
    assert np.abs(decode_rgb(data)[..., 0] - values * 255 / largest).max() <= 1
    assert "16 bits" in picture.notes[0]


def test_the_first_of_several_pictures_is_read_and_told():
    others = {"append_images": [scene(1), scene(2)], "save_all": True}
    for kind in ("GIF", "PNG", "TIFF", "WEBP"):
        picture = read_picture(encoded(RGB, kind, **others))
        assert "first picture" in picture.notes[0]
        assert np.abs(decode_rgb(picture.image).astype(int) - PIXELS).mean() < 12
    assert read_picture(encoded(RGB, "MPO", **others)).notes == (), "a phone adds a map to each of its photographs"


@pytest.mark.parametrize(("kind", "name"), [("AVIF", ""), ("QOI", ""), ("TGA", ""), ("TGA", "old.TGA"), ("ICO", "")])
def test_formats_beyond_the_usual(kind, name):
    data = encoded(RGB.resize((48, 48)), kind)
    picture = read_picture(
        data.split(b"\0" * 8 + b"TRUEVISION")[0] if name else data, name
    )  # TGA of 1984 has no footer
    assert np.abs(decode_rgb(picture.image).astype(int) - np.asarray(RGB.resize((48, 48)))).mean() < 12


def jpeg_ends(progressive: bool) -> tuple[bytes, dict[str, bytes]]:
    jpeg = encoded(RGB, "JPEG", quality=90, progressive=progressive)
    return jpeg, {"no mark": jpeg[:-2], "half a mark": jpeg[:-1], "a row less": jpeg[:-60], "half": jpeg[:700]}


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_lacks_only_its_end_mark_is_read(progressive):
    whole, ends = jpeg_ends(progressive)
    for name in ("no mark", "half a mark"):
        assert read_picture(ends[name]).sha256 == read_picture(whole).sha256
    for name in ("a row less", "half"):
        with pytest.raises(BadImage, match="damaged image"):
            read_picture(ends[name])


class Counted(io.BytesIO):
    """A file that knows how far it was read."""

    furthest = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.furthest = max(self.furthest, self.tell())
        return data


def test_a_large_file_is_read_when_its_header_is_in_order_and_only_then():
    bomb = png(60_000, 1_000, data=bytes(1000)) + bytes(3 << 20)
    file = Counted(bomb)
    with pytest.raises(BadImage, match="60000x1000 pixels, more than 50,000,000"):
        read_file(file, len(bomb), "bomb.png")
    assert file.furthest < 1 << 16
    good = encoded(RGB, "BMP") + bytes(2 << 20)
    assert read_file(io.BytesIO(good), len(good), "good.bmp") == good
    with pytest.raises(BadImage, match="too many bytes"):
        read_file(io.BytesIO(b""), 500_000_000, "large.png")


def flipped(data: bytes) -> bytes:
    return data[:60] + bytes(byte ^ 255 for byte in data[60:160]) + data[160:]


BAD = {
    "zero bytes": (b"", "empty file", "0 bytes"),
    "text": (b"Thumbs, but not of a photograph", "not an image", "31 bytes that begin with"),
    "heic": (b"\0\0\0\x1cftypheic\0\0\0\0mif1heic" + bytes(400), "not an image", "HEIC photograph"),
    "git lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "not an image", "git lfs pull"),
    "html": (b"<html>404</html>" * 99, "not an image", "<html>40"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n", "not an image", "%!PS"),
    "half a jpeg": (encoded(RGB, "JPEG")[:700], "damaged image", "truncated"),
    "half a png": (encoded(RGB)[:700], "damaged image", "truncated"),
    "corrupt png": (flipped(encoded(RGB)), "damaged image", ""),
    "half a webp": (encoded(RGB, "WEBP")[:300], "damaged image", ""),
    "corrupt tiff": (flipped(encoded(RGB, "TIFF", compression="tiff_deflate")), "damaged image", ""),
    "head of a jpeg": (encoded(RGB, "JPEG")[:20], "not an image", ""),
    "bomb": (png(60_000, 1_000), "too many pixels", "60000x1000 pixels, more than 50,000,000"),
    "bigger bomb": (png(60_000, 2_000), "too many pixels", "60000x2000"),
    "huge bomb": (png(2**31 - 1, 2**31 - 1), "too many pixels", "decompression bomb"),
    "too small": (encoded(RGB.resize((300, 7))), "too small", "300x7 pixels, less than 8 on a side"),
    "one pixel": (encoded(RGB.resize((1, 1))), "too small", "1x1"),
    "a line": (encoded(RGB.resize((500, 20))), "too long and narrow", "500x20 pixels, more than 20:1"),
    "range": (
        encoded(Image.fromarray(np.full((9, 9), 1e6, np.float32)), "TIFF"),
        "pixel values of unknown range",
        "not in 0..1 or 0..255",
    ),
    "not a number": (
        encoded(Image.fromarray(np.full((9, 9), np.nan, np.float32)), "TIFF"),
        "pixel values of unknown range",
        "nan",
    ),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("data", "reason", "words"), BAD.values(), ids=BAD)
def test_a_bad_image_is_refused_with_its_reason(data, reason, words):
    with pytest.raises(BadImage) as caught:
        read_picture(data)
    assert caught.value.reason == reason
    assert words in caught.value.detail
    assert "\n" not in caught.value.detail


def test_a_bomb_is_never_decoded(monkeypatch):
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    with pytest.raises(BadImage, match="too many pixels"):
        read_picture(png(50_001, 1_000))


def test_unreadable_exif_turns_nothing():
    data = encoded(RGB, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\xff" * 40)
    assert read_picture(data).image == data
