"""RAW data sets, as `ingest` writes them: Parquet parts of encoded images, a quarantine and a manifest.

    data/raw/<set>/part-00000.parquet …   id, image (the file's own bytes), label (or a list: labels), split, width,
                                          height, sha256
                   quarantine.parquet     id, reason, detail of every row that was left out
                   manifest.json          written last

`data.augmented` holds the decoded arrays to train from (data/augmented/<set>/).
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from cnn_core.data.sources import blocks
from cnn_core.files import read_json, whole_folder, write_json
from cnn_core.images.decoding import decode_square

SCHEMA_VERSION = 1
SPLITS = ("train", "val", "test", "unlabelled")
UNLABELLED = -1
PART_ROWS = 10_000
PART_BYTES = 256 << 20  # of encoded images, so that a part fits in memory
_DECODED = 64  # images that a thread decodes between two reports of progress

ROWS = pa.schema(
    [
        ("id", pa.string()),
        ("image", pa.binary()),
        ("label", pa.int64()),
        ("split", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("sha256", pa.string()),
    ]
)
LABELS = pa.field("labels", pa.list_(pa.int32()))  # in the place of label where an image may have several or none
QUARANTINE = pa.schema([("id", pa.string()), ("reason", pa.string()), ("detail", pa.string())])


@dataclasses.dataclass(frozen=True, kw_only=True)
class RawRows:
    """Rows of a RAW set in source order: encoded ``images``, ``labels`` int64 (N,) with -1 = unlabelled.

    Where an image may have several labels of K, they are zeros and ones, (N, K); a row of -1 = unlabelled.
    """

    ids: list[str]
    images: list[bytes]
    labels: np.ndarray
    splits: list[str]
    sha256: list[str]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RawRow:
    """One image to write; ``label`` indexes the classes, -1 = unlabelled.

    Where images may have several labels it holds them all, and None = unlabelled.
    """

    id: str
    image: bytes
    label: int | tuple[int, ...] | None
    split: str
    width: int
    height: int
    sha256: str


def write_raw(
    folder: str | Path, rows: Iterable[RawRow], quarantine: Iterable[Any], description: Mapping[str, Any]
) -> dict[str, Any]:
    """Write a RAW set, part by part as the rows come, and return its manifest. Equal arguments give equal bytes.

    Args:
        rows: in source order.
        quarantine: objects with ``id``, ``reason`` and ``detail``.
        description: the manifest's other entries.
    """
    written: list[RawRow] = []
    schema = schema_of(description)
    with whole_folder(folder) as partial:
        for part, block in enumerate(blocks(rows, lambda row: len(row.image), most=PART_ROWS, most_bytes=PART_BYTES)):
            columns = {
                name: [getattr(row, "label" if name == LABELS.name else name) for row in block] for name in schema.names
            }
            pq.write_table(pa.table(columns, schema=schema), partial / f"part-{part:05d}.parquet")
            written += [dataclasses.replace(row, image=b"") for row in block]
        entries = [{name: getattr(entry, name) for name in QUARANTINE.names} for entry in quarantine]
        pq.write_table(pa.Table.from_pylist(entries, schema=QUARANTINE), partial / "quarantine.parquet")
        manifest = {
            "schema_version": SCHEMA_VERSION,
            **description,
            **count_rows(written, description["classes"]),
        }
        write_json(partial / "manifest.json", manifest)
    return manifest


def schema_of(manifest: Mapping[str, Any]) -> pa.Schema:
    """The columns of a set's parts."""
    return ROWS.set(ROWS.get_field_index("label"), LABELS) if manifest.get("multilabel") else ROWS


def count_rows(rows: Sequence[RawRow], classes: Sequence[str]) -> dict[str, Any]:
    """The counts, class_counts and content_sha256 of a manifest."""
    counts = Counter(row.split for row in rows)
    pairs = Counter((row.split, label) for row in rows for label in _labels_of(row))
    several = any(isinstance(row.label, tuple) for row in rows)
    without = Counter(row.split for row in rows if row.label == ())
    content = hashlib.sha256()  # of the rows, not of the files, so that another version of Parquet changes nothing
    for row in rows:
        content.update(f"{row.id}\t{row.label}\t{row.split}\t{row.sha256}\n".encode())
    return {
        "counts": {split: counts[split] for split in SPLITS},
        "class_counts": {
            split: {name: pairs[split, label] for label, name in enumerate(classes)}
            for split in SPLITS
            if split != "unlabelled"
        },
        **({"without_label": {split: without[split] for split in SPLITS}} if several else {}),
        "content_sha256": content.hexdigest(),
    }


