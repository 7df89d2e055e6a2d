"""Images for the page: each as a data URI, at the size that the page shows."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

FIGURE_WIDTH = 1200  # pixels; enough for a figure on a screen of twice the density
SCENE_SIDE = 320  # pixels; the longer side of a picture with objects
THUMBNAIL_SIDE = 112  # pixels; the longer side of an image in a gallery
LOSSLESS_SIDE = 64  # an image that is no larger stays as it is, without loss
QUALITY = 80


def data_uri(content: bytes, kind: str) -> str:
    """Return an encoded image as a data URI; ``kind`` is its format, such as ``png``."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def figure(path: Path) -> dict[str, Any] | None:
    """Return a picture of ``data/plots`` as ``{"src", "width", "height"}``; None where it is missing or empty."""
    if not path.is_file():
        return None
    with Image.open(path) as picture:
        if min(picture.size) < 2:  # the stage had nothing to draw
            return None
        reduced = picture.convert("RGB")
        reduced.thumbnail((FIGURE_WIDTH, 10 * FIGURE_WIDTH))
        return {"src": webp(reduced), "width": reduced.width, "height": reduced.height}


def thumbnail(content: bytes) -> str:
    """Return an encoded image for a gallery: a small one without loss as PNG, a larger one reduced."""
    with Image.open(io.BytesIO(content)) as picture:
        if max(picture.size) <= LOSSLESS_SIDE:
            return data_uri(png(picture), "png")
        reduced = picture.convert("RGB")
        reduced.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
        return webp(reduced)


def scene(path: Path, side: int = SCENE_SIDE) -> tuple[str, int, int]:
    """Return a picture as a data URI, and the width and height of its file, which boxes are measured in."""
    with Image.open(path) as picture:
        width, height = picture.size
        reduced = picture.convert("RGB")
    reduced.thumbnail((side, side))
    return webp(reduced), width, height


def painted(path: Path, masks: list[tuple[np.ndarray, tuple[int, int, int]]]) -> str:
    """Return a picture with masks, bool (H, W) of its size, laid over it in their colours, as a data URI."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"), np.float32).copy()
    for mask, colour in masks:
        pixels[mask] = 0.45 * pixels[mask] + 0.55 * np.array(colour, np.float32)
    reduced = Image.fromarray(pixels.astype(np.uint8))
    reduced.thumbnail((SCENE_SIDE, SCENE_SIDE))
    return webp(reduced)


def webp(picture: Image.Image) -> str:
    """Return a picture as a data URI, compressed with some loss."""
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=QUALITY, method=4)
    return data_uri(buffer.getvalue(), "webp")


def png(picture: Image.Image) -> bytes:
    """Return a picture encoded without loss."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
