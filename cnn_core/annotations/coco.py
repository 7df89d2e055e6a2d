"""The shared tables (`tables`) as COCO JSON and back. https://cocodataset.org/#format-data

In the JSON, images are numbered 1, 2, … in the order of their table, categories class_id + 1, and
annotations from 1, because pycocotools takes an annotation 0 for "not matched".
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pycocotools import mask as coco_mask

from cnn_core.annotations.checks import (
    Refused,
    UnreadableHeader,
    check_box,
    check_class_name,
    find_image,
    listed_frame,
    turned_box,
)
from cnn_core.annotations.masks import polygon_mask, run_lengths, turned_mask
from cnn_core.annotations.tables import BOX, Annotations, ImageRow, image_ids, image_rows, images_table, objects_table

_FIRST = 1  # number of the first image, category and annotation
_HUGE = 1e9  # pixels; no coordinate is as large
_LONGEST_NAME = 1000  # characters of a file's name that a record keeps


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfficialIds:
    """The ids that a COCO instances file gives its images, by their files, and its categories, by their names."""

    images: Mapping[str, Any]  # file name -> id
    ends: Mapping[str, Any]  # the end of a file name, from one of its folders on -> id
    categories: Mapping[str, Any]

    def image(self, file: str) -> Any:
        """The id of the image whose name ends as ``file``, or is the end of it; None where the set has none."""
        ends = _ends(file)
        if ends and ends[0] in self.ends:
            return self.ends[ends[0]]
        return next((self.images[end] for end in ends if end in self.images), None)


def official_ids(path: str | Path) -> OfficialIds:
    """Read the ids of a COCO instances file; a name, or an end of a name, that two images share stands for neither.

    Raises:
        ValueError: there is no such file, or it is no COCO instances file.
    """
    content = _read_instances(Path(path))
    classes, numbers = _classes(Path(path), content)
    ids: dict[str, Any] = {}
    ends: dict[str, Any] = {}
    for entry in content["images"]:
        if isinstance(entry, dict) and _is_id(entry.get("id")) and isinstance(entry.get("file_name"), str):
            names = _ends(entry["file_name"])
            ids |= {name: None if name in ids else entry["id"] for name in names[:1]}
            ends |= {name: None if name in ends else entry["id"] for name in names}
    first = {classes[number]: category for category, number in reversed(numbers.items())}
    return OfficialIds(images=ids, ends=ends, categories=first)


def _ends(file: str) -> list[str]:
    """A path and its ends, each from one of its folders on, the longest first."""
    parts = [part for part in file.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return ["/".join(parts[start:]) for start in range(len(parts))]


def coco_results(
    images: pd.DataFrame, objects: pd.DataFrame, *, before: int = 0, official: OfficialIds | None = None
) -> list[dict[str, Any]]:
    """Write results in COCO's format (image_id, category_id, bbox, score), each with its ``file_name``.

    Args:
        before: how many images come before these; they are numbered on.
        official: the ids to carry. What lies in an image or is of a class that has none is left out.
    """
    shapes, files = _shapes(images), dict(zip(images["image_id"], images["file"], strict=True))
    results = []
    for row in _records(objects):
        file = files[row["image_id"]]
        entry = {**_entry(row, shapes), "score": float(row["score"]), "file_name": file}
        entry["image_id"] += before
        if official is not None:
            entry["image_id"] = official.image(file)
            entry["category_id"] = official.categories.get(row["class_name"])
        if entry["image_id"] is not None and entry["category_id"] is not None:
            results.append(entry)
    return results


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


def from_coco(
    path: str | Path,
    *,
    split: str | None = None,
    refused: list[Refused] | None = None,
    warnings: list[str] | None = None,
) -> Annotations:
    """Read the tables of a COCO instances file; each image and annotation is judged by itself.

    The classes are the names of its categories in the order of their ids, numbered from 0; two
    categories of one name are one class, and the root that Roboflow writes is none. Polygons become
    masks; a missing box follows from them. Crowds are kept, with 1 in the further column
    ``iscrowd``. The images' files are looked for where COCO sets keep them (`_folders`); missing
    widths and heights are theirs.

    Args:
        split: the split of all images; None = train, val or test by the file's name, train where
            the name has none.
        refused: takes the images and annotations that are left out. An outline that is none is
            listed too, but the annotation's box is used.
        warnings: takes a sentence where two categories have one name.

    Raises:
        ValueError: no such file, no JSON, or no COCO instances; a category without a name; or not
            one image, or not one of its annotations, can be used.
    """
    path = Path(path)
    content = _read_instances(path)
    refused = [] if refused is None else refused
    split = split or next(iter(re.findall("train|val|test", path.stem.lower())), "train")
    classes, numbers = _classes(path, content)
    if warnings is not None and len(numbers) > len(classes):
        again = next(name for number, name in enumerate(classes) if [*numbers.values()].count(number) > 1)
        warnings.append(f"{path}: several categories have the name {again!r}: they are one class")
    begin = len(refused)
    rows = _good_images(path, content["images"], refused)
    if not rows:
        first = f": {refused[begin]}" if len(refused) > begin else ""
        raise ValueError(f"{path}: none of its {len(content['images']):,} images can be used{first}")
    names = image_ids([row["file_name"] for row in rows.values()])
    images = images_table(
        {"image_id": name, "file": row["file"], "width": row["width"], "height": row["height"], "split": split}
        for name, row in zip(names, rows.values(), strict=True)
    )
    orientations = [row["orientation"] for row in rows.values()]
    by_id = dict(zip(rows, zip(image_rows(images), orientations, strict=True), strict=True))
    begin = len(refused)
    objects = []
    for number, entry in enumerate(content["annotations"], start=1):
        name = f"annotation {entry['id']}" if isinstance(entry, dict) and "id" in entry else f"annotation no. {number}"
        try:
            row, outline_fault = _object(entry, by_id, numbers)
        except ValueError as fault:
            refused.append(Refused("annotation", str(path), name, str(fault)))
            continue
        if outline_fault:
            refused.append(Refused("outline", str(path), name, outline_fault))
        objects.append({**row, "class_name": classes[row["class_id"]]})
    if content["annotations"] and not objects:
        count = len(content["annotations"])
        raise ValueError(f"{path}: none of its {count:,} annotations can be used: {refused[begin]}")
    table = objects_table(objects)
    return images, table if len(table) else table.assign(iscrowd=0), classes


def _read_instances(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path} does not exist: name a COCO JSON file with images, annotations and categories")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:  # of the encoding too
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    keys = ("images", "annotations", "categories")
    lacking = [key for key in keys if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if lacking:
        raise ValueError(f"{path} is not a COCO instances file: it has no {', '.join(lacking)}")
    return content


def _classes(path: Path, content: Mapping[str, Any]) -> tuple[list[str], dict[Any, int]]:
    """The class names, and category id -> class number."""
    for category in content["categories"]:
        is_identified = isinstance(category, dict) and _is_id(category.get("id"))
        if not is_identified or not (isinstance(category.get("name"), str) or _is_number(category.get("name"))):
            raise ValueError(f"{path}: the category {category} has no id or no name")
        check_class_name(str(category["name"]), path)
    used = [entry.get("category_id") for entry in content["annotations"] if isinstance(entry, dict)]
    above = [category.get("supercategory") for category in content["categories"]]
    categories = [
        category
        for category in sorted(content["categories"], key=lambda each: (isinstance(each["id"], str), each["id"]))
        # Roboflow's exports begin with a root that is the supercategory of the classes.
        if category["id"] != 0 or category.get("supercategory") != "none" or category["name"] not in above or 0 in used
    ]
    classes = list(dict.fromkeys(str(category["name"]) for category in categories))
    return classes, {category["id"]: classes.index(str(category["name"])) for category in categories}


def _good_images(path: Path, entries: list[Any], refused: list[Refused]) -> dict[Any, dict[str, Any]]:
    """COCO's id -> file_name, file, width and height of the images that can be used."""
    rows: dict[Any, dict[str, Any]] = {}
    ids = Counter(entry["id"] for entry in entries if isinstance(entry, dict) and _is_id(entry.get("id")))
    folders = _folders(path)
    for entry in entries:
        try:
            row = _image(entry, ids, folders)
        except ValueError as fault:
            name = entry.get("file_name") if isinstance(entry, dict) else entry
            fits = isinstance(name, str) and len(name) <= _LONGEST_NAME  # so that a person can find the file
            refused.append(Refused("image", str(path), str(name) if fits else _short(name), str(fault)))
            continue
        rows[entry["id"]] = row
    shared = Counter(row["file"] for row in rows.values())
    for number in [number for number, row in rows.items() if shared[row["file"]] > 1]:
        row = rows.pop(number)
        reason = f"{row['file']} is the file of {shared[row['file']]} images of the set"
        refused.append(Refused("image", str(path), row["file_name"], reason))
    return rows


