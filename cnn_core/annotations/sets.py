"""A set of objects in any format that we read, in one shape: what can be used, what is refused, what is left out.

| format | is known by |
|---|---|
| raw, tables | the manifests of the stages ingest and compose |
| ultralytics | a data.yaml |
| coco | JSON with images, annotations and categories; one, or one a split |
| label-studio | JSON that is a list of tasks |
| cvat | XML with the root ``annotations`` |
| voc | XML files with the root ``annotation`` |
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import pandas as pd

from cnn_core.annotations.checks import Refused
from cnn_core.annotations.coco import from_coco
from cnn_core.annotations.cvat import read_cvat
from cnn_core.annotations.label_studio import is_label_studio, read_label_studio
from cnn_core.annotations.raw_objects import is_raw, read_raw_objects
from cnn_core.annotations.safe_xml import root_tag
from cnn_core.annotations.tables import Annotations, objects_table, read_annotations
from cnn_core.annotations.voc import read_voc
from cnn_core.annotations.yolo_labels import ENDINGS, SPLITS, label_file, read_data_yaml, read_yolo, written_lines

Format = Literal["raw", "tables", "ultralytics", "coco", "label-studio", "cvat", "voc", ""]
APART: tuple[Format, ...] = ("label-studio", "cvat", "voc")  # read in one go, all splits at once
ADVICE = (
    "name a folder or .zip with a data.yaml of Ultralytics, COCO JSON, Pascal VOC, CVAT for images 1.1, or Label "
    "Studio JSON, or one of these files"
)
UNLISTED = "images that no annotation file lists"
LEFT_OUT_IMAGE = "its image is left out"
_WORDS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}  # in the names of files
_SPLIT = re.compile(r"(?<![a-z])(train|training|valid|validation|val|test|testing)(?![a-z])")
_IMAGE_FOLDERS = {"images", "jpegimages"}  # which say nothing about an image


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectSet:
    """A set as it was read.

    Attributes:
        annotations: images with their paths, objects and classes. An image's split is "" where the set has none.
        refused: images and annotations that cannot be used.
        left_out: counts of images that are not meant, by why.
        unused: counts of annotations that are not meant, by why.
        warnings: sentences that the user should know.
    """

    format: Format
    annotations: Annotations
    refused: list[Refused]
    left_out: Mapping[str, int]
    unused: Mapping[str, int]
    warnings: Sequence[str]


def format_of(path: str | Path) -> Format:
    """The format of a folder or file, "" where it is none of ours."""
    return _located(Path(path))[0]


def read_set(path: str | Path) -> ObjectSet:
    """Read all splits of a set, in a folder or file, each image and annotation judged by itself.

    Raises:
        ValueError: there is nothing, it is no format of ours, or no image can be used.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise ValueError(f"the source {path} does not exist: {ADVICE}")
    kind, files = _located(path)
    if not kind:
        raise ValueError(f"{path} holds no set of objects that is read: {ADVICE}")
    refused: list[Refused] = []
    warnings: list[str] = []
    left_out: Counter[str] = Counter()
    unused: Counter[str] = Counter()
    if kind == "raw":
        tables = read_raw_objects(files[0], None)
    elif kind == "tables":
        tables = read_annotations(files[0])
    elif kind == "ultralytics":
        tables = _ultralytics(files[0], refused, warnings)
        unused["of label files without an image"] = _lone_lines(tables[0], refused)
    elif kind == "coco":
        tables = _coco(files, refused, warnings)
    elif kind == "cvat":
        tables = _joined([read_cvat(file, refused) for file in files])
    elif kind == "voc":
        tables = read_voc(files[0], refused)
    else:
        tables, left_out["tasks without an annotation"], unused["of other annotators"] = read_label_studio(
            files[0], json.loads(files[0].read_text(encoding="utf-8-sig")), refused
        )
    if not len(tables[0]):
        first = next((f": {entry}" for entry in refused if entry.kind == "image"), "")
        raise ValueError(f"{path}: none of its images can be used{first}")
    tables = _once(tables, refused)
    root = path if path.is_dir() else path.parent
    if path.is_dir() and kind not in ("raw", "tables"):
        left_out[UNLISTED] = len(unlisted(path, tables[0], refused))
    return ObjectSet(
        format=kind,
        annotations=_identified(tables, root),
        refused=refused,
        left_out=+left_out,
        unused=+unused,
        warnings=warnings,
    )


# Where a format keeps its files


def _located(path: Path) -> tuple[Format, list[Path]]:
    """The format and the files to read; a folder around all of it is looked through."""
    if path.is_file():
        return _of_file(path)
    for _ in range(3):
        kind, files = _of_folder(path)
        if kind:
            return kind, files
        below = [entry for entry in path.iterdir() if not entry.name.startswith((".", "__MACOSX"))]
        folders = [entry for entry in below if entry.is_dir()]
        if len(folders) != 1:
            break
        path = folders[0]
    return "", []


