"""The shared tables as Pascal VOC (an XML file an image), and back. http://host.robots.ox.ac.uk/pascal/VOC/voc2012/

VOC counts pixels from 1, and a box holds its last pixel: ``xmin`` 3 and ``xmax`` 6 are columns 3 to 6. In our
continuous coordinates that is x1 = 2.0 and x2 = 6.0. A tool that counts from 0 is off by that one pixel; what then
lies at -1 is clipped when the set is ingested. VOC has no masks here: they are not read, and not written.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

import numpy as np
import pandas as pd

from cnn_core.annotations.checks import Refused, find_image
from cnn_core.annotations.listed import ListedImage, Shape, as_tables, side
from cnn_core.annotations.safe_xml import check_text, number_of, read_xml, text_of
from cnn_core.annotations.tables import BOX, Annotations, image_rows

_SIDES = ("xmin", "ymin", "xmax", "ymax")
_PARTS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def read_voc(folder: str | Path, refused: list[Refused]) -> Annotations:
    """Read every XML file below a folder, each with its image: beside it, in JPEGImages, or in images.

    The splits are those of ``ImageSets/Main/<split>.txt``, or of folders train, valid or test above the files. The
    classes are the names of the objects, in alphabetical order.

    Args:
        refused: takes what cannot be used. An image whose XML is no XML is refused, as it would seem to be empty.
    """
    folder = Path(folder)
    paths = sorted(folder.rglob("*.xml"))
    splits, faults = _image_sets(folder, {path.stem for path in paths})
    listed = [_image(path, folder, splits, faults) for path in paths]
    names = {entry.file for entry in listed}
    by_stem = {Path(entry.listing).stem for entry in listed}
    for name in sorted(splits.keys() - by_stem):
        file = find_image(f"{name}.jpg", _folders(folder, folder))
        if file is None or file not in names:
            fault = f"the split {splits[name]} lists it, but it has no XML file"
            listed.append(ListedImage(name=name, listing=str(folder / "ImageSets/Main"), file=file, fault=fault))
    classes = sorted({shape.label for entry in listed for shape in entry.shapes if shape.label})
    return as_tables(listed, classes, refused)


def _image_sets(folder: Path, stems: Collection[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Image name -> split, and why an image is in none that can be used.

    A line is a name, perhaps with a 1, 0 or -1 behind it; a name among ``stems`` may end so itself.
    """
    splits: dict[str, str] = {}
    faults: dict[str, str] = {}
    for split in ("train", "val", "test"):
        for path in sorted(folder.rglob(f"ImageSets/Main/{split}.txt")):
            for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines():
                name, _, flag = line.strip().rpartition(" ")
                if line.strip() in stems or not name or flag not in ("1", "-1", "0"):
                    name = line
                name = name.strip()
                if name and splits.setdefault(name, split) != split:
                    faults[name] = f"ImageSets/Main lists it in {splits[name]} and in {split}"
    return splits, faults


def _image(path: Path, folder: Path, splits: Mapping[str, str], faults: Mapping[str, str]) -> ListedImage:
    above = [_PARTS[part.lower()] for part in path.relative_to(folder).parts[:-1] if part.lower() in _PARTS]
    split = splits.get(path.stem, above[0] if above else "")
    folders = _folders(path.parent, folder)
    try:
        root = read_xml(path)
        if root.tag != "annotation":
            raise ValueError(f"it is an XML of {root.tag[:40]}, not a VOC annotation")
    except ValueError as error:
        reason = str(error).removeprefix(f"{path} ")
        return ListedImage(name=path.name, listing=str(path), file=None, fault=f"its XML cannot be used: {reason}")
    name = text_of(root, "filename") or path.stem
    file = find_image(name, folders) or _by_stem(path.stem, folders)
    shapes = [_shape(number, element) for number, element in enumerate(root.iterfind("object"), start=1)]
    shown = os.path.relpath(file, folder) if file and Path(file).is_relative_to(folder) else name
    entry = ListedImage(name=shown, listing=str(path), file=file, split=split, shapes=shapes)
    try:
        width, height = side(text_of(root, "size/width"), "width"), side(text_of(root, "size/height"), "height")
    except ValueError as error:
        faults = {**faults, path.stem: str(error)}
        width = height = None
    return ListedImage(**{**vars(entry), "width": width, "height": height, "fault": faults.get(path.stem, "")})


def _folders(beside: Path, folder: Path) -> list[Path]:
    roots = dict.fromkeys((beside, beside.parent, folder))
    return [root / below for root in roots for below in ("", "JPEGImages", "images")]


def _by_stem(stem: str, folders: Sequence[Path]) -> str | None:
    """An image of the XML file's name, whatever its ending; a ``filename`` is often that of another machine."""
    for ending in ("jpg", "jpeg", "png", "JPG", "JPEG", "PNG", "bmp", "webp", "tif", "tiff"):
        if (file := find_image(f"{stem}.{ending}", folders)) is not None:
            return file
    return None


def _shape(number: int, element: Element) -> Shape:
    name, label = f"object no. {number}", text_of(element, "name")
    try:
        if element.find("robndbox") is not None:
            raise ValueError("it is a rotated box, which is not read: draw an upright one")
        box = element.find("bndbox")
        if box is None:
            raise ValueError("it has no bndbox")
        x1, y1, x2, y2 = (number_of(text_of(box, key), key) for key in _SIDES)
    except ValueError as error:
        return Shape(name=name, label=label, fault=str(error))
    return Shape(name=name, label=label, box=(x1 - 1, y1 - 1, x2, y2))


def write_voc(
    folder: str | Path,
    images: pd.DataFrame,
    objects: pd.DataFrame,
    *,
    copy_image: Callable[[str, Path], None],
) -> None:
    """Write Annotations/, JPEGImages/ and ImageSets/Main/.

    Args:
        copy_image: puts the image of an image_id at a path.
    """
    folder = Path(folder)
    for below in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / below).mkdir(parents=True, exist_ok=True)
    rows = dict(list(objects.groupby("image_id", sort=False)))
    splits: dict[str, list[str]] = {}
    for row in image_rows(images):
        name = Path(row.file).name
        check_text(name, "file name")
        copy_image(row.image_id, folder / "JPEGImages" / name)
        root = Element("annotation")
        SubElement(root, "filename").text = name
        size = SubElement(root, "size")
        for key, value in (("width", row.width), ("height", row.height), ("depth", 3)):
            SubElement(size, key).text = str(value)
        for label, box in _boxes(rows.get(row.image_id)):
            check_text(label, "class")
            element = SubElement(root, "object")
            SubElement(element, "name").text = label
            corners = SubElement(element, "bndbox")
            for key, number in zip(_SIDES, box + np.array([1, 1, 0, 0]), strict=True):
                SubElement(corners, key).text = f"{number:.10g}"
        indent(root)
        stem = Path(name).stem
        ElementTree(root).write(folder / "Annotations" / f"{stem}.xml", encoding="utf-8")
        splits.setdefault(row.split, []).append(stem)
    for split, names in splits.items():
        if split in ("train", "val", "test"):
            (folder / "ImageSets/Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))


def _boxes(objects: pd.DataFrame | None) -> Iterator[tuple[str, np.ndarray]]:
    if objects is not None:
        yield from zip(objects["class_name"], objects[BOX].to_numpy(), strict=True)
