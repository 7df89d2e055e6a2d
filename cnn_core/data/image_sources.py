"""The reader of the kind ``images``: files of any format and size, with their labels.

A label is the folder of its image (`layouts.class_folders`), the cell of a table (`layouts.label_tables`), or the cell
beside the image in a Parquet file (`layouts.parquet_files`).
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np

from cnn_core.data.image_files import image_names, read_entry
from cnn_core.data.layouts.class_folders import Folders, find_folders, from_class_folders
from cnn_core.data.layouts.label_tables import find_tables, from_tables
from cnn_core.data.layouts.listing import NO_CLASS, ImageEntry, Listing
from cnn_core.data.layouts.parquet_files import (
    ENDING,
    NO_BYTES,
    ParquetFile,
    ParquetRow,
    find_parquet,
    parquet_labels,
    read_parquet,
    refuse_several,
    sort_classes,
)
from cnn_core.data.layouts.parts import TEST, TRAIN, UNLABELLED, VAL
from cnn_core.data.sources import Batch, ImageSource, blocks
from cnn_core.data.validation import Refusal
from cnn_core.images.archives import SourceFiles, open_files
from cnn_core.images.decoding import BadImage, Picture, read_picture

ADVICE = (
    "put a folder of images for each class there (with or without train/, val/ and test/ around them), or images and a "
    "table of their labels (train.csv), or Parquet files, in a folder or a .zip, or run `gridflow fetch scenes`, which "
    "gets Kaggle's"
)
MAX_BYTES = 64 << 30  # of a .zip, unpacked

_BATCH_FILES, _BATCH_BYTES = 64, 64 << 20  # so that few bytes wait for decoding, however large the files are


@contextlib.contextmanager
def open_images(
    path: str | Path, *, threads: int | None = None, multilabel: bool | None = None
) -> Iterator[ImageSource]:
    """Open the images in a folder or .zip, which ``threads`` decode (None: as many as Python sees processors).

    Args:
        multilabel: whether an image may have several labels or none; None = one label, and what looks like several is
            refused.

    Raises:
        SeveralLabelsError: a table or a Parquet file gives several labels an image, and ``multilabel`` is not true.
        ValueError: there is nothing usable, the .zip is damaged, or a class has no images to learn from.
    """
    with open_files(path, advice=ADVICE, max_bytes=MAX_BYTES) as files:
        is_parquet = any(name.lower().endswith(ENDING) for name in files.names)
        if is_parquet and (tables := find_parquet(files, multilabel=multilabel)):
            yield _from_parquet(files, tables, threads, multilabel)
        else:
            names, left_out = image_names(files)
            yield _from_files(files, _listing(files, names, multilabel), left_out, threads, several=bool(multilabel))


def class_folders(files: SourceFiles) -> Folders | None:
    """The class folders from which a source is read; None where tables or Parquet files say the labels."""
    if any(name.lower().endswith(ENDING) for name in files.names):
        return None
    names, _ = image_names(files)
    return None if _listing(files, names).tables else find_folders(files, names)


def _listing(files: SourceFiles, names: Sequence[str], multilabel: bool | None = None) -> Listing:
    """List the images by the tables or by the folders that say their classes.

    Folders of classes within parts come first, as a table beside them says the same. Other folders may be mere shelves,
    so a table with a column that is called label comes before them.
    """
    if not names and not files.folders:
        raise ValueError(f"{files.path} has no images: {ADVICE}")
    folders = find_folders(files, names)
    if not folders.with_classes:
        tables, misses = find_tables(files, names)
        has_labels = any(table.is_named and table.label >= 0 and table.label not in table.bits for table in tables)
        if multilabel and not has_labels:
            tables = [table.with_several() for table in tables]
        if any(table.is_named if len(folders.classes) > 1 else table.is_labelled for table in tables):
            for table in tables if multilabel is None else ():
                if table.is_labelled:
                    table.refuse_several()
            return from_tables(names, tables, several=bool(multilabel))
        if not folders.parts and len(folders.classes) < 2:
            for table in tables:
                table.refuse_several()
            missing = f" ({misses[0]})" if misses else ""
            where, count = "/".join((str(files.path), *folders.root)), f"{len(names):,}" if names else "no"
            raise ValueError(
                f"{where} has {count} images but neither folders of two classes or more nor a table of their labels"
                f"{missing}, so nothing to learn from: {ADVICE}"
            )
    if multilabel:
        raise ValueError(
            f"{files.path} has a folder for each class, so each image has one label, but multilabel is true: set it to "
            "false, or put a table of files and labels beside the images"
        )
    return from_class_folders(files, names, folders)


def _from_files(
    files: SourceFiles, listing: Listing, left_out: Counter[str], threads: int | None, *, several: bool
) -> ImageSource:
    numbers = {label: number for number, label in enumerate(listing.classes)}
    label_sets = _label_sets((entry.labels for entry in listing.entries), numbers) if several else {}

    def batches() -> Iterator[Batch]:
        if listing.refused:
            yield Batch(part=TRAIN, ids=[], images=[], labels=np.empty(0, np.int64), refused=list(listing.refused))
        with ThreadPoolExecutor(threads) as pool:
            for _, part in itertools.groupby(listing.entries, lambda entry: entry.part):
                for block in blocks(
                    part, lambda entry: files.size(entry.name), most=_BATCH_FILES, most_bytes=_BATCH_BYTES
                ):
                    labels = [
                        label_sets[entry.labels] if entry.labels is not None else numbers.get(entry.label or "")
                        for entry in block
                    ]
                    yield _read(files, block, labels, pool)

    labelled = {entry.part for entry in listing.entries if entry.is_labelled}
    tables = Counter(PurePosixPath(name).suffix.lower() for name in listing.tables)
    return ImageSource(
        batches=batches,
        total=len(listing.entries) + len(listing.refused),
        published_test=TEST if TEST in labelled else None,
        published_val=VAL if VAL in labelled else None,
        classes=listing.classes,
        left_out=left_out - tables + Counter(files.left_out) + listing.left_out,
        warnings=listing.warnings,
        label_sets=_numbered(label_sets, numbers) if several else None,
    )


def _label_sets(sets: Iterable[tuple[str, ...] | None], classes: dict[str, int]) -> dict[tuple[str, ...], int]:
    """Number the sets of labels that occur, in the order of their classes."""
    different = {labels for labels in sets if labels is not None}
    order = sorted(different, key=lambda labels: [classes[name] for name in labels])
    return {labels: number for number, labels in enumerate(order)}


def _numbered(sets: Iterable[tuple[str, ...]], classes: dict[str, int]) -> list[tuple[int, ...]]:
    return [tuple(sorted(classes[name] for name in labels)) for labels in sets]


def _read(files: SourceFiles, block: list[ImageEntry], labels: Sequence[int | None], pool: ThreadPoolExecutor) -> Batch:
    """Read a block's files one after the other; the pool decodes and hashes them."""
    contents = ((entry.name, read_entry(files, entry.name)) for entry in block)
    pictures = list(pool.map(lambda content: _decode(*content), contents))
    return _batch(block[0].part, [entry.id for entry in block], pictures, labels)


