"""Contact sheets: many images in one picture, drawn with Pillow, so that a stage starts fast."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cnn_core.drawing.text import drawable

_BACKGROUND, _INK, _FAINT = (255, 255, 255), (30, 30, 30), (120, 120, 120)
_GAP, _TEXT = 8, 15


def contact_sheet(
    path: str | Path,
    rows: Sequence[Sequence[np.ndarray] | np.ndarray],
    *,
    title: str,
    captions: Sequence[Sequence[str]] | None = None,
    headings: Sequence[str] | None = None,
    side: int = 84,
) -> None:
    """Write a PNG of images in a grid.

    Args:
        rows: the images of each row of the grid, uint8 (C, H, W), C = 1 or 3.
        captions: a text of one or more lines under each image; long lines are cut.
        headings: a text above each column.
        side: pixels that an image's longer side is drawn at.
    """
    font, bold = ImageFont.load_default(_TEXT), ImageFont.load_default(_TEXT + 5)
    written = [[[drawable(line) for line in text.split("\n")] for text in row] for row in captions or []]
    headings = [drawable(heading) for heading in headings or []]
    texts = [line for row in written for text in row for line in text]
    lines = max((len(text) for row in written for text in row), default=0)
    sides = [image.shape[1:] for row in rows for image in row]
    high = max((round(side * height / max(height, width)) for height, width in sides), default=side)
    cell_height = high + _GAP + lines * (_TEXT + 4) + (2 if lines else 0)
    cell_width = max(side, *(math.ceil(font.getlength(text)) for text in [*texts, *headings]), 0) + _GAP
    columns = max((len(row) for row in rows), default=1)
    top = _TEXT * 2 + 2 * _GAP + (_TEXT + _GAP if headings else 0)
    width = max(columns * cell_width + _GAP, int(bold.getlength(title)) + 2 * _GAP)
    sheet = Image.new("RGB", (width, top + max(len(rows), 1) * cell_height + _GAP), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, _GAP), title, _INK, bold)
    for column, heading in enumerate(headings):
        middle = (_GAP + (column + 0.5) * cell_width - _GAP / 2, top - _GAP - 3)
        draw.text(middle, heading, _FAINT, font, anchor="ms")
    for number, row in enumerate(rows):
        for column, image in enumerate(row):
            left, upper = _GAP + column * cell_width, top + number * cell_height
            sheet.paste(_enlarged(image, side), (left + (cell_width - _GAP - side) // 2, upper))
            for line, text in enumerate(written[number][column] if written else []):
                below = upper + high + 4 + line * (_TEXT + 4)
                draw.text((left + (cell_width - _GAP) / 2, below), text, _INK, font, anchor="mt")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def _enlarged(image: np.ndarray, side: int) -> Image.Image:
    """Scale uint8 (C, H, W) to the longer side ``side``, as RGB; small images keep sharp pixels."""
    pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    picture = Image.fromarray(pixels).convert("RGB")
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
