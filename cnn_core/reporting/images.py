"""Images for the page: each as a data URI, at the size that the page shows, and the truth about them."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cnn_core.annotations.tables import Annotations
from cnn_core.annotations.truth import measured_truth
from cnn_core.images.decoding import decode_rgb
from cnn_core.images.reader import read_image

FIGURE_WIDTH = 1200  # pixels; enough for a figure on a screen of twice the density
SCENE_SIDE = 320  # pixels; the longer side of a picture with objects
THUMBNAIL_SIDE = 112  # pixels; the longer side of an image in a gallery
LOSSLESS_SIDE = 64  # an image that is no larger stays as it is, without loss
QUALITY = 80
NOTHING = "nothing-left-out.csv"  # of which there is none


def measured_split(root: Path, params: Mapping[str, Any], *, left_out: str = NOTHING) -> Annotations | None:
    """The split that ``params`` name (``source``, ``split``), with its images' paths; None where it is not there.

    Args:
        left_out: the CSV of images that the evaluation left out.
    """
    source = root / str(params.get("source", ""))
    if "source" not in params or not source.exists():
        return None
    images, truth, classes = measured_truth(root, params["source"], params["split"], left_out)
    return images.assign(file=[str(locate(root, file)) for file in images["file"]]), truth, classes


def locate(root: Path, file: str) -> Path:
    """The path of a file whose name is relative to the working directory or else to ``root``."""
    path = Path(file)
    return path if path.exists() else root / path


def data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def figure(path: Path) -> dict[str, Any] | None:
    """Return a picture of ``data/plots`` as ``{"src", "width", "height"}``; None where it is missing or empty."""
    if not path.is_file():
        return None
    picture = open_picture(path)
    if min(picture.size) < 2:  # the stage had nothing to draw
        return None
    picture.thumbnail((FIGURE_WIDTH, 10 * FIGURE_WIDTH))
    return {"src": webp(picture), "width": picture.width, "height": picture.height}


def open_picture(path: Path) -> Image.Image:
    """Open an image file as the stages read it, RGB and upright; the limits of `read_image` hold."""
    return Image.fromarray(read_image(path)[..., ::-1])


def thumbnail(content: bytes) -> str:
    """Return an encoded image for a gallery: a small one without loss as PNG, a larger one reduced."""
    picture = Image.fromarray(decode_rgb(content))
    if max(picture.size) <= LOSSLESS_SIDE:
        return data_uri(png(picture), "png")
    picture.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    return webp(picture)


def scene(path: Path, side: int = SCENE_SIDE) -> tuple[str, int, int]:
    """Return a picture as a data URI, and its width and height when upright, which boxes are measured in."""
    picture = open_picture(path)
    width, height = picture.size
    picture.thumbnail((side, side))
    return webp(picture), width, height


def painted(path: Path, masks: list[tuple[np.ndarray, tuple[int, int, int]]]) -> str:
    """Return a picture with masks, bool (H, W) of its size, laid over it in their colours, as a data URI."""
    pixels = np.array(open_picture(path), np.float32)
    for mask, colour in masks:
        pixels[mask] = 0.45 * pixels[mask] + 0.55 * np.array(colour, np.float32)
    reduced = Image.fromarray(pixels.astype(np.uint8))
    reduced.thumbnail((SCENE_SIDE, SCENE_SIDE))
    return webp(reduced)


def webp(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=QUALITY, method=4)
    return data_uri(buffer.getvalue(), "webp")


def png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
