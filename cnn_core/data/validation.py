"""What ingestion refuses and why: checks of rows, duplicates, and the limit of bad rows."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

WRONG_COLUMNS = "wrong column count"
LABEL_OUTSIDE = "label outside 0-9"
PIXEL_OUTSIDE = "pixel outside 0-255"
CONFLICTING = "conflicting labels"
DUPLICATE = "duplicate"  # left out, but not bad

_DETAIL = 200  # characters
_EXAMPLES = 3
_MISSING = ("", "nan", "na", "n/a", "null", "none")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """One row that is left out: its id, the reason (one of a few, to be counted), and the detail."""

    id: str
    reason: str
    detail: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "detail", self.detail[:_DETAIL])


def check_digits(ids: Sequence[str], pixels: np.ndarray, labels: np.ndarray | None) -> dict[int, Refusal]:
    """Refuse the rows that are no digits: a label (N,) outside 0..9 or a pixel (N, P) outside 0..255."""
    refused: dict[int, Refusal] = {}
    checks = [] if labels is None else [(LABEL_OUTSIDE, "label", labels[:, None], 9)]
    for reason, what, values, high in [*checks, (PIXEL_OUTSIDE, "pixel", pixels, 255)]:
        outside = (values < 0) | (values > high)
        for row in np.flatnonzero(outside.any(axis=1)).tolist():
            column = int(outside[row].argmax())
            name = what if what == "label" else f"{what}{column}"
            refused.setdefault(row, Refusal(id=ids[row], reason=reason, detail=f"{name} is {values[row, column]}"))
    return refused


def check_digit_text(id_: str, label: str | None, pixels: Sequence[str]) -> tuple[int, list[int]] | Refusal:
    """Parse one row's fields as whole numbers (label 0 if there is none), or say why not."""
    fields = [*pixels, "0" if label is None else label]
    if (text := "".join(fields)).isascii() and text.isdigit() and all(0 < len(field) < 10 for field in fields):
        numbers = list(map(int, fields))  # the usual row, about thirty times as fast as field by field
        return numbers[-1], numbers[:-1]
    try:
        return _whole(fields[-1], "label"), [_whole(text, "pixel", column) for column, text in enumerate(pixels)]
    except _FieldError as fault:
        return Refusal(id=id_, reason=fault.reason, detail=fault.detail)


class _FieldError(Exception):
    def __init__(self, reason: str, detail: str) -> None:
        self.reason, self.detail = reason, detail


def _whole(text: str, kind: str, column: int | str = "") -> int:
    text = text.strip()
    if text.lower() in _MISSING:
        raise _FieldError(f"{kind} missing", f"{kind}{column} is {text or 'empty'}")
    if not _NUMBER.fullmatch(text):
        raise _FieldError(f"{kind} not a number", f"{kind}{column} is {text!r}")
    value = float(text)
    if not value.is_integer():  # infinite (1e999) included
        raise _FieldError(f"{kind} not a whole number", f"{kind}{column} is {text}")
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
    published_test: Sequence[bool],
    classes: Sequence[str],
) -> Duplicates:
    """Decide what happens to rows with the same pixels; a label of -1 is none.

    - Two labels: all copies are refused, as nobody here knows which label is right.
    - The same label: the first copy stays. One in the publisher's own test part is preferred to one in train, so that
      train holds no test image. The test part itself is kept as it was published, with its repetitions.
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
        kept = next((row for row in labelled if published_test[row]), labelled[0])
        for row in labelled:
            if row != kept and not published_test[row]:
                counts["train_in_test" if published_test[kept] else "same_label"] += 1
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
