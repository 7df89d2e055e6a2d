"""Several labels of one image: in one cell, in columns of zeros and ones, and how a table is recognised that has them.

``cat|dog``, ``cat;dog``, ``cat, dog``, ``cat dog`` and ``['cat', 'dog']`` are two labels; an empty cell is none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

SEPARATORS = ("|", ";", ",")  # of labels in a cell; where none of them occurs, a space
MISSING = ("", "nan", "null", "none")
BITS = {"0", "1", "0.0", "1.0"}
ONES = ("1", "1.0")
ADVICE = "set multilabel to true in the set's section of ingest, or to false where each is one label"


class SeveralLabelsError(ValueError):
    """A source gives its images several labels, and was to be read with one label an image."""


def separator_of(cells: Iterable[str]) -> str:
    """The separator of the labels in a column."""
    cells = [_bare(cell) for cell in cells]
    return next((each for each in SEPARATORS if any(each in cell for cell in cells)), " ")


def labels_in(cell: str, separator: str) -> tuple[str, ...]:
    """The labels in a cell, sorted, each once."""
    pieces = (piece.strip().strip("'\"").strip() for piece in _bare(cell).split(separator))
    return tuple(sorted({piece for piece in pieces if piece.lower() not in MISSING}))


def _bare(cell: str) -> str:
    """A cell without the brackets of a list as Python and numpy print it."""
    text = cell.strip()
    return text[1:-1] if text[:1] + text[-1:] in ("[]", "()", "{}") else text


def has_several(cells: Collection[str]) -> bool:
    """Whether the cells of a column hold several labels each, and not one label with a separator in its name.

    Labels recur in several combinations. Words that a space or a comma separates are labels only where they change
    their places, where the cells have different numbers of them, and where each is a cell of its own, or each recurs
    and they make up half as many cells again: class names such as ``golden retriever`` or ``Smith, John`` do not.
    """
    different = set(cells)
    separator = separator_of(different)
    split = {labels_in(cell, separator) for cell in different}
    several = [labels for labels in split if len(labels) > 1]
    if not several:
        return False
    pieces = {label for labels in several for label in labels}
    alone = {labels[0] for labels in split if len(labels) == 1}
    if separator in "|;":
        return bool(pieces & alone) or sum(map(len, several)) > len(pieces)
    if all(len(places) < 2 for places in _places(different, separator).values()):
        return False
    counts = Counter(label for labels in split for label in labels)
    varied = len({len(labels) for labels in split if labels}) > 1
    recur = min(counts[label] for label in pieces) > 1 and 2 * len(split - {()}) >= 3 * len(counts)
    return varied and (pieces <= alone or recur)


def _places(cells: Iterable[str], separator: str) -> dict[str, set[int]]:
    """Where in the cells each label stands: 0 = first."""
    places: dict[str, set[int]] = {}
    for cell in cells:
        for place, piece in enumerate(_bare(cell).split(separator)):
            places.setdefault(piece.strip().strip("'\"").strip(), set()).add(place)
    return places


def bit_columns(header: Sequence[str], columns: Sequence[int], rows: Sequence[Sequence[str]]) -> dict[int, str]:
    """The columns that hold zeros and ones alone, with their names: classes that an image has or has not."""
    return {
        column: header[column].strip()
        for column in columns
        if column < len(header) and {row[column].strip() for row in rows if column < len(row)} <= BITS
    }
