"""Boxes drawn on images: what is there and what was found. Drawn with Pillow, so the stage starts fast."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import ImageDraw

from cnn_core.annotations.tables import BOX
from cnn_core.detection.evaluation.metrics import BACKGROUND
from cnn_core.drawing.boxes import MISSED, RIGHT, TRUTH, WRONG, draw_box, enlarged
from cnn_core.drawing.contact_sheet import contact_sheet

ACROSS = 6
MOST_NAMED = 15  # boxes in an image; the texts of more would hide it
_SIDE = 224  # pixels that an example's longer side is drawn at


def drawn(image: np.ndarray, boxes: Iterable[Mapping[str, Any]], *, side: int = _SIDE) -> np.ndarray:
    """uint8 (3, h, w): the image with its longer side ``side`` and on it boxes: dicts of box, colour, text."""
    picture, scale = enlarged(image, side)
    draw = ImageDraw.Draw(picture)
    for entry in boxes:
        draw_box(draw, [scale * value for value in entry["box"]], entry["colour"], text=entry["text"])
    return np.asarray(picture).transpose(2, 0, 1)


def mistakes_by_image(images: pd.DataFrame, table: pd.DataFrame) -> pd.Series:
    """How many objects were missed or confused and how many boxes lie on nothing, for each image_id in order."""
    wrong = table[table["actual"] != table["predicted"]]
    return wrong.groupby("image_id").size().reindex(images["image_id"], fill_value=0)


def shown_images(images: pd.DataFrame, table: pd.DataFrame, *, first: int, worst: int) -> list[str]:
    """The image_ids of the first ones as they come, and then of those with the most mistakes."""
    counts = mistakes_by_image(images, table)
    bad = counts[counts > 0].sort_values(ascending=False, kind="stable").index
    beginning = list(images["image_id"][:first])
    return beginning + [name for name in bad if name not in beginning][:worst]


def examples(
    path: str | Path, pictures: Mapping[str, np.ndarray], truth: pd.DataFrame, found: pd.DataFrame, table: pd.DataFrame
) -> None:
    """A PNG with the truth above what was found.

    Args:
        pictures: uint8 (H, W, 3) RGB by image_id, in the order they are shown.
        table: `detection_metrics.outcomes` of ``truth`` and ``found``.
    """
    names, rows, captions = list(pictures), [], []
    for start in range(0, len(names), ACROSS):
        part = names[start : start + ACROSS]
        sides = [_sides(table[table["image_id"] == name], truth, found) for name in part]
        for number in (0, 1):
            rows.append([drawn(pictures[name], side[number]) for name, side in zip(part, sides, strict=True)])
        captions += [["truth"] * len(part), [_verdict(table[table["image_id"] == name]) for name in part]]
    contact_sheet(
        path,
        rows,  # type: ignore[arg-type]
        title="Above what is there, below what was found: green right, red wrong, orange missed. "
        "First the images as they come, then those with the most mistakes.",
        captions=captions,
        side=_SIDE,
    )


def _sides(table: pd.DataFrame, truth: pd.DataFrame, found: pd.DataFrame) -> tuple[list[dict], list[dict]]:
    """The boxes of one image: the truth's, and the found ones on top of those that were missed."""
    above, missed, below = [], [], []
    few = int((table["found"] >= 0).sum()) <= MOST_NAMED
    for row in table.itertuples():
        if row.truth >= 0:
            box = truth[BOX].iloc[row.truth].tolist()
            above.append({"box": box, "colour": TRUTH, "text": row.actual})
            if row.predicted == BACKGROUND:
                missed.append({"box": box, "colour": MISSED, "text": row.actual})
        if row.found >= 0:
            colour = RIGHT if row.actual == row.predicted else WRONG
            text = f"{row.predicted} {row.score:.0%}" if few else ""
            below.append({"box": found[BOX].iloc[row.found].tolist(), "colour": colour, "text": text})
    return above, missed + below


def _verdict(table: pd.DataFrame) -> str:
    missed, false = table["predicted"] == BACKGROUND, table["actual"] == BACKGROUND
    right = table["actual"] == table["predicted"]
    counts = {"right": right, "confused": ~(right | missed | false), "missed": missed, "false": false}
    return ", ".join(f"{int(rows.sum())} {name}" for name, rows in counts.items() if rows.any()) or "nothing there"
