"""Draw pictures with the digits that were cut out of them, in the form that the classifier saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from cnn_core.drawing.boxes import MISSED, RIGHT, WRONG
from cnn_core.drawing.colours import Colour
from cnn_core.drawing.contact_sheet import contact_sheet

ACROSS = 6
_SIDE = 224  # pixels of a picture's longer side when drawn
_STRIP = 5  # digits below a picture, at most
_GLYPH = 44  # pixels of each digit's side when drawn


def draw_example(
    image: np.ndarray,
    masks: Sequence[np.ndarray | None],
    boxes: np.ndarray,
    glyphs: np.ndarray,
    right: Sequence[bool | None],
) -> np.ndarray:
    """Draw a picture with its digits outlined, and below it what the classifier saw: uint8 (3, 272, 224).

    Args:
        masks: bool (H, W), one for each digit in reading order; None = draw its box.
        glyphs: uint8 (N, 28, 28).
        right: whether each digit was read right; None = unknown.
    """
    scale = _SIDE / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    canvas = np.full((_SIDE + _GLYPH + 4, _SIDE, 3), 255, np.uint8)
    picture = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA)
    for mask, box, correct in zip(masks, boxes, right, strict=True):
        _outline(picture, mask, box * scale, MISSED if correct is None else RIGHT if correct else WRONG)
    canvas[: size[1], : size[0]] = picture
    for index, glyph in enumerate(glyphs[:_STRIP]):
        large = cv2.resize(glyph, (_GLYPH, _GLYPH), interpolation=cv2.INTER_NEAREST)
        canvas[-_GLYPH:, _GLYPH * index : _GLYPH * (index + 1)] = large[..., None]
    return canvas.transpose(2, 0, 1)


def _outline(picture: np.ndarray, mask: np.ndarray | None, box: np.ndarray, colour: Colour) -> None:
    if mask is None:
        left, top, right, bottom = box.round().astype(int).tolist()
        cv2.rectangle(picture, (left, top), (right - 1, bottom - 1), colour, 2)
        return
    large = cv2.resize(mask.astype(np.float32), picture.shape[1::-1]) > 0.5
    contours, _ = cv2.findContours(large.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, contours, -1, colour, 1, cv2.LINE_AA)


def write_examples(path: str | Path, pictures: Mapping[str, np.ndarray], captions: Mapping[str, str]) -> None:
    names = list(pictures)
    rows = [names[start : start + ACROSS] for start in range(0, len(names), ACROSS)]
    contact_sheet(
        path,
        [[pictures[name] for name in row] for row in rows],
        title="Digits found, as the classifier saw them, and the number read: green right, red wrong, orange without "
        "a truth. First the images as they come, then mistakes.",
        captions=[[captions[name] for name in row] for row in rows],
        side=_SIDE + _GLYPH + 4,
    )
