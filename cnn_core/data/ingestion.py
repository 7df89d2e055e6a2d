"""From a source to a RAW data set: read, check, deduplicate, split, write."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from cnn_core.data.raw import UNLABELLED, RawRow, count_rows, write_raw
from cnn_core.data.sources import ImageSource
from cnn_core.data.splits import assign_split, check_proportions
from cnn_core.data.validation import (
    DUPLICATE,
    NEAR_TEST,
    Duplicates,
    NearDuplicates,
    Refusal,
    count_reasons,
    find_duplicates,
    find_near_duplicates,
    refuse_too_many,
)
from cnn_core.images.decoding import Picture, encode_png, pixels_sha256
from cnn_core.params import Params, bounded

_EXAMPLES = 20  # of each kind of duplicate
_NOT_BAD = (DUPLICATE, NEAR_TEST)


@dataclasses.dataclass(frozen=True, kw_only=True)
class IngestParams(Params):
    """The section ``ingest.<set>``. The fractions are of the labelled images."""

    source: str
    val_fraction: float = bounded(above=0.0, high=0.4)
    test_fraction: float = bounded(above=0.0, high=0.4)
    seed: int = bounded(low=0)
    max_bad_fraction: float = bounded(low=0.0, high=1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """What is special about a data set's ingestion.

    Attributes:
        open: a path -> its `ImageSource`, open while the block lasts.
        features: images as in a `Batch` -> one small value each, by which near-duplicates are found.
        keys: SHA-256s and features of all labelled images -> one split key each, the same for near-duplicates. The key
            of any other image must follow from it alone, so that adding data moves no image.
        refuse_near_test: leave a near-duplicate of the publisher's test part out of train; else only count it.
    """

    open: Callable[[str], AbstractContextManager[ImageSource]]
    features: Callable[[Any], Sequence[Any]]
    keys: Callable[[Sequence[str], Sequence[Any]], Sequence[str]]
    refuse_near_test: bool


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Record:
    id: str
    part: str
    image: bytes
    label: int
    height: int
    width: int
    sha256: str
    feature: Any


def ingest(
    name: str,
    layout: Layout,
    params: IngestParams,
    folder: str | Path,
    *,
    on_progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Write the RAW set ``name`` into ``folder`` and return its manifest. On an error nothing is written.

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
        source.classes,
    )
    bad = refused + [entry for entry in duplicates.left_out if entry.reason not in _NOT_BAD]
    refuse_too_many(bad, total, params.max_bad_fraction, params.source)
    kept, keys, near = _near_duplicates(_without(records, duplicates.left_out), source.published_test, layout)
    rows = _split(kept, keys, source.published_test, params)
    description = {
        "set": name,
        "classes": list(source.classes),
        "source": params.source,
        "seed": params.seed,
        "rows_read": total,
        "refused": {"total": len(bad), "reasons": count_reasons(bad)},
        "duplicates": _describe(duplicates, near),
        "warnings": [*source.warnings, *check_proportions(count_rows(rows, source.classes)["class_counts"])],
    }
    quarantine = refused + duplicates.left_out + near.left_out
    return write_raw(folder, rows, sorted(quarantine, key=lambda entry: entry.id), description)


def _read(
    source: ImageSource, layout: Layout, on_progress: Callable[[int], None] | None
) -> tuple[list[_Record], list[Refusal]]:
    records: list[_Record] = []
    refused: list[Refusal] = []
    for batch in source.batches():
        labels = [UNLABELLED] * len(batch.ids) if batch.labels is None else batch.labels.tolist()
        columns = zip(batch.ids, batch.images, labels, layout.features(batch.images), strict=True)
        records += [_record(id_, batch.part, image, label, feature) for id_, image, label, feature in columns]
        refused += batch.refused
        if on_progress:
            on_progress(len(batch.ids) + len(batch.refused))
    return records, refused


def _record(id_: str, part: str, image: np.ndarray | Picture, label: int, feature: Any) -> _Record:
    if isinstance(image, Picture):
        encoded, height, width, digest = image.image, image.height, image.width, image.sha256
    else:
        encoded, (height, width), digest = encode_png(image), image.shape[:2], pixels_sha256(image)
    return _Record(
        id=id_, part=part, image=encoded, label=label, height=height, width=width, sha256=digest, feature=feature
    )


def _without(records: Sequence[_Record], left_out: Sequence[Refusal]) -> list[_Record]:
    ids = {entry.id for entry in left_out}
    return [record for record in records if record.id not in ids]


def _near_duplicates(
    records: Sequence[_Record], published_test: str | None, layout: Layout
) -> tuple[list[_Record], dict[str, str], NearDuplicates]:
    """The records that stay, the split keys of the labelled ones by id, and the near-duplicates."""
    labelled = [record for record in records if record.label != UNLABELLED]
    keys = layout.keys([record.sha256 for record in labelled], [record.feature for record in labelled])
    near = find_near_duplicates(
        [record.id for record in labelled],
        keys,
        [record.label for record in labelled],
        [record.part == published_test for record in labelled],
        refuse_near_test=layout.refuse_near_test,
    )
    return _without(records, near.left_out), {record.id: key for record, key in zip(labelled, keys, strict=True)}, near


def _split(
    records: Sequence[_Record], keys: Mapping[str, str], published_test: str | None, params: IngestParams
) -> list[RawRow]:
    test_fraction = 0.0 if published_test else params.test_fraction

    def split(record: _Record) -> str:
        if record.label == UNLABELLED:
            return "unlabelled"
        if record.part == published_test:
            return "test"
        key = keys[record.id]
        return assign_split(key, seed=params.seed, val_fraction=params.val_fraction, test_fraction=test_fraction)

    shared = ("id", "image", "label", "width", "height", "sha256")
    return [RawRow(split=split(record), **{name: getattr(record, name) for name in shared}) for record in records]


def _describe(duplicates: Duplicates, near: NearDuplicates) -> dict[str, Any]:
    left_out = [f"{entry.id}: {entry.detail}" for entry in duplicates.left_out]
    pairs = [f"{unlabelled}: same pixels as {labelled}" for labelled, unlabelled in duplicates.labelled_and_unlabelled]
    kinds = [
        left_out + pairs,
        [f"{entry.id}: {entry.detail}" for entry in near.left_out],
        [f"near-duplicates under two labels: {', '.join(ids)}" for ids in near.across_classes],
    ]
    examples = [example for kind in kinds for example in kind[:_EXAMPLES]]
    return {**duplicates.counts, **near.counts, "examples": examples}
