"""The labels of tables of pixels: whole numbers or texts, which become the names of the classes."""

from __future__ import annotations

import dataclasses
from collections import Counter
from functools import cached_property

import numpy as np

from cnn_core.data.sources import sorted_names
from cnn_core.data.validation import MISSING, FieldError, whole_number

_RARE = 1000  # a text among numbers is a fault, and no class, if it labels less than one row of so many (or one row)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labels:
    """The names of the classes of a source, sorted, and whether all of them are whole numbers."""

    names: tuple[str, ...]
    are_numbers: bool

    @cached_property
    def _index(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names)}

    @cached_property
    def _values(self) -> np.ndarray:
        return np.array([int(name) for name in self.names], np.int64)

    def number_of(self, text: str) -> int:
        """The class of a label as it is written. Raises `FieldError` if it is missing, or no number among numbers."""
        text = text.strip()
        if text.lower() in MISSING and text not in self._index:
            raise FieldError("label missing", f"label is {text or 'empty'}")
        return self._index[str(whole_number(text, "label")) if self.are_numbers else text]

    def numbers_of(self, labels: np.ndarray) -> np.ndarray | None:
        """The classes of many labels (N,), int64 or text; None if one is missing."""
        if self.are_numbers and labels.dtype == np.int64:
            indices = np.minimum(np.searchsorted(self._values, labels), len(self._values) - 1)
            return indices.astype(np.int64) if (self._values[indices] == labels).all() else None
        numbers = [self._index.get(str(label).strip(), -1) for label in labels]
        return None if -1 in numbers else np.array(numbers, np.int64)


def find_labels(counts: Counter[str]) -> Labels:
    """Tell the classes from the labels as they are written (``7``, ``7.0``, ``cat``) and how often.

    Labels are numbers where most rows have one and no other text is frequent enough to be meant; such a text is then
    the fault of its row. Otherwise every text is a class.
    """
    texts = {text: count for text, count in counts.items() if text.lower() not in MISSING}
    rows = sum(texts.values())
    numbers = {text: number for text in texts if (number := _as_number(text)) is not None}
    others = [count for text, count in texts.items() if text not in numbers]
    in_numbers = rows - sum(others)
    if in_numbers and 2 * in_numbers > rows and all(count <= max(1, rows // _RARE) for count in others):
        return Labels(names=sorted_names(map(str, numbers.values())), are_numbers=True)
    return Labels(names=sorted_names(texts), are_numbers=False)


def _as_number(text: str) -> int | None:
    try:
        return whole_number(text, "label")
    except FieldError:
        return None
