"""The contact sheet of a RAW set of objects: images of each split with their boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import ImageDraw

from cnn_core.annotations.tables import BOX
from cnn_core.data.objects.raw import SPLITS, Image
from cnn_core.drawing.boxes import draw_box, enlarged
from cnn_core.drawing.colours import class_colour
from cnn_core.drawing.contact_sheet import contact_sheet
from cnn_core.images.decoding import decode_rgb

_ACROSS, _SIDE = 6, 240
_ROWS = {"train": 2, "val": 1, "test": 1}


def draw_sheet(
    path: Path, images: Sequence[Image], read: Callable[[Image], bytes], objects: pd.DataFrame, *, title: str
) -> None:
    """Write a PNG of the first images of each split that show objects, or else of any."""
    boxes = dict(list(objects.groupby("image_id", sort=False)))
    rows, captions = [], []
    for split in SPLITS:
        of_split = [image for image in images if image.split == split]
        shown = ([image for image in of_split if image.id in boxes] or of_split)[: _ROWS[split] * _ACROSS]
        for start in range(0, len(shown), _ACROSS):
            block = shown[start : start + _ACROSS]
            rows.append([_drawn(read(image), image.id, boxes.get(image.id, objects.iloc[:0])) for image in block])
            captions.append([f"{image.id[-28:]} ({split})" for image in block])
    contact_sheet(path, rows, title=title, captions=captions, side=_SIDE)


def _drawn(data: bytes, name: str, objects: pd.DataFrame) -> np.ndarray:
    """The picture with its boxes, uint8 (3, H, W)."""
    picture, scale = enlarged(decode_rgb(data, name), _SIDE)
    draw = ImageDraw.Draw(picture)
    for number, label, box in zip(
        objects["class_id"], objects["class_name"], objects[BOX].to_numpy() * scale, strict=True
    ):
        draw_box(draw, box.tolist(), class_colour(number), text=label[:16], width=1)
    return np.asarray(picture).transpose(2, 0, 1)
