"""What a reader of one layout (`data.digit_sources`, `data.scene_sources`) makes of a source: batches of records."""

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
        ids: ``<part>/<1-based row or file>`` of the records that could be read; ``refused`` holds the others.
        images: uint8 (N, H, W) or (N, H, W, 3), or N images that the reader has decoded and hashed.
        labels: int64 (N,), or None if the part is unlabelled.
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
        warnings: sentences for the manifest that the user should know.
    """

    batches: Callable[[], Iterator[Batch]]
    total: int | None
    published_test: str | None
    classes: Sequence[str]
    warnings: Sequence[str] = ()
