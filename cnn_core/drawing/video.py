"""A video with its objects' masks drawn on it, written frame by frame."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cnn_core.annotations.masks import decode_mask
from cnn_core.annotations.tables import BOX
from cnn_core.drawing.colours import class_colour, ink_on
from cnn_core.drawing.text import drawable

CODEC = "mp4v"  # MPEG-4 part 2: what OpenCV's wheels can write everywhere
LONGEST = 1280  # pixels of the longer side; larger videos are scaled down
_FILL = 0.45  # strength of a mask's colour


class VideoPicture:
    """Writes a video: ``with VideoPicture(path, fps) as video: video.add(image, rows)``.

    The first frame's size is the video's.

    Raises:
        ValueError: no video can be written there.
    """

    def __init__(self, path: str | Path, fps: float) -> None:
        self.path, self.fps = Path(path), fps
        self.size: tuple[int, int] | None = None
        self._writer: cv2.VideoWriter | None = None

    def __enter__(self) -> VideoPicture:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.release()

    def add(self, image: np.ndarray, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add a frame, uint8 (H, W, 3) BGR, and its objects, rows of `tables.OBJECTS`."""
        if self.size is None:
            self.size = _size(*image.shape[:2])
        drawn = image.copy()
        for row in rows:
            _fill(drawn, row)
        if (drawn.shape[1], drawn.shape[0]) != self.size:
            drawn = cv2.resize(drawn, self.size, interpolation=cv2.INTER_AREA)
        scale = (self.size[0] / image.shape[1], self.size[1] / image.shape[0])
        for row in rows:
            _label(drawn, row, scale)
        self._opened(self.size).write(drawn)

    def _opened(self, size: tuple[int, int]) -> cv2.VideoWriter:
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = cv2.VideoWriter(os.fspath(self.path), cv2.VideoWriter.fourcc(*CODEC), self.fps, size)
            if not self._writer.isOpened():
                raise ValueError(f"OpenCV cannot write the video {self.path}, of {size[0]}x{size[1]} pixels ({CODEC})")
        return self._writer


def _size(height: int, width: int) -> tuple[int, int]:
    """(width, height) of the video, both even, as the codec needs them."""
    scale = min(1.0, LONGEST / max(height, width))
    return max(2, round(width * scale) // 2 * 2), max(2, round(height * scale) // 2 * 2)


def _fill(image: np.ndarray, row: Mapping[str, Any]) -> None:
    x1, y1, x2, y2 = (int(row[name]) for name in BOX)
    mask = decode_mask(row["rle"], *image.shape[:2])[y1:y2, x1:x2]
    colour = class_colour(int(row["track_id"]))[::-1]
    part = image[y1:y2, x1:x2]
    part[mask] = ((1 - _FILL) * part[mask] + _FILL * np.array(colour, np.float32)).astype(np.uint8)
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=(x1, y1))
    cv2.drawContours(image, contours, -1, colour, max(1, max(image.shape[:2]) // 400), cv2.LINE_AA)


def _label(image: np.ndarray, row: Mapping[str, Any], scale: tuple[float, float]) -> None:
    colour = class_colour(int(row["track_id"]))
    name = "" if row["class_name"] == "object" else f" {drawable(row['class_name'])}"
    text, font = f"{row['track_id']}{name}", cv2.FONT_HERSHEY_SIMPLEX
    (across, high), _ = cv2.getTextSize(text, font, 0.4, 1)
    left = max(0, min(int(row["x1"] * scale[0]), image.shape[1] - across - 4))
    foot = int(row["y1"] * scale[1])
    foot = foot if foot >= high + 5 else foot + high + 5
    cv2.rectangle(image, (left, foot - high - 5), (left + across + 4, foot), colour[::-1], -1)
    cv2.putText(image, text, (left + 2, foot - 3), font, 0.4, ink_on(colour)[::-1], 1, cv2.LINE_AA)
