"""Images with their true and their detected boxes, drawn with Pillow: the stage starts fast."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import ImageDraw

from cnn_core.annotations.tables import BOX
from cnn_core.detection.evaluation.metrics import outcome_rows, wrong
from cnn_core.drawing.boxes import MISSED, RIGHT, TRUTH, WRONG, draw_box, enlarged
from cnn_core.drawing.colours import Colour
from cnn_core.drawing.contact_sheet import contact_sheet

ACROSS = 6
MOST_NAMED = 15  # boxes in an image; the texts of more would hide it
_SIDE = 224  # pixels that an example's longer side is drawn at


LabelledBox = tuple[Sequence[float], Colour, str]  # xyxy in the image's pixels


def draw_boxes(image: np.ndarray, boxes: Iterable[LabelledBox], *, side: int = _SIDE) -> np.ndarray:
    """Draw boxes on an image whose longer side becomes ``side``: uint8 (3, h, w)."""
    picture, scale = enlarged(image, side)
    draw = ImageDraw.Draw(picture)
    for box, colour, text in boxes:
        draw_box(draw, [scale * value for value in box], colour, text=text)
    return np.asarray(picture).transpose(2, 0, 1)


def mistakes_by_image(images: pd.DataFrame, table: pd.DataFrame) -> pd.Series:
    """Count each image's missed and confused objects and boxes on nothing, in the images' order."""
    return table[wrong(table)].groupby("image_id").size().reindex(images["image_id"], fill_value=0)


def example_images(images: pd.DataFrame, table: pd.DataFrame, *, first: int, worst: int) -> list[str]:
    """Choose image_ids: those of the first images, then those with the most mistakes."""
    counts = mistakes_by_image(images, table)
    bad = counts[counts > 0].sort_values(ascending=False, kind="stable").index
    beginning = list(images["image_id"][:first])
    return beginning + [name for name in bad if name not in beginning][:worst]


def write_examples(
    path: str | Path,
    pictures: Mapping[str, np.ndarray],
    truth: pd.DataFrame,
    detections: pd.DataFrame,
    table: pd.DataFrame,
) -> None:
    """Write a PNG that shows each image with its truth, and below it with its detections.

    Args:
        pictures: uint8 (H, W, 3) RGB by image_id.
        table: `metrics.outcomes` of ``truth`` and ``detections``.
    """
    image_ids = list(pictures)
    rows: list[list[np.ndarray]] = []
    captions: list[list[str]] = []
    for start in range(0, len(image_ids), ACROSS):
        part = image_ids[start : start + ACROSS]
        tables = [table[table["image_id"] == image_id] for image_id in part]
        pairs = [_boxes(of_image, truth, detections) for of_image in tables]
        for side in (0, 1):
            rows.append([draw_boxes(pictures[name], pair[side]) for name, pair in zip(part, pairs, strict=True)])
        captions += [["truth"] * len(part), [_verdict(of_image) for of_image in tables]]
    contact_sheet(
        path,
        rows,
        title="Above what is there, below what was found: green right, red wrong, orange missed. "
        "First the images as they come, then those with the most mistakes.",
        captions=captions,
        side=_SIDE,
    )


def _boxes(
    table: pd.DataFrame, truth: pd.DataFrame, detections: pd.DataFrame
) -> tuple[list[LabelledBox], list[LabelledBox]]:
    """The true boxes of one image, and its detected boxes on top of the missed ones."""
    above, missed, below = [], [], []
    few = int((table["detection"] >= 0).sum()) <= MOST_NAMED
    for row in outcome_rows(table):
        if row.truth >= 0:
            box = truth[BOX].iloc[row.truth].tolist()
            above.append((box, TRUTH, row.actual))
            if row.detection < 0:
                missed.append((box, MISSED, row.actual))
        if row.detection >= 0:
            colour = RIGHT if row.truth >= 0 and row.actual == row.predicted else WRONG
            text = f"{row.predicted} {row.score:.0%}" if few else ""
            below.append((detections[BOX].iloc[row.detection].tolist(), colour, text))
    return above, missed + below


def _verdict(table: pd.DataFrame) -> str:
    missed, false, right = table["detection"] < 0, table["truth"] < 0, ~wrong(table)
    counts = {"right": right, "confused": ~(right | missed | false), "missed": missed, "false": false}
    return ", ".join(f"{int(rows.sum())} {name}" for name, rows in counts.items() if rows.any()) or "nothing there"
