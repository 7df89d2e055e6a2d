"""What the source of a set of objects holds, and deliveries as rows of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd

from cnn_core.annotations.checks import Refused
from cnn_core.annotations.sets import ObjectSet
from cnn_core.annotations.tables import BOX
from cnn_core.data.objects.grown import SHA256, read_source
from cnn_core.data.objects.judge import judge
from cnn_core.data.objects.reading import Account, read_pictures

Box = tuple[str, float, float, float, float]  # class, x1, y1, x2, y2


@dataclasses.dataclass(kw_only=True)
class ObjectContent:
    """What a set's source holds, with the deliveries that were accepted so far.

    Attributes:
        every: the set; its images have the column `SHA256`.
        boxes: the good boxes of each image, by the SHA-256 of its pixels.
    """

    every: ObjectSet
    boxes: dict[str, list[Box]]

    @property
    def classes(self) -> Sequence[str]:
        return self.every.annotations[2]

    def add(self, delivery: ObjectDelivery) -> None:
        images, objects, classes = self.every.annotations
        tables = (stacked(images, delivery.images), stacked(objects, delivery.objects), classes)
        self.every = dataclasses.replace(self.every, annotations=tables)
        self.boxes |= delivery.boxes


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectDelivery:
    """The new images of a delivery, as rows of the set that they come into.

    Attributes:
        counts: of images: listed = new + known + refused + the sum of left_out; of annotations the same with added.
        left_out: counts of images that are not meant, by why.
        warnings: sentences that a person should read.
    """

    images: pd.DataFrame
    objects: pd.DataFrame
    boxes: dict[str, list[Box]]
    counts: Mapping[str, int]
    annotations: Mapping[str, int]
    left_out: Mapping[str, int]
    warnings: list[str]


def read_content(path: Path, pool: ThreadPoolExecutor, *, shown: str) -> ObjectContent:
    """Read a set's source; its images are decoded once, and known by their pixels from then on.

    Args:
        shown: the path that a person gave, for what the set's account says.

    Raises:
        ValueError: it cannot be read.
    """
    every = read_source(path)
    images, objects, classes = every.annotations
    if SHA256 not in images:
        pictures = read_pictures(images, Account(refused=[], shown=str), pool)
        hashes = {row.image_id: picture.sha256 for row, picture in pictures}
        images = images.assign(**{SHA256: [hashes.get(image_id, "") for image_id in images["image_id"]]})
    decoded = images[images[SHA256] != ""]
    good = judge(objects[objects["image_id"].isin(decoded["image_id"])].reset_index(drop=True), sizes_of(decoded))
    refused = [Refused(kind, *(text.replace(str(path), shown) for text in texts)) for kind, *texts in every.refused]
    every = dataclasses.replace(every, annotations=(images, objects, classes), refused=refused)
    return ObjectContent(every=every, boxes=boxes_by_hash(decoded, good.objects))


def stacked(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """The rows of both; whoever has no column of crowds has none."""
    parts = [part for part in (first, second) if len(part)] or [first]
    stacked = pd.concat(parts, ignore_index=True)
    if "iscrowd" in stacked:
        stacked["iscrowd"] = stacked["iscrowd"].fillna(0).astype("int64")
    return stacked


def sizes_of(images: pd.DataFrame) -> dict[str, tuple[int, int]]:
    return {name: (width, height) for name, width, height in _rows(images, "image_id", "width", "height")}


def boxes_of(objects: pd.DataFrame) -> dict[str, list[Box]]:
    boxes: dict[str, list[Box]] = {}
    for image_id, *box in _rows(objects, "image_id", "class_name", *BOX):
        boxes.setdefault(image_id, []).append(tuple(box))
    return boxes


def boxes_by_hash(images: pd.DataFrame, objects: pd.DataFrame) -> dict[str, list[Box]]:
    boxes = boxes_of(objects)
    return {digest: boxes.get(image_id, []) for image_id, digest in _rows(images, "image_id", SHA256)}


def _rows(table: pd.DataFrame, *columns: str) -> Iterable[tuple[Any, ...]]:
    return table[[*columns]].itertuples(index=False, name=None)