def _batch(
    part: str, ids: Sequence[str], pictures: Sequence[Picture | BadImage], labels: Sequence[int | None]
) -> Batch:
    rows = list(zip(ids, pictures, labels, strict=True))
    good = [(id_, picture, label) for id_, picture, label in rows if isinstance(picture, Picture)]
    return Batch(
        part=part,
        ids=[id_ for id_, _, _ in good],
        images=[picture for _, picture, _ in good],
        labels=None if part == UNLABELLED else np.array([label for _, _, label in good], np.int64),
        refused=[
            Refusal(id=id_, reason=fault.reason, detail=fault.detail)
            for id_, fault, _ in rows
            if isinstance(fault, BadImage)
        ],
    )


def _decode(name: str, data: bytes | BadImage) -> Picture | BadImage:
    if isinstance(data, BadImage):
        return data
    try:
        return read_picture(data, name)
    except BadImage as fault:
        return fault


# Parquet


def _from_parquet(
    files: SourceFiles, tables: list[ParquetFile], threads: int | None, multilabel: bool | None
) -> ImageSource:
    by_part, several = parquet_labels(files, tables), bool(multilabel)
    labels = {label for part in by_part.values() for label in part}
    if multilabel is None:
        refuse_several(labels, tables)
    classes = sort_classes({name for label in labels for name in label}, tables)
    numbers = {name: number for number, name in enumerate(classes)}
    sets: dict[tuple[str, ...], int] = {(name,): number for name, number in numbers.items()}
    if several:
        sets = _label_sets(labels, numbers)

    def batches() -> Iterator[Batch]:
        counts: Counter[str] = Counter()
        with ThreadPoolExecutor(threads) as pool:
            for table in tables:
                labelled = bool(by_part[table.part])
                for rows in read_parquet(files, table, counts[table.part]):
                    counts[table.part] += len(rows)
                    pictures = list(pool.map(lambda row, labelled=labelled: _decode_row(row, labelled), rows))
                    numbered = [None if row.labels is None else sets.get(row.labels) for row in rows]
                    yield _batch(table.part if labelled else UNLABELLED, [row.id for row in rows], pictures, numbered)

    used = {table.name for table in tables}
    others = Counter(PurePosixPath(name).suffix.lower() or "no ending" for name in files.names if name not in used)
    return ImageSource(
        batches=batches,
        total=sum(table.rows for table in tables),
        published_test=TEST if by_part[TEST] else None,
        published_val=VAL if by_part[VAL] else None,
        classes=classes,
        left_out=others + Counter(files.left_out),
        label_sets=_numbered(sets, numbers) if several else None,
    )


def _decode_row(row: ParquetRow, labelled: bool) -> Picture | BadImage:
    if row.data is None:
        return BadImage(NO_BYTES, f"the path {row.name} alone" if row.name else "an empty cell")
    if labelled and row.labels is None:
        return BadImage(NO_CLASS, "the label is empty")
    return _decode(row.name, row.data)
