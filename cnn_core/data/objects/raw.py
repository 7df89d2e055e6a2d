"""Write a RAW set of objects. `annotations.raw_objects` says how its folder looks, and reads it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cnn_core.annotations.raw_objects import ANNOTATIONS, KIND, SCHEMA_VERSION
from cnn_core.annotations.tables import write_objects
from cnn_core.data.raw import PART_BYTES, PART_ROWS, ROWS
from cnn_core.data.sources import blocks
from cnn_core.files import write_json

IMAGES = pa.schema([field for field in ROWS if field.name != "label"])
QUARANTINE = pa.schema([(name, pa.string()) for name in ("kind", "file", "annotation", "reason")])
SPLITS = ("train", "val", "test")


class Image(NamedTuple):
    """An image to write; ``size`` is that of its file in bytes."""

    id: str
    split: str
    width: int
    height: int
    sha256: str
    size: int


def write_raw_objects(
    folder: Path,
    images: Sequence[Image],
    read: Callable[[Image], bytes],
    objects: pd.DataFrame,
    quarantine: Iterable[tuple[str, str, str, str]],
    description: Mapping[str, Any],
) -> dict[str, Any]:
    """Write everything into an empty folder, and return the manifest. Equal arguments give equal bytes.

    Args:
        read: an image -> its encoded bytes.
        quarantine: kind, file, annotation, reason.
    """
    for split in SPLITS:
        of_split = [image for image in images if image.split == split]
        for number, block in enumerate(
            blocks(of_split, lambda image: image.size, most=PART_ROWS, most_bytes=PART_BYTES)
        ):
            columns: dict[str, list[Any]] = {
                name: [getattr(image, name) for image in block] for name in IMAGES.names if name != "image"
            }
            columns["image"] = [read(image) for image in block]
            path = folder / f"part-{split}-{number:05d}.parquet"
            pq.write_table(pa.table(columns, schema=IMAGES), path, row_group_size=1_000, compression="none")
    write_objects(folder / ANNOTATIONS, objects)
    entries = [dict(zip(QUARANTINE.names, entry, strict=True)) for entry in quarantine]
    pq.write_table(pa.Table.from_pylist(entries, schema=QUARANTINE), folder / "quarantine.parquet")
    counts = Counter(image.split for image in images)
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        **description,
        "counts": {split: counts[split] for split in SPLITS},
        "content_sha256": _content(images, objects, description["classes"]),
    }
    write_json(folder / "manifest.json", manifest)
    return manifest


def _content(images: Sequence[Image], objects: pd.DataFrame, classes: Sequence[str]) -> str:
    """One hash of the rows, not of the files, so that another version of Parquet changes nothing."""
    digest = hashlib.sha256(repr(list(classes)).encode())
    for image in images:
        digest.update(f"{image.id}\t{image.split}\t{image.sha256}\t{image.size}\n".encode())
    for row in objects.itertuples(index=False, name=None):
        digest.update(f"{row}\n".encode())
    return digest.hexdigest()
