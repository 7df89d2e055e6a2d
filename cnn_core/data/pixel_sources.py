"""The reader of the kind ``pixels``: square grey images as numbers, in tables or in idx files.

Tables are Kaggle's and their relatives (`layouts.pixel_tables`), a row for each image: Digit Recognizer, Fashion-MNIST,
Sign-Language-MNIST. idx files are MNIST's, EMNIST's and KMNIST's (`layouts.pixel_idx`). The classes are the labels that
the files hold, whole numbers or texts, and the side is that of the images. EMNIST's images are transposed, which is
noticed by what its digits show (`layouts.orientation`), or else by the files' names.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import cast

import numpy as np

from cnn_core.data.layouts.orientation import SIDE, are_enough, are_transposed
from cnn_core.data.layouts.parts import TEST, VAL
from cnn_core.data.layouts.pixel_columns import brightest
from cnn_core.data.layouts.pixel_files import first_lines, open_table, pixel_tables, top_files
from cnn_core.data.layouts.pixel_idx import find_idx, idx_labels, read_idx, read_parts
from cnn_core.data.layouts.pixel_labels import find_labels
from cnn_core.data.layouts.pixel_tables import Table, count_labels, read_rows
from cnn_core.data.sources import Batch, ImageSource
from cnn_core.images.archives import SourceFiles, open_files

FEW = 100  # images of a digit, by which it is seen how they lie
ADVICE = (
    "put train.csv and test.csv (a row for each image: its label and its pixels) or the idx files of MNIST or its "
    "relatives there, in a folder or a .zip, or run `gridflow fetch digits`, which gets Kaggle's"
)
TRANSPOSED = "the images are transposed, as EMNIST's files hold them; they were turned upright"
MAX_BYTES = 16 << 30  # of a .zip, unpacked; Kaggle's files unpack to 0.13 GiB
DARK = 64  # of 255: where no pixel is brighter, the values are probably not of 0..255
DIGITS = tuple("0123456789")


@contextlib.contextmanager
def open_pixels(path: str | Path) -> Iterator[ImageSource]:
    """Open the tables or idx files in a folder or .zip. Files one folder down are found too.

    Raises:
        ValueError: there is nothing usable, a file is empty, damaged or of another layout, or the images are no squares
            of one size.
    """
    with open_files(path, advice=ADVICE, max_bytes=MAX_BYTES) as files:
        idx = find_idx(files, top_files(files))
        tables = pixel_tables(files, ADVICE, others=bool(idx))
        if tables and idx:
            raise ValueError(f"{path} has both {tables[0].name} and MNIST idx files: keep the one that is meant")
        if not tables and not idx:
            raise ValueError(f"{path} has neither tables of pixels nor MNIST idx files: {ADVICE}")
        source = _from_tables(files, tables) if tables else _from_idx(files, idx)
        names = [table.name for table in tables] or list(idx.values())
        yield _upright(source, transposed=PurePosixPath(names[0]).name.lower().startswith("emnist"))


def _from_tables(files: SourceFiles, tables: list[Table]) -> ImageSource:
    _refuse_two_sizes({files.at(table.name): table.columns.side for table in tables})
    counts: Counter[str] = Counter()
    labelled = {table.part for table in tables if table.columns.label is not None}
    for table in tables:
        if table.part in labelled:
            with open_table(files, table.name) as text:
                counts += count_labels(text, table.columns, files.at(table.name))
    labels = find_labels(counts)

    def batches() -> Iterator[Batch]:
        for table in tables:
            with open_table(files, table.name) as text:
                yield from read_rows(text, table, labels if table.part in labelled else None, files.at(table.name))

    return ImageSource(
        batches=batches,
        total=None,
        # Kaggle's test.csv has no labels. One with labels is a test part that its owner published.
        published_test=TEST if TEST in labelled else None,
        published_val=VAL if VAL in labelled else None,
        classes=labels.names,
        left_out=_others(files, [table.name for table in tables]),
        warnings=_dark_pixels(files, tables),
    )


def _dark_pixels(files: SourceFiles, tables: list[Table]) -> list[str]:
    """A warning where pixels seem to be of 0..16 or the like; ValueError where they are of 0..1."""
    table = tables[0]
    most = brightest(first_lines(files, table.name), table.columns)
    if most is not None and 0 < most <= 1:
        raise ValueError(
            f"{files.at(table.name)} has pixels in 0..1, not in 0..255: multiply them by 255 and round them"
        )
    if most is not None and 1 < most < DARK:
        return [f"the brightest pixel of the first images in {table.name} is {most:g} of 255"]
    return []


def _from_idx(files: SourceFiles, names: dict[str, str]) -> ImageSource:
    parts = read_parts(files, names, ADVICE)
    _refuse_two_sizes({files.at(part.images): part.side for part in parts})
    labels = idx_labels(files, parts)

    def batches() -> Iterator[Batch]:
        for part in parts:
            yield from read_idx(files, part, labels)

    labelled = {part.part for part in parts if part.labels}
    return ImageSource(
        batches=batches,
        total=sum(part.count for part in parts),
        published_test="t10k" if "t10k" in labelled else None,
        published_val=VAL if VAL in labelled else None,
        classes=labels.names,
        left_out=_others(files, names.values()),
    )


def _refuse_two_sizes(sides: dict[str, int]) -> None:
    if len(set(sides.values())) > 1:
        sizes = " and ".join(f"{where} has images of {side}x{side} pixels" for where, side in sides.items())
        raise ValueError(f"{sizes}: one size is needed")


def _others(files: SourceFiles, used: Iterable[str]) -> Counter[str]:
    """Counts of the files that are not read, by their ending; an idx file beside its own .gz is among them."""
    names = set(used)
    others = [PurePosixPath(name) for name in files.names if name not in names]
    return Counter(path.suffix.lower() or "no ending" for path in others) + Counter(files.left_out)


def _upright(source: ImageSource, *, transposed: bool) -> ImageSource:
    """Turn EMNIST's images, whatever its files are called.

    Args:
        transposed: what the files' names say; it counts where the images do not tell.
    """
    noticed = are_transposed(*_first_digits(source)) if set(DIGITS) <= set(source.classes) else None
    if not (transposed if noticed is None else noticed):
        return source

    def batches() -> Iterator[Batch]:
        for batch in source.batches():
            yield dataclasses.replace(batch, images=np.ascontiguousarray(np.asarray(batch.images).swapaxes(1, 2)))

    return dataclasses.replace(source, batches=batches, warnings=[*source.warnings, TRANSPOSED])


def _first_digits(source: ImageSource) -> tuple[np.ndarray, np.ndarray]:
    """The images and numbers of the digits in the source's first labelled blocks, until they are enough."""
    images, labels = np.empty((0, SIDE, SIDE), np.uint8), np.empty(0, np.int64)
    with contextlib.closing(cast(Generator[Batch], source.batches())) as batches:
        for batch in batches:
            pixels = np.asarray(batch.images)
            if pixels.shape[1:] != (SIDE, SIDE):
                break
            if batch.labels is None:
                continue
            for digit in DIGITS:
                few = np.flatnonzero(batch.labels == source.classes.index(digit))[:FEW]
                images = np.concatenate([images, pixels[few]])
                labels = np.concatenate([labels, np.full(len(few), int(digit))])
            if are_enough(labels):
                break
    return images, labels
