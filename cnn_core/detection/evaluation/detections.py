"""The detections in the split that a detector is measured on, in the classes of the data."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cnn_core.annotations.checks import size_fault
from cnn_core.annotations.tables import BOX, image_rows, objects_table
from cnn_core.detection.inference.detector import Detector
from cnn_core.detection.inference.results import Detections
from cnn_core.images.media import Entry


def class_numbers(names: Mapping[int, str], classes: Sequence[str]) -> dict[int, int]:
    """Map the detector's class numbers to those of the data's classes of the same names; others are left out.

    Raises:
        ValueError: they have no class in common.
    """
    numbers = {number: classes.index(name) for number, name in names.items() if name in classes}
    if not numbers:
        raise ValueError(
            f"the detector knows the classes {_listed(names.values())}, and the data {_listed(classes)}: none in common"
        )
    return numbers


def detect_images(
    detector: Detector,
    images: pd.DataFrame,
    classes: Sequence[str],
    faults: dict[str, str],
    names: Mapping[int, str] | None = None,
) -> Iterator[pd.DataFrame]:
    """Detect in each image, in order, and yield the rows of its objects in the data's ``classes``.

    Args:
        faults: takes the images that are left out, by their file: they cannot be read, or have another size than the
            set says, so that its boxes lie elsewhere.
        names: the names of the detector's classes in the data; None: the detector's own.

    Raises:
        ValueError: the detector knows none of the classes.
    """
    numbers = class_numbers(names or detector.info.names, classes)
    entries = (
        Entry(image_id=row.image_id, file=row.file, number=number, content=Path(row.file))
        for number, row in enumerate(image_rows(images))
    )
    for row, (entry, _, detections) in zip(image_rows(images), detector.stream(entries), strict=True):
        if not isinstance(detections, Detections):
            faults[entry.file] = str(detections)
            yield objects_table([])
        elif fault := size_fault(detections.height, detections.width, listed=(row.height, row.width)):
            faults[entry.file] = fault
            yield objects_table([])
        else:
            yield _rows(entry.image_id, detections, numbers, classes)


def _rows(image_id: str, detections: Detections, numbers: Mapping[int, int], classes: Sequence[str]) -> pd.DataFrame:
    common = np.isin(detections.classes, list(numbers))
    ids = [numbers[int(number)] for number in detections.classes[common]]
    boxes = detections.boxes[common].astype(float)
    masks = None if detections.masks is None else list(itertools.compress(detections.masks, common))
    return pd.DataFrame(
        {
            "image_id": image_id,
            "class_id": ids,
            "class_name": [classes[number] for number in ids],
            **dict(zip(BOX, boxes.T, strict=True)),
            "score": detections.scores[common].astype(float),
            "rle": masks,
        }
    )


def one_table(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    filled = [part for part in parts if len(part)]
    return objects_table(pd.concat(filled)) if filled else objects_table([])


def _listed(names: Iterable[object]) -> str:
    texts = list(map(str, names))
    return ", ".join(texts[:10]) + (" …" if len(texts) > 10 else "")
