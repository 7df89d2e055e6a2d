"""Draw boxes with labels into pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cnn_core.drawing.colours import Colour, ink_on
from cnn_core.drawing.text import drawable

RIGHT, WRONG, MISSED, TRUTH = (22, 163, 74), (220, 38, 38), (234, 140, 0), (37, 99, 235)


def enlarged(image: np.ndarray, side: int) -> tuple[Image.Image, float]:
    """Scale an image, uint8 (H, W, 3), to the longer side ``side``; also give the factor."""
    scale = side / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return Image.fromarray(image).resize(size, Image.Resampling.BICUBIC), scale


def draw_box(
    draw: ImageDraw.ImageDraw, box: Sequence[float], colour: Colour, *, text: str = "", width: int = 2
) -> None:
    """Draw one xyxy box in the picture's pixels, with its text on a tab above it, or inside it at the upper edge."""
    left, top, right, bottom = box
    draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour, width=width)
    if not text:
        return
    text, font = drawable(text), ImageFont.load_default(13)
    tab_width, tab_height = font.getlength(text) + 6, 17
    left, top = max(0.0, min(left, draw.im.size[0] - tab_width)), top - tab_height if top >= tab_height else top
    draw.rectangle((left, top, left + tab_width, top + tab_height - 1), fill=colour)
    draw.text((left + 3, top + tab_height / 2), text, ink_on(colour), font, anchor="lm")
