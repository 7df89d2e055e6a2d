"""Images for the page: each as a data URI, at the size that it is shown in."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDEST = 1200  # pixels; a figure on a screen of twice the density
THUMBNAIL = 112  # pixels; the longer side of an image in a gallery
SMALL = 64  # an image that is no larger stays as it is, without loss
QUALITY = 80


def data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def figure(path: Path, widest: int = WIDEST) -> dict[str, Any] | None:
    """A picture of ``data/plots`` as ``{"src", "width", "height"}``; None where it is missing or says nothing."""
    if not path.is_file():
        return None
    with Image.open(path) as picture:
        if min(picture.size) < 2:  # a stage that had nothing to draw
            return None
        shown = picture.convert("RGB")
        shown.thumbnail((widest, 10 * widest))
        return {"src": webp(shown), "width": shown.width, "height": shown.height}


def thumbnail(content: bytes, side: int = THUMBNAIL) -> str:
    """An encoded image in a gallery: a small one without loss as PNG, a larger one reduced to ``side``."""
    with Image.open(io.BytesIO(content)) as picture:
        if max(picture.size) <= SMALL:
            return data_uri(png(picture), "png")
        shown = picture.convert("RGB")
        shown.thumbnail((side, side))
        return webp(shown)


def scene(path: Path, widest: int = 320) -> tuple[str, int, int]:
    """A file with objects as data URI, with its own width and height: boxes are in its pixels."""
    with Image.open(path) as picture:
        width, height = picture.size
        shown = picture.convert("RGB")
    shown.thumbnail((widest, widest))
    return webp(shown), width, height


def webp(picture: Image.Image, quality: int = QUALITY) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=quality, method=4)
    return data_uri(buffer.getvalue(), "webp")


def png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def painted(path: Path, masks: list[tuple[np.ndarray, tuple[int, int, int]]], widest: int = 320) -> str:
    """A file with bool masks (H, W) of its size laid over in their colours, as data URI."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"), np.float32).copy()
    for mask, colour in masks:
        pixels[mask] = 0.45 * pixels[mask] + 0.55 * np.array(colour, np.float32)
    shown = Image.fromarray(pixels.astype(np.uint8))
    shown.thumbnail((widest, widest))
    return webp(shown)
