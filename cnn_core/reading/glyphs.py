"""Cut digits out of photographs and make them like those of MNIST: light ink on black, centred in 28 x 28 pixels.

LeCun, Cortes and Burges, "The MNIST database of handwritten digits" (http://yann.lecun.com/exdb/mnist): "The original
black and white images were size normalized to fit in a 20x20 pixel box while preserving their aspect ratio. … the
images were centered in a 28x28 image by computing the center of mass of the pixels, and translating the image so as to
position this point at the center of the 28x28 field."

Ink is float32 (H, W), 0 = background, 1 = full. How it is measured decides how well a digit is read:

    ink_of_mask      the shape of the mask
    ink_by_contrast  the pixels in and near the mask, by the distance of their colour from the background's
    ink_in_box       without a mask: the pixels of a box, divided in two by their brightness
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np

from cnn_core.annotations.masks import mask_box

InkSource = Literal["contrast", "mask"]
SIDE, BOX = 28, 20  # pixels of MNIST's field, and of the longer side of a digit in it
REACH = 0.12  # of a digit's height: how far around a mask its ink is looked for
_NONE, _FULL = 0.4, 0.8  # of the way from the background's colour to the digit's: no ink below, full ink above
_MARGIN = 0.03  # of its height, by which a box is widened, so that some background is around the digit
_EDGE = 0.12  # of a box's sides: the width of its frame, where background is likelier than ink


def cut_out(
    image: np.ndarray, box: Sequence[float], mask: np.ndarray | None, ink: InkSource = "contrast"
) -> np.ndarray:
    """Cut one digit out of an image in the form of MNIST, uint8 (28, 28).

    Args:
        image: uint8 (H, W, 3).
        box: xyxy, in its pixels.
        mask: bool (H, W); None = use the box alone.
    """
    if mask is None or not mask.any():
        return mnist_glyph(ink_in_box(image[window(box, image.shape, margin=_MARGIN)]))
    part = window(mask_box(mask), image.shape, margin=4 * REACH)
    return mnist_glyph(ink_of_mask(mask[part]) if ink == "mask" else ink_by_contrast(image[part], mask[part]))


def mnist_glyph(ink: np.ndarray) -> np.ndarray:
    """Scale ink (H, W) to a longer side of 20 pixels and put its centre of mass in the middle of uint8 (28, 28).

    Without ink it is all black. The shift is by whole pixels, as in MNIST itself, whose images come back unchanged.
    """
    field = np.zeros((SIDE, SIDE), np.uint8)
    if not ink.any():
        return field
    left, top, right, bottom = map(int, mask_box(ink > 0))
    small = _resized(ink[top:bottom, left:right])
    rows, columns = small.sum(1), small.sum(0)  # the mass along each axis
    y, x = (
        int(np.clip(round(SIDE / 2 - mass @ np.arange(len(mass)) / small.sum()), 0, SIDE - len(mass)))
        for mass in (rows, columns)
    )
    field[y : y + small.shape[0], x : x + small.shape[1]] = np.rint(255 * small)
    return field


def _resized(ink: np.ndarray) -> np.ndarray:
    """Scale the longer side to `BOX`, reducing by the mean of the pixels, which gives MNIST's smooth edges."""
    scale = BOX / max(ink.shape)
    if scale == 1:
        return ink
    height, width = (max(1, round(side * scale)) for side in ink.shape)
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(np.ascontiguousarray(ink, np.float32), (width, height), interpolation=interpolation)
    return small / max(float(small.max()), 1e-6)  # a thin stroke would come out grey


def window(box: Sequence[float], shape: tuple[int, ...], *, margin: float) -> tuple[slice, slice]:
    """The rows and columns that a box (xyxy) covers, widened by ``margin`` of its height; at least one pixel."""
    extra = margin * (box[3] - box[1])
    left, top = (max(0, int(np.floor(value - extra))) for value in box[:2])
    right, bottom = (int(np.ceil(value + extra)) for value in box[2:])
    top, left = min(top, shape[0] - 1), min(left, shape[1] - 1)
    return slice(top, max(top + 1, min(bottom, shape[0]))), slice(left, max(left + 1, min(right, shape[1])))


def ink_of_mask(mask: np.ndarray) -> np.ndarray:
    return mask.astype(np.float32)


def ink_by_contrast(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Measure the ink in and near a mask by colour. It is sharper than the mask, whose edge may be some pixels off.

    The digit's colour is the median in the mask's inner half, the background's that of a ring around it. A pixel's ink
    says how far its colour lies from the background's towards the digit's, so dark digits on light give the same as
    light ones on dark.

    Args:
        pixels: uint8 (H, W, 3), with some background around the mask, which is bool (H, W) and not empty.
    """
    if mask.all():
        return ink_of_mask(mask)
    colours = pixels.astype(np.float32)
    _, top, _, bottom = mask_box(mask)
    reach = max(1.0, REACH * (bottom - top))
    outside = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 3)
    inside = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 3)
    core = inside >= np.median(inside[mask])
    ring = (outside > reach) & (outside <= 3 * reach)
    if not ring.any():
        return ink_of_mask(mask)
    digit, background = np.median(colours[core], axis=0), np.median(colours[ring], axis=0)
    direction = digit - background
    if (length := float(direction @ direction)) < 1:
        return ink_of_mask(mask)
    ink = ((colours - background) @ direction / length - _NONE) / (_FULL - _NONE)
    return np.where(outside <= reach, ink.clip(0, 1), 0).astype(np.float32)


def ink_in_box(pixels: np.ndarray) -> np.ndarray:
    """Measure the ink in a box's pixels: divided in two by brightness (Otsu, 1979); the frame is background."""
    grey = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)
    light = cv2.threshold(grey, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[1].astype(bool)
    if light.all() or not light.any():
        return np.zeros(grey.shape, np.float32)
    edge = max(1, round(_EDGE * min(grey.shape)))
    frame = np.ones(grey.shape, bool)
    frame[edge:-edge, edge:-edge] = False
    digit = light if light[frame].mean() < 0.5 else ~light
    high, low = float(grey[digit].mean()), float(grey[~digit].mean())
    ink = (grey.astype(np.float32) - low) / (high - low)
    return ((ink - _NONE) / (_FULL - _NONE)).clip(0, 1)
