"""The shared tables (annotations.py) as COCO JSON and back. https://cocodataset.org/#format-data

COCO numbers: images 1, 2, … in the order of the images' table, categories 1, 2, … = class_id + 1, annotations from 1
(pycocotools takes an annotation 0 for "not matched").
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from pycocotools import mask as coco_mask

from cnn_core.annotations.tables import Annotations, image_ids, images_table, objects_table
from cnn_core.files import read_json

_FIRST = 1  # number of the first image, category and annotation


def to_coco(images: pd.DataFrame, objects: pd.DataFrame, classes: Sequence[str]) -> dict[str, Any]:
    """Truth as COCO's instances; ``area`` is the mask's, or the box's where there is no mask."""
    shapes = _shapes(images)
    annotations = []
    for number, row in enumerate(objects.to_dict("records"), start=_FIRST):
        entry = _entry(row, shapes)
        area = float(coco_mask.area(entry["segmentation"])) if "segmentation" in entry else _area(entry["bbox"])
        annotations.append({"id": number, **entry, "area": area, "iscrowd": int(row.get("iscrowd", 0))})
    return {
        "info": {},
        "images": [
            {"id": number, "file_name": row.file, "width": int(row.width), "height": int(row.height)}
            for number, row in enumerate(images.itertuples(), start=_FIRST)
        ],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in enumerate(classes, start=_FIRST)],
    }


def coco_results(images: pd.DataFrame, objects: pd.DataFrame) -> list[dict[str, Any]]:
    """Results in COCO's format (``image_id``, ``category_id``, ``bbox``, ``score``), each with its ``file_name``."""
    shapes, files = _shapes(images), dict(zip(images["image_id"], images["file"], strict=True))
    return [
        {**_entry(row, shapes), "score": float(row["score"]), "file_name": files[row["image_id"]]}
        for row in objects.to_dict("records")
    ]


def _shapes(images: pd.DataFrame) -> dict[str, tuple[int, int, int]]:
    """image_id -> COCO's number, height, width"""
    rows = enumerate(images.itertuples(), start=_FIRST)
    return {row.image_id: (number, int(row.height), int(row.width)) for number, row in rows}


def _entry(row: dict[str, Any], shapes: dict[str, tuple[int, int, int]]) -> dict[str, Any]:
    if row["image_id"] not in shapes:
        raise ValueError(f"an object lies in the image {row['image_id']!r}, which is not in the images' table")
    number, height, width = shapes[row["image_id"]]
    box = [row["x1"], row["y1"], row["x2"] - row["x1"], row["y2"] - row["y1"]]
    entry = {"image_id": number, "category_id": int(row["class_id"]) + _FIRST, "bbox": box}
    return {**entry, "segmentation": {"size": [height, width], "counts": row["rle"]}} if row["rle"] else entry


def _area(bbox: Sequence[float]) -> float:
    return bbox[2] * bbox[3]


def from_coco(path: str | Path, *, split: str | None = None) -> Annotations:
    """The tables of a COCO instances file. Classes are its categories in the order of their ids, numbered from 0.

    Args:
        split: what the images' split is called; None = train, val or test by the file's name, train where it says none.

    ``file`` is looked for where COCO sets keep their images (`_found`); one that is nowhere stays as the JSON names it.
    Crowds are kept, with 1 in the further column ``iscrowd``; polygons become masks.

    Raises:
        ValueError: no such file, no JSON, or no COCO instances; or a category or image that is not listed.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} does not exist: name a COCO JSON file with images, annotations and categories")
    content = read_json(path, made_by="that writes it")
    if not isinstance(content, dict) or (missing := {"images", "annotations", "categories"} - content.keys()):
        lacking = ", ".join(sorted(missing)) if isinstance(content, dict) else "images, annotations, categories"
        raise ValueError(f"{path} is not a COCO instances file: it has no {lacking}")
    split = split or next(iter(re.findall("train|val|test", path.stem.lower())), "train")
    categories = sorted(content["categories"], key=lambda category: category["id"])
    numbers = {category["id"]: number for number, category in enumerate(categories)}
    classes = [str(category["name"]) for category in categories]
    listed = content["images"]
    ids = dict(zip((image["id"] for image in listed), image_ids([i["file_name"] for i in listed]), strict=True))
    sizes = {image["id"]: (image["height"], image["width"]) for image in listed}
    rows = []
    for entry in content["annotations"]:
        if entry["image_id"] not in ids or entry["category_id"] not in numbers:
            raise ValueError(f"{path}: annotation {entry.get('id')} is of an image or category that is not listed")
        number = numbers[entry["category_id"]]
        rows.append(_object(entry, ids[entry["image_id"]], number, classes[number], sizes[entry["image_id"]]))
    images = images_table(
        {
            "image_id": ids[image["id"]],
            "file": _found(path, image["file_name"]),
            "width": image["width"],
            "height": image["height"],
            "split": split,
        }
        for image in listed
    )
    objects = objects_table(rows)
    return images, objects if len(objects) else objects.assign(iscrowd=0), classes


def _object(entry: dict[str, Any], image_id: str, number: int, name: str, size: tuple[int, int]) -> dict[str, Any]:
    left, top, width, height = entry["bbox"]
    return {
        "image_id": image_id,
        "class_id": number,
        "class_name": name,
        "x1": left,
        "y1": top,
        "x2": left + width,
        "y2": top + height,
        "score": entry.get("score", float("nan")),
        "rle": _rle(entry.get("segmentation"), *size),
        "iscrowd": int(entry.get("iscrowd", 0)),
    }


def _rle(segmentation: Any, height: int, width: int) -> str | None:
    """COCO's polygons (lists of x, y, x, y, …), run lengths or compressed run lengths, as the latter."""
    if not segmentation:
        return None
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], str):
        return segmentation["counts"]
    found = coco_mask.frPyObjects(segmentation, height, width)
    return (coco_mask.merge(found) if isinstance(found, list) else found)["counts"].decode("ascii")


def _found(path: Path, name: str) -> str:
    """Where an image of the JSON file lies: beside it, in ``images``, in a folder named as the file is, or one up."""
    part = path.stem.removeprefix("instances_")
    places = [root / below for root in (path.parent, path.parent.parent) for below in ("", "images", part)]
    places += [root / "images" / part for root in (path.parent, path.parent.parent)]
    return next((str(place / name) for place in places if (place / name).is_file()), name)
