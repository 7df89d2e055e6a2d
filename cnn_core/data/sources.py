"""What a reader of one kind (`data.pixel_sources`, `data.image_sources`) makes of a source: batches of records."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np

from cnn_core.data.validation import Refusal
from cnn_core.images.decoding import Picture

T = TypeVar("T")
_WHOLE = re.compile(r"[+-]?\d+", re.ASCII)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """Consecutive records of one part of a source.

    Attributes:
        ids: ``<part>/<1-based row or file>`` of the records that could be read; ``refused`` holds the others.
        images: uint8 (N, H, W) or (N, H, W, 3), or N images that the reader has decoded and hashed.
        labels: int64 (N,), indices of the source's classes or, of a source of several labels an image, of its
            ``label_sets``; None if the part is unlabelled.
    """

    part: str
    ids: list[str]
    images: np.ndarray | Sequence[Picture]
    labels: np.ndarray | None
    refused: list[Refusal]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSource:
    """A source that a reader understood.

    Attributes:
        total: images that ``batches`` will yield, with the refused ones; None if only reading can tell.
        published_test: the part that the publisher labelled for testing, which stays the test split; or None.
        classes: the names of the labels, in the order of `sorted_names`.
        published_val: the part that the publisher labelled for validation, which stays the val split; or None.
        left_out: counts of files that are not meant to be images of the set, by what they are.
        warnings: sentences for the manifest that the user should know.
        label_sets: where images have several labels or none, the sets of classes (their indices) that occur.
    """

    batches: Callable[[], Iterator[Batch]]
    total: int | None
    published_test: str | None
    classes: Sequence[str]
    published_val: str | None = None
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)
    warnings: Sequence[str] = ()
    label_sets: Sequence[tuple[int, ...]] | None = None

    @property
    def classes_of_label(self) -> list[tuple[str, ...]]:
        """The names of the classes that each number among the batches' labels stands for."""
        if self.label_sets is None:
            return [(name,) for name in self.classes]
        return [tuple(self.classes[number] for number in numbers) for numbers in self.label_sets]


def sorted_names(names: Iterable[str]) -> tuple[str, ...]:
    """Sort the names of classes: as numbers where all of them are whole numbers ("2" before "10"), else as texts."""
    different = set(names)
    if all(_WHOLE.fullmatch(name) for name in different):
        return tuple(sorted(different, key=lambda name: (int(name), name)))
    return tuple(sorted(different))


def blocks(items: Iterable[T], size: Callable[[T], int], *, most: int, most_bytes: int) -> Iterator[list[T]]:
    """Yield consecutive items in blocks of at most so many items and bytes (but at least one item)."""
    block: list[T] = []
    total = 0
    for item in items:
        total += size(item)
        if block and (len(block) == most or total > most_bytes):
            yield block
            block, total = [], size(item)
        block.append(item)
    if block:
        yield block
