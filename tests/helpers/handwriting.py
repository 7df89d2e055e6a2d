"""Signs as people write them: dark ink on white paper."""

from __future__ import annotations

import cv2
import numpy as np


def sign(side: int, seed: int, *, length: float = 0.7) -> np.ndarray:
    """White strokes on black: a hook whose box is ``length`` of the side, in the middle; uint8 (side, side)."""
    draws = np.random.default_rng(seed)
    big = np.zeros((400, 400), np.uint8)
    low, high = 200 - 200 * length, 200 + 200 * length
    across = int(draws.integers(60, 110) * length)
    points = [
        (200 - across, low + 15),
        (200 + across, low + 40),
        (200 - across // 2, high - 15),
        (200 + across, high - 15),
    ]
    cv2.polylines(big, [np.int32(points)], False, 255, int(draws.integers(24, 34)), cv2.LINE_AA)
    return cv2.resize(big, (side, side), interpolation=cv2.INTER_AREA)


def sheet(glyph: np.ndarray, seed: int) -> np.ndarray:
    """The sign as dark ink on a large uneven sheet, small and off the middle: uint8 (300, 400, 3)."""
    draws = np.random.default_rng(seed)
    paper = np.tile(np.linspace(245, 215, 400), (300, 1)) + draws.normal(0, 2, (300, 400))
    top, left = draws.integers(10, 170), draws.integers(10, 270)
    paper[top : top + 120, left : left + 120] *= 1 - 0.8 * cv2.resize(glyph, (120, 120)) / 255.0
    return np.repeat(paper.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