def _labels_of(row: RawRow) -> tuple[int, ...]:
    return row.label if isinstance(row.label, tuple) else () if row.label is None else (row.label,)


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Read ``manifest.json``: schema_version, set, classes, counts, class_counts, source, seed, refused, duplicates, …

    Raises:
        ValueError: there is none, or another version of this project wrote it.
    """
    manifest = read_json(Path(folder) / "manifest.json", made_by="ingest")
    if manifest.get("schema_version") != SCHEMA_VERSION:
        version = manifest.get("schema_version")
        raise ValueError(f"{folder} has schema version {version}, not {SCHEMA_VERSION}: run the stage ingest again")
    return manifest


def read_raw(folder: str | Path, split: str | None = None, *, images: bool = True) -> RawRows:
    """Read the rows of one split or all, in source order; without ``images`` that list is empty."""
    parts = list(raw_parts(folder, split, images=images))
    return RawRows(
        ids=[id_ for part in parts for id_ in part.ids],
        images=[image for part in parts for image in part.images],
        labels=np.concatenate([part.labels for part in parts] or [_label_array([], read_manifest(folder))]),
        splits=[name for part in parts for name in part.splits],
        sha256=[digest for part in parts for digest in part.sha256],
    )


def raw_parts(folder: str | Path, split: str | None = None, *, images: bool = True) -> Iterator[RawRows]:
    """Read the rows of one split (``train``, ``val``, ``test``, ``unlabelled``) or all, a part at a time."""
    if split is not None and split not in SPLITS:
        raise ValueError(f"{split!r} is no split; there are {', '.join(SPLITS)}")
    manifest = read_manifest(folder)
    label = LABELS.name if manifest.get("multilabel") else "label"
    columns = ["id", *(["image"] if images else []), label, "split", "sha256"]
    filters = None if split is None else [("split", "=", split)]
    for part in sorted(Path(folder).glob("part-*.parquet")):
        table = pq.read_table(part, columns=columns, filters=filters)
        yield RawRows(
            ids=table["id"].to_pylist(),
            images=table["image"].to_pylist() if images else [],
            labels=_label_array(table[label].to_pylist(), manifest),
            splits=table["split"].to_pylist(),
            sha256=table["sha256"].to_pylist(),
        )


def _label_array(labels: Sequence[Any], manifest: Mapping[str, Any]) -> np.ndarray:
    """A column of labels as `RawRows` has it."""
    if not manifest.get("multilabel"):
        return np.array(labels, np.int64)
    array = np.zeros((len(labels), len(manifest["classes"])), np.int64)
    for row, numbers in enumerate(labels):
        array[row, slice(None) if numbers is None else numbers] = -1 if numbers is None else 1
    return array


def read_images(folder: str | Path, ids: Collection[str]) -> dict[str, bytes]:
    """Read the image files of some rows by their id; no more than one part is in memory at a time."""
    images: dict[str, bytes] = {}
    for part in sorted(Path(folder).glob("part-*.parquet")):
        table = pq.read_table(part, columns=["id", "image"], filters=pc.field("id").isin(list(ids)))
        images |= dict(zip(table["id"].to_pylist(), table["image"].to_pylist(), strict=True))
    return images


def read_quarantine(folder: str | Path) -> list[dict[str, str]]:
    """Read the rows that were left out: ``{id, reason, detail}`` each."""
    return pq.read_table(Path(folder) / "quarantine.parquet").to_pylist()


def decode_images(
    images: Sequence[bytes],
    mode: str | None = None,
    *,
    size: int = 0,
    out: np.ndarray | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
    threads: int | None = None,
) -> np.ndarray:
    """Decode images to uint8 (N, C, H, W), C = 1 for mode L and 3 for RGB, in ``threads``.

    Args:
        mode: L or RGB; None = that of the first image.
        size: side of the squares that they become (`square`); 0 = they have one size already.
        out: an array to write into, which may be longer.
        on_progress: called with the number of images decoded since the last call.

    Raises:
        ValueError: two images differ in size (and ``size`` is 0), or there is no image.
    """
    if not images:
        raise ValueError("there is no image to decode: the split is empty")
    mode = mode or _mode(images[0])
    first = decode_square(images[0], size, mode)
    out = np.empty((len(images), *first.shape), np.uint8) if out is None else out

    def fill(rows: range) -> int:
        for row in rows:
            pixels = decode_square(images[row], size, mode)
            if pixels.shape != first.shape:
                raise ValueError(f"image {row} has the shape {pixels.shape}, the first {first.shape}: set size")
            out[row] = pixels
        return len(rows)

    blocks = [range(start, min(start + _DECODED, len(images))) for start in range(0, len(images), _DECODED)]
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:  # Pillow releases the GIL while it decodes
        for done in pool.map(fill, blocks):
            on_progress(done)
    return out


def _mode(image: bytes) -> str:
    with Image.open(io.BytesIO(image)) as opened:
        return "L" if opened.mode == "L" else "RGB"
