"""What a reader makes of a source of data: batches of records.

A source is a folder or a .zip, which is never extracted. A reader of one layout (`data.digit_sources`,
`data.scene_sources`) takes `images.archives.SourceFiles` and yields `Batch`es; the rest of ingestion does not depend on
the layout.
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
        labels: int64 (N,), or None if the part is unlabelled.
        refused: records that could not be read; ``ids`` leaves them out.
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
        batches: reads the source from its start, batch by batch.
        total: images that ``batches`` will yield, with the refused ones; None if only reading can tell.
        published_test: the part that the publisher labelled for testing, which stays the test split; or None.
        classes: the names that labels index.
        warnings: sentences for the manifest that the user should know.
    """

    batches: Callable[[], Iterator[Batch]]
    total: int | None
    published_test: str | None
    classes: Sequence[str]
    warnings: Sequence[str] = ()
