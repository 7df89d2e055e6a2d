"""What a reader makes of a format: images with shapes, as their set lists them; and the tables of the good ones.

The readers of `voc`, `cvat` and `label_studio` say where everything lies; `as_tables` judges each image and each
annotation by itself, so that every format is judged alike.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from cnn_core.annotations.checks import Refused, UnreadableHeader, check_box, check_class_name, listed_frame, turned_box
from cnn_core.annotations.masks import polygon_mask, turned_mask
from cnn_core.annotations.tables import BOX, Annotations, image_ids, images_table, objects_table


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """An annotation: a box, polygons or run lengths, in pixels of the picture as its set lists it.

    Attributes:
        name: which annotation of its file it is, for messages.
        label: the name of its class.
        fault: why it cannot be used; then nothing else counts.
    """

    name: str
    label: str = ""
    box: tuple[float, float, float, float] | None = None
    polygon: np.ndarray | None = None  # float (points, 2) of x, y
    rle: str | None = None
    fault: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ListedImage:
    """An image that a set lists.

    Attributes:
        name: the image's name in the set.
        listing: the file that lists it.
        file: its path; None where it is not there.
        split: that of the publisher; "" where there is none.
        width, height: as the set says; None where it does not.
        fault: why the image cannot be used.
    """

    name: str
    listing: str
    file: str | None
    split: str = ""
    width: int | None = None
    height: int | None = None
    shapes: Sequence[Shape] = ()
    fault: str = ""


def side(value: Any, what: str) -> int | None:
    """A width or height as a whole number; None where the set gives none. Raises ValueError for anything else."""
    if value in (None, "", 0, "0"):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = 0.0
    if not (1 <= number < 1e9 and number == int(number)):
        raise ValueError(f"its {what} is {str(value)[:40]!r}, not a number of pixels")
    return int(number)


def as_tables(listed: Iterable[ListedImage], classes: Sequence[str], refused: list[Refused]) -> Annotations:
    """Return the tables of the images and annotations that can be used.

    Args:
        refused: takes the others. An annotation of an image that is refused is listed, too.
    """
    entries = list(listed)
    for name in classes:
        check_class_name(name, Path(entries[0].listing if entries else "."))
    numbers = {name: number for number, name in enumerate(classes)}
    shared = Counter[str | None](entry.file for entry in entries)
    good: list[tuple[ListedImage, tuple[int, int, int]]] = []
    for entry in entries:
        try:
            good.append((entry, _frame(entry, shared)))
        except ValueError as fault:
            refused.append(Refused("image", entry.listing, entry.name, str(fault)))
            refused += [
                Refused("annotation", entry.listing, f"{shape.name} of {entry.name}", f"its image is left out: {fault}")
                for shape in entry.shapes
            ]
    names = image_ids([str(entry.file) for entry, _ in good])
    images = [
        {"image_id": name, "file": entry.file, "width": frame[0], "height": frame[1], "split": entry.split}
        for name, (entry, frame) in zip(names, good, strict=True)
    ]
    objects = []
    for name, (entry, frame) in zip(names, good, strict=True):
        for shape in entry.shapes:
            try:
                row = _row(shape, frame, numbers)
            except ValueError as fault:
                refused.append(Refused("annotation", entry.listing, f"{shape.name} of {entry.name}", str(fault)))
            else:
                objects.append({"image_id": name, **row})
    return images_table(images), objects_table(objects), list(classes)


def _frame(entry: ListedImage, shared: Mapping[str | None, int]) -> tuple[int, int, int]:
    if entry.fault:
        raise ValueError(entry.fault)
    if entry.file is None:
        raise ValueError("the file is not there")
    if shared[entry.file] > 1:
        raise ValueError(f"{entry.file} is the file of {shared[entry.file]} images of the set")
    try:
        return listed_frame(entry.file, (entry.width, entry.height))
    except UnreadableHeader as fault:
        raise ValueError(str(fault).removeprefix(f"{entry.file} ")) from None


def _row(shape: Shape, frame: tuple[int, int, int], numbers: Mapping[str, int]) -> dict[str, Any]:
    if shape.fault:
        raise ValueError(shape.fault)
    if shape.label not in numbers:
        raise ValueError(f"its class {shape.label[:60]!r} is not listed" if shape.label else "it has no class")
    width, height, orientation = frame
    size = (width, height) if orientation == 1 else (height, width)  # of the frame that the annotation is in
    rle = shape.rle
    box = shape.box
    if shape.polygon is not None:
        if not np.isfinite(shape.polygon).all() or len(shape.polygon) < 3:
            raise ValueError(f"its polygon has {len(shape.polygon)} points, or what is no number: it takes three")
        box = (*map(float, shape.polygon.min(axis=0)), *map(float, shape.polygon.max(axis=0)))  # type: ignore[assignment]  # four floats
        check_box(box, *size)  # type: ignore[arg-type]  # a polygon has one
        rle = polygon_mask([shape.polygon], size[1], size[0])
        if not rle:
            raise ValueError("its polygon has no area in the picture")
    if box is None and rle:
        x, y, across, down = coco_mask.toBbox({"size": [size[1], size[0]], "counts": rle.encode("ascii")}).tolist()
        box = (x, y, x + across, y + down)
    if box is None:
        raise ValueError("it has no box")
    check_box(box, *size)
    corners = turned_box(box, orientation, *size)
    label = {"class_id": numbers[shape.label], "class_name": shape.label}
    return {**label, **dict(zip(BOX, corners, strict=True)), "rle": rle and turned_mask(rle, orientation, *size)}
