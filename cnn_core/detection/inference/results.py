"""The detections of one image."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Detections:
    """The objects detected in one image, in falling order of score."""

    height: int
    width: int
    boxes: np.ndarray  # float32 (n, 4), xyxy in the image's pixels
    scores: np.ndarray  # float32 (n,)
    classes: np.ndarray  # int64 (n,)
    masks: list[str] | None  # n texts (`masks.encode_mask`); None for a detector, which predicts boxes only
    tracks: np.ndarray | None = None  # int64 (n,), where a tracker ran