def _of_file(path: Path) -> tuple[Format, list[Path]]:
    ending = path.suffix.lower()
    if ending in (".yaml", ".yml"):
        return "ultralytics", [path]
    if ending == ".json":
        kind = _json_kind(path)
        if kind != "coco":
            return kind, [path]
        others = [other for split in SPLITS if (other := coco_neighbour(path, split)) is not None]
        return "coco", list(dict.fromkeys([path, *others]))
    if ending == ".xml" and (tag := root_tag(path)) in ("annotations", "annotation"):
        return ("cvat", [path]) if tag == "annotations" else ("voc", [path.parent])
    return "", []


def _of_folder(path: Path) -> tuple[Format, list[Path]]:
    if is_raw(path):
        return "raw", [path]
    if (path / "objects.parquet").is_file() and (path / "images.parquet").is_file():
        return "tables", [path]
    listed = [path / "data.yaml"] if (path / "data.yaml").is_file() else sorted(path.glob("*.y*ml"))
    if len(listed) == 1:
        return "ultralytics", listed
    # Roboflow's, one a split, then those of the folder itself, then COCO's own
    for pattern in ("*/_annotations.coco.json", "*.json", "annotations/*.json"):
        kinds = {file: _json_kind(file) for file in sorted(path.glob(pattern)) if file.is_file()}
        coco = [file for file, kind in kinds.items() if kind == "coco"]
        named = [file for file in coco if "instances" in file.stem]
        if coco:
            return "coco", named or coco
        if tasks := [file for file, kind in kinds.items() if kind == "label-studio"]:
            if len(tasks) > 1:
                raise ValueError(f"{path} has {len(tasks)} exports of Label Studio: name the one that is meant")
            return "label-studio", tasks
    if cvat := [file for file in sorted(path.glob("*.xml")) if root_tag(file) == "annotations"]:
        return "cvat", cvat
    first = next((file for file in _below(path, ".xml") if root_tag(file) == "annotation"), None)
    return ("voc", [path]) if first else ("", [])


def _below(path: Path, ending: str) -> Iterator[Path]:
    return (file for file in sorted(path.rglob(f"*{ending}")) if file.is_file())


def _json_kind(path: Path) -> Format:
    """Whether a JSON is COCO's or Label Studio's, by its first sign and the keys that its text holds."""
    try:
        text = path.read_bytes()
    except OSError:
        return ""
    start = text[:64].removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"{"):
        return "coco" if all(f'"{key}"'.encode() in text for key in ("images", "annotations", "categories")) else ""
    if not start.startswith(b"["):
        return ""
    try:
        return "label-studio" if is_label_studio(json.loads(text.decode("utf-8-sig"))) else ""
    except ValueError:
        return ""


def coco_neighbour(path: Path, split: str) -> Path | None:
    """The file of another split of a COCO set whose training file this is."""
    for word in _WORDS.get(split, ()):
        beside = path.with_name(path.name.replace("train", word))
        in_folder = path.parent.parent / path.parent.name.replace("train", word) / path.name
        for other in (beside, in_folder):
            if other != path and other.is_file():
                return other
    return None


# The formats of several files


def _ultralytics(data_yaml: Path, refused: list[Refused], warnings: list[str]) -> Annotations:
    content = read_data_yaml(data_yaml)
    if "kpt_shape" in content:
        raise ValueError(f"{data_yaml} is a set of key points (kpt_shape), which are not read: boxes and masks are")
    parts: list[Annotations] = []
    faults: list[str] = []
    for split in SPLITS:
        if not (content.get(split) or (split == "val" and content.get("validation"))):
            continue
        begin = len(refused)
        try:
            parts.append(read_yolo(data_yaml, split, refused=refused))
        except ValueError as error:
            faults.append(str(error))
        for entry in refused[begin:]:
            if entry.kind == "image" and (label := label_file(entry.name)).is_file():
                refused += [
                    Refused("annotation", str(label), f"the line {line[:60]!r}", f"{LEFT_OUT_IMAGE}: {entry.reason}")
                    for line in written_lines(label)
                ]
    if not parts:
        raise ValueError(faults[0] if faults else f"{data_yaml} names neither train, val nor test")
    warnings += faults
    return _joined(parts)


def _lone_lines(images: pd.DataFrame, refused: Sequence[Refused]) -> int:
    """Count the lines of label files that no image of the set belongs to."""
    files = [*images["file"], *(entry.name for entry in refused if entry.kind == "image")]
    used = {label_file(file) for file in files}
    folders = {label.parent for label in used if "labels" in label.parts}
    lone = (label for folder in sorted(folders) for label in sorted(folder.glob("*.txt")) if label not in used)
    return sum(len(written_lines(label)) for label in lone)


