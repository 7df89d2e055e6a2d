"""Which columns of a table are pixels, in which order, and which one is the label."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import math
import re
from collections import Counter
from collections.abc import Sequence

from cnn_core.images.decoding import MIN_SIDE

MAX_SIDE = 512
LABELS = ("label", "labels", "class", "target", "y", "category", "digit", "letter", "character", "symbol", "name")
_ROW_NAMES = ("", "id", "index", "unnamed: 0", "imageid", "image_id", "image", "row", "file", "filename", "usage")
_LEAST = 16  # columns of numbers that make a table one of pixels
_SEPARATORS = ",;\t|"
_NUMBERED = re.compile(r"(.*?)(\d+)", re.ASCII)
_BY_ROW_AND_COLUMN = re.compile(r"(.*?)(\d+)[^\d.](\d+)", re.ASCII)
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
_PEEK = 50  # rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Columns:
    """How the rows of a table are to be read.

    Attributes:
        width: the number of columns.
        label: the label's column, or None.
        pixels: the columns of the pixels, row by row of the image.
        names: what to call these pixels in a message.
    """

    delimiter: str
    has_header: bool
    width: int
    label: int | None
    pixels: list[int]
    names: list[str]

    @property
    def side(self) -> int:
        return math.isqrt(len(self.pixels))


def are_pixels(lines: Sequence[str]) -> bool:
    """Whether the first lines of a file look like a table of pixels: many columns, nearly all of them numbers."""
    if not lines:
        return False
    cells = _cells(lines[-1], _delimiter(lines[0]))
    return len(cells) > _LEAST and sum(map(bool, map(_NUMBER.fullmatch, cells))) >= 0.9 * len(cells)


def read_columns(lines: Sequence[str], where: str, *, labelled: bool) -> Columns:
    """Tell the columns from the first lines of a table, the header (if it has one) among them.

    Raises:
        ValueError: the pixels make no square or are not recognised, or there is no label, which ``labelled`` demands.
    """
    if not lines:
        raise ValueError(f"{where} is empty: get it again")
    delimiter = _delimiter(lines[0])
    first = [cell.strip() for cell in _cells(lines[0], delimiter)]
    if _is_header(first):
        columns = _named(first, delimiter, where, labelled=labelled)
    else:
        columns = _nameless(first, lines, delimiter, where, labelled=labelled)
    if not MIN_SIDE <= columns.side <= MAX_SIDE:
        raise ValueError(
            f"{where} has images of {columns.side}x{columns.side} pixels; {MIN_SIDE} to {MAX_SIDE} on a side are read"
        )
    return columns


def brightest(lines: Sequence[str], columns: Columns) -> float | None:
    """The largest pixel of the first rows; None if there is none to tell by."""
    largest = None
    for line in lines[int(columns.has_header) :][:_PEEK]:
        cells = _cells(line, columns.delimiter)
        try:
            value = max(float(cells[column]) for column in columns.pixels)
        except (ValueError, IndexError):
            continue
        largest = value if largest is None else max(value, largest)
    return largest


def _delimiter(line: str) -> str:
    return max(_SEPARATORS, key=line.count)


def _cells(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter), [])


def _is_header(cells: Sequence[str]) -> bool:
    """A row of data has at most a label and a name that are no numbers. Numbers that count up are names of columns."""
    numbers = [cell for cell in cells if _NUMBER.fullmatch(cell)]
    if len(cells) - len(numbers) > 2 or not numbers:
        return True
    integers = [int(cell) for cell in numbers if cell.isdigit()]
    count_up = len(integers) > 1 and all(right - left == 1 for left, right in itertools.pairwise(integers))
    return (count_up and len(integers) == len(numbers)) or _are_pandas_names(cells)


def _are_pandas_names(cells: Sequence[str]) -> bool:
    """Whether pandas made a row of data the names of its columns: equal cells became 0, 0.1, 0.2, …"""
    counts: Counter[str] = Counter()
    for cell in cells:
        number, _, suffix = cell.partition(".")
        if suffix != (str(counts[number]) if counts[number] else ""):
            return False
        counts[number] += 1
    return len(counts) < len(cells)


def _named(header: Sequence[str], delimiter: str, where: str, *, labelled: bool) -> Columns:
    names = [name.lower() for name in header]
    places = _pixel_places(names)
    if not places:
        raise ValueError(
            f"{where} has a header of {len(names)} columns without names for pixels (pixel0, pixel1, … or 1x1, 1x2, "
            f"…), such as {_some(names)}: correct the header or get the file again"
        )
    if len(set(places.values())) < len(places) or len(set(names) - {""}) < len([name for name in names if name]):
        twice = [name for name, count in Counter(names).items() if count > 1] or list(names)
        raise ValueError(f"{where} has a header of {len(names)} columns, some twice, such as {_some(twice)}")
    if math.isqrt(len(places) - 1) ** 2 == len(places) - 1 and len(places) == len(names):
        places.pop(min(places, key=lambda column: places[column]))  # pandas numbered the label's column too
        places = {column: (row, number - 1) for column, (row, number) in places.items()}
    _refuse_gaps(places, names, where)
    _refuse_oblong(len(places), where)
    pixels = sorted(places, key=lambda column: places[column])
    others = [column for column in range(len(names)) if column not in places]
    return Columns(
        delimiter=delimiter,
        has_header=True,
        width=len(names),
        label=_label_column(others, names, len(pixels), where, labelled=labelled),
        pixels=pixels,
        names=[header[column] for column in pixels],
    )


def _pixel_places(names: Sequence[str]) -> dict[int, tuple[int, int]]:
    """The columns of the largest group of names that differ in their numbers alone, each with these numbers."""
    if _are_pandas_names(names):
        return {column: (0, column) for column in range(1, len(names))}
    groups: dict[str, dict[int, tuple[int, int]]] = {}
    for column, name in enumerate(names):
        if match := _BY_ROW_AND_COLUMN.fullmatch(name):
            groups.setdefault(f"{match[1]} row column", {})[column] = (int(match[2]), int(match[3]))
        elif match := _NUMBERED.fullmatch(name):
            groups.setdefault(match[1], {})[column] = (0, int(match[2]))
    largest: dict[int, tuple[int, int]] = max(groups.values(), key=len, default={})
    return largest if len(largest) >= _LEAST else {}


def _refuse_gaps(places: dict[int, tuple[int, int]], names: Sequence[str], where: str) -> None:
    """Pixels count from 0 or 1, by one, or by rows and columns of which none is missing."""
    (low_row, low), (high_row, high) = (tuple(map(choose, zip(*places.values(), strict=True))) for choose in (min, max))
    missing = (high_row - low_row + 1) * (high - low + 1) - len(places)
    if missing or low > 1 or low_row > 1:
        present = set(places.values())
        lacking = next(number for number in range(high + 2) if number + low not in {column for _, column in present})
        raise ValueError(
            f"{where} has a header of {len(names)} columns with {len(places):,} pixels such as "
            f"{names[next(iter(places))]!r}, numbered from {low} to {high} with {missing:,} missing, such as "
            f"{low + lacking}: correct the header or get the file again"
        )


def _refuse_oblong(count: int, where: str) -> None:
    if math.isqrt(count) ** 2 == count:
        return
    side = round(math.sqrt(count))
    colour = math.isqrt(count // 3) if count % 3 == 0 and math.isqrt(count // 3) ** 2 == count // 3 else 0
    hint = f"; {colour}x{colour} in three colours are not read, only grey" if colour else ""
    raise ValueError(
        f"{where} has {count:,} columns of pixels, which make no square image ({side}x{side} would be {side * side:,})"
        f"{hint}: correct the table or get it again"
    )


def _label_column(
    others: Sequence[int], names: Sequence[str], pixels: int, where: str, *, labelled: bool
) -> int | None:
    candidates = [column for column in others if names[column] not in _ROW_NAMES]
    for name in LABELS:
        if called := [column for column in candidates if names[column] == name]:
            return called[0]
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise ValueError(
            f"{where} has the columns {_some([names[column] for column in candidates])} beside {pixels:,} pixels: name "
            "the one that is meant label"
        )
    if labelled:
        raise ValueError(f"{where} has {pixels:,} columns of pixels and none of labels: add one named label")
    return None


def _nameless(first: Sequence[str], lines: Sequence[str], delimiter: str, where: str, *, labelled: bool) -> Columns:
    width = len(first)
    if math.isqrt(width) ** 2 == width and not labelled:
        label, pixels = None, list(range(width))
    elif math.isqrt(width - 1) ** 2 == width - 1:
        label = _nameless_label(lines, delimiter, width)
        pixels = [column for column in range(width) if column != label]
    elif math.isqrt(width) ** 2 == width:
        raise ValueError(f"{where} has {width:,} columns of pixels and none of labels: put the labels into the first")
    else:
        side = round(math.sqrt(width - 1))
        raise ValueError(
            f"{where} has no header and {width:,} columns, which are no label and a square image "
            f"({side}x{side} would be {side * side + 1:,}): correct the table or get it again"
        )
    return Columns(
        delimiter=delimiter,
        has_header=False,
        width=width,
        label=label,
        pixels=pixels,
        names=[f"pixel{number}" for number in range(len(pixels))],
    )


def _nameless_label(lines: Sequence[str], delimiter: str, width: int) -> int:
    """The first column, or the last one where that is a text, or where only the first is the same in all rows."""
    rows = [cells for line in lines if len(cells := _cells(line, delimiter)) == width]
    firsts, lasts = ({row[column].strip() for row in rows} for column in (0, -1))
    if any(not _NUMBER.fullmatch(cell) for cell in lasts) and all(_NUMBER.fullmatch(cell) for cell in firsts):
        return width - 1
    return width - 1 if len(firsts) == 1 < len(lasts) else 0


def _some(names: Sequence[str]) -> str:
    return ", ".join(repr(name[:40]) for name in names[:3])
