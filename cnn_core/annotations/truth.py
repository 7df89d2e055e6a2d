"""The truth that detectors and segmenters learn from and are measured on, in any format that we read."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from cnn_core.annotations.checks import Refused
from cnn_core.annotations.coco import from_coco
from cnn_core.annotations.raw_objects import is_raw, read_raw_objects
from cnn_core.annotations.sets import APART, coco_neighbour, format_of, read_set
from cnn_core.annotations.tables import Annotations, read_annotations
from cnn_core.annotations.yolo_labels import read_data_yaml, read_yolo
from cnn_core.files import read_csv

VAL_PART = 10  # a tenth of the images of a set that has no validation images


def read_truth(
    source: str | Path,
    split: str,
    *,
    refused: list[Refused] | None = None,
    learning: bool = False,
    lines: bool = False,
) -> Annotations:
    """Read a split of a set of ours or of any format that `sets` reads: a folder with a data.yaml, a COCO JSON, …

    Where a set has no validation images, those are a tenth of its training images, drawn by their
    names. The splits of a COCO JSON are files of the same name but for ``train``, ``val`` or
    ``test`` (``instances_train.json``, or Roboflow's ``train/_annotations.coco.json``). One without
    such a neighbour is drawn from for ``train`` and ``val``, and else read whole.

    Args:
        refused: takes the images and annotations that cannot be used; the good ones stay.
        learning: draw from a COCO JSON that is called ``val`` or ``test`` too: it is all there is.
        lines: keep the lines of text labels (`read_yolo`), also of a set of ours.

    Raises:
        ValueError: nothing is there, it is none of these, it has no such split, or nothing in it
            can be used.
    """
    path, refused = Path(source), [] if refused is None else refused
    if is_raw(path):
        return read_raw_objects(path, split)
    if path.exists() and format_of(path) in APART:
        return _part(path, split, refused)
    if path.suffix.lower() == ".json":
        return _read_coco(path, split, refused, learning)
    if (path / "objects.parquet").is_file() and not lines:
        return read_annotations(path, split)
    if not path.exists():
        raise ValueError(
            f"{path} does not exist: name a folder with a data.yaml, a data.yaml, a COCO JSON, or a set in another "
            "format (docs/data.md); the stage compose writes data/composed/numbers"
        )
    if path.is_dir():
        listed = [path / "data.yaml"] if (path / "data.yaml").is_file() else sorted(path.glob("*.y*ml"))
        roboflow = path / "train" / "_annotations.coco.json"
        if not listed and roboflow.is_file():
            return _read_coco(roboflow, split, refused, learning)
        if len(listed) != 1:
            raise ValueError(f"{path} has no data.yaml: name a data set of Ultralytics, its data.yaml or a COCO JSON")
        path = listed[0]
    content = read_data_yaml(path)
    if split in ("train", "val") and content.get("train") and not (content.get("val") or content.get("validation")):
        return _drawn(read_yolo(path, "train", refused=refused, lines=lines), split)
    return read_yolo(path, split, refused=refused, lines=lines)


def _part(path: Path, split: str, refused: list[Refused]) -> Annotations:
    """A split of a set that is read in one go; without validation images a tenth of the training's, and without any
    splits that of all."""
    every = read_set(path)
    refused += every.refused
    images, objects, classes = every.annotations
    parts = set(images["split"])
    wanted = {split} if split in parts else {"train", ""} if split in ("train", "val") else {""}
    rows = images[images["split"].isin(wanted)].assign(split=split).reset_index(drop=True)
    if rows.empty:
        names = ", ".join(sorted(parts - {""})) or "none"
        raise ValueError(f"{path} has no images of the split {split}; it has {names}")
    part = rows, objects[objects["image_id"].isin(rows["image_id"])].reset_index(drop=True), classes
    is_whole = split == "test" or "val" in parts
    return part if is_whole else _drawn(part, split)


def _read_coco(path: Path, split: str, refused: list[Refused], learning: bool) -> Annotations:
    if (other := coco_neighbour(path, split)) is not None:
        return from_coco(other, split=split, refused=refused)
    held_out = any(word in path.stem.lower() for word in ("val", "test")) or path.parent.name in (
        "valid",
        "val",
        "test",
    )
    takes_all = split not in ("train", "val") or (held_out and not learning)
    annotations = from_coco(path, split=split, refused=refused)
    takes_all = takes_all or (split == "train" and coco_neighbour(path, "val") is not None)
    return annotations if takes_all else _drawn(annotations, split)


def _drawn(annotations: Annotations, split: str) -> Annotations:
    """The split train or val of a set that has no validation images."""
    images, objects, classes = annotations
    draws = [(hashlib.sha256(Path(file).name.encode()).hexdigest(), file) for file in images["file"]]
    order = np.argsort(np.argsort(np.array(draws)[:, 0], kind="stable"))
    chosen = order < -(-len(images) // VAL_PART)
    images = images[chosen if split == "val" else ~chosen].assign(split=split).reset_index(drop=True)
    if images.empty:
        raise ValueError("the set has one image: it takes at least one to learn from and one for validation")
    return images, objects[objects["image_id"].isin(images["image_id"])].reset_index(drop=True), classes


def without_images(
    annotations: Annotations, faults: Mapping[str, str], *, source: str | Path, split: str
) -> Annotations:
    """Leave out the images that could not be decoded, with their objects.

    Args:
        faults: why, by the image's file.

    Raises:
        ValueError: no image is left.
    """
    images, objects, classes = annotations
    good = images[~images["file"].isin(faults.keys())].reset_index(drop=True)
    if good.empty:
        file, reason = next(iter(faults.items()))
        raise ValueError(
            f"none of the {len(images):,} images of the split {split} of {source} can be read: mend them, or name "
            f"another set; the first: {file}: {reason}"
        )
    return good, objects[objects["image_id"].isin(good["image_id"])].reset_index(drop=True), classes


def measured_truth(root: Path, source: str, split: str, left_out: str) -> Annotations:
    """Read the truth as an evaluation in ``root`` used it: without the images that its CSV ``left_out`` names."""
    images, objects, classes = read_truth(root / source, split)
    if (root / left_out).is_file():
        table = read_csv(root / left_out)
        refused = {(root / name).resolve() for name in table["name"][table["kind"] == "image"]}
        images = images[[(root / file).resolve() not in refused for file in images["file"]]].reset_index(drop=True)
        objects = objects[objects["image_id"].isin(images["image_id"])].reset_index(drop=True)
    return images, objects, classes


def refused_images(faults: Mapping[str, str], source: str | Path) -> list[Refused]:
    """The entries of images that could not be decoded, by their file, relative to the working directory if below it."""
    here = Path.cwd()
    paths = {Path(file): reason for file, reason in faults.items()}
    names = {path: path.relative_to(here) if path.is_relative_to(here) else path for path in paths}
    return [Refused("image", str(source), str(names[path]), reason) for path, reason in paths.items()]


def refusals(refused: Sequence[Refused], *, images: int) -> Iterator[str]:
    """One sentence for each kind of what is left out beside the good ``images``, with the first of it."""
    kinds = Counter(entry.kind for entry in refused)
    listed = images + kinds["image"]
    words = {
        "image": f"{kinds['image']:,} of {listed:,} images cannot be used and are left out",
        "annotation": f"{kinds['annotation']:,} annotations cannot be used and are left out",
        "outline": f"of {kinds['outline']:,} annotations only the box is used, as their outlines are none",
    }
    for kind in kinds:
        first = next(entry for entry in refused if entry.kind == kind)
        yield f"{words[kind]}; the first: {first.file}, {first}"
