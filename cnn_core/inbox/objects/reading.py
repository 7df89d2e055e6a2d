"""Read a delivery in any format of sets of objects, and the images without a label where they are wanted."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cnn_core.annotations.checks import upright_size
from cnn_core.annotations.sets import ADVICE, UNLISTED, ObjectSet, format_of, read_set, unlisted
from cnn_core.annotations.tables import images_table, objects_table
from cnn_core.annotations.yolo_labels import label_file
from cnn_core.data.objects.reading import Account
from cnn_core.files import is_utf8, printable
from cnn_core.inbox.objects.content import stacked

UNLABELLED = "images without a label"
_BACKGROUND = ("background", "backgrounds")  # folders of images that show no object
_LABELS = (".txt", ".xml", ".json")


def read_labelled(path: Path, account: Account, shown: str, background: bool) -> tuple[ObjectSet, dict[str, int]]:
    """The set that a delivery holds, with images without a label where they are wanted, and what is left out."""
    if not path.is_dir():
        raise ValueError(f"{shown} is one file: put the folder or .zip there that holds the images with their labels")
    try:
        every = read_set(path) if format_of(path) else _no_set()
    except ValueError as error:
        raise ValueError(account.shown(str(error))) from None
    for entry in every.refused:
        account.refuse(*entry)
    images, objects, classes = every.annotations
    # A set of ours has no unlabelled images; its folder may hold a sheet of them.
    bare = [] if every.format in ("raw", "tables") else list(map(str, unlisted(path, images, every.refused)))
    if every.format == "ultralytics":
        without = [file for file in images["file"] if not label_file(file).is_file()]
        images = images[~images["file"].isin(without)].reset_index(drop=True)
        bare += without
    wanted = [file for file in bare if background or _is_background(Path(shown, _name(file, path)))]
    rows = _with_free_ids(_background_rows(wanted, path, account), set(images["image_id"]))
    images = stacked(images, images_table(rows)) if rows else images
    left_out = {why: count for why, count in every.left_out.items() if why != UNLISTED}
    if count := len(bare) - len(wanted):
        left_out[UNLABELLED] = count
    if not every.format and not wanted:
        hint = f", and {count:,} {UNLABELLED} (--background takes them as images that show no object)" if count else ""
        raise ValueError(f"{shown} holds no labels that are read{hint}: {ADVICE}")
    return dataclasses.replace(every, annotations=(images, objects, classes)), left_out


def _no_set() -> ObjectSet:
    tables = (images_table([]), objects_table([]), list[str]())
    return ObjectSet(format="", annotations=tables, refused=[], left_out={}, unused={}, warnings=[])


def _with_free_ids(rows: Iterable[dict[str, Any]], taken: set[str]) -> list[dict[str, Any]]:
    """The rows with image_ids that no image with labels has: those are named without their folder ``images``."""
    free = []
    for row in rows:
        while row["image_id"] in taken:
            row["image_id"] = f"unlabelled/{row['image_id']}"
        taken.add(row["image_id"])
        free.append(row)
    return free


def _is_background(path: Path) -> bool:
    return any(part.lower() in _BACKGROUND for part in path.parts[:-1])


def _background_rows(files: Iterable[str], root: Path, account: Account) -> Iterable[dict[str, Any]]:
    for file in files:
        label = next((other for other in _label_files(file) if other.is_file()), None)
        if not is_utf8(file):
            account.refuse("image", printable(file), printable(file), "its name is not UTF-8: rename it")
        elif label is not None:
            reason = (
                f"its label file {_name(str(label), root)} is of no set that is read, so it is no image without a label"
            )
            account.refuse("image", file, file, reason)
        else:
            try:
                width, height = upright_size(file)
            except ValueError as fault:
                account.refuse("image", file, file, str(fault).removeprefix(f"{file} "))
            else:
                size = {"width": width, "height": height}
                yield {"image_id": _name(file, root), "file": file, **size, "split": ""}


def _name(file: str, root: Path) -> str:
    """A file's path below the delivery; a data.yaml may name one that lies elsewhere."""
    path = Path(file)
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def _label_files(file: str) -> list[Path]:
    return [label_file(file), *(Path(file).with_suffix(ending) for ending in _LABELS)]
