"""From a source to a RAW data set: read, check, deduplicate, split, write."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from cnn_core.datasets import UNLABELLED, RawRow, count_rows, decode_pixels, encode_png, pixels_sha256, write_raw
from cnn_core.params import Params, bounded
from cnn_core.sources import Batch, Source
from cnn_core.splits import assign_split, check_proportions
from cnn_core.validation import DUPLICATE, Duplicates, Refusal, count_reasons, find_duplicates, refuse_too_many

_EXAMPLES = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class IngestParams(Params):
    """``ingest.<set>``; the fractions are of the labelled images."""

    source: str
    val_fraction: float = bounded(above=0.0, high=0.4)
    test_fraction: float = bounded(above=0.0, high=0.4)
    seed: int = bounded(low=0)
    max_bad_fraction: float = bounded(low=0.0, high=1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """What a data set adds to ingestion.

    Attributes:
        classes: the names that labels index.
        open: the reader: a path -> its `Source`, open while the block lasts.
        split_keys: images as in a `Batch` -> one text each, the same for near-duplicates.
    """

    classes: Sequence[str]
    open: Callable[[str], AbstractContextManager[Source]]
    split_keys: Callable[[Any], list[str]]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Record:
    """An image as read, not yet assigned to a split."""

    id: str
    part: str
    image: bytes
    label: int
    height: int
    width: int
    sha256: str
    key: str


def ingest(
    name: str,
    layout: Layout,
    params: IngestParams,
    folder: str | Path,
    *,
    on_progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Write the RAW set ``name`` into ``folder`` and give its manifest; all or nothing.

    Raises:
        ValueError: the source cannot be read, too much of it is bad, or train would lack a class.
    """
    with layout.open(params.source) as source:
        records, refused = _read(source, layout, on_progress)
    total = len(records) + len(refused)
    duplicates = find_duplicates(
        [record.id for record in records],
        [record.sha256 for record in records],
        [record.label for record in records],
        [record.part == source.published_test for record in records],
    )
    refused += [entry for entry in duplicates.left_out if entry.reason != DUPLICATE]
    refuse_too_many(refused, total, params.max_bad_fraction, params.source)
    left_out = {entry.id for entry in duplicates.left_out}
    kept = [record for record in records if record.id not in left_out]
    rows = _split(kept, source.published_test, params)
    description = {
        "set": name,
        "classes": list(layout.classes),
        "source": params.source,
        "seed": params.seed,
        "rows_read": total,
        "refused": {"total": len(refused), "reasons": count_reasons(refused)},
        "duplicates": _describe(duplicates, kept, source.published_test),
        "warnings": check_proportions(count_rows(rows, layout.classes)["class_counts"]),
    }
    quarantine = refused + [entry for entry in duplicates.left_out if entry.reason == DUPLICATE]
    return write_raw(folder, rows, sorted(quarantine, key=lambda entry: entry.id), description)


def _read(
    source: Source, layout: Layout, on_progress: Callable[[int], None] | None
) -> tuple[list[_Record], list[Refusal]]:
    records: list[_Record] = []
    refused: list[Refusal] = []
    for batch in source.batches():
        records += _records(batch, layout.split_keys(batch.images))
        refused += batch.refused
        if on_progress:
            on_progress(len(batch.ids) + len(batch.refused))
    return records, refused


def _records(batch: Batch, keys: list[str]) -> list[_Record]:
    labels = [UNLABELLED] * len(batch.ids) if batch.labels is None else batch.labels.tolist()
    return [
        _record(id_, batch.part, image, label, key)
        for id_, image, label, key in zip(batch.ids, batch.images, labels, keys, strict=True)
    ]


def _record(id_: str, part: str, image: np.ndarray | bytes, label: int, key: str) -> _Record:
    encoded, pixels = (image, decode_pixels(image)) if isinstance(image, bytes) else (encode_png(image), image)
    height, width = pixels.shape[:2]
    digest = pixels_sha256(pixels)
    return _Record(id=id_, part=part, image=encoded, label=label, height=height, width=width, sha256=digest, key=key)


def _split(records: Sequence[_Record], published_test: str | None, params: IngestParams) -> list[RawRow]:
    test_fraction = 0.0 if published_test else params.test_fraction

    def split(record: _Record) -> str:
        if record.label == UNLABELLED:
            return "unlabelled"
        if record.part == published_test:
            return "test"
        return assign_split(record.key, seed=params.seed, val_fraction=params.val_fraction, test_fraction=test_fraction)

    shared = ("id", "image", "label", "width", "height", "sha256")
    return [RawRow(split=split(record), **{name: getattr(record, name) for name in shared}) for record in records]


def _describe(duplicates: Duplicates, kept: Sequence[_Record], published_test: str | None) -> dict[str, Any]:
    """Counts in rows. Near-duplicates all stay: sharing a split key, they share a split, but for those of a
    publisher's test part, which is not ours to change (``near_train_in_test``).
    """
    left_out = [f"{entry.id}: {entry.detail}" for entry in duplicates.left_out]
    pairs = [f"{unlabelled}: same pixels as {labelled}" for labelled, unlabelled in duplicates.labelled_and_unlabelled]
    labelled = [record for record in kept if record.label != UNLABELLED]
    keys = Counter(record.key for record in labelled)
    test_keys = {record.key for record in labelled if record.part == published_test}
    return {
        **duplicates.counts,
        "near": sum(count - 1 for count in keys.values()),
        "near_train_in_test": sum(r.key in test_keys for r in labelled if r.part != published_test),
        "examples": (left_out + pairs)[:_EXAMPLES],
    }
