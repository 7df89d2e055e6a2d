"""The shared tables as a data set of Ultralytics (``data.yaml``, text labels), and back.

A line of a label file is ``class x y width height`` (the box's middle) or ``class x y x y x y …``
(a polygon), all as shares of the image's width and height. Ultralytics takes a polygon's extent for
its box, so polygons serve detection and segmentation alike. Formats and the search for files follow
its loaders (ultralytics/data/utils.py, base.py).
"""

from __future__ import annotations

import itertools
import math
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import yaml
from pycocotools import mask as coco_mask

from cnn_core.annotations.checks import REPEATED, Refused, check_box, check_class_name, find_image, upright_size
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
from cnn_core.files import is_utf8, printable, refuse_links, safe_file_name

ENDINGS = frozenset(["avif", "bmp", "dng", "heic", "heif", "jp2", "jpeg", "jpg", "mpo", "png", "tif", "tiff", "webp"])
SPLITS = ("train", "val", "test")
_SLACK = 0.01  # how far beyond the image's edge a label may reach; Ultralytics allows as much


def write_yolo(
    folder: str | Path,
    images: pd.DataFrame,
    objects: pd.DataFrame,
    classes: Sequence[str],
    *,
    masks: bool,
    link: bool = False,
    copy: bool = False,
) -> None:
    """Write ``labels/<split>/<image_id without its split>.txt`` of each image, and then ``data.yaml``.

    ``data.yaml`` has no ``path``: Ultralytics then starts from its folder, so the set may lie
    anywhere. (It would resolve a relative ``path`` against the working directory or its settings.)

    Args:
        masks: write objects as polygons (`polygon`) if every object of their image has a mask.
        link: put symbolic links to the images into ``images/<split>/``; otherwise they are there.
        copy: put copies there.

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
        lines = [] if of_image is None else label_lines(of_image, image.width, image.height, masks=masks)
        path = folder / "labels" / f"{names[image.image_id]}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(line + "\n" for line in lines))
        if link or copy:
            file = folder / "images" / f"{names[image.image_id]}{Path(image.file).suffix}"
            file.parent.mkdir(parents=True, exist_ok=True)
            if copy:
                shutil.copyfile(image.file, file)
            else:
                file.symlink_to(Path(image.file).resolve())
    parts = [split for split in SPLITS if split in set(images["split"])]
    content = {**{split: f"images/{split}" for split in parts}, "names": dict(enumerate(classes))}
    plain = all(map(str.isprintable, classes))  # YAML reads a bare line separator as a space
    (folder / "data.yaml").write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=plain), encoding="utf-8")


def _name(image: ImageRow) -> str:
    """``<split>/<name>`` of an image; an image_id may begin with its split already."""
    name = image.image_id.lstrip("/").removeprefix(f"{image.split}/")
    stem, dot, ending = name.rpartition(".")
    return safe_file_name(f"{image.split}/{stem if dot and ending.lower() in ENDINGS else name}")


def label_lines(objects: pd.DataFrame, width: int, height: int, *, masks: bool) -> list[str]:
    """The lines of an image's text label; with ``masks`` polygons, if every object has a mask."""
    if "iscrowd" in objects:  # one object cannot be learnt from a crowd
        objects = objects[objects["iscrowd"] == 0]
    size = np.array([width, height], np.float64)
    if masks and objects["rle"].notna().all():  # Ultralytics refuses files with both kinds of lines
        points = [polygon(decode_mask(rle, height, width)) / size for rle in objects["rle"]]
    else:
        corners = objects[BOX].to_numpy().reshape(-1, 2, 2).clip(0, size) / size
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


def read_yolo(
    data_yaml: str | Path, split: str, *, refused: list[Refused] | None = None, lines: bool = False
) -> Annotations:
    """Read one split of any data set of Ultralytics; polygon labels become masks.

    Each image and each line is judged by itself.

    Args:
        refused: takes the images and lines that are left out.
        lines: keep each object's line in the further column ``line``.

    Raises:
        ValueError: there is no such file or split, or not one of its images can be used.
    """
    path, content = Path(data_yaml), read_data_yaml(data_yaml)
    classes = class_names(path, content)
    refused = [] if refused is None else refused
    listed = list(image_files(path, content, split))
    if not listed:
        raise ValueError(f"{path}: the split {split} has no images")
    rows, faults = [], []
    for file, times in sorted(Counter(listed).items()):
        if not is_utf8(file):
            faults.append(Refused("image", str(path), printable(file), "its name is not UTF-8: rename it"))
            continue
        try:
            width, height = upright_size(file)
        except ValueError as error:
            faults.append(Refused("image", str(path), file, str(error).removeprefix(f"{file} ")))
            continue
        rows.append({"image_id": "", "file": file, "width": width, "height": height, "split": split})
        faults += [Refused("image", str(path), file, "it is listed twice")] * (times - 1)
    refused += faults
    if not rows:
        raise ValueError(f"{path}: none of the {len(listed):,} images of the split {split} can be used: {faults[0]}")
    names = image_ids([str(row["file"]) for row in rows])
    images = images_table({**row, "image_id": name} for row, name in zip(rows, names, strict=True))
    objects = [row for image in image_rows(images) for row in _read_labels(image, classes, refused, lines=lines)]
    return images, objects_table(objects), classes