def _image(entry: Any, ids: Mapping[Any, int], folders: Sequence[Path]) -> dict[str, Any]:
    if not isinstance(entry, dict) or not _is_id(entry.get("id")):
        raise ValueError("it has no id")
    if ids[entry["id"]] > 1:
        raise ValueError(f"the id {entry['id']!r} is that of {ids[entry['id']]} images")
    name = entry.get("file_name")
    if not isinstance(name, str) or not name.strip("/\\. "):
        raise ValueError(f"its file_name is {name!r}, not the name of a file")
    width, height = _side(entry, "width"), _side(entry, "height")
    file = find_image(name, folders)
    if file is None:
        raise ValueError("the file is not there")
    try:
        frame = listed_frame(file, (width, height))
    except UnreadableHeader:
        if width is None or height is None:
            raise
        frame = width, height, 1  # whoever decodes it says what is wrong with it
    named = {"file_name": name.replace("\\", "/"), "file": file}
    return named | dict(zip(("width", "height", "orientation"), frame, strict=True))


def _side(entry: Mapping[str, Any], key: str) -> int | None:
    value = entry.get(key)
    if value is not None and not (_is_number(value) and value >= 1 and value == int(value)):
        raise ValueError(f"its {key} is {value!r}, not a number of pixels")
    return None if value is None else int(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _HUGE  # so no NaN


def _is_id(value: Any) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def _object(
    entry: Any, images: Mapping[Any, tuple[ImageRow, int]], numbers: Mapping[Any, int]
) -> tuple[dict[str, Any], str | None]:
    """An annotation as a row, and why its outline is none, if it has one that is none."""
    if not isinstance(entry, dict):
        raise ValueError("it is no mapping")
    image_id, category = entry.get("image_id"), entry.get("category_id")
    if not _is_id(image_id) or image_id not in images:
        raise ValueError(f"its image {image_id!r} is not listed, or is left out")
    if not _is_id(category) or category not in numbers:
        raise ValueError(f"its category {category!r} is not listed")
    image, orientation = images[image_id]
    size = (image.width, image.height) if orientation == 1 else (image.height, image.width)  # of the annotation's frame
    rle, fault = _outline(entry.get("segmentation"), size[1], size[0])
    box = entry.get("bbox")
    if not box and rle:
        box = coco_mask.toBbox({"size": [size[1], size[0]], "counts": rle.encode("ascii")}).tolist()
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise ValueError(f"its bbox is {_short(box)}, not four numbers" + (f", and {fault}" if fault else ""))
    left, top, width, height = map(float, box)
    corners = (left, top, left + width, top + height)
    check_box(corners, *size)
    corners, rle = turned_box(corners, orientation, *size), rle and turned_mask(rle, orientation, *size)
    crowd, score = entry.get("iscrowd", 0), entry.get("score")
    if crowd not in (0, 1):
        raise ValueError(f"its iscrowd is {_short(crowd)}, neither 0 nor 1")
    row = {"image_id": image.image_id, "class_id": numbers[category], **dict(zip(BOX, corners, strict=True))}
    return {**row, "score": score if _is_number(score) else math.nan, "rle": rle, "iscrowd": int(crowd)}, fault


def _outline(shape: Any, height: int, width: int) -> tuple[str | None, str | None]:
    """COCO's polygons or run lengths as compressed run lengths, and what is wrong with them, if anything."""
    if not shape:
        return None, None
    try:
        if isinstance(shape, dict):
            return _run_lengths(shape, height, width), None
        polygons = [shape] if isinstance(shape, list) and all(map(_is_number, shape)) else shape
        good = [polygon for polygon in polygons if _is_polygon(polygon)] if isinstance(polygons, list) else []
        if not good:
            return None, f"its segmentation is {_short(shape)}, no outline"
        rle = polygon_mask([np.reshape(polygon, (-1, 2)) for polygon in good], height, width)
        if not rle:
            return None, f"its segmentation is {_short(shape)}, which has no area in the picture"
        dropped = len(polygons) - len(good)
        return rle, f"{dropped} of its {len(polygons)} polygons are none" if dropped else None
    except ValueError as fault:
        return None, str(fault)


def _run_lengths(shape: dict[str, Any], height: int, width: int) -> str:
    """Compressed run lengths that fill the picture; pycocotools decodes others to what lies in memory."""
    counts, size = shape.get("counts"), shape.get("size")
    if size != [height, width]:
        raise ValueError(f"its segmentation is of {_short(size)} pixels, not of {height} x {width}")
    try:
        runs = run_lengths(counts) if isinstance(counts, str) else list(counts or ())
    except (ValueError, TypeError):
        runs = []
    if not all(isinstance(run, int) and run >= 0 for run in runs) or sum(runs) != height * width:
        raise ValueError(f"its segmentation has the run lengths {_short(counts)}, which do not fill the picture")
    if not sum(runs[1::2]):
        raise ValueError("its segmentation is empty")
    return counts if isinstance(counts, str) else coco_mask.frPyObjects(shape, height, width)["counts"].decode("ascii")


def _is_polygon(points: Any) -> bool:
    return isinstance(points, list) and len(points) >= 6 and len(points) % 2 == 0 and all(map(_is_number, points))


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _folders(path: Path) -> list[Path]:
    """Where COCO sets keep their images: beside the file, in ``images``, in a folder named like it, or one up."""
    part = path.stem.removeprefix("instances_")
    roots = (path.parent, path.parent.parent)
    return [*(root / below for root in roots for below in ("", "images", part)), *(r / "images" / part for r in roots)]
