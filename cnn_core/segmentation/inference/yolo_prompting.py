"""A prompt's mask chosen among those that FastSAM or YOLO ``-seg`` finds by itself: Ultralytics' own choice.

Zhao et al., "Fast Segment Anything" (2023), section 3.3. Imports Ultralytics when it is made: after
`cnn_core.detection.yolo.quiet`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from cnn_core.annotations.masks import decode_mask
from cnn_core.segmentation.prompts.image_prompts import CheckedPrompts
from cnn_core.segmentation.segments import Segments


class PromptMatcher:
    """`FastSAMPredictor.prompt`, for one prompt after the other."""

    def __init__(self) -> None:
        from ultralytics.engine.results import Results
        from ultralytics.models.fastsam.predict import FastSAMPredictor

        self.predictor = FastSAMPredictor(overrides={"save": False, "verbose": False})
        self.predictor.device = torch.device("cpu")
        self.results = Results

    def __call__(self, found: Segments, prompts: CheckedPrompts) -> list[int | None]:
        """Of each prompt the place in ``found`` of its mask; None = there is no mask in that place.

        Ultralytics gives a box the mask that overlaps it best, and a point all masks that it lies in: of those the one
        with the best score.
        """
        return [self._one(found, some) for some in prompts.batches(1)]

    def _one(self, found: Segments, prompt: CheckedPrompts) -> int | None:
        near = self._near(found, prompt)
        if not near:
            return None
        masks = np.stack([decode_mask(found.masks[place], found.height, found.width) for place in near])
        table = np.zeros((len(near), 6), np.float32)
        table[:, 4], table[:, 5] = found.scores[near], np.arange(len(near))  # the class: which one it is
        image = np.broadcast_to(np.zeros(1, np.uint8), (found.height, found.width, 3))
        tensor = torch.from_numpy(masks.astype(np.uint8))
        result = self.results(image, path="", names=_Numbers(), boxes=torch.from_numpy(table), masks=tensor)
        (chosen,) = self.predictor.prompt([result], **_given(prompt))
        if not len(chosen):
            return None
        place = near[int(chosen.boxes.cls[int(chosen.boxes.conf.argmax())])]
        return place

    @staticmethod
    def _near(found: Segments, prompt: CheckedPrompts) -> Sequence[int]:
        """Masks whose boxes have something of the prompt; the others could only be chosen where there is nothing."""
        left, top, right, bottom = found.boxes.T
        near = np.zeros(len(found), bool)
        if prompt.boxes is not None:
            x1, y1, x2, y2 = np.trunc(prompt.boxes[0])
            near |= (left < x2) & (right > x1) & (top < y2) & (bottom > y1)
        if prompt.points is not None and prompt.labels is not None:
            for (x, y), label in zip(prompt.points[0], prompt.labels[0], strict=True):
                near |= bool(label) & (left <= x) & (x <= right) & (top <= y) & (y <= bottom)
        return np.flatnonzero(near).tolist()


def _given(prompt: CheckedPrompts) -> dict[str, Any]:
    """As Ultralytics' predictor takes them."""
    given: dict[str, Any] = {}
    if prompt.boxes is not None:
        given["bboxes"] = prompt.boxes
    if prompt.points is not None and prompt.labels is not None:
        given |= {"points": prompt.points[0], "labels": prompt.labels[0]}
    return given


class _Numbers(dict[int, str]):
    """Names for any class."""

    def __missing__(self, key: int) -> str:
        return str(key)
