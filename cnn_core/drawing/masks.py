"""Masks drawn on their images, and objects cut out of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from cnn_core.annotations.masks import decode_mask
from cnn_core.annotations.tables import BOX
from cnn_core.drawing.colours import Colour, class_colour, ink_on
from cnn_core.drawing.text import drawable
from cnn_core.files import safe_file_name

LEAST, MOST = 640, 1600  # pixels of a picture's longer side; small images are enlarged by a whole factor
MOST_NAMED = 40  # objects in an image; the texts of more would hide it
_TEXT = 15
_QUALITY = 92
_DIM, _FILL = 0.55, 0.45  # brightness of the ground, and strength of a mask's colour
_INSIDE: Colour = (22, 163, 74)  # of points
_OUTSIDE: Colour = (220, 38, 38)


def overlay(
    image: np.ndarray,
    rows: Sequence[Mapping[str, Any]],
    *,
    by_class: bool,
    prompts: pd.DataFrame | None = None,
) -> Image.Image:
    """Draw masks on a dimmed image, each outlined and in its colour, and the prompts on top.

    Args:
        image: uint8 (H, W, 3) BGR.
        rows: those of `cnn_core.segmentation.inference.predictors.ImageMasks`.
        by_class: one colour for each class, otherwise one for each object.
        prompts: rows of `prompts.table.PROMPTS`; boxes are drawn dashed, points as dots.
    """
    size, scale = _size(image)
    height, width = image.shape[:2]
    interpolation = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    bright = cv2.resize(image, size, interpolation=interpolation)[..., ::-1].astype(np.float32)
    grey = bright @ np.array([0.299, 0.587, 0.114], np.float32)
    drawn = _DIM * (0.5 * bright + 0.5 * grey[..., None])
    outlines = []
    for row in sorted(rows, key=lambda row: -row["area"]):
        colour = class_colour(int(row["class_id"] if by_class else row["prompt_id"]))
        mask = cv2.resize(decode_mask(row["rle"], height, width).astype(np.float32), size) > 0.5
        drawn[mask] = (1 - _FILL) * bright[mask] + _FILL * np.array(colour, np.float32)
        contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        outlines.append((contours, colour))
    canvas = np.ascontiguousarray(drawn.clip(0, 255).astype(np.uint8))
    for contours, colour in outlines:  # a white line around the coloured one, so that it stands out from any ground
        cv2.drawContours(canvas, contours, -1, (255, 255, 255), 4, cv2.LINE_AA)
        cv2.drawContours(canvas, contours, -1, colour, 2, cv2.LINE_AA)
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    if prompts is not None:
        _draw_prompts(draw, prompts, scale)
    if len(rows) <= MOST_NAMED:
        for row in rows:
            _label(draw, row, scale, picture.size, by_class)
    return picture


def write_overlay(path: Path, picture: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, format="JPEG", quality=_QUALITY, subsampling=0)


def write_cutouts(folder: Path, image_id: str, image: np.ndarray, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write ``<image_id>-<prompt_id>.png`` of each object, RGBA, cropped to its box and transparent around it.

    ``image`` is uint8 (H, W, 3) BGR.
    """
    for row in rows:
        x1, y1, x2, y2 = (int(row[name]) for name in BOX)
        mask = decode_mask(row["rle"], *image.shape[:2])[y1:y2, x1:x2, None]
        alpha = mask.astype(np.uint8) * 255
        good, data = cv2.imencode(".png", np.concatenate([image[y1:y2, x1:x2] * mask, alpha], 2))
        assert good
        path = folder / f"{safe_file_name(image_id)}-{row['prompt_id']}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.tobytes())  # not by OpenCV, which cannot write to every name


def _size(image: np.ndarray) -> tuple[tuple[int, int], float]:
    """(width, height) of an image's picture, and the factor by which it is scaled."""
    height, width = image.shape[:2]
    longer = max(height, width)
    scale = float(-(-LEAST // longer)) if longer < LEAST else min(1.0, MOST / longer)
    return (max(1, round(width * scale)), max(1, round(height * scale))), scale


def _label(
    draw: ImageDraw.ImageDraw, row: Mapping[str, Any], scale: float, size: tuple[int, int], by_class: bool
) -> None:
    font = ImageFont.load_default(_TEXT)
    text = f"{drawable(row['class_name' if by_class else 'prompt_id'])} · {row['score']:.0%}"
    colour = class_colour(int(row["class_id"] if by_class else row["prompt_id"]))
    across = draw.textlength(text, font) + 8
    left = min(max(0.0, row["x1"] * scale), max(0.0, size[0] - across))
    top = row["y1"] * scale - _TEXT - 8
    top = top if top >= 0 else row["y1"] * scale + 3
    draw.rounded_rectangle((left, top, left + across, top + _TEXT + 5), 4, fill=colour)
    draw.text((left + 4, top + 1), text, ink_on(colour), font)


def _draw_prompts(draw: ImageDraw.ImageDraw, prompts: pd.DataFrame, scale: float) -> None:
    width, height = draw.im.size
    # A prompt may lie anywhere, and a line to there would have no end.
    limits = np.array([-9, -9, width + 9, height + 9])
    boxes = prompts[BOX].dropna().drop_duplicates().to_numpy() * scale
    for box in boxes.clip(limits[[0, 1, 0, 1]], limits[[2, 3, 2, 3]]):
        for (x1, y1), (x2, y2) in zip(
            box[[[0, 1], [2, 1], [2, 3], [0, 3]]], box[[[2, 1], [2, 3], [0, 3], [0, 1]]], strict=True
        ):
            _dashed(draw, (x1, y1), (x2, y2))
    points = prompts.loc[prompts["x"].notna(), ["x", "y", "label"]].astype(float)
    points[["x", "y"]] = (points[["x", "y"]] * scale).clip(limits[:2], limits[2:], axis=1)
    for x, y, label in points.to_numpy():
        colour = _INSIDE if label == 1 else _OUTSIDE
        draw.ellipse((x - 6, y - 6, x + 6, y + 6), fill=colour, outline=(255, 255, 255), width=2)


def _dashed(draw: ImageDraw.ImageDraw, start: Sequence[float], end: Sequence[float]) -> None:
    origin, direction = np.array(start), np.array(end) - start
    length = float(np.hypot(*direction))
    for offset in np.arange(0, length, 9):
        points = [tuple(origin + direction * share / length) for share in (offset, min(offset + 5, length))]
        draw.line(points, fill=(255, 255, 255), width=1)
