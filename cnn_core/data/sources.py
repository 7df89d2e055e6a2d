"""Where data comes from: a folder or a .zip, seen alike, and the batches of records that a reader makes of it.

Nothing is ever extracted. A reader of one layout (digit_sources.py; another set adds a module of its own beside it)
takes `SourceFiles` and yields `Batch`es; nobody below it knows which layout it was.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from cnn_core.data.validation import Refusal
from cnn_core.images.decoding import Picture


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """Consecutive records of one part of a source.

    Attributes:
        part: the source's own name of the part; ``ids`` are ``<part>/<1-based row or file>``.
        images: uint8 (N, H, W) or (N, H, W, 3), or N images that the reader has decoded and hashed.
        labels: int64 (N,), or None when the part is unlabelled.
        refused: what could not be read, which ``ids`` leaves out.
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
        batches: reads it from its start, batch by batch.
        total: images that ``batches`` will yield, the refused included; None when only reading can tell.
        published_test: the part that its publisher labelled for testing, which stays the test split; or None.
        classes: the names that labels index.
        warnings: what its user should know, sentences for the manifest.
    """

    batches: Callable[[], Iterator[Batch]]
    total: int | None
    published_test: str | None
    classes: Sequence[str]
    warnings: Sequence[str] = ()
