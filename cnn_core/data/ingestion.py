"""From a source to a RAW data set: read, check, deduplicate, split, write."""

from __future__ import annotations

import dataclasses
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from cnn_core.data.near_copies import (
    NEAR_TEST,
    NearCopies,
    Pairs,
    find_near_copies,
    near_warnings,
    refuse_gutted_classes,
    smallest_keys,
)
from cnn_core.data.raw import UNLABELLED, RawRow, count_rows, write_raw
from cnn_core.data.sources import ImageSource
from cnn_core.data.splits import assign_split, check_proportions
from cnn_core.data.validation import DUPLICATE, Duplicates, Refusal, count_reasons, find_duplicates, refuse_too_many
from cnn_core.images.decoding import Picture, encode_png, pixels_sha256
from cnn_core.params import Params, bounded

Kind = Literal["auto", "pixels", "images", "objects"]
_EXAMPLES = 20  # of each kind of duplicate
_NOT_BAD = (DUPLICATE, NEAR_TEST)


@dataclasses.dataclass(frozen=True, kw_only=True)
class IngestParams(Params):
    """The section ``ingest.<set>``. The fractions are of the labelled images."""

    source: str
    kind: Kind = "auto"  # what the source holds; auto = what its files say
    val_fraction: float = bounded(above=0.0, high=0.4)
    test_fraction: float = bounded(above=0.0, high=0.4)
    seed: int = bounded(low=0)
    max_bad_fraction: float = bounded(low=0.0, high=1.0)
    near_duplicates: bool  # search for copies that differ in their pixels
    # An image may have several labels, or none (kind images); null = no, and a source that looks so is refused.
    multilabel: bool | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """What is special about a data set's ingestion.

    Attributes:
        open: a path -> its `ImageSource`, open while the block lasts.
        mode: L or RGB, in which the images are meant.
        features: images as in a `Batch` -> one small value each, by which near-duplicates are found.
        pairs: features of all labelled images -> the pairs of near-duplicates. None: those with equal features, and the
            feature is the split key, so that adding data moves no image at all.
        refuse_near_test: leave a near-duplicate of the publisher's test (or val) part out of train; else only count it.
    """

    open: Callable[[str], AbstractContextManager[ImageSource]]
    mode: str
    features: Callable[[Any], Sequence[Any]]
    pairs: Callable[[Sequence[Any]], Pairs] | None
    refuse_near_test: bool


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Record:
    """An image as it was read, without a split yet; its bytes lie in the spool."""

    id: str
    part: str
    span: tuple[int, int]
    label: int  # the number of its class, or of its set of classes where images may have several; -1 = unlabelled
    height: int
    width: int
    sha256: str
    feature: Any


class Spool:
    """Encoded images in a temporary file, from reading until their splits are known."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._end = file, 0

    def add(self, data: bytes) -> tuple[int, int]:
        self._file.write(data)
        self._end += len(data)
        return self._end - len(data), len(data)

    def read(self, span: tuple[int, int]) -> bytes:
        self._file.seek(span[0])
        return self._file.read(span[1])


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
        ValueError: the source cannot be read, too much of it is bad, train would lack a class, or most images of a
            class would be left out as near-duplicates.
    """
    Path(folder).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=Path(folder).parent) as file:
        return _ingest(name, layout, params, folder, Spool(file), on_progress)


def _ingest(
    name: str,
    layout: Layout,
    params: IngestParams,
    folder: str | Path,
    spool: Spool,
    on_progress: Callable[[int], None] | None,
) -> dict[str, Any]:
    with layout.open(params.source) as source:
        _refuse_few_classes(source, params.source)
        records, refused, notes = _read(source, layout, spool, on_progress)
    total = len(records) + len(refused)
    duplicates = find_duplicates(
        [record.id for record in records],
        [record.sha256 for record in records],
        [record.label for record in records],
        [_rank(record, source) for record in records],
        [", ".join(names) or "no label" for names in source.classes_of_label],
    )
    bad = refused + [entry for entry in duplicates.left_out if entry.reason not in _NOT_BAD]
    refuse_too_many(bad, total, params.max_bad_fraction, params.source)
    records = _without(records, duplicates.left_out)
    near, keys = _near_copies(records, source, layout, search=params.near_duplicates)
    available = _available(records, source)
    test_fraction = 0.0 if source.published_test else params.test_fraction
    val_fraction = 0.0 if source.published_val else params.val_fraction
    records = _without(records, near.left_out)
    splits = [
        _published_split(record, source)
        or assign_split(keys[record.id], seed=params.seed, val_fraction=val_fraction, test_fraction=test_fraction)
        for record in records
    ]
    rows = [_row(record, split, source) for record, split in zip(records, splits, strict=True)]
    class_counts = count_rows(rows, source.classes)["class_counts"]
    train_fraction = 1 - val_fraction - test_fraction
    refuse_gutted_classes(near, available, class_counts["train"], train_fraction=train_fraction, name=name)
    warnings = [*source.warnings, *check_proportions(class_counts), *near_warnings(near, available)]
    quarantine = refused + duplicates.left_out + near.left_out
    description = {
        "set": name,
        "mode": layout.mode,
        **({} if source.label_sets is None else {"multilabel": True}),
        "classes": list(source.classes),
        "source": params.source,
        "seed": params.seed,
        "rows_read": total,
        "left_out": dict(source.left_out),
        "refused": {"total": len(bad), "reasons": count_reasons(bad)},
        "notes": dict(notes),
        "duplicates": _describe(duplicates, near),
        "warnings": warnings,
    }
    with_images = (
        dataclasses.replace(row, image=spool.read(record.span)) for record, row in zip(records, rows, strict=True)
    )
    return write_raw(folder, with_images, sorted(quarantine, key=lambda entry: entry.id), description)


