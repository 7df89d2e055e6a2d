"""The detections of one image."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Detections:
    """The objects detected in one image, in falling order of score.

    Attributes:
        boxes: float32 (n, 4), xyxy in the image's pixels.
        scores: float32 (n,)
        classes: int64 (n,)
        masks: n texts (`cnn_core.annotations.masks.encode_mask`); None for a detector, which
            predicts boxes only.
        tracks: int64 (n,); None where no tracker ran.
    """

    height: int
    width: int
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    masks: list[str] | None
    tracks: np.ndarray | None = None
