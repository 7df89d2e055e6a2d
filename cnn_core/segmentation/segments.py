"""Masks found in one image, kept as run lengths."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from cnn_core.annotations.masks import encode_mask, mask_box

if TYPE_CHECKING:
    from torch import Tensor

EMPTY_MASK = "empty mask"
LOW_SCORE = "predicted IoU too low"
OBJECT = {"class_id": 0, "class_name": "object"}  # of a mask whose prompt has no class


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segments:
    """The masks found in one image.

    Attributes:
        masks: n texts (`cnn_core.annotations.masks.encode_mask`) of (height, width), none empty.
        boxes: float64 (n, 4), the masks' tight xyxy boxes.
        areas: int64 (n,), pixels.
        scores: float32 (n,), the predicted IoU.
        stability: float32 (n,), the IoU between the masks cut at a higher and at a lower logit.
        prompts: int64 (n,), the number of the prompt that a mask answers; of automatic masks that of the grid's point.
        dropped: why other prompts have no mask: by number `OUTSIDE`, `NO_AREA`, `EMPTY_MASK` or `LOW_SCORE`.
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

    def rows(self, prompts: Sequence[Mapping[str, Any]] | None = None) -> Iterator[dict[str, Any]]:
        """Rows of `annotations.OBJECTS`, but for the image_id, with the further columns area, stability and prompt_id.

        Args:
            prompts: of each prompt what its mask's row takes over: class_id, class_name, perhaps track_id and a
                prompt_id of its own instead of its number.
        """
        for place, number in enumerate(map(int, self.prompts)):
            x1, y1, x2, y2 = map(float, self.boxes[place])
            yield {
                **OBJECT,
                "prompt_id": number,
                **(prompts[number] if prompts is not None else {}),
                "x1": x1,
                "y1": y1,
                "x2": x2,
                "y2": y2,
                "score": float(self.scores[place]),
                "rle": self.masks[place],
                "area": int(self.areas[place]),
                "stability": float(self.stability[place]),
            }


class SegmentsBuilder:
    """Collects masks, each encoded as it comes."""

    def __init__(self, height: int, width: int, dropped: dict[int, str]) -> None:
        self.height, self.width, self.dropped = height, width, dropped
        self.rows: list[tuple[str, tuple[float, ...], int, float, float, int]] = []

    def add(self, prompt: int, score: float, stability: float, mask: Tensor) -> None:
        """``mask``: bool (height, width); an empty one is dropped."""
        array = cv2.transpose(mask.cpu().numpy().view(np.uint8)).T.view(bool)  # by columns, as COCO encodes: quickly
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
