"""Signs as people write them: dark ink on white paper."""

from __future__ import annotations

import cv2
import numpy as np


def sheet(glyph: np.ndarray, seed: int) -> np.ndarray:
    """The sign as dark ink on a large uneven sheet, small and off the middle: uint8 (300, 400, 3)."""
    draws = np.random.default_rng(seed)
    paper = np.tile(np.linspace(245, 215, 400), (300, 1)) + draws.normal(0, 2, (300, 400))
    top, left = draws.integers(10, 170), draws.integers(10, 270)
    paper[top : top + 120, left : left + 120] *= 1 - 0.8 * cv2.resize(glyph, (120, 120)) / 255.0
    return np.repeat(paper.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
