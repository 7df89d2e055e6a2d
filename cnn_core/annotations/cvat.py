"""The shared tables as CVAT for images 1.1 (one XML), and back. https://docs.cvat.ai/docs/dataset_management/formats/format-cvat/

Boxes, polygons and masks are read. Points, polylines, ellipses, cuboids, skeletons and rotated boxes are refused by
name. Attributes, ``occluded`` and the order of drawing are not kept. A mask is run lengths, row by row, within its
``left``, ``top``, ``width`` and ``height``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

import numpy as np
import pandas as pd

from cnn_core.annotations.checks import Refused, find_image
from cnn_core.annotations.listed import ListedImage, Shape, as_tables, side
from cnn_core.annotations.masks import decode_mask, encode_mask, mask_box
from cnn_core.annotations.safe_xml import check_text, number_of, read_xml, text_of
from cnn_core.annotations.tables import BOX, Annotations, image_rows
from cnn_core.files import MAX_PIXELS

_CORNERS = ("xtl", "ytl", "xbr", "ybr")
_REFUSED = {"polyline", "points", "ellipse", "cuboid", "skeleton"}
_SUBSETS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def read_cvat(path: str | Path, refused: list[Refused]) -> Annotations:
    """Read an ``annotations.xml``; its images lie beside it or in ``images``, perhaps in a folder of their subset.

    The classes are the labels of the task in their order, and behind them those that only annotations name. Subsets
    called Train, Validation and Test are the splits.

    Raises:
        ValueError: it is no XML, no CVAT, or CVAT for video.
    """
    path = Path(path)
    root = read_xml(path)
    if root.tag != "annotations":
        raise ValueError(f"{path} is an XML of {root.tag[:40]}, not of CVAT for images")
    if root.find("track") is not None:
        raise ValueError(f"{path} is CVAT for video: export the task as CVAT for images 1.1")
    listed = [_image(element, path) for element in root.iterfind("image")]
    names = [text_of(label, "name") for label in root.iterfind("meta//labels/label") if text_of(label, "type") != "tag"]
    others = sorted({shape.label for entry in listed for shape in entry.shapes if not shape.fault} - {*names, ""})
    return as_tables(listed, list(dict.fromkeys([*filter(None, names), *others])), refused)


def _image(element: Element, path: Path) -> ListedImage:
    name, subset = element.get("name", ""), element.get("subset", "")
    roots = [path.parent / "images", path.parent]
    file = find_image(name, [*(root / subset for root in roots if subset), *roots]) if name.strip("/\\. ") else None
    fault = "" if name.strip("/\\. ") else f"its name is {name!r}, not the name of a file"
    width = height = None
    try:
        width, height = side(element.get("width"), "width"), side(element.get("height"), "height")
    except ValueError as error:
        fault = fault or str(error)
    shapes = [
        _shape(number, shape, width, height)
        for number, shape in enumerate((child for child in element if child.tag != "tag"), start=1)
    ]
    return ListedImage(
        name=name,
        listing=str(path),
        file=file,
        split=_SUBSETS.get(subset.lower(), ""),
        width=width,
        height=height,
        shapes=shapes,
        fault=fault,
    )


def _shape(number: int, element: Element, width: int | None, height: int | None) -> Shape:
    name, label = f"{element.tag} no. {number}", element.get("label", "")
    try:
        if element.tag == "box":
            if number_of(element.get("rotation", "0"), "rotation") % 360:
                raise ValueError(f"it is a rotated box (by {element.get('rotation')} degrees), which is not read")
            x1, y1, x2, y2 = (number_of(element.get(key), key) for key in _CORNERS)
            return Shape(name=name, label=label, box=(x1, y1, x2, y2))
        if element.tag == "polygon":
            return Shape(name=name, label=label, polygon=_points(element.get("points", "")))
        if element.tag == "mask":
            return Shape(name=name, label=label, rle=_mask(element, width, height))
        kind = element.tag if element.tag in _REFUSED else f"shape called {element.tag[:40]}"
        raise ValueError(f"it is a {kind}, which is not read: only boxes, polygons and masks are")
    except ValueError as error:
        return Shape(name=name, label=label, fault=str(error))


def _points(text: str) -> np.ndarray:
    pairs = [pair.split(",") for pair in text.split(";") if pair.strip()]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"its points are {text[:40]!r}, not x,y;x,y;…")
    return np.array([[number_of(value, "point") for value in pair] for pair in pairs], float).reshape(-1, 2)


def _mask(element: Element, width: int | None, height: int | None) -> str:
    if width is None or height is None or width * height > MAX_PIXELS:
        raise ValueError(f"it is a mask, but its image has no size, or more than {MAX_PIXELS:,} pixels")
    corner = {key: number_of(element.get(key), key) for key in ("left", "top", "width", "height")}
    if any(value != int(value) for value in corner.values()):
        raise ValueError("its left, top, width and height are not whole numbers")
    left, top, across, down = (int(corner[key]) for key in ("left", "top", "width", "height"))
    if min(left, top) < 0 or min(across, down) < 1 or left + across > width or top + down > height:
        raise ValueError(
            f"its mask, {across} x {down} pixels at {left}, {top}, does not fit the {width} x {height} pixels"
        )
    try:
        runs = np.array([int(run) for run in (element.get("rle") or "").split(",")], np.int64)
    except (ValueError, OverflowError):
        raise ValueError("its rle is no list of whole numbers") from None
    if (runs < 0).any() or (runs > across * down).any() or runs.sum() != across * down:
        raise ValueError(f"its rle does not fill its {across} x {down} pixels")
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(down, across)
    if not inside.any():
        raise ValueError("its mask is empty")
    mask = np.zeros((height, width), bool)
    mask[top : top + down, left : left + across] = inside
    return encode_mask(mask)


def write_cvat(
    folder: str | Path,
    images: pd.DataFrame,
    objects: pd.DataFrame,
    classes: Sequence[str],
    *,
    copy_image: Callable[[str, Path], None],
) -> None:
    """Write ``annotations.xml`` and ``images/<subset>/``; an object with a mask is written as its mask alone.

    Args:
        copy_image: puts the image of an image_id at a path.
    """
    folder = Path(folder)
    root = Element("annotations")
    SubElement(root, "version").text = "1.1"
    labels = SubElement(SubElement(SubElement(root, "meta"), "task"), "labels")
    for name in classes:
        check_text(name, "class")
        SubElement(SubElement(labels, "label"), "name").text = name
    rows = dict(list(objects.groupby("image_id", sort=False)))
    for number, row in enumerate(image_rows(images)):
        subset = {"train": "Train", "val": "Validation", "test": "Test"}.get(row.split, "")
        file = folder / "images" / subset / Path(row.file).name
        check_text(file.name, "file name")
        file.parent.mkdir(parents=True, exist_ok=True)
        copy_image(row.image_id, file)
        attributes = {"id": str(number), "name": file.name, "width": str(row.width), "height": str(row.height)}
        element = SubElement(root, "image", attributes | ({"subset": subset} if subset else {}))
        of_image = rows.get(row.image_id, objects.iloc[:0])
        for label, rle, box in zip(of_image["class_name"], of_image["rle"], of_image[BOX].to_numpy(), strict=True):
            if rle:
                SubElement(element, "mask", {"label": label, **_written_mask(decode_mask(rle, row.height, row.width))})
            else:
                corners = {key: f"{value:.10g}" for key, value in zip(_CORNERS, box, strict=True)}
                SubElement(element, "box", {"label": label, **corners})
    indent(root)
    ElementTree(root).write(folder / "annotations.xml", encoding="utf-8", xml_declaration=True)


def _written_mask(mask: np.ndarray) -> dict[str, str]:
    left, top, right, bottom = map(int, mask_box(mask))
    flat = mask[top:bottom, left:right].ravel()
    changes = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0] if not flat[0] else [0, 0], changes, [len(flat)]]))
    corner = {"left": left, "top": top, "width": right - left, "height": bottom - top}
    return {"rle": ", ".join(map(str, runs.tolist())), **{key: str(value) for key, value in corner.items()}}
