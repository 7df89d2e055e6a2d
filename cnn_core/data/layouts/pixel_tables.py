"""Tables with the pixels of one image in each row, and its label, read in blocks.

What is published differs in the names of the columns (``pixel0``, ``pixel1``, ``1x1``, ``pixel_0_0``, or no header), in
the separator, in the side of the images and in the place of the label. A block of whole numbers is parsed at once by
pandas. Only a block with anything else in it is parsed row by row. So a clean file is read fast, and a bad row is
reported by its number and its fault.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any, TextIO

import numpy as np
import pandas as pd

from cnn_core.data.layouts.pixel_columns import Columns
from cnn_core.data.layouts.pixel_labels import Labels
from cnn_core.data.sources import Batch
from cnn_core.data.validation import WRONG_COLUMNS, FieldError, Refusal, check_pixels, whole_pixels

BATCH_ROWS = 2_000
_MAX_LINE = 1 << 21  # characters; a row of 512x512 pixels has at most half of them
MAX_CHARACTERS = 16 << 30  # of an unpacked table; a packed one of more is a bomb


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """A table of a source: its file's name there, the part that it holds, and its columns."""

    name: str
    part: str
    columns: Columns


def lines_of(text: TextIO, where: str) -> Iterator[str]:
    """Yield the lines that are not blank.

    Raises:
        ValueError: a line is far too long, or the file unpacks to far too much.
    """
    total = 0
    while line := text.readline(_MAX_LINE):
        total += len(line)
        if len(line) == _MAX_LINE:
            raise ValueError(f"{where} has a line of more than {_MAX_LINE:,} characters, so it is no table of pixels")
        if total > MAX_CHARACTERS:
            raise ValueError(f"{where} unpacks to more than {MAX_CHARACTERS >> 30} GiB: get the original")
        if not line.isspace():
            yield line


def count_labels(text: TextIO, columns: Columns, where: str) -> Counter[str]:
    """Count the labels of a table as they are written, without the pixels.

    Raises:
        ValueError: the table has no rows.
    """
    assert columns.label is not None
    first, last = columns.label == 0, columns.label == columns.width - 1
    counts: Counter[str] = Counter()
    for line in _rows(text, columns, where):
        if '"' in line or not (first or last):
            fields = next(csv.reader([line], delimiter=columns.delimiter))
            label = fields[columns.label] if len(fields) == columns.width else ""
        elif line.count(columns.delimiter) != columns.width - 1:
            label = ""
        else:
            label = line.split(columns.delimiter, 1)[0] if first else line.rsplit(columns.delimiter, 1)[1]
        counts[label.strip()] += 1
    if not counts:
        raise ValueError(f"{where} has a header but no rows: get it again")
    return counts


def read_rows(text: TextIO, table: Table, labels: Labels | None, where: str) -> Iterator[Batch]:
    """Yield the rows of a table, a block at a time; ``labels`` is None for a table without them.

    Raises:
        ValueError: the table has no rows, or a line that is far too long.
    """
    rows = ((f"{table.part}/{row:05d}", line) for row, line in enumerate(_rows(text, table.columns, where), start=1))
    empty = True
    while block := list(itertools.islice(rows, BATCH_ROWS)):
        empty = False
        yield _parse(block, table, labels)
    if empty:
        raise ValueError(f"{where} has a header but no rows: get it again")


def _rows(text: TextIO, columns: Columns, where: str) -> Iterator[str]:
    return itertools.islice(lines_of(text, where), int(columns.has_header), None)