def label_file(image_file: str) -> Path:
    """The label file of an image, as Ultralytics finds it: ``/images/`` becomes ``/labels/``."""
    return Path("/labels/".join(Path(image_file).as_posix().rsplit("/images/", 1))).with_suffix(".txt")


def read_data_yaml(data_yaml: str | Path) -> dict[str, Any]:
    """Read a ``data.yaml``, or raise a ValueError where there is none or it is not a YAML mapping."""
    try:
        text = Path(data_yaml).read_text(encoding="utf-8-sig")
        content, plain = yaml.safe_load(text), yaml.load(text, yaml.BaseLoader)
    except (FileNotFoundError, IsADirectoryError):
        raise ValueError(f"{data_yaml} does not exist: name the data.yaml of a data set of Ultralytics") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{data_yaml} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{data_yaml} is no data.yaml of Ultralytics: it needs train, val and names")
    if (channels := content.get("channels", 3)) != 3:
        raise ValueError(f"{data_yaml}: channels is {channels}, but pictures are read in three colours: leave it out")
    # A class called no, null or 007 is that text, whatever YAML makes of the bare word.
    return content | {"names": plain["names"]} if plain.get("names") else content


def class_names(path: Path, content: dict[str, Any]) -> list[str]:
    """Give the class names of a ``data.yaml`` by number; a ValueError where there are none or a gap."""
    names, count = content.get("names"), content.get("nc")
    if count is not None and (not isinstance(count, int) or count < 1):
        raise ValueError(f"{path}: nc is {count!r}, not the number of classes")
    if names is None and count:
        names = [f"class_{number}" for number in range(count)]
    if isinstance(names, list):
        names = {str(number): name for number, name in enumerate(names)}
    numbers = list(map(str, range(len(names or ()))))
    if not numbers or not isinstance(names, dict) or set(names) != set(numbers):
        raise ValueError(f"{path}: names must list the classes, or number them from 0 without a gap")
    classes = [names[number] for number in numbers]
    if again := [name for name, times in Counter(map(str, classes)).items() if times > 1]:
        raise ValueError(f"{path}: names has {again[0]!r} twice: a class has one number")
    if not all(isinstance(name, str) for name in classes):
        raise ValueError(f"{path}: names must be texts")
    for name in classes:
        check_class_name(name, path)
    if count is not None and count != len(classes):
        raise ValueError(f"{path}: nc is {count}, but names has {len(classes)}: make them agree, or leave nc out")
    return classes


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
    """The images that a .txt file lists. CVAT begins each line with a folder ``data`` that is not in its export."""
    for line in text.read_text(encoding="utf-8-sig").split("\n"):
        name = line.strip()
        if name.rpartition(".")[-1].lower() not in ENDINGS:
            continue
        yield os.path.normpath(find_image(name, [text.parent]) or name)


def _ending(file: Path) -> str:
    return file.suffix[1:].lower()


def _read_labels(
    image: ImageRow, classes: Sequence[str], refused: list[Refused], *, lines: bool
) -> Iterator[dict[str, Any]]:
    """Read the good objects of an image's label file, if there is one; a repeated line is one object."""
    path = label_file(image.file)
    if not path.is_file():
        return
    for line, times in Counter(written_lines(path)).items():
        refused += [Refused("annotation", str(path), f"the line {line[:60]!r}", REPEATED)] * (times - 1)
        try:
            number, shape = _label(line, image.width, image.height)
            name = class_name(number, classes)
        except ValueError as error:
            refused.append(Refused("annotation", str(path), f"the line {line[:60]!r}", str(error)))
            continue
        row = {"image_id": image.image_id, "class_id": number, "class_name": name, **shape}
        yield row | {"line": line} if lines else row


def written_lines(label: Path) -> list[str]:
    """The lines of a label file that are not blank."""
    text = label.read_text(encoding="utf-8-sig", errors="replace")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _label(line: str, width: int, height: int) -> tuple[int, dict[str, Any]]:
    """The class number, the box and a polygon's mask of one line."""
    try:
        number, *values = map(float, line.split())
    except ValueError:
        raise ValueError("it is no label: not all of it are numbers") from None
    polygon = len(values) >= 6 and len(values) % 2 == 0
    if number != int(number) if math.isfinite(number) else True:
        raise ValueError("it is no label: its class is no whole number")
    if len(values) != 4 and not polygon:
        raise ValueError("it is neither `class x y width height` nor `class x y x y x y …`")
    if not all(-_SLACK <= value <= 1 + _SLACK for value in values):
        raise ValueError("its numbers are not shares of the image's size, from 0 to 1")
    shape = _shape(np.reshape(values, (-1, 2)) * (width, height), width, height)
    check_box([shape[name] for name in BOX], width, height)
    return int(number), shape


def _shape(points: np.ndarray, width: int, height: int) -> dict[str, Any]:
    if len(points) == 2:  # middle, width and height
        corners = itertools.chain(points[0] - points[1] / 2, points[0] + points[1] / 2)
        return dict(zip(BOX, map(float, corners), strict=True))
    points = points.clip(0, (width, height))
    runs = coco_mask.frPyObjects([points.ravel().tolist()], height, width)[0]
    box = (*points.min(axis=0), *points.max(axis=0))
    return {**dict(zip(BOX, map(float, box), strict=True)), "rle": runs["counts"].decode("ascii")}
