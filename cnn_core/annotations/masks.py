"""Binary masks as COCO run-length encoding."""

from __future__ import annotations

from collections.abc import Sequence

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


def turned_mask(rle: str, orientation: int, width: int, height: int) -> str:
    """Turn the run lengths of a mask of ``width`` x ``height`` as the EXIF orientation (1, 5 to 8) says."""
    if orientation == 1:
        return rle
    mask = decode_mask(rle, height, width)
    turns = {5: mask.T, 6: np.rot90(mask, -1), 7: np.rot90(mask, 2).T, 8: np.rot90(mask)}
    return encode_mask(turns[orientation])


def polygon_mask(polygons: Sequence[np.ndarray], height: int, width: int) -> str:
    """Fill polygons, float (points, 2) of x, y each, as COCO does; "" where they have no area in the picture.

    Points far outside of the picture are moved nearer first, as pycocotools takes memory for each pixel of an edge.
    """
    near = [points.clip((-width, -height), (2 * width, 2 * height)).ravel().tolist() for points in polygons]
    runs = coco_mask.merge(coco_mask.frPyObjects(near, height, width))
    return runs["counts"].decode("ascii") if coco_mask.area(runs) else ""


def run_lengths(rle: str) -> list[int]:
    """Undo the compression of run lengths, as pycocotools' ``rleFrString``.

    Raises:
        ValueError: the text is no compressed run lengths.
    """
    runs: list[int] = []
    value = shift = 0
    for character in rle:
        code = ord(character) - 48
        if not 0 <= code < 64:
            raise ValueError(f"{character!r} is no character of run lengths")
        value |= (code & 0x1F) << shift
        shift += 5
        if code & 0x20:  # the number goes on
            continue
        value |= -1 << shift if code & 0x10 else 0
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("the run lengths end within a number")
    return runs
