"""Digits in a row, like those of a house number: sizes, positions, what of each is visible, colours."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import cv2
import numpy as np

from cnn_core.synthetic.canvas import Rgb, chance, pick, rgb
from cnn_core.synthetic.walls import RowPlace

INK = 0.4  # of full ink: a pixel with at least this much belongs to the digit
SPECK = 0.06  # of a digit's ink: smaller separate parts are no stroke
WIDEST = 1.4  # width of a digit as a share of its height; wider ones are narrowed
MARGIN = 0.03  # of the side, between the row and the picture's edge
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
COLOURS: tuple[Rgb, ...] = (
    (0.05, 0.05, 0.05), (0.95, 0.95, 0.95), (0.72, 0.58, 0.28), (0.10, 0.20, 0.52), (0.62, 0.10, 0.12),
    (0.16, 0.36, 0.24), (0.40, 0.26, 0.16), (0.60, 0.62, 0.64),
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowStyle:
    """How rows are arranged, in pixels; `cnn_core.synthetic.picture.ComposeParams` says what each number means."""

    height: tuple[float, float]
    smallest: float
    rotation: float
    tilt: float
    jitter: float
    spacing: tuple[float, float]
    overlap: float
    overlap_rate: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stamp:
    """A digit in the picture, entirely inside it."""

    x: int  # of its upper left pixel
    y: int
    alpha: np.ndarray  # float32 (h, w) in 0..1
    visible: np.ndarray  # bool (h, w), where no other digit covers it

    @property
    def area(self) -> tuple[slice, slice]:
        height, width = self.alpha.shape
        return slice(self.y, self.y + height), slice(self.x, self.x + width)


def remove_specks(ink: np.ndarray) -> np.ndarray:
    """Remove separate dots, which come from scanning and would widen the digit's box; ``ink`` as in `lay_row`."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats((ink >= INK).astype(np.uint8))
    sizes = stats[:, cv2.CC_STAT_AREA]
    specks = [number for number in range(1, count) if sizes[number] < SPECK * sizes[1:].sum()]
    if not specks:
        return ink
    near = cv2.dilate(np.isin(parts, specks).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return np.where(near & (parts == 0) | np.isin(parts, specks), np.float32(0), ink)


def lay_row(
    rng: np.random.Generator, inks: Sequence[np.ndarray], side: int, style: RowStyle
) -> tuple[RowPlace, list[np.ndarray]]:
    """Arrange digits in a row, left to right, entirely inside a square picture.

    Args:
        inks: float32 (h, w) in 0..1 each, with a pixel of at least `INK`; one at least.

    Returns:
        The row, and for each digit a matrix (2, 3) from its pixels to the picture's.
    """
    tall = max(style.smallest, math.exp(rng.uniform(*np.log(style.height))))
    turns = np.radians(rng.uniform(-style.rotation, style.rotation, len(inks)))
    shapes = [_shape(ink, turn) for ink, turn in zip(inks, turns, strict=True)]  # in units of the height
    spans = np.stack([span for _, span in shapes])  # (n, 4): left, top, right, bottom
    widths = spans[:, 2] - spans[:, 0]
    lefts = np.cumsum([0.0, *(widths[:-1] + _gaps(rng, widths, style))])
    shifts = np.stack([lefts - spans[:, 0], rng.uniform(-style.jitter, style.jitter, len(inks))], axis=1)
    tops, bottoms = spans[:, 1] + shifts[:, 1], spans[:, 3] + shifts[:, 1]
    width, height = float((lefts + widths).max()), float(bottoms.max() - tops.min())
    shifts -= (width / 2, (bottoms.max() + tops.min()) / 2)

    tilt = rng.uniform(-style.tilt, style.tilt)
    cos, sin = math.cos(math.radians(tilt)), math.sin(math.radians(tilt))
    extent = np.array([width * cos + height * abs(sin), width * abs(sin) + height * cos])
    room = side * (1 - 2 * MARGIN)
    tall = min(tall, room / float(extent.max()))
    free = np.maximum(room - extent * tall, 0) / 2
    x, y = (side / 2 + rng.uniform(-free, free)).tolist()
    turn = np.array([[cos, -sin], [sin, cos]]) * tall
    matrices = []
    for (matrix, _), shift in zip(shapes, shifts, strict=True):
        placed = turn @ np.column_stack([matrix[:, :2], matrix[:, 2] + shift])
        placed[:, 2] += (x, y)
        matrices.append(placed)
    return RowPlace(x=x, y=y, width=width * tall, height=height * tall, tilt=tilt), matrices


def _shape(ink: np.ndarray, turn: float) -> tuple[np.ndarray, np.ndarray]:
    """A matrix (2, 3) that turns a digit about its centre and makes its ink 1 high, and the span of the result."""
    rows, columns = np.nonzero(ink >= INK)
    top, left = rows.min() - 0.5, columns.min() - 0.5
    height, width = rows.max() + 0.5 - top, columns.max() + 0.5 - left
    scale = np.array([min(1 / height, WIDEST / width), 1 / height])
    matrix = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]) * scale
    shift = -matrix @ (left + width / 2, top + height / 2)
    points = matrix @ np.stack([columns, rows]) + shift[:, None]
    reach = np.abs(matrix).sum(axis=1)  # of a pixel to each side, as smoothed ink extends so far
    span = np.concatenate([points.min(axis=1) - reach, points.max(axis=1) + reach])
    return np.column_stack([matrix, shift]), span


