"""What ingestion refuses and why: checks of rows, duplicates, and the limit of bad rows."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

WRONG_COLUMNS = "wrong column count"
PIXEL_OUTSIDE = "pixel outside 0-255"
CONFLICTING = "conflicting labels"
DUPLICATE = "duplicate"  # left out, but not bad

_DETAIL = 200  # characters
_EXAMPLES = 3
MISSING = ("", "nan", "na", "n/a", "null", "none")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """One row that is left out: its id, the reason (one of a few, to be counted), and the detail."""

    id: str
    reason: str
    detail: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "detail", self.detail[:_DETAIL])


def check_pixels(ids: Sequence[str], pixels: np.ndarray, names: Sequence[str]) -> dict[int, Refusal]:
    """Refuse the rows of int64 (N, P) with a pixel outside 0..255; ``names`` are what the P pixels are called."""
    refused: dict[int, Refusal] = {}
    if not pixels.size or (pixels.min() >= 0 and pixels.max() <= 255):
        return refused
    outside = (pixels < 0) | (pixels > 255)
    for row in np.flatnonzero(outside.any(axis=1)).tolist():
        column = int(outside[row].argmax())
        detail = f"{names[column]} is {pixels[row, column]}"
        refused[row] = Refusal(id=ids[row], reason=PIXEL_OUTSIDE, detail=detail)
    return refused


def whole_pixels(fields: Sequence[str], names: Sequence[str]) -> list[int]:
    """Parse one row's pixels as whole numbers. Raises `FieldError` at the first one that is none."""
    if (text := "".join(fields)).isascii() and text.isdigit() and all(0 < len(field) < 10 for field in fields):
        return list(map(int, fields))  # the usual row, about thirty times as fast as field by field
    return [whole_number(field, "pixel", name) for field, name in zip(fields, names, strict=True)]


class FieldError(Exception):
    """A cell is bad: ``reason`` is one of a few texts, ``detail`` says more."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def whole_number(text: str, kind: str, name: str = "") -> int:
    """Parse a cell such as ``7`` or ``7.0``; ``name`` is its column. Raises `FieldError` if it is no whole number."""
    text, name = text.strip(), name or kind
    if text.lower() in MISSING:
        raise FieldError(f"{kind} missing", f"{name} is {text or 'empty'}")
    if not _NUMBER.fullmatch(text):
        raise FieldError(f"{kind} not a number", f"{name} is {text!r}")
    value = float(text)
    if not value.is_integer():  # infinite (1e999) included
        raise FieldError(f"{kind} not a whole number", f"{name} is {text}")
    return int(max(min(value, 2**31), -(2**31)))  # a value far outside stays outside, and fits an int64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Duplicates:
    left_out: list[Refusal]  # reason `duplicate` (not bad) or `conflicting labels` (bad)
    counts: dict[str, int]
    labelled_and_unlabelled: list[tuple[str, str]]  # (labelled id, unlabelled id) with the same pixels


def find_duplicates(
    ids: Sequence[str],
    hashes: Sequence[str],
    labels: Sequence[int],
    ranks: Sequence[int],
    classes: Sequence[str],
) -> Duplicates:
    """Decide what happens to rows with the same pixels; a label of -1 is none.

    ``ranks`` are 2 in the publisher's own test part, 1 in its val part, and 0 in what is still to be split.

    - Two labels: all copies are refused, as nobody here knows which label is right.
    - The same label: the first copy stays. One in the publisher's own test part is preferred to one in val or train,
      and one in val to one in train, so that train holds no test image. The part that is preferred is kept as it was
      published, with its repetitions.
    - Labelled and unlabelled: both stay, as every unlabelled row gets a prediction. They are only reported.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for row, digest in enumerate(hashes):
        groups[digest].append(row)
    left_out: list[Refusal] = []
    pairs: list[tuple[str, str]] = []
    counts = {"same_label": 0, "train_in_test": 0, "conflicting_labels": 0, "labelled_and_unlabelled": 0}
    for rows in groups.values():
        if len(rows) == 1:
            continue
        labelled = [row for row in rows if labels[row] >= 0]
        unlabelled = [row for row in rows if labels[row] < 0]
        if labelled and unlabelled:
            counts["labelled_and_unlabelled"] += len(unlabelled)
            pairs += [(ids[labelled[0]], ids[row]) for row in unlabelled]
        if len({labels[row] for row in labelled}) > 1:
            counts["conflicting_labels"] += len(labelled)
            detail = ", ".join(f"{ids[row]} says {classes[labels[row]]}" for row in labelled)
            left_out += [Refusal(id=ids[row], reason=CONFLICTING, detail=detail) for row in labelled]
            continue
        if not labelled:
            continue
        kept = max(labelled, key=lambda row: ranks[row])  # the first of them
        for row in labelled:
            if row != kept and (ranks[row] < ranks[kept] or not ranks[kept]):
                counts["train_in_test" if ranks[kept] else "same_label"] += 1
                left_out.append(Refusal(id=ids[row], reason=DUPLICATE, detail=f"same pixels as {ids[kept]}, kept"))
    return Duplicates(left_out=left_out, counts=counts, labelled_and_unlabelled=pairs)


def refuse_too_many(
    refused: Sequence[Refusal], total: int, max_bad_fraction: float, where: str, *, what: str = "images"
) -> None:
    """Raise ValueError if too much of the source's ``total`` rows is bad: counts, examples, and what to do."""
    if len(refused) <= max_bad_fraction * total:
        return
    reasons = "; ".join(
        f"{reason}: {n:,} ({_examples(refused, reason)})" for reason, n in count_reasons(refused).items()
    )
    raise ValueError(
        f"{len(refused):,} of the {total:,} {what} of {where} are bad ({len(refused) / total:.1%}), more than "
        f"max_bad_fraction allows ({max_bad_fraction:.1%}). {reasons}. Repair the source, or raise max_bad_fraction "
        "to go on without them; nothing was written"
    )


def count_reasons(refused: Iterable[Refusal]) -> dict[str, int]:
    """Count the rows of each reason, the most frequent first."""
    return dict(Counter(entry.reason for entry in refused).most_common())


def _examples(refused: Sequence[Refusal], reason: str) -> str:
    entries = [entry for entry in refused if entry.reason == reason]
    examples = ", ".join(f"{entry.id}: {entry.detail}" for entry in entries[:_EXAMPLES])
    return examples + (", …" if len(entries) > _EXAMPLES else "")
