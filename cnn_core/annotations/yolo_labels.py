"""The shared tables as a data set of Ultralytics (``data.yaml``, text labels), and back.

A line of a label file is ``class x y width height`` (the box's middle) or ``class x y x y x y …``
(a polygon), all as shares of the image's width and height. Ultralytics takes a polygon's extent for
its box, so polygons serve detection and segmentation alike. Formats and the search for files follow
its loaders (ultralytics/data/utils.py, base.py).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import yaml
from PIL import Image
from pycocotools import mask as coco_mask

from cnn_core.annotations.masks import decode_mask
from cnn_core.annotations.tables import (
    BOX,
    Annotations,
    ImageRow,
    class_name,
    image_ids,
    image_rows,
    images_table,
    objects_table,
)
from cnn_core.files import refuse_links

ENDINGS = frozenset(["avif", "bmp", "dng", "heic", "heif", "jp2", "jpeg", "jpg", "mpo", "png", "tif", "tiff", "webp"])
SPLITS = ("train", "val", "test")
_SWAPPED = {5, 6, 7, 8}  # EXIF orientations that exchange width and height
_ORIENTATION = 0x0112
_SLACK = 0.01  # how far beyond the image's edge a label may reach; Ultralytics allows as much


def write_yolo(
    folder: str | Path,
    images: pd.DataFrame,
    objects: pd.DataFrame,
    classes: Sequence[str],
    *,
    masks: bool,
    link: bool = False,
) -> None:
    """Write ``labels/<split>/<image_id without its split>.txt`` of each image, and then ``data.yaml``.

    ``data.yaml`` has no ``path``: Ultralytics then starts from its folder, so the set may lie
    anywhere. (It would resolve a relative ``path`` against the working directory or its settings.)

    Args:
        masks: write objects as polygons (`polygon`) if every object of their image has a mask.
        link: put symbolic links to the images into ``images/<split>/``; otherwise they are there.

    Raises:
        ValueError: the image_ids of two images differ in the ending only.
    """
    folder = Path(folder)
    names = {image.image_id: _name(image) for image in image_rows(images)}
    if len(set(names.values())) < len(names):
        raise ValueError("two images would share one label file: their image_ids differ in the ending only")
    rows = dict(list(objects.groupby("image_id", sort=False)))
    for image in image_rows(images):
        of_image = rows.get(image.image_id)
        lines = [] if of_image is None else _lines(of_image, image.width, image.height, masks)
        path = folder / "labels" / f"{names[image.image_id]}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(line + "\n" for line in lines))
        if link:
            linked = folder / "images" / f"{names[image.image_id]}{Path(image.file).suffix}"
            linked.parent.mkdir(parents=True, exist_ok=True)
            linked.symlink_to(Path(image.file).resolve())
    parts = [split for split in SPLITS if split in set(images["split"])]
    content = {**{split: f"images/{split}" for split in parts}, "names": dict(enumerate(classes))}
    (folder / "data.yaml").write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def _name(image: ImageRow) -> str:
    """``<split>/<name>`` of an image; an image_id may begin with its split already."""
    name = Path(image.image_id)
    name = name.relative_to(name.anchor)
    name = name.with_suffix("") if _ending(name) in ENDINGS else name
    return f"{image.split}/{name}".replace(f"{image.split}/{image.split}/", f"{image.split}/", 1)


def _lines(objects: pd.DataFrame, width: int, height: int, masks: bool) -> list[str]:
    if "iscrowd" in objects:  # one object cannot be learnt from a crowd
        objects = objects[objects["iscrowd"] == 0]
    size = np.array([width, height], np.float64)
    if masks and objects["rle"].notna().all():  # Ultralytics refuses files with both kinds of lines
        points = [polygon(decode_mask(rle, height, width)) / size for rle in objects["rle"]]
    else:
        corners = objects[BOX].to_numpy().reshape(-1, 2, 2) / size
        points = [np.stack([pair.mean(axis=0), pair[1] - pair[0]]) for pair in corners]
    return [
        " ".join([str(number), *(f"{value:.9g}" for value in values.ravel())])
        for number, values in zip(objects["class_id"], points, strict=True)
    ]


def polygon(mask: np.ndarray) -> np.ndarray:
    """Outline a mask, bool (H, W), by one closed polygon along the pixels' edges: float64 (points, 2) of x, y.

    It is exact: filled by the even-odd rule it gives the mask again, and its extent is the mask's
    box. Lines that run there and back, and so enclose nothing, join parts and holes.
    """
    doubled = cv2.resize(np.pad(mask.astype(np.uint8), 1), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    rings = [_corners(ring[:, 0]) for ring in contours]
    outline = rings[0]
    for ring in rings[1:]:
        distances = np.abs(outline[:, None] - ring[None]).sum(axis=2)
        here, there = np.unravel_index(distances.argmin(), distances.shape)
        outline = np.concatenate([outline[: here + 1], ring[there:], ring[: there + 1], outline[here:]])
    return outline.astype(np.float64)


def _corners(ring: np.ndarray) -> np.ndarray:
    """Turn a contour in the doubled, padded mask into the corners of original pixels.

    An original pixel is two doubled ones wide, so the contour's pixel 2i lies inside the edge i,
    and 2i + 1 inside the edge i + 1. The contour of a hole lies just beyond it, on the other side
    of the same edge.
    """
    points = (ring + 1) // 2 - 1
    points = points[(points != np.roll(points, 1, axis=0)).any(axis=1)]
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    return points[(np.sign(before) != np.sign(after)).any(axis=1)]


def read_yolo(data_yaml: str | Path, split: str) -> Annotations:
    """Read one split of any data set of Ultralytics; polygon labels become masks.

    Raises:
        ValueError: there is no such file, split or image, or a line of a label file is no label.
    """
    path, content = Path(data_yaml), read_data_yaml(data_yaml)
    classes = class_names(path, content)
    files = sorted(image_files(path, content, split))
    if not files:
        raise ValueError(f"{path}: the split {split} has no images")
    rows, objects = [], []
    for file, image_id in zip(files, image_ids(files), strict=True):
        width, height = _size(file)
        rows.append({"image_id": image_id, "file": file, "width": width, "height": height, "split": split})
        for entry in _read_labels(label_file(file), width, height, classes):
            objects.append({"image_id": image_id, **entry})
    return images_table(rows), objects_table(objects), classes


def label_file(image_file: str) -> Path:
    """The label file of an image, as Ultralytics finds it: ``/images/`` becomes ``/labels/``."""
    return Path("/labels/".join(Path(image_file).as_posix().rsplit("/images/", 1))).with_suffix(".txt")


def read_data_yaml(data_yaml: str | Path) -> dict[str, Any]:
    """Read a ``data.yaml``, or raise a ValueError where there is none or it is not a YAML mapping."""
    try:
        content = yaml.safe_load(Path(data_yaml).read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise ValueError(f"{data_yaml} does not exist: name the data.yaml of a data set of Ultralytics") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{data_yaml} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{data_yaml} is no data.yaml of Ultralytics: it needs train, val and names")
    return content


def class_names(path: Path, content: dict[str, Any]) -> list[str]:
    """Give the class names of a ``data.yaml`` by number; a ValueError where there are none or a gap."""
    names = content.get("names")
    if names is None and content.get("nc"):
        names = [f"class_{number}" for number in range(int(content["nc"]))]
    if isinstance(names, list):
        names = dict(enumerate(names))
    numbers = {int(number): str(name) for number, name in (names or {}).items()}
    if not numbers or sorted(numbers) != list(range(len(numbers))):
        raise ValueError(f"{path}: names must list the classes, or number them from 0 without a gap")
    return [numbers[number] for number in range(len(numbers))]


def image_files(path: Path, content: dict[str, Any], split: str) -> Iterator[str]:
    """The image files of a split: folders, .txt files that list files, or images."""
    value = content.get(split) or (content.get("validation") if split == "val" else None)
    if not value:
        splits = [name for name in SPLITS if content.get(name)]
        raise ValueError(f"{path} has no split {split}; it has {', '.join(splits) or 'none'}")
    for entry in [value] if isinstance(value, str) else value:
        named = _resolve(path, content.get("path"), str(entry))
        if named.is_dir():
            below = list(named.rglob("*"))
            refuse_links(path for path in below if path.is_symlink() and path.is_dir())
            yield from (str(file) for file in below if _ending(file) in ENDINGS and file.is_file())
        elif named.suffix.lower() == ".txt":
            yield from _listed(named)
        else:
            yield str(named)


def _resolve(path: Path, root: str | None, entry: str) -> Path:
    """Find what an entry of data.yaml names: below its ``path``, or else beside data.yaml.

    ``path`` is relative to the working directory or to the folder of data.yaml. A leading ``../``
    that leads nowhere is dropped, as Roboflow's exports need it.
    """
    roots = [Path(root), path.parent / root] if root else []
    tried = [start / name for start in [*roots, path.parent] for name in (entry, entry.removeprefix("../"))]
    for candidate in tried:
        if candidate.exists():
            return candidate
    raise ValueError(f"{path}: {entry} does not exist; looked for {', '.join(map(str, dict.fromkeys(tried)))}")


def _listed(text: Path) -> Iterator[str]:
    for line in text.read_text(encoding="utf-8-sig").split("\n"):
        name = line.strip()
        if name.rpartition(".")[-1].lower() not in ENDINGS:
            continue
        beside = text.parent / name
        file = beside if name.startswith("./") or (beside.is_file() and not Path(name).is_file()) else Path(name)
        yield os.path.normpath(file)


def _ending(file: Path) -> str:
    return file.suffix[1:].lower()


def _size(file: str) -> tuple[int, int]:
    """Read width and height of the upright image from its header."""
    try:
        with Image.open(file) as image:
            width, height = image.size
            turned = image.getexif().get(_ORIENTATION) in _SWAPPED
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{file} is not an image that can be read: {error}") from None
    return (height, width) if turned else (width, height)


def _read_labels(path: Path, width: int, height: int, classes: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Read the objects of a label file, if there is one; a repeated line is one object."""
    if not path.is_file():
        return
    lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    for line in dict.fromkeys(filter(None, lines)):
        try:
            number, *values = map(float, line.split())
            if number != int(number) or len(values) < 4 or (len(values) > 4 and (len(values) < 6 or len(values) % 2)):
                raise ValueError("it is neither `class x y width height` nor `class x y x y x y …`")
            if min(values) < -_SLACK or max(values) > 1 + _SLACK:
                raise ValueError("its numbers are not shares of the image's size, from 0 to 1")
            name = class_name(int(number), classes)
        except ValueError as error:
            raise ValueError(f"{path}: the line {line[:60]!r} is no label: {error}") from None
        points = np.reshape(values, (-1, 2)) * (width, height)
        yield {"class_id": int(number), "class_name": name, **_shape(points, width, height)}


def _shape(points: np.ndarray, width: int, height: int) -> dict[str, Any]:
    if len(points) == 2:  # middle, width and height
        corners = itertools.chain(points[0] - points[1] / 2, points[0] + points[1] / 2)
        return dict(zip(BOX, map(float, corners), strict=True))
    points = points.clip(0, (width, height))
    runs = coco_mask.frPyObjects([points.ravel().tolist()], height, width)[0]
    box = (*points.min(axis=0), *points.max(axis=0))
    return {**dict(zip(BOX, map(float, box), strict=True)), "rle": runs["counts"].decode("ascii")}
