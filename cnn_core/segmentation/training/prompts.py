"""The batches that a segmenter learns from: images, prompts drawn from their masks, and the masks that answer."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from cnn_core.segmentation.training.data import MaskSet


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptBatch:
    """A batch: B images with K prompts each, all of one kind.

    Attributes:
        rows: int64 (B,), the images' numbers.
        images: uint8 (B, 3, side, side).
        boxes: float32 (B * K, 4), xyxy in pixels of ``images``, or None.
        points: float32 (B * K, 1, 2), x and y in pixels of ``images``, or None.
        masks: uint8 (B * K, side, side), 0 or 1: the first image's K, the second's …
    """

    rows: np.ndarray
    images: Tensor
    boxes: Tensor | None
    points: Tensor | None
    masks: Tensor

    def to(self, device: torch.device) -> PromptBatch:
        return dataclasses.replace(
            self,
            images=self.images.to(device),
            boxes=None if self.boxes is None else self.boxes.to(device),
            points=None if self.points is None else self.points.to(device),
            masks=self.masks.to(device),
        )

    def mirrored(self, which: Tensor) -> PromptBatch:
        """Return the batch with the images of ``which``, bool (B,), flipped left to right."""
        count = len(self.masks) // len(self.images)
        prompts = which.repeat_interleave(count)
        side = self.images.shape[-1]
        boxes, points = self.boxes, self.points
        if boxes is not None:
            flipped = torch.stack([side - boxes[:, 2], boxes[:, 1], side - boxes[:, 0], boxes[:, 3]], 1)
            boxes = torch.where(prompts[:, None], flipped, boxes)
        if points is not None:
            flipped = torch.cat([side - points[..., :1], points[..., 1:]], -1)
            points = torch.where(prompts[:, None, None], flipped, points)
        images, masks = self.images.clone(), self.masks.clone()
        images[which] = images[which].flip(3)
        masks[prompts] = masks[prompts].flip(2)
        return dataclasses.replace(self, images=images, boxes=boxes, points=points, masks=masks)


def draw_prompts(
    data: MaskSet,
    rows: np.ndarray,
    *,
    prompts: int,
    points: float,
    box_jitter: float,
    draws: np.random.Generator,
    part: slice = slice(None),
) -> PromptBatch:
    """Draw ``prompts`` objects of each image, again and again where there are fewer, and a prompt for each.

    Args:
        points: share of the batches whose prompts are points, anywhere inside the mask; the others' are boxes.
        box_jitter: each edge is moved by a normal draw of this standard deviation, in sides of the box, and by no more
            than three of them: a detector's boxes are not exact either (SAM's: 0.1; appendix A).
        part: which of ``rows`` are returned, with the prompts that they have in the whole batch.
    """
    chosen = np.concatenate(
        [np.resize(draws.permutation(np.arange(data.first[row], data.first[row + 1])), prompts) for row in rows]
    )
    by_point = draws.random() < points
    # of each prompt either how far through the mask's pixels its point lies, or its box
    positions = draws.random(len(chosen)) if by_point else _moved(data.boxes[chosen], box_jitter, data.side, draws)
    first, last, _ = part.indices(len(rows))
    of_part = slice(first * prompts, last * prompts)
    masks = data.masks(chosen[of_part])
    return PromptBatch(
        rows=rows[part],
        images=torch.from_numpy(data.images[rows[part]]),
        boxes=None if by_point else torch.from_numpy(positions[of_part]),
        points=torch.from_numpy(_inside(masks, positions[of_part])) if by_point else None,
        masks=torch.from_numpy(masks),
    )


def _moved(boxes: np.ndarray, jitter: float, side: int, draws: np.random.Generator) -> np.ndarray:
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    moved = boxes + sides * np.clip(jitter * draws.standard_normal(boxes.shape), -3 * jitter, 3 * jitter)
    moved[:, :2] = np.minimum(moved[:, :2], moved[:, 2:] - 1)
    return moved.clip(0, side).astype(np.float32)


def _inside(masks: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Return a pixel of each mask, as the point in it that a click gives: float32 (n, 1, 2), x and y.

    Args:
        positions: (n,) in 0..1, how far through the mask's pixels the point lies.
    """
    points = np.zeros((len(masks), 1, 2), np.float32)
    for row, mask in enumerate(masks):
        pixels = np.flatnonzero(mask)
        if len(pixels):  # a mask may have vanished when its image was made smaller
            y, x = divmod(int(pixels[int(positions[row] * len(pixels))]), mask.shape[1])
            points[row, 0] = x, y
    return points
