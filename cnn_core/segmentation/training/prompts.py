"""The batches that a segmenter learns from: images, prompts drawn from their masks, and the masks that answer.

`sample_pictures` draws them for a person.
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import torch
from torch import Tensor

from cnn_core.seeds import mixed_seed
from cnn_core.segmentation.training.data import MaskSet, load_masks
from cnn_core.segmentation.training.params import TrainSegmenterParams

ACROSS, DOWN = 8, 3  # sample pictures
SIDE = 240  # pixels that each is drawn at
PROMPT, MASK = (255, 40, 40), (40, 220, 60)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptBatch:
    """A batch: B images with K prompts each, all boxes or all points; the first image's K, the second's …"""

    rows: np.ndarray  # int64 (B,), the images' numbers
    images: Tensor  # uint8 (B, 3, side, side)
    boxes: Tensor | None  # float32 (B * K, 4), xyxy in pixels of ``images``
    points: Tensor | None  # float32 (B * K, 1, 2), x and y in pixels of ``images``
    masks: Tensor  # uint8 (B * K, side, side), 0 or 1

    def to(self, device: torch.device) -> PromptBatch:
        boxes, points = (None if part is None else part.to(device) for part in (self.boxes, self.points))
        images, masks = self.images.to(device), self.masks.to(device)
        return dataclasses.replace(self, images=images, boxes=boxes, points=points, masks=masks)

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
    params: TrainSegmenterParams,
    data: MaskSet,
    rows: np.ndarray,
    draws: np.random.Generator,
    *,
    points: float | None = None,
    part: slice = slice(None),
) -> PromptBatch:
    """Draw ``params.prompts`` objects of each image, again and again where there are fewer, and a prompt for each.

    Each edge of a box is moved by a normal draw with the standard deviation ``params.box_jitter``, in sides of the box,
    and by no more than three of them: a detector's boxes are not exact either (SAM's: 0.1; appendix A).

    Args:
        points: share of the batches with points anywhere inside the masks as prompts; None = ``params.points``.
        part: which of ``rows`` are returned, with the prompts that they have in the whole batch.
    """
    prompts, points = params.prompts, params.points if points is None else points
    chosen = np.concatenate(
        [np.resize(draws.permutation(np.arange(data.first[row], data.first[row + 1])), prompts) for row in rows]
    )
    by_point = draws.random() < points
    # of each prompt either how far through the mask's pixels its point lies, or its box
    positions = (
        draws.random(len(chosen)) if by_point else _moved(data.boxes[chosen], params.box_jitter, data.side, draws)
    )
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
    """Return a pixel of each mask, ``positions`` (0..1) of the way through its pixels: float32 (n, 1, 2), x and y."""
    points = np.zeros((len(masks), 1, 2), np.float32)
    for row, mask in enumerate(masks):
        pixels = np.flatnonzero(mask)
        if len(pixels):  # a mask may have vanished when its image was made smaller
            y, x = divmod(int(pixels[int(positions[row] * len(pixels))]), mask.shape[1])
            points[row, 0] = x, y
    return points


def sample_pictures(params: TrainSegmenterParams) -> tuple[list[np.ndarray], list[list[str]]]:
    """Return rows, uint8 (n, 3, SIDE, SIDE), of images as training draws them, each with a prompt's mask, and captions.

    The last row has points where training has any.
    """
    data = load_masks(params.source, "train", imgsz=SIDE, most=ACROSS * DOWN)
    rows, captions = [], []
    for number, start in enumerate(range(0, len(data), ACROSS)):
        images = np.arange(start, min(start + ACROSS, len(data)))
        by_point = params.points == 1 or (params.points > 0 and number == DOWN - 1)
        rows.append(_pictures(params, data, images, by_point))
        captions.append(["point" if by_point else "box"] * len(images))
    return rows, captions


def _pictures(params: TrainSegmenterParams, data: MaskSet, rows: np.ndarray, by_point: bool) -> np.ndarray:
    draws = np.random.default_rng(mixed_seed(params.seed, "seen", int(rows[0])))
    batch = draw_prompts(params, data, rows, draws, points=float(by_point))
    scale, pictures = SIDE / data.side, []
    for index in range(len(rows)):
        prompt = index * params.prompts
        picture = cv2.resize(batch.images[index].numpy().transpose(1, 2, 0).copy(), (SIDE, SIDE))
        mask = cv2.resize(batch.masks[prompt].numpy(), (SIDE, SIDE), interpolation=cv2.INTER_NEAREST) > 0
        picture[mask] = (picture[mask] * 0.45 + np.array(MASK) * 0.55).astype(np.uint8)
        if batch.boxes is not None:
            x1, y1, x2, y2 = (batch.boxes[prompt].numpy() * scale).round().astype(int).tolist()
            cv2.rectangle(picture, (x1, y1), (x2, y2), PROMPT, 1)
        if batch.points is not None:
            x, y = ((batch.points[prompt, 0].numpy() + 0.5) * scale).round().astype(int).tolist()
            cv2.circle(picture, (x, y), 4, PROMPT, -1)
        pictures.append(picture.transpose(2, 0, 1))
    return np.stack(pictures)
