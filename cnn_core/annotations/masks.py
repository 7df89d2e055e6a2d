"""Binary masks as COCO run-length encoding."""

from __future__ import annotations

import numpy as np
from pycocotools import mask as coco_mask


def encode_mask(mask: np.ndarray) -> str:
    """Encode a mask, bool (H, W), as COCO's compressed run lengths, in text."""
    return coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"].decode("ascii")


def decode_mask(rle: str, height: int, width: int) -> np.ndarray:
    """Decode COCO's compressed run lengths: bool (height, width)."""
    return coco_mask.decode({"size": [height, width], "counts": rle.encode("ascii")}).astype(bool)


def mask_box(mask: np.ndarray) -> tuple[float, float, float, float]:
    """The tight xyxy box of a mask, bool (H, W) with at least one pixel set."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
