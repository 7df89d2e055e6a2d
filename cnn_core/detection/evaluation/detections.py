"""What a detector found in the split that it is measured on (truth.py), in the data's own classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cnn_core.annotations.tables import objects_table
from cnn_core.detection.inference.detector import Detector
from cnn_core.detection.inference.results import Detections
from cnn_core.images.media import Entry


def class_numbers(names: Mapping[int, str], classes: Sequence[str]) -> dict[int, int]:
    """Which number in ``classes`` each of the detector's classes has, by its name; those that the data does not know
    are left out.

    Raises:
        ValueError: they have no class in common.
    """
    numbers = {number: classes.index(name) for number, name in names.items() if name in classes}
    if not numbers:
        raise ValueError(
            f"the detector knows the classes {_some(names.values())}, and the data {_some(classes)}: none in common"
        )
    return numbers


def detections(
    detector: Detector, images: pd.DataFrame, numbers: Mapping[int, int], classes: Sequence[str]
) -> Iterator[tuple[str, pd.DataFrame]]:
    """What is found in each image, in order: its id and its objects' rows.

    Args:
        numbers: `class_numbers`.

    Raises:
        ValueError: an image cannot be read: figures without it would be of another set.
    """
    entries = (
        Entry(image_id=row.image_id, file=row.file, number=number, content=Path(row.file))
        for number, row in enumerate(images.itertuples())
    )
    for entry, _, found in detector.stream(entries):
        if not isinstance(found, Detections):
            raise ValueError(f"{entry.file} cannot be read ({found}): mend it or take it out of the set")
        yield entry.image_id, _rows(entry.image_id, found, numbers, classes)


def _rows(image_id: str, found: Detections, numbers: Mapping[int, int], classes: Sequence[str]) -> pd.DataFrame:
    known = np.isin(found.classes, list(numbers))
    ids = [numbers[int(number)] for number in found.classes[known]]
    boxes = found.boxes[known].astype(float)
    return pd.DataFrame(
        {
            "image_id": image_id,
            "class_id": ids,
            "class_name": [classes[number] for number in ids],
            **dict(zip(("x1", "y1", "x2", "y2"), boxes.T, strict=True)),
            "score": found.scores[known].astype(float),
            "rle": None if found.masks is None else [mask for mask, k in zip(found.masks, known, strict=True) if k],
        }
    )


def joined(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One table of objects."""
    filled = [part for part in parts if len(part)]
    return objects_table(pd.concat(filled)) if filled else objects_table([])


def _some(names: object) -> str:
    listed = list(map(str, names))  # type: ignore[call-overload]
    return ", ".join(listed[:10]) + (" …" if len(listed) > 10 else "")
