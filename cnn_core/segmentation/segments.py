"""The masks of one image, kept as run lengths."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from cnn_core.annotations.masks import encode_mask, mask_box
from cnn_core.annotations.tables import BOX

if TYPE_CHECKING:
    from torch import Tensor  # the stage's driver imports this module, and needs no torch

EMPTY_MASK = "empty mask"
LOW_SCORE = "predicted IoU too low"
HIDDEN = "not visible in this frame"  # of a video
OBJECT: dict[str, Any] = {"class_id": 0, "class_name": "object"}  # the class of a mask whose prompt has none


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segments:
    """The masks of one image.

    Attributes:
        masks: n texts (`cnn_core.annotations.masks.encode_mask`) of (height, width), none of them empty.
        boxes: float64 (n, 4), the masks' tight boxes, xyxy in pixels.
        areas: int64 (n,), pixels.
        scores: float32 (n,), the predicted IoU.
        stability: float32 (n,), the IoU between the masks cut at a higher and at a lower logit.
        prompts: int64 (n,), the number of the prompt (of an automatic mask: of the grid's point) that a mask answers.
        dropped: prompt's number -> why it has no mask: `OUTSIDE`, `NO_AREA`, `EMPTY_MASK` or `LOW_SCORE`.
    """

    height: int
    width: int
    masks: list[str]
    boxes: np.ndarray
    areas: np.ndarray
    scores: np.ndarray
    stability: np.ndarray
    prompts: np.ndarray
    dropped: dict[int, str]

    def __len__(self) -> int:
        return len(self.masks)

    def rows(
        self, prompts: Sequence[Mapping[str, Any]] | Mapping[int, Mapping[str, Any]] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield a row of `annotations.OBJECTS` for each mask, without image_id, but with area, stability, prompt_id.

        Args:
            prompts: by number, the columns that a mask's row takes over: class_id, class_name, perhaps track_id, and
                perhaps a prompt_id to use instead of the number.
        """
        for index, number in enumerate(map(int, self.prompts)):
            yield {
                **OBJECT,
                "prompt_id": number,
                **(prompts[number] if prompts is not None else {}),
                **dict(zip(BOX, map(float, self.boxes[index]), strict=True)),
                "score": float(self.scores[index]),
                "rle": self.masks[index],
                "area": int(self.areas[index]),
                "stability": float(self.stability[index]),
            }


class SegmentsBuilder:
    """Collects masks one by one, each encoded at once, so that no two are in memory as arrays."""

    def __init__(self, height: int, width: int, dropped: dict[int, str]) -> None:
        self.height, self.width, self.dropped = height, width, dropped
        self.rows: list[tuple[str, tuple[float, ...], int, float, float, int]] = []

    def add(self, prompt: int, score: float, stability: float, mask: Tensor) -> None:
        """Add a mask, bool (height, width). An empty one goes to ``dropped``."""
        array = cv2.transpose(mask.cpu().numpy().view(np.uint8)).T.view(bool)  # by columns: COCO encodes that faster
        area = int(np.count_nonzero(array))
        if area == 0:
            self.dropped[prompt] = EMPTY_MASK
            return
        self.rows.append((encode_mask(array), mask_box(array), area, score, stability, prompt))

    def segments(self) -> Segments:
        columns: Iterable[Any] = zip(*self.rows, strict=True) if self.rows else [()] * 6
        masks, boxes, areas, scores, stability, prompts = columns
        return Segments(
            height=self.height,
            width=self.width,
            masks=list(masks),
            boxes=np.array(boxes, np.float64).reshape(-1, 4),
            areas=np.array(areas, np.int64),
            scores=np.array(scores, np.float32),
            stability=np.array(stability, np.float32),
            prompts=np.array(prompts, np.int64),
            dropped=self.dropped,
        )