def _gaps(rng: np.random.Generator, widths: np.ndarray, style: RowStyle) -> np.ndarray:
    """The gaps between neighbours, in units of the height; negative where one covers a part of the other."""
    common = rng.uniform(*style.spacing)
    gaps = np.clip(common * rng.uniform(0.7, 1.3, len(widths) - 1), *style.spacing)
    covers = rng.random(len(gaps)) < style.overlap_rate
    over = style.overlap * rng.uniform(0.4, 1.0, len(gaps)) * np.minimum(widths[:-1], widths[1:])
    return np.where(covers & (style.overlap > 0), -over, gaps)


def stamp_row(inks: Sequence[np.ndarray], matrices: Sequence[np.ndarray], side: int) -> list[Stamp]:
    """Draw the digits at their positions. Where two overlap, the later one is visible."""
    covered = np.zeros((side, side), bool)
    stamps: list[Stamp] = []
    for ink, matrix in zip(reversed(inks), reversed(matrices), strict=True):
        x, y, alpha = _warp(ink, matrix, side)
        rows, columns = slice(y, y + alpha.shape[0]), slice(x, x + alpha.shape[1])
        opaque = alpha >= 0.5
        stamps.append(Stamp(x=x, y=y, alpha=alpha, visible=opaque & ~covered[rows, columns]))
        covered[rows, columns] |= opaque
    return stamps[::-1]


def _warp(ink: np.ndarray, matrix: np.ndarray, side: int) -> tuple[int, int, np.ndarray]:
    height, width = ink.shape
    corners = matrix @ np.array([[-1, width, width, -1], [-1, -1, height, height], [1, 1, 1, 1]], np.float64)
    x, y = np.floor(corners.min(axis=1)).astype(int).clip(0, side - 1).tolist()
    right, below = np.ceil(corners.max(axis=1)).astype(int).clip(1, side).tolist()
    local = matrix - np.array([[0, 0, x], [0, 0, y]])
    warped = cv2.warpAffine(ink, local, (right - x, below - y), flags=cv2.INTER_LINEAR)
    sharp = max(1.5, 0.8 * math.sqrt(abs(np.linalg.det(matrix[:, :2]))))  # an enlarged digit keeps a crisp edge
    return x, y, np.clip((warped - INK) * sharp + 0.5, 0, 1)


def colour_of_luma(colour: Rgb, luma: float) -> np.ndarray:
    """Darken a colour, or mix it with white, so that its luma is exactly ``luma``; float32 (3,)."""
    original = rgb(colour)
    original_luma = float(original @ LUMA)
    if original_luma >= luma:
        return original * (luma / original_luma)
    return original + (1 - original) * ((luma - original_luma) / (1 - original_luma))


def digit_colours(rng: np.random.Generator, count: int) -> list[Rgb]:
    """Draw one colour for all digits of a row; in one row of ten each digit has its own."""
    if chance(rng, 0.1):
        return [pick(rng, COLOURS) for _ in range(count)]
    return [pick(rng, COLOURS)] * count
