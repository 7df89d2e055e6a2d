"""The images and labels that a detector learns from: any data set of Ultralytics, or a COCO JSON."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd

from cnn_core.annotations.checks import Refused
from cnn_core.annotations.tables import image_rows
from cnn_core.annotations.truth import read_truth
from cnn_core.annotations.yolo_labels import label_file, label_lines
from cnn_core.files import file_sha256


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectionData:
    """Image files, absolute paths, and their labels."""

    train: list[str]
    val: list[str]
    names: list[str]  # of the classes, by number
    labels: Mapping[str, str]  # file -> the good lines of its text label
    refused: list[Refused]  # images and annotations that are left out


def open_source(source: str | Path, *, outlines: bool, rotates: bool = False) -> DetectionData:
    """Read the truth (`read_truth`) that a training learns from.

    Args:
        outlines: as a segmenter needs them; an annotation without one is left out.
        rotates: the training turns pictures; the outline, where there is one, then gives a tighter box.

    Raises:
        ValueError: the source does not exist, or has no training images, no validation images or no labels.
    """
    refused: list[Refused] = []
    parts: dict[str, list[str]] = {}
    labels: dict[str, str] = {}
    classes: list[str] = []
    for split in ("train", "val"):
        images, objects, names = read_truth(source, split, refused=refused, learning=True, lines=True)
        if classes and names != classes:
            raise ValueError(f"{source}: the validation images have the classes {names}, the others {classes}")
        classes = names
        images["file"] = [str(Path(file).absolute()) for file in images["file"]]
        if outlines:
            refused += _without_outline(images, objects)
            objects = objects[objects["rle"].notna()]
        labels |= label_texts(images, objects, polygons=outlines or rotates)
        parts[split] = sorted(images["file"])
    if not any(labels[file] for file in parts["train"]):
        missing = label_file(parts["train"][0])
        looked = f"; the first that is left out: {refused[0]}" if refused else f"; looked for {missing} and its like"
        raise ValueError(f"{source}: none of its training images has labels{looked}")
    left_out = list(dict.fromkeys(refused))  # of a JSON that both parts are drawn from, read twice
    return DetectionData(train=parts["train"], val=parts["val"], names=classes, labels=labels, refused=left_out)


def _without_outline(images: pd.DataFrame, objects: pd.DataFrame) -> Iterator[Refused]:
    files = dict(zip(images["image_id"], images["file"], strict=True))
    for row in objects[objects["rle"].isna()].itertuples():
        yield Refused("annotation", files[row.image_id], f"a {row.class_name}", "it has no outline to learn from")


def label_texts(images: pd.DataFrame, objects: pd.DataFrame, *, polygons: bool) -> dict[str, str]:
    """The text label of each image by its file; the lines as they were read, but none of boxes among polygons."""
    rows = dict(list(objects.groupby("image_id", sort=False)))
    texts = {}
    for image in image_rows(images):
        of_image = rows.get(image.image_id, objects.iloc[:0])
        if "line" in of_image and of_image["rle"].notna().nunique() == 1:
            lines = of_image["line"].tolist()
        else:
            lines = label_lines(of_image, image.width, image.height, masks=polygons)
        texts[image.file] = "".join(f"{line}\n" for line in lines)
    return texts


def content_sha256(data: DetectionData) -> str:
    """Return one SHA-256 over the classes, the labels, and the names and bytes of the images."""
    digest = hashlib.sha256(repr(data.names).encode("utf-8", "surrogatepass"))
    for split in (data.train, data.val):
        for file in split:
            content = f"{Path(file).name}:{file_sha256(file)}\n{data.labels[file]}\0"
            digest.update(content.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
