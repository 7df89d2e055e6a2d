"""The shared tables (`tables`) as COCO JSON and back. https://cocodataset.org/#format-data

In the JSON, images are numbered 1, 2, … in the order of their table, categories class_id + 1, and
annotations from 1, because pycocotools takes an annotation 0 for "not matched".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from pycocotools import mask as coco_mask

from cnn_core.annotations.tables import Annotations, image_ids, image_rows, images_table, objects_table
from cnn_core.files import read_json

_FIRST = 1  # number of the first image, category and annotation


def to_coco(images: pd.DataFrame, objects: pd.DataFrame, classes: Sequence[str]) -> dict[str, Any]:
    """Write truth as COCO's instances; ``area`` is that of the mask, or else of the box."""
    shapes = _shapes(images)
    annotations = []
    for number, row in enumerate(_records(objects), start=_FIRST):
        entry = _entry(row, shapes)
        width, height = entry["bbox"][2:]
        area = float(coco_mask.area(entry["segmentation"])) if "segmentation" in entry else width * height
        annotations.append({"id": number, **entry, "area": area, "iscrowd": int(row.get("iscrowd", 0))})
    return {
        "info": {},
        "images": [
            {"id": number, "file_name": row.file, "width": row.width, "height": row.height}
            for number, row in enumerate(image_rows(images), start=_FIRST)
        ],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in enumerate(classes, start=_FIRST)],
    }


def coco_results(images: pd.DataFrame, objects: pd.DataFrame) -> list[dict[str, Any]]:
    """Write results in COCO's format (image_id, category_id, bbox, score), each with its ``file_name``."""
    shapes, files = _shapes(images), dict(zip(images["image_id"], images["file"], strict=True))
    return [
        {**_entry(row, shapes), "score": float(row["score"]), "file_name": files[row["image_id"]]}
        for row in _records(objects)
    ]


def _records(objects: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(column): value for column, value in row.items()} for row in objects.to_dict("records")]


def _shapes(images: pd.DataFrame) -> dict[str, tuple[int, int, int]]:
    """image_id -> COCO's number, height, width"""
    rows = enumerate(image_rows(images), start=_FIRST)
    return {row.image_id: (number, row.height, row.width) for number, row in rows}


def _entry(row: dict[str, Any], shapes: dict[str, tuple[int, int, int]]) -> dict[str, Any]:
    if row["image_id"] not in shapes:
        raise ValueError(f"an object lies in the image {row['image_id']!r}, which is not in the images' table")
    number, height, width = shapes[row["image_id"]]
    box = [row["x1"], row["y1"], row["x2"] - row["x1"], row["y2"] - row["y1"]]
    entry = {"image_id": number, "category_id": int(row["class_id"]) + _FIRST, "bbox": box}
    return {**entry, "segmentation": {"size": [height, width], "counts": row["rle"]}} if row["rle"] else entry


def from_coco(path: str | Path, *, split: str | None = None) -> Annotations:
    """Read the tables of a COCO instances file.

    The classes are its categories in the order of their ids, numbered from 0. Polygons become
    masks. Crowds are kept, with 1 in the further column ``iscrowd``. The images' files are looked
    for where COCO sets keep them (`_image_path`); a file that is nowhere keeps the name that the
    JSON gives it.

    Args:
        split: the split of all images; None = train, val or test by the file's name, train where
            the name has none.

    Raises:
        ValueError: no such file, no JSON, or no COCO instances; or a category or image that is not
            listed.
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
    entries = content["images"]
    names = image_ids([image["file_name"] for image in entries])
    ids = dict(zip((image["id"] for image in entries), names, strict=True))
    sizes = {image["id"]: (image["height"], image["width"]) for image in entries}
    rows = []
    for entry in content["annotations"]:
        if entry["image_id"] not in ids or entry["category_id"] not in numbers:
            raise ValueError(f"{path}: annotation {entry.get('id')} is of an image or category that is not listed")
        number = numbers[entry["category_id"]]
        rows.append(_object(entry, ids[entry["image_id"]], number, classes[number], sizes[entry["image_id"]]))
    images = images_table(
        {
            "image_id": ids[image["id"]],
            "file": _image_path(path, image["file_name"]),
            "width": image["width"],
            "height": image["height"],
            "split": split,
        }
        for image in entries
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
    """Turn COCO's polygons (lists of x, y, x, y, …) or run lengths into compressed run lengths."""
    if not segmentation:
        return None
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], str):
        return segmentation["counts"]
    runs = coco_mask.frPyObjects(segmentation, height, width)
    return (coco_mask.merge(runs) if isinstance(runs, list) else runs)["counts"].decode("ascii")


def _image_path(path: Path, name: str) -> str:
    """Find an image of the JSON file.

    It may lie beside the file, in ``images``, in a folder named like the file, or one folder up.
    """
    part = path.stem.removeprefix("instances_")
    roots = (path.parent, path.parent.parent)
    folders = [root / below for root in roots for below in ("", "images", part)]
    folders += [root / "images" / part for root in roots]
    return next((str(folder / name) for folder in folders if (folder / name).is_file()), name)