def _parse(block: list[tuple[str, str]], table: Table, labels: Labels | None) -> Batch:
    columns, refused = table.columns, _wrong_widths(block, table.columns)
    block = [(id_, line) for id_, line in block if id_ not in refused]
    ids = [id_ for id_, _ in block]
    quick = _parse_quickly([line for _, line in block], columns, labels)
    if quick is None:
        ids, pixels, numbers = _parse_row_by_row(block, columns, labels, refused)
    else:
        pixels, numbers = quick
    refused |= {ids[row]: entry for row, entry in check_pixels(ids, pixels, columns.names).items()}
    good = [row for row, id_ in enumerate(ids) if id_ not in refused]
    return Batch(
        part=table.part,
        ids=[ids[row] for row in good],
        images=pixels[good].astype(np.uint8).reshape(-1, columns.side, columns.side),
        labels=None if labels is None else numbers[good],
        refused=[refused[id_] for id_ in sorted(refused)],
    )


def _wrong_widths(block: list[tuple[str, str]], columns: Columns) -> dict[str, Refusal]:
    refused = {}
    for id_, line in block:
        width = line.count(columns.delimiter) + 1
        if width != columns.width and '"' in line:
            width = len(next(csv.reader([line], delimiter=columns.delimiter)))
        if width != columns.width:
            detail = f"{width} columns, not {columns.width}"
            refused[id_] = Refusal(id=id_, reason=WRONG_COLUMNS, detail=detail)
    return refused


def _parse_quickly(lines: list[str], columns: Columns, labels: Labels | None) -> tuple[np.ndarray, np.ndarray] | None:
    """Parse lines as pixels int64 (N, P) and labels (N,); None if there is anything but clean cells."""
    if not lines:
        return np.empty((0, len(columns.pixels)), np.int64), np.empty(0, np.int64)
    only_numbers = len(columns.pixels) + (columns.label is not None) == columns.width and (
        labels is None or labels.are_numbers
    )
    types: Any = np.int64
    if not only_numbers:
        types = {**dict.fromkeys(range(columns.width), str), **dict.fromkeys(columns.pixels, np.int64)}
    try:
        with np.errstate(invalid="ignore"):  # of a fraction or 1e999 pandas sees that the cast changed it, and raises
            frame = pd.read_csv(
                io.StringIO("".join(lines)),
                header=None,
                names=range(columns.width),
                dtype=types,
                sep=columns.delimiter,
                keep_default_na=False,
            )
    except (ValueError, OverflowError):  # pandas' ParserError is a ValueError
        return None
    assert len(frame) == len(lines), "rows must keep their numbers"
    if only_numbers:
        values = frame.to_numpy()
        pixels, written = _select(values, columns.pixels), values[:, columns.label] if labels else None
    else:
        pixels = frame[columns.pixels].to_numpy()
        written = frame[columns.label].to_numpy() if labels else None
    if labels is None or written is None:
        return pixels, np.empty(len(frame), np.int64)
    numbers = labels.numbers_of(written)
    return None if numbers is None else (pixels, numbers)


def _select(values: np.ndarray, columns: list[int]) -> np.ndarray:
    """These columns; a view where they are neighbours, as they nearly always are."""
    first = columns[0]
    if columns == list(range(first, first + len(columns))):
        return values[:, first : first + len(columns)]
    return values[:, columns]


def _parse_row_by_row(
    block: list[tuple[str, str]], columns: Columns, labels: Labels | None, refused: dict[str, Refusal]
) -> tuple[list[str], np.ndarray, np.ndarray]:
    ids, rows, numbers = [], [], []
    for id_, line in block:
        fields = next(csv.reader([line], delimiter=columns.delimiter))
        if len(fields) != columns.width:
            detail = f"{len(fields)} columns with its quotes"
            refused[id_] = Refusal(id=id_, reason=WRONG_COLUMNS, detail=detail)
            continue
        try:
            pixels = whole_pixels([fields[column] for column in columns.pixels], columns.names)
            number = 0 if labels is None or columns.label is None else labels.number_of(fields[columns.label])
        except FieldError as fault:
            refused[id_] = Refusal(id=id_, reason=fault.reason, detail=fault.detail)
            continue
        ids.append(id_)
        rows.append(pixels)
        numbers.append(number)
    return ids, np.array(rows, np.int64).reshape(len(rows), len(columns.pixels)), np.array(numbers, np.int64)