def _coco(files: Sequence[Path], refused: list[Refused], warnings: list[str]) -> Annotations:
    parts: list[Annotations] = []
    faults: list[str] = []
    for file in files:
        try:
            parts.append(from_coco(file, split=_split_of(file) or "-", refused=refused, warnings=warnings))
        except ValueError as error:
            faults.append(str(error))
    if not parts:
        raise ValueError(faults[0])
    warnings += faults
    images, objects, classes = _joined(parts)
    return images.assign(split=images["split"].where(images["split"] != "-", "")), objects, classes


def _split_of(file: Path) -> str:
    """The split that a file's name, or else that of its folder, says; "" where they say none."""
    for name in (file.stem.lower(), file.parent.name.lower()):
        if words := _SPLIT.findall(name):
            return "val" if words[0].startswith("val") else words[0].removesuffix("ing")
    return ""


def _joined(parts: Sequence[Annotations]) -> Annotations:
    """Tables one after the other; classes of one name are one class, in the order in which they come."""
    classes = list(dict.fromkeys(name for part in parts for name in part[2]))
    numbers = {name: number for number, name in enumerate(classes)}
    images, objects = [], []
    for number, (listed, drawn, _) in enumerate(parts):  # the ids of two parts may be the same
        images.append(listed.assign(image_id=[f"{number}/{name}" for name in listed["image_id"]]))
        renamed = drawn.assign(image_id=[f"{number}/{name}" for name in drawn["image_id"]])
        objects.append(renamed.assign(class_id=[numbers[name] for name in drawn["class_name"]]))
    filled = [part for part in objects if len(part)]
    joined = objects_table(pd.concat(filled, ignore_index=True)) if filled else objects[0]
    return pd.concat(images, ignore_index=True), joined, classes


# One row an image


def _once(tables: Annotations, refused: list[Refused]) -> Annotations:
    """Of an image that several splits list keep one row, that of the split which least may be learned from."""
    images, objects, classes = tables
    order = images["split"].map({"test": 0, "val": 1}).fillna(2)
    paths = images["file"].map(os.path.realpath)
    again = paths.loc[order.sort_values(kind="stable").index].duplicated().loc[images.index]
    if not again.any():
        return tables
    kept = dict(zip(paths[~again], images["split"][~again], strict=True))
    gone = images[again]
    for file, split, path in zip(gone["file"], gone["split"], paths[again], strict=True):
        refused.append(Refused("image", str(file), str(file), f"it is in {split or 'the set'} and in {kept[path]}"))
    lost = objects["image_id"].isin(gone["image_id"])
    files = dict(zip(gone["image_id"], gone["file"], strict=True))
    for image_id, name in zip(objects["image_id"][lost], objects["class_name"][lost], strict=True):
        reason = f"{LEFT_OUT_IMAGE}: it is listed in two splits"
        refused.append(Refused("annotation", str(files[image_id]), f"a {name}", reason))
    return images[~again].reset_index(drop=True), objects[~lost].reset_index(drop=True), classes


def _identified(tables: Annotations, root: Path) -> Annotations:
    """Name each image by its path below ``root``, without the folders that only say "images"; else by all of it."""
    images, objects, classes = tables
    paths = [_relative(file, root) for file in images["file"]]
    if None in paths:  # some lie elsewhere, as a data.yaml may say
        common = Path(os.path.commonpath([Path(file).absolute().parent for file in images["file"]]))
        paths = [_relative(file, common) for file in images["file"]]
    full_paths = [path or file for path, file in zip(paths, images["file"], strict=True)]
    short = ["/".join(part for part in path.split("/") if part.lower() not in _IMAGE_FOLDERS) for path in full_paths]
    names = dict(zip(images["image_id"], short if len(set(short)) == len(short) else full_paths, strict=True))
    return (
        images.assign(image_id=list(names.values())),
        objects.assign(image_id=[names[name] for name in objects["image_id"]]),
        classes,
    )


def _relative(file: str, root: Path) -> str | None:
    path, above = Path(file).absolute(), root.absolute()
    return path.relative_to(above).as_posix() if path.is_relative_to(above) else None


def unlisted(folder: Path, images: pd.DataFrame, refused: Sequence[Refused]) -> list[Path]:
    """The images below a folder that no annotation file lists, in the order of their paths."""
    listed = set(images["file"].map(os.path.realpath))
    names = {Path(entry.name.replace("\\", "/")).name for entry in refused if entry.kind == "image"}
    below = (Path(top, name) for top, _, files in os.walk(folder) for name in files if not name.startswith("."))
    pictures = (file for file in below if file.suffix[1:].lower() in ENDINGS)
    return sorted(file for file in pictures if os.path.realpath(file) not in listed and file.name not in names)
