"""The parts that `detect` and `segment` write, and how they become the stage's output.

part/objects.parquet, images.parquet, bad.parquet   what a worker writes of a part, beside tables of its own
     model.json                                     names, sha256 …, equal in every part
     pictures/ …                                    folders that are copied to the output
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from cnn_core.annotations.coco import coco_results, official_ids
from cnn_core.annotations.tables import (
    images_table,
    objects_table,
    read_images,
    read_objects,
    write_images,
    write_objects,
)
from cnn_core.files import is_none, write_csv
from cnn_core.images.lists import is_list
from cnn_core.images.media import Media
from tasks.engine import events

BAD = {"image_id": "str", "file": "str", "reason": "str", "detail": "str"}
RESULT_COLUMNS = {"file": "str", "model_sha256": "str"}  # of objects, behind the columns of `OBJECTS`
MASK_NUMBERS = {"area": "int64", "stability": "float64", "prompt_id": "int64", "prompt_score": "float64"}
MASK_COLUMNS = RESULT_COLUMNS | MASK_NUMBERS
DROPPED_PROMPTS = {"image_id": "str", "file": "str", "prompt_id": "int64", "reason": "str"}
Rows = Iterable[Mapping[str, Any]]


def local(folder: str, stage: str) -> Path:
    """Create the folder of a run in progress, which must be local."""
    if "://" in folder:
        raise ValueError(f"{stage} keeps its parts in a local or shared folder: set `state` in runtime.yaml to one")
    Path(folder).mkdir(parents=True, exist_ok=True)
    return Path(folder)


def log_left_out(media: Media, source: str) -> None:
    """Log how many files of the source are not read."""
    if media.left_out:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(media.left_out.items()))
        events.log(f"left out of {source}: {kinds}")
    if is_list(source):
        events.log(f"DVC watches the list {source}, not the images that it names: change the list when they change")


def account(media: Media, counts: Mapping[str, int], source: str) -> dict[str, int]:
    """Count in full what a person pointed at: read, refused and left out; warn of frames that only headers promise.

    Headers are often wrong by a frame or two, or by a hundredth; that is counted and needs no warning.
    """
    missing = max(0, media.count - counts["images"] - counts["bad"])
    if missing > max(2 * len(media.videos), media.count // 100):
        events.log(
            f"warning: {missing:,} of the {media.count:,} images of {source} are frames that a video's header promises "
            "and that cannot be read: it is cut short, or its header is wrong"
        )
    left_out = sum(media.left_out.values())
    return {"listed": media.count + left_out, "left_out": left_out, "missing_frames": missing}


def write_part(folder: Path, objects: Rows, images: Rows, bad: Rows, extra: Mapping[str, str] = RESULT_COLUMNS) -> None:
    """Write a part's tables, with the same columns and types whether they have rows or not."""
    table = objects_table(objects)
    for name, dtype in extra.items():
        table[name] = table[name].astype(dtype) if name in table else pd.Series([], dtype=dtype)
    write_objects(folder / "objects.parquet", table)
    write_images(folder / "images.parquet", images_table(images))
    write_rows(folder / "bad.parquet", bad, BAD)


def write_rows(path: Path, rows: Rows, columns: Mapping[str, str]) -> None:
    pd.DataFrame(list(rows), columns=list(columns)).astype(dict(columns)).to_parquet(path, index=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gathered:
    """The joined parts."""

    counts: dict[str, int]  # of images, objects, bad images and the rows of each further table
    classes: dict[str, int]  # the number of objects of each class
    model: dict[str, Any]  # the content of the parts' model.json


def gather(
    folders: Sequence[Path],
    target: Path,
    *,
    source: str,
    truth: str,
    copied: Sequence[str] = (),
    tables: Sequence[str] = (),
) -> Gathered:
    """Join the parts into a stage's output in ``target``, reading one after the other.

    Args:
        truth: a COCO JSON whose ids coco.json carries, or none: images and classes are numbered from 1.
        copied: folders of the parts to copy.
        tables: names of further Parquet tables of the parts to join.

    Raises:
        ValueError: not one image could be read.
    """
    counts = {"images": 0, "objects": 0, "bad": 0, **dict.fromkeys(tables, 0)}
    classes: dict[str, int] = {}
    bad, model = [], {}
    official, in_coco = None if is_none(truth) else official_ids(truth), 0
    folder = Path(source) if Path(source).is_dir() else Path(source).parent
    with (target / "coco.json").open("w", encoding="utf-8") as coco:
        coco.write("[")
        for number, part in enumerate(folders):
            model = json.loads((part / "model.json").read_text())
            tracked, detected = part / "tracked.parquet", part / "objects.parquet"
            table = tracked if tracked.is_file() else detected
            images, objects = read_images(part / "images.parquet"), read_objects(table)
            named = images.assign(file=[os.path.relpath(file, folder) for file in images["file"]])
            for entry in coco_results(named, objects, before=counts["images"], official=official):
                coco.write((",\n" if in_coco else "") + json.dumps(entry))
                in_coco += 1
            bad.append(pd.read_parquet(part / "bad.parquet"))
            shutil.copyfile(table, target / f"part-{number:05d}.parquet")
            for name in copied:
                if (part / name).is_dir():
                    shutil.copytree(part / name, target / name, dirs_exist_ok=True)
            counts["images"] += len(images)
            counts["objects"] += len(objects)
            counts["bad"] += len(bad[-1])
            for name, count in objects["class_name"].value_counts().items():
                classes[str(name)] = classes.get(str(name), 0) + int(count)
        coco.write("]\n")
    if in_coco < counts["objects"]:
        left = counts["objects"] - in_coco
        events.log(
            f"{left:,} of {counts['objects']:,} objects are not in coco.json: {truth} lacks their image or class"
        )
    refused = pd.concat(bad, ignore_index=True)
    if not counts["images"]:
        first = refused.iloc[0]
        raise ValueError(f"no image of {source} could be read: {first.file}: {first.reason}: {first.detail}")
    refused.to_parquet(target / "bad.parquet", index=False)
    write_csv(target / "bad.csv", refused)
    for name in ("images", *tables):
        counts[name] = _join([part / f"{name}.parquet" for part in folders], target / f"{name}.parquet")
    return Gathered(counts=counts, classes=dict(sorted(classes.items())), model=model)


def _join(files: Sequence[Path], target: Path) -> int:
    """Write tables into one file; return the number of rows."""
    rows, schema = 0, pq.read_schema(files[0])
    with pq.ParquetWriter(target, schema) as writer:
        for file in files:
            table = pq.read_table(file).cast(schema)
            writer.write_table(table)
            rows += len(table)
    return rows
