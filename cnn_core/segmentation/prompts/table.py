"""Prompts for the images of a source, as a table: the detections of these images, or a file of the user's own.

A user's file is a .parquet, .csv or .json (a list of records, COCO results or COCO instances) with one row for each
prompt:

    image_id or file     which image: its id, or its file as the source names it
    x1 y1 x2 y2          a box, in pixels of the image (or x y w h: its upper left corner and sides); and/or
    x y label            a point: label 1 (or no label) inside the object, 0 outside
    object               rows of an image with the same value are prompts of one object (several points)
    class_name, class_id, track_id, score    optional; the masks' rows take them over

A row without coordinates says that its image has no prompt. Names are texts, whatever they say (``NA``, ``null``). Both
forms become one Parquet file of `PROMPTS`, in which
a part of the source finds its own rows without reading the others.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cnn_core.annotations.tables import BOX
from cnn_core.files import is_none, read_json
from cnn_core.images.lookup import SourceImages, texts
from cnn_core.images.media import Media
from cnn_core.segmentation.prompts.rows import POINT, PROMPTS, Kind, prompt_rows, read_table, rows_of, with_classes

CARRIED_OVER = ("prompt_id", "class_id", "class_name", "track_id", "prompt_score")  # into a mask's row
_GROUP = 4096  # rows of the file that are read at a time


@dataclasses.dataclass(frozen=True, kw_only=True)
class WrittenPrompts:
    """What `write_prompts` wrote."""

    images: int  # how many images of the source have prompts
    prompts: int
    elsewhere: list[str]  # the images that the table names and that are not in the source
    classes: list[str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImagePrompts:
    """The prompts of one image, rows of `PROMPTS`."""

    rows: pd.DataFrame

    def groups(self) -> Iterator[tuple[list[dict[str, Any]], dict[str, np.ndarray]]]:
        """Yield the prompts in groups of one shape: `CARRIED_OVER` of each, and what `Segmenter.masks` takes."""
        prompts: dict[int, list[dict[str, Any]]] = {}
        for row in self.rows.to_dict("records"):
            prompts.setdefault(int(row["prompt_id"]), []).append(row)
        shapes: dict[tuple[bool, int], list[list[dict[str, Any]]]] = {}
        for rows in prompts.values():
            points = sum(not math.isnan(row["x"]) for row in rows)
            shapes.setdefault((not math.isnan(rows[0]["x1"]), points), []).append(rows)
        for (boxed, points), objects in shapes.items():
            arrays = {}
            if boxed:
                arrays["boxes"] = np.array([[rows[0][name] for name in BOX] for rows in objects])
            if points:
                arrays["points"] = np.array([[[row[name] for name in POINT] for row in rows] for rows in objects])
                arrays["labels"] = np.array([[row["label"] for row in rows] for rows in objects])
            yield [_carried_over(rows[0]) for rows in objects], arrays


def _carried_over(row: dict[str, Any]) -> dict[str, Any]:
    track = None if pd.isna(row["track_id"]) else int(row["track_id"])
    return {**{name: row[name] for name in CARRIED_OVER}, "track_id": track}


class PromptTable:
    """The file that `write_prompts` wrote, read as it is needed."""

    def __init__(self, file: str | Path) -> None:
        self.file = Path(file)

    def __call__(self, ids: Sequence[str]) -> dict[str, ImagePrompts]:
        if not ids:
            return {}
        groups = rows_of([self.file], ids).groupby("image_id", sort=False)
        return {str(name): ImagePrompts(rows=rows) for name, rows in groups}


def check_prompts(path: str | Path) -> None:
    """Raise a ValueError if a path cannot hold prompts; the message says what to do."""
    path = Path(path)
    if is_none(path):
        raise ValueError(
            f"{path} stands for no prompts: name the output of detect or a .parquet, .csv or .json, or set prompt to "
            "everything"
        )
    if not path.exists():
        raise ValueError(
            f"the prompts {path} do not exist: run `dvc repro detect`, name a .parquet, .csv or .json of your own, or "
            "set prompt to everything"
        )
    if path.is_dir() and not any(path.glob("part-*.parquet")):
        raise ValueError(f"{path} has no part-*.parquet: it is no output of the stage detect")
    if path.is_file() and path.suffix.lower() not in (".parquet", ".csv", ".json"):
        raise ValueError(f"{path} is no table of prompts: its name must end in .parquet, .csv or .json")


def prompt_files(path: str | Path) -> list[Path]:
    path = Path(path)
    return [*sorted(path.glob("part-*.parquet")), path / "manifest.json"] if path.is_dir() else [path]


def write_prompts(
    path: str | Path, target: str | Path, media: Media, kind: Kind, *, strict: bool = True
) -> WrittenPrompts:
    """Write the prompts at ``path`` for the images of ``media`` as one file of `PROMPTS`.

    Args:
        kind: boxes (with the points of the same object, if it has any), or points alone. A box without points counts
            as its centre.
        strict: at least one image that the table names must be in the source.

    Raises:
        ValueError: a column or value is missing or wrong, or no image that the table names is in the source.
    """
    check_prompts(path)
    path, source_images = Path(path), SourceImages(media)
    classes: list[str] = []
    tables: Iterable[pd.DataFrame]
    if path.is_dir():
        classes = list(read_json(path / "manifest.json", made_by="detect")["classes"])
        parts = prompt_files(path)[:-1]
        tables = (source_images.resolved(pd.read_parquet(part), part) for part in parts)
    else:
        frame = source_images.resolved(read_table(path), path)
        classes, frame = with_classes(frame, path)
        tables = [frame.sort_values("image_id", kind="stable")]
    counts: Counter[str] = Counter()  # of prompts, by image: several tables may have some of one
    schema = pa.schema(list(PROMPTS.items()))
    with pq.ParquetWriter(target, schema) as writer:
        for frame in tables:
            rows = prompt_rows(frame, path, kind)
            numbers = rows.groupby("image_id", sort=False)["prompt_id"].nunique()
            rows["prompt_id"] += rows["image_id"].map(counts).fillna(0).astype("int64")
            counts.update(numbers.to_dict())
            if len(rows):
                writer.write_table(pa.Table.from_pandas(rows, schema=schema, preserve_index=False), _GROUP)
    if strict and source_images.unknown and not source_images.matched:
        raise ValueError(
            f"{path} names no image of the source: {next(iter(source_images.unknown))} is not there, as are its "
            f"{len(source_images.unknown):,} images; the source has {source_images.example}"
        )
    elsewhere = list(source_images.unknown)
    return WrittenPrompts(images=len(counts), prompts=counts.total(), elsewhere=elsewhere, classes=classes)


def names_elsewhere(path: str | Path, media: Media, videos: Collection[str]) -> list[str]:
    """List what a table of prompts names that is no image and no frame of the source, nor one of its ``videos``."""
    path, source_images = Path(path), SourceImages(media)
    for frame in map(pd.read_parquet, prompt_files(path)[:-1]) if path.is_dir() else [read_table(path)]:
        if column := next((name for name in ("image_id", "file") if name in frame), None):
            source_images.resolved(frame[~texts(frame[column]).isin(videos)], path)
    return list(source_images.unknown)
