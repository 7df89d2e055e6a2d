"""Match prompts with the masks that FastSAM or YOLO ``-seg`` finds by itself, as Ultralytics does.

Zhao et al., "Fast Segment Anything" (2023), section 3.3. A `PromptMatcher` imports Ultralytics when it is made: call
`cnn_core.detection.yolo.quiet` first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch

from cnn_core.annotations.masks import decode_mask
from cnn_core.segmentation.prompts.image_prompts import CheckedPrompts
from cnn_core.segmentation.segments import Segments


class PromptMatcher:
    """Chooses a mask for each prompt: `FastSAMPredictor.prompt`, for one prompt after the other."""

    def __init__(self) -> None:
        from ultralytics.engine.results import Results
        from ultralytics.models.fastsam.predict import FastSAMPredictor

        self.predictor = cast(Any, FastSAMPredictor(overrides={"save": False, "verbose": False}))
        self.predictor.device = torch.device("cpu")
        self.results = Results

    def __call__(self, segments: Segments, prompts: CheckedPrompts) -> list[int | None]:
        """Give for each prompt the index of its mask in ``segments``; None = no mask lies there.

        A box gets the mask that overlaps it best, a point the one with the best score of those that it lies in.
        """
        return [self._match(segments, prompt) for prompt in prompts.batches(1)]

    def _match(self, segments: Segments, prompt: CheckedPrompts) -> int | None:
        near = self._near(segments, prompt)
        if not near:
            return None
        masks = np.stack([decode_mask(segments.masks[index], segments.height, segments.width) for index in near])
        table = np.zeros((len(near), 6), np.float32)
        table[:, 4], table[:, 5] = segments.scores[near], np.arange(len(near))  # the class says which mask it is
        image = np.broadcast_to(np.zeros(1, np.uint8), (segments.height, segments.width, 3))
        tensor = torch.from_numpy(masks.astype(np.uint8))
        result = self.results(image, path="", names=_AnyClassNames(), boxes=torch.from_numpy(table), masks=tensor)
        (chosen,) = self.predictor.prompt([result], **_ultralytics_arguments(prompt))
        if not len(chosen):
            return None
        return near[int(chosen.boxes.cls[int(chosen.boxes.conf.argmax())])]

    @staticmethod
    def _near(segments: Segments, prompt: CheckedPrompts) -> Sequence[int]:
        """The masks whose boxes meet the prompt. The others could only be chosen where there is nothing."""
        left, top, right, bottom = segments.boxes.T
        near = np.zeros(len(segments), bool)
        if prompt.boxes is not None:
            x1, y1, x2, y2 = np.trunc(prompt.boxes[0])
            near |= (left < x2) & (right > x1) & (top < y2) & (bottom > y1)
        if prompt.points is not None and prompt.labels is not None:
            for (x, y), label in zip(prompt.points[0], prompt.labels[0], strict=True):
                near |= bool(label) & (left <= x) & (x <= right) & (top <= y) & (y <= bottom)
        return np.flatnonzero(near).tolist()


def _ultralytics_arguments(prompt: CheckedPrompts) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    if prompt.boxes is not None:
        arguments["bboxes"] = prompt.boxes
    if prompt.points is not None and prompt.labels is not None:
        arguments |= {"points": prompt.points[0], "labels": prompt.labels[0]}
    return arguments


class _AnyClassNames(dict[int, str]):
    """Names every class by its number."""

    def __missing__(self, key: int) -> str:
        return str(key)
