"""The prompts of one image, checked: boxes and points in its pixels, and why some of them can have no mask."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

OUTSIDE = "outside the image"
NO_AREA = "box without an area"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckedPrompts:
    """Prompts that lie in an image."""

    numbers: np.ndarray  # int64 (n,), their indices among all prompts that were passed in
    boxes: np.ndarray | None  # float32 (n, 4)
    points: np.ndarray | None  # float32 (n, P, 2)
    labels: np.ndarray | None  # int32 (n, P)
    dropped: dict[int, str]  # index -> why the prompt was left out

    @classmethod
    def checked(cls, boxes: Any, points: Any, labels: Any, height: int, width: int) -> CheckedPrompts:
        """Check prompts in the form that `Segmenter.masks` takes.

        Raises:
            ValueError: there are neither boxes nor points, or an array has another shape or other values.
        """
        boxes = None if boxes is None else _numbers(boxes, "boxes", (-1, 4))
        points = None if points is None else _numbers(points, "points", (-1, -1, 2))
        if boxes is None and points is None:
            raise ValueError("prompts are boxes, points or both; for masks of all there is, call everything()")
        if boxes is not None and points is not None and len(boxes) != len(points):
            raise ValueError(f"{len(boxes)} boxes and {len(points)} points are not of the same objects")
        if labels is not None and points is None:
            raise ValueError("labels belong to points, and there are none")
        dropped: dict[int, str] = {}
        if points is not None:
            labels = _labels(labels, points)
            outside = ((points < 0) | (points > (width, height))).any((1, 2))
            dropped.update(dict.fromkeys(np.flatnonzero(outside).tolist(), OUTSIDE))
        if boxes is not None:
            flat = ~(boxes[:, :2] < boxes[:, 2:]).all(1)
            outside = (boxes[:, 2:] <= 0).any(1) | (boxes[:, :2] >= (width, height)).any(1)
            dropped.update(dict.fromkeys(np.flatnonzero(outside).tolist(), OUTSIDE))
            dropped.update(dict.fromkeys(np.flatnonzero(flat).tolist(), NO_AREA))
            boxes = boxes.clip(0, (width, height, width, height)).astype(np.float32)
        count = len(boxes if boxes is not None else points)
        numbers = np.setdiff1d(np.arange(count), list(dropped))
        return cls(numbers=numbers, boxes=boxes, points=points, labels=labels, dropped=dropped)._only(numbers)

    def _only(self, rows: np.ndarray) -> CheckedPrompts:
        boxes, points, labels = (None if array is None else array[rows] for array in self.arrays().values())
        return dataclasses.replace(self, boxes=boxes, points=points, labels=labels)

    def arrays(self) -> dict[str, np.ndarray | None]:
        return {"boxes": self.boxes, "points": self.points, "labels": self.labels}

    def batches(self, size: int) -> Iterator[CheckedPrompts]:
        """Yield the prompts ``size`` at a time."""
        for start in range(0, len(self.numbers), size):
            rows = np.arange(start, min(start + size, len(self.numbers)))
            yield dataclasses.replace(self._only(rows), numbers=self.numbers[rows])


def _numbers(values: Any, name: str, shape: tuple[int, ...]) -> np.ndarray:
    message = f"{name} must be finite numbers of the shape {str(shape).replace('-1', 'N')}"
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise ValueError(message) from None
    if not array.size:
        return array.reshape(0, *(1 if side < 0 else side for side in shape[1:]))
    if array.ndim == 2 and len(shape) == 3:
        array = array[:, None]  # one point of each object
    if array.ndim != len(shape) or array.shape[-1] != shape[-1] or not np.isfinite(array).all():
        raise ValueError(message)
    return array


def _labels(labels: Any, points: np.ndarray) -> np.ndarray:
    array = np.ones(points.shape[:2]) if labels is None else np.asarray(labels)
    if array.size != points.shape[0] * points.shape[1] or not np.isin(array, (0, 1)).all():
        raise ValueError(f"labels must be 1 or 0, one for each of {points.shape[0]} x {points.shape[1]} points")
    return array.reshape(points.shape[:2]).astype(np.int32)
