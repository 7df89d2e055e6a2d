"""Draw masks beside the truth: the best ones, those in the middle, and the worst."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from cnn_core.annotations.masks import decode_mask
from cnn_core.annotations.tables import BOX
from cnn_core.drawing.boxes import MISSED, RIGHT, TRUTH, WRONG
from cnn_core.drawing.colours import Colour
from cnn_core.drawing.contact_sheet import contact_sheet
from cnn_core.images.reader import read_image

SIDE = 140  # pixels of each of the three parts of an example
ACROSS = 3
_MARGIN = 0.35  # of the object's longer side, shown around it
_FILL = 0.6


def draw_examples(
    path: str | Path, images: pd.DataFrame, truth: pd.DataFrame, masks: pd.DataFrame, ious: pd.Series, count: int
) -> None:
    """Write a PNG with image, truth (blue) and mask of ``count`` of the best, of the middling and of the worst objects.

    Args:
        masks: rows of `prompted_masks.segment_prompts`, one for each object.
        ious: by the object's position in ``truth``.
    """
    order = np.argsort(-ious.to_numpy(), kind="stable")
    middle = max(0, (len(order) - count) // 2)
    groups = {"best": order[:count], "median": order[middle : middle + count], "worst": order[::-1][:count]}
    by_id = images.set_index("image_id")
    rles = masks.set_index("object")["rle"]
    scores = masks.set_index("object")["score"]
    rows, captions = [], []
    for name, positions in groups.items():
        for start in range(0, len(positions), ACROSS):
            part = [int(position) for position in positions[start : start + ACROSS]]
            rows.append([_example(truth.iloc[position], by_id, rles.get(position)) for position in part])
            captions.append(
                [
                    f"{name}: {truth['class_name'].iloc[position]}, IoU {ious.iloc[position]:.2f}, predicted "
                    f"{scores.get(position, np.nan):.2f}"
                    for position in part
                ]
            )
    contact_sheet(
        path,
        rows,
        title="Image, truth, mask: green right, red too much, orange missing",
        captions=captions,
        side=3 * SIDE + 8,
    )


def _example(row: pd.Series, images: pd.DataFrame, rle: str | None) -> np.ndarray:
    image_row = images.loc[row["image_id"]]
    image = read_image(image_row["file"])[..., ::-1]
    shape = int(image_row["height"]), int(image_row["width"])
    true = decode_mask(row["rle"], *shape)
    mask = decode_mask(rle, *shape) if isinstance(rle, str) else np.zeros(shape, bool)
    part = _part(row[BOX].to_numpy(float), shape)
    image, true, mask = image[part], true[part], mask[part]
    compared = [(true & mask, RIGHT), (mask & ~true, WRONG), (true & ~mask, MISSED)]
    sides = [_enlarged(image), _painted(image, [(true, TRUTH)]), _painted(image, compared)]
    gap = np.full((SIDE, 4, 3), 255, np.uint8)
    return np.concatenate([sides[0], gap, sides[1], gap, sides[2]], axis=1).transpose(2, 0, 1)


def _part(box: np.ndarray, shape: tuple[int, int]) -> tuple[slice, slice]:
    """The rows and columns of a square around the object, as far as the image reaches; at least one pixel."""
    half = max(0.5, (0.5 + _MARGIN) * max(box[2] - box[0], box[3] - box[1]))
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    top, left = (min(max(0, int(middle - half)), side - 1) for middle, side in zip((y, x), shape, strict=True))
    bottom, right = (int(np.ceil(middle + half)) for middle in (y, x))
    return slice(top, max(top + 1, bottom)), slice(left, max(left + 1, right))


def _enlarged(image: np.ndarray) -> np.ndarray:
    scale = SIDE / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    canvas = np.full((SIDE, SIDE, 3), 255, np.uint8)
    large = cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_NEAREST)
    canvas[: size[1], : size[0]] = large
    return canvas


def _painted(image: np.ndarray, parts: list[tuple[np.ndarray, Colour]]) -> np.ndarray:
    drawn = 0.7 * image.astype(np.float32)
    for mask, colour in parts:
        drawn[mask] = (1 - _FILL) * drawn[mask] + _FILL * np.array(colour, np.float32)
    return _enlarged(drawn.astype(np.uint8))
