"""Draw boxes with labels into pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cnn_core.drawing.colours import Colour, ink_on

RIGHT, WRONG, MISSED, TRUTH = (22, 163, 74), (220, 38, 38), (234, 140, 0), (37, 99, 235)


def enlarged(image: np.ndarray, side: int) -> tuple[Image.Image, float]:
    """uint8 (H, W, 3) with its longer side ``side``, and the factor that boxes on it are scaled by."""
    scale = side / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return Image.fromarray(image).resize(size, Image.Resampling.BICUBIC), scale


def draw_box(
    draw: ImageDraw.ImageDraw, box: Sequence[float], colour: Colour, *, text: str = "", width: int = 2
) -> None:
    """One xyxy box in the picture's own pixels, its text on a tab above it (inside it at the upper edge)."""
    left, top, right, bottom = box
    draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour, width=width)
    if not text:
        return
    font = ImageFont.load_default(13)
    long, high = font.getlength(text) + 6, 17
    at = max(0.0, min(left, draw.im.size[0] - long)), top - high if top >= high else top
    draw.rectangle((*at, at[0] + long, at[1] + high - 1), fill=colour)
    draw.text((at[0] + 3, at[1] + high / 2), text, ink_on(colour), font, anchor="lm")
