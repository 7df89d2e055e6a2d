"""Rows of Kaggle's Digit Recognizer tables: ``label,pixel0,…,pixel783`` under a header, read in blocks.

A block of whole numbers is parsed at once by pandas. Only a block with anything else in it is parsed row by row. So a
clean file is read fast, and a bad row is reported by its number and its fault.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator
from typing import BinaryIO, TextIO

import numpy as np
import pandas as pd

from cnn_core.data.sources import Batch
from cnn_core.data.validation import WRONG_COLUMNS, Refusal, check_digit_text, check_digits

SIDE = 28
PIXELS = SIDE * SIDE
BATCH_ROWS = 2_000
_MAX_LINE = 1 << 16  # characters; a row of 784 numbers has at most 4,000


def open_text(file: BinaryIO) -> TextIO:
    """Open as text with any line ends; a byte that is no UTF-8 spoils only its own row."""
    return io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace", newline=None)


def read_header(text: TextIO, where: str, *, labelled: bool) -> list[str]:
    """Read the names of the columns, in lower case.

    Raises:
        ValueError: the file is empty, or has other columns than pixels and a label (which ``labelled`` demands).
    """
    line = next(_lines(text, where), "")
    if not line.strip():
        raise ValueError(f"{where} is empty: get it again")
    columns = [column.strip().lower() for column in next(csv.reader([line]))]
    required = {f"pixel{number}" for number in range(PIXELS)} | ({"label"} if labelled else set())
    names = set(columns)
    if not required <= names <= required | {"label"} or len(names) < len(columns):
        missing = sorted(required - set(columns), key=lambda name: (len(name), name))
        extra = [column for column in columns if column not in required]
        faults = [f"{len(missing)} missing, such as {missing[0]}"] if missing else []
        faults += [f"{len(extra)} not known, such as {extra[0][:40]!r}"] if extra else []
        raise ValueError(
            f"{where} has a header of {len(columns)} columns ({'; '.join(faults) or 'some twice'}), not the "
            f"{len(required)} of {'label,' if labelled else ''}pixel0,…,pixel{PIXELS - 1}: correct the header or get "
            "the file again"
        )
    return columns


def read_table(text: TextIO, part: str, columns: list[str], where: str) -> Iterator[Batch]:
    """Yield the rows of a table with these columns, a block at a time.

    Raises:
        ValueError: the table has other columns, no rows, or a line that is far too long.
    """
    read_header(text, where, labelled=False)
    rows = ((f"{part}/{row:05d}", line) for row, line in enumerate(filter(str.strip, _lines(text, where)), start=1))
    empty = True
    while block := list(itertools.islice(rows, BATCH_ROWS)):
        empty = False
        yield _parse(block, part, columns)
    if empty:
        raise ValueError(f"{where} has a header but no rows: get it again")


def _lines(text: TextIO, where: str) -> Iterator[str]:
    while line := text.readline(_MAX_LINE):
        if len(line) == _MAX_LINE:
            raise ValueError(f"{where} has a line of more than {_MAX_LINE:,} characters, so it is no table of digits")
        yield line


def _parse(block: list[tuple[str, str]], part: str, columns: list[str]) -> Batch:
    commas = len(columns) - 1
    refused = {
        id_: Refusal(id=id_, reason=WRONG_COLUMNS, detail=f"{line.count(',') + 1} columns, not {commas + 1}")
        for id_, line in block
        if line.count(",") != commas
    }
    block = [(id_, line) for id_, line in block if id_ not in refused]
    order = [columns.index(f"pixel{number}") for number in range(PIXELS)]
    label = columns.index("label") if "label" in columns else None
    ids, values = [id_ for id_, _ in block], _parse_quickly([line for _, line in block], len(columns))
    if values is None:
        ids, values = _parse_row_by_row(block, label, order, refused)
    pixels, labels = values[:, order], None if label is None else values[:, label]
    refused |= {ids[row]: entry for row, entry in check_digits(ids, pixels, labels).items()}
    good = [row for row, id_ in enumerate(ids) if id_ not in refused]
    return Batch(
        part=part,
        ids=[ids[row] for row in good],
        images=pixels[good].astype(np.uint8).reshape(-1, SIDE, SIDE),
        labels=None if labels is None else labels[good],
        refused=[refused[id_] for id_ in sorted(refused)],
    )


def _parse_quickly(lines: list[str], width: int) -> np.ndarray | None:
    """Parse lines as int64 (N, width); None if there is anything but whole numbers."""
    if not lines:
        return np.empty((0, width), np.int64)
    try:
        with np.errstate(
            invalid="ignore"
        ):  # of a fraction or 1e999 pandas notices that the cast changed it, and raises
            table = pd.read_csv(io.StringIO("".join(lines)), header=None, names=range(width), dtype=np.int64)
    except (ValueError, OverflowError):  # pandas' ParserError is a ValueError
        return None
    assert len(table) == len(lines), "rows must keep their numbers"
    return table.to_numpy()


def _parse_row_by_row(
    block: list[tuple[str, str]], label: int | None, order: list[int], refused: dict[str, Refusal]
) -> tuple[list[str], np.ndarray]:
    ids, rows = [], []
    for id_, line in block:
        fields = next(csv.reader([line]))
        if len(fields) != len(order) + (label is not None):
            refused[id_] = Refusal(id=id_, reason=WRONG_COLUMNS, detail=f"{len(fields)} columns with its quotes")
            continue
        parsed = check_digit_text(id_, None if label is None else fields[label], [fields[column] for column in order])
        if isinstance(parsed, Refusal):
            refused[id_] = parsed
            continue
        row = np.empty(len(fields), np.int64)
        row[order] = parsed[1]
        if label is not None:
            row[label] = parsed[0]
        ids.append(id_)
        rows.append(row)
    return ids, np.stack(rows) if rows else np.empty((0, len(order) + (label is not None)), np.int64)
