"""What a layout of image files says about them: which image is of which class and part."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

from cnn_core.data.validation import Refusal

NO_CLASS = "in no class folder"

Label = str | tuple[str, ...]  # the class of an image; its classes, sorted, where it may have several or none


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ImageEntry:
    """An image file: its ``name`` in the source, its ``id`` in the set, its part, and its class (None: unlabelled).

    In a source of several labels an image, ``labels`` are its classes, sorted; perhaps it has none.
    """

    name: str
    id: str
    part: str
    label: str | None
    labels: tuple[str, ...] | None = None

    @property
    def is_labelled(self) -> bool:
        return bool(self.label) or self.labels is not None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listing:
    """The images of a source, and what was refused or left out.

    Attributes:
        entries: sorted by part (train, val, test, unlabelled) and id.
        classes: sorted; those of train come from folders that are not empty.
        tables: the files that say the labels.
    """

    entries: list[ImageEntry]
    classes: tuple[str, ...]
    refused: Sequence[Refusal] = ()
    left_out: Counter[str] = dataclasses.field(default_factory=Counter)
    warnings: Sequence[str] = ()
    tables: Sequence[str] = ()