def _row(record: _Record, split: str, source: ImageSource) -> RawRow:
    """The row without its image."""
    label: int | tuple[int, ...] | None = record.label
    if source.label_sets is not None:
        label = None if record.label == UNLABELLED else source.label_sets[record.label]
    shared = {name: getattr(record, name) for name in ("id", "width", "height", "sha256")}
    return RawRow(split=split, image=b"", label=label, **shared)


def _read(
    source: ImageSource, layout: Layout, spool: Spool, on_progress: Callable[[int], None] | None
) -> tuple[list[_Record], list[Refusal], Counter[str]]:
    records: list[_Record] = []
    refused: list[Refusal] = []
    notes: Counter[str] = Counter()
    for batch in source.batches():
        labels = [UNLABELLED] * len(batch.ids) if batch.labels is None else batch.labels.tolist()
        columns = zip(batch.ids, batch.images, labels, layout.features(batch.images), strict=True)
        for id_, image, label, feature in columns:
            records.append(_record(id_, batch.part, image, label, feature, spool))
            notes.update(image.notes if isinstance(image, Picture) else ())
        refused += batch.refused
        if on_progress:
            on_progress(len(batch.ids) + len(batch.refused))
    return records, refused, notes


def _record(id_: str, part: str, image: np.ndarray | Picture, label: int, feature: Any, spool: Spool) -> _Record:
    if isinstance(image, Picture):
        encoded, height, width, digest = image.image, image.height, image.width, image.sha256
    else:
        encoded, (height, width), digest = encode_png(image), image.shape[:2], pixels_sha256(image)
    span = spool.add(encoded)
    return _Record(
        id=id_, part=part, span=span, label=label, height=height, width=width, sha256=digest, feature=feature
    )


def _without(records: Sequence[_Record], left_out: Sequence[Refusal]) -> list[_Record]:
    ids = {entry.id for entry in left_out}
    return [record for record in records if record.id not in ids]


def _near_copies(
    records: Sequence[_Record], source: ImageSource, layout: Layout, *, search: bool
) -> tuple[NearCopies, dict[str, str]]:
    """The near-duplicates among the labelled records, and their split keys by id."""
    labelled = [record for record in records if record.label != UNLABELLED]
    features, hashes = [record.feature for record in labelled], [record.sha256 for record in labelled]
    pairs: Pairs = ()
    if search:
        pairs = layout.pairs(features) if layout.pairs else _equal_pairs(features)
    near = find_near_copies(
        [record.id for record in labelled],
        [record.label for record in labelled],
        [_rank(record, source) for record in labelled],
        source.classes_of_label,
        pairs,
        refuse_near_test=layout.refuse_near_test,
    )
    keys = features if search and layout.pairs is None else smallest_keys(hashes, near.groups)
    return near, {record.id: key for record, key in zip(labelled, keys, strict=True)}


def _equal_pairs(features: Sequence[str]) -> Pairs:
    """Each row that has the feature of an earlier one, with the first such row."""
    first: dict[str, int] = {}
    rows = [first.setdefault(feature, row) for row, feature in enumerate(features)]
    left, right = np.array(rows, int), np.arange(len(rows))
    yield left[left < right], right[left < right]


def _available(records: Sequence[_Record], source: ImageSource) -> Counter[str]:
    """The labelled images of each class that the publisher did not set apart for validation or testing."""
    names = source.classes_of_label
    return Counter(
        name
        for record in records
        if record.label != UNLABELLED and not _rank(record, source)
        for name in names[record.label]
    )


def _rank(record: _Record, source: ImageSource) -> int:
    """2 in the publisher's own test part, 1 in its val part, 0 in what is still to be split."""
    if record.part == source.published_test:
        return 2
    return int(record.part == source.published_val)


def _published_split(record: _Record, source: ImageSource) -> str | None:
    """The split that is settled before any is drawn; None if there is none."""
    return "unlabelled" if record.label == UNLABELLED else (None, "val", "test")[_rank(record, source)]


def _refuse_few_classes(source: ImageSource, where: str) -> None:
    classes = source.classes
    if source.label_sets is not None and len(classes) == 1:
        if len(source.label_sets) > 1:
            return  # images with the class and images without
        raise ValueError(f"{where} gives every image the label {classes[0]}: add images that do not have it")
    if len(classes) < 2:
        content = f"images of the class {classes[0]} alone" if classes else "no labelled image"
        raise ValueError(
            f"{where} has {content}, and at least two classes are needed: add images of another class, or name the "
            "folder that holds all classes"
        )


def _describe(duplicates: Duplicates, near: NearCopies) -> dict[str, Any]:
    left_out = [f"{entry.id}: {entry.detail}" for entry in duplicates.left_out]
    pairs = [f"{unlabelled}: same pixels as {labelled}" for labelled, unlabelled in duplicates.labelled_and_unlabelled]
    kinds = [
        left_out + pairs,
        [f"{entry.id}: {entry.detail}" for entry in near.left_out],
        [f"near-duplicates under two labels: {', '.join(ids)}" for ids in near.across_classes],
    ]
    examples = [example for kind in kinds for example in kind[:_EXAMPLES]]
    left_out_of_class = {"near_left_out_of_class": near.left_out_of_class}
    return {**duplicates.counts, **near.counts, **left_out_of_class, "examples": examples}
