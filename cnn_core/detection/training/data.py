"""The images and labels that a detector learns from: any data set of Ultralytics, or a COCO JSON."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cnn_core.annotations.coco import from_coco
from cnn_core.annotations.yolo_labels import class_names, image_files, label_file, read_data_yaml, write_yolo

VAL_SHARE = 0.1  # of the images of a COCO JSON that has no second one for validation


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectionData:
    """Image files, absolute paths; their labels lie where Ultralytics looks for them (`yolo_labels.label_file`)."""

    train: list[str]
    val: list[str]
    names: list[str]  # of the classes, by number


def open_source(source: str | Path, folder: str | Path) -> DetectionData:
    """Open a folder with a data.yaml, a data.yaml, or a COCO JSON, whose labels are written into ``folder``.

    The validation images of a COCO JSON whose name says ``train`` are those of the file beside it that says ``val``.
    Where there is none, they are a tenth of its own, drawn by their names.

    Raises:
        ValueError: the source does not exist, or has no training images, no validation images or no labels.
    """
    path = Path(source)
    if path.suffix == ".json":
        _coco_as_yolo(path, Path(folder))
        path = Path(folder)
    elif not path.exists():
        raise ValueError(f"{path} does not exist: the stage compose writes data/composed/numbers")
    if path.is_dir():
        candidates = [path / "data.yaml"] if (path / "data.yaml").is_file() else sorted(path.glob("*.y*ml"))
        if len(candidates) != 1:
            raise ValueError(f"{path} has no data.yaml: name a data set of Ultralytics, its data.yaml or a COCO JSON")
        path = candidates[0]
    content = read_data_yaml(path)
    parts = {split: _split_files(path, content, split) for split in ("train", "val")}
    if not any(label_file(file).is_file() for file in parts["train"]):
        missing = label_file(parts["train"][0])
        raise ValueError(f"{path}: none of its training images has labels; looked for {missing} and its like")
    return DetectionData(names=class_names(path, content), **parts)


def _split_files(path: Path, content: dict[str, Any], split: str) -> list[str]:
    files = sorted(str(Path(file).absolute()) for file in image_files(path, content, split))
    if not files:
        raise ValueError(f"{path}: the split {split} has no images")
    return files


def _coco_as_yolo(path: Path, folder: Path) -> None:
    """Write labels and links to the images into ``folder``, which is emptied first."""
    images, objects, classes = from_coco(path, split="train")
    other = path.with_name(path.name.replace("train", "val"))
    if other != path and other.is_file():
        val_images, val_objects, val_classes = from_coco(other, split="val")
        if val_classes != classes:
            raise ValueError(f"{other} has other categories than {path}")
        # Numbered by their split: one name may stand in both files.
        images = pd.concat([_in_split(images, "train"), _in_split(val_images, "val")])
        objects = pd.concat([_in_split(objects, "train"), _in_split(val_objects, "val")])
    else:
        draws = [hashlib.sha256(Path(file).name.encode()).digest()[0] / 256 for file in images["file"]]
        images["split"] = np.where(np.argsort(np.argsort(draws)) < max(1, VAL_SHARE * len(images)), "val", "train")
    for part in ("images", "labels"):
        shutil.rmtree(folder / part, ignore_errors=True)
    write_yolo(folder, images, objects, classes, masks=True, link=True)


def _in_split(table: pd.DataFrame, split: str) -> pd.DataFrame:
    return table.assign(image_id=f"{split}/" + table["image_id"])


def content_sha256(data: DetectionData) -> str:
    """Return one SHA-256 over the classes, the labels, and the names and sizes of the images."""
    digest = hashlib.sha256(repr(data.names).encode())
    for split in (data.train, data.val):
        for file in split:
            labels = label_file(file)
            digest.update(f"{Path(file).name}:{Path(file).stat().st_size}\n".encode())
            digest.update(labels.read_bytes() if labels.is_file() else b"-")
    return digest.hexdigest()
