"""The pictures that a segmenter learns from, for a person."""

from __future__ import annotations

import cv2
import numpy as np

from cnn_core.seeds import mixed_seed
from cnn_core.segmentation.training.data import MaskSet, load_masks
from cnn_core.segmentation.training.params import TrainSegmenterParams
from cnn_core.segmentation.training.train import draw_batch

ACROSS, DOWN = 8, 3
SIDE = 240  # pixels that an image is drawn at
PROMPT, MASK = (255, 40, 40), (40, 220, 60)


def sample_pictures(params: TrainSegmenterParams) -> tuple[list[np.ndarray], list[list[str]]]:
    """Return images as training draws them, with one prompt each and its mask, and the kinds of the prompts.

    The last row has points where training has any.

    Returns:
        uint8 rows (n, 3, SIDE, SIDE), and as many captions.
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
    batch = draw_batch(params, data, rows, draws, points=float(by_point))
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
