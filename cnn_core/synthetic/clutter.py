"""What else hangs on the walls of the composed scenes (compose.py) and is no digit: cables, pipes, frames, letters,
scrawls, boxes, leaves; and the light that falls on all of it."""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np

from cnn_core.synthetic.canvas import Rgb, chance, pick
from cnn_core.synthetic.walls import PAINTS, SIGNS, STONES, RowPlace

LETTERS = "ACDEFHKMNPRTUVWXY"  # none that could pass for a digit, as B, G, I, L, O, Q, S and Z do
GREENS: tuple[Rgb, ...] = ((0.20, 0.36, 0.14), (0.34, 0.48, 0.18), (0.14, 0.26, 0.12), (0.52, 0.42, 0.16))
_TRIES = 6  # to find room beside the number

Ink = tuple[float, float, float]
Span = tuple[float, float, float, float]  # x1, y1, x2, y2


def clutter(rng: np.random.Generator, ground: np.ndarray, place: RowPlace, count: int) -> None:
    """Draw ``count`` things in place on uint8 (side, side, 3), most of them beside the number's ``place``."""
    corners = place.corners(0.1 * place.height)
    kept = (*corners.min(axis=0), *corners.max(axis=0))
    for _ in range(count):
        pick(rng, THINGS)(rng, ground, kept)


def _ink(rng: np.random.Generator, colours: tuple[Rgb, ...]) -> Ink:
    gain = 255 * rng.uniform(0.7, 1.1)
    red, green, blue = (min(255.0, part * gain) for part in pick(rng, colours))
    return red, green, blue


def _room(rng: np.random.Generator, side: int, width: float, height: float, kept: Span) -> tuple[int, int] | None:
    """The upper left corner of a rectangle that lies, partly at least, in the picture and not on the number."""
    for _ in range(_TRIES):
        x, y = rng.uniform(-0.3 * width, side - 0.7 * width), rng.uniform(-0.3 * height, side - 0.7 * height)
        if x > kept[2] or x + width < kept[0] or y > kept[3] or y + height < kept[1]:
            return round(x), round(y)
    return None


def cable(rng: np.random.Generator, ground: np.ndarray, _: Span) -> None:
    side = len(ground)
    start, end = rng.uniform(-0.1, 1.1, (2, 2)) * side
    start[0], end[0] = 0, side
    if chance(rng, 0.5):  # upright
        start, end = start[::-1], end[::-1]
    share = np.linspace(0, 1, 12)[:, None]
    sag = rng.uniform(-0.15, 0.15) * side * np.sin(math.pi * share)
    points = np.round(start + (end - start) * share + sag).astype(np.int32)
    cv2.polylines(ground, [points], False, _ink(rng, STONES + SIGNS), max(1, round(side / 160)), cv2.LINE_AA)


def pipe(rng: np.random.Generator, ground: np.ndarray, kept: Span) -> None:
    side = len(ground)
    wide = side * rng.uniform(0.03, 0.1)
    if (found := _room(rng, side, wide, side, kept)) is None:
        return
    left, right = max(0, found[0]), min(side, round(found[0] + wide) + 1)
    across = np.linspace(-1, 1, right - left)
    tone = (0.45 + 0.55 * np.sqrt(1 - (0.95 * across) ** 2))[:, None] * np.array(_ink(rng, STONES + PAINTS))
    ground[:, left:right] = tone.astype(np.uint8)


def frame(rng: np.random.Generator, ground: np.ndarray, kept: Span) -> None:
    """A window, or the edge of one."""
    side = len(ground)
    width, height = rng.uniform(0.2, 0.7, 2) * side
    if (found := _room(rng, side, width, height, kept)) is None:
        return
    end = (round(found[0] + width), round(found[1] + height))
    cv2.rectangle(ground, found, end, _ink(rng, ((0.12, 0.14, 0.18), (0.5, 0.6, 0.7), (0.3, 0.3, 0.34))), -1)
    cv2.rectangle(ground, found, end, _ink(rng, PAINTS), max(1, round(side * rng.uniform(0.01, 0.05))))


def letters(rng: np.random.Generator, ground: np.ndarray, kept: Span) -> None:
    side = len(ground)
    text = "".join(pick(rng, LETTERS) for _ in range(int(rng.integers(1, 8))))
    font = pick(rng, (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX))
    size, thick = side / 160 * rng.uniform(0.25, 0.9), max(1, round(side / 160 * rng.uniform(0.6, 2.2)))
    (width, height), _ = cv2.getTextSize(text, font, size, thick)
    if found := _room(rng, side, width, height, kept):
        ink = _ink(rng, SIGNS)
        cv2.putText(ground, text, (found[0], found[1] + height), font, size, ink, thick, cv2.LINE_AA)


def scrawl(rng: np.random.Generator, ground: np.ndarray, kept: Span) -> None:
    """Bent strokes, as chalk, cracks or graffiti leave them."""
    side = len(ground)
    size = side * rng.uniform(0.08, 0.35)
    if (found := _room(rng, side, size, size, kept)) is None:
        return
    points = np.round(np.array(found) + rng.random((int(rng.integers(3, 7)), 2)) * size).astype(np.int32)
    thick = max(1, round(side / 160 * rng.uniform(0.6, 2)))
    cv2.polylines(ground, [points], False, _ink(rng, SIGNS + STONES), thick, cv2.LINE_AA)


def box(rng: np.random.Generator, ground: np.ndarray, kept: Span) -> None:
    """A letter-box with its slot, or a bell with its button."""
    side = len(ground)
    width, height = side * rng.uniform(0.1, 0.35), side * rng.uniform(0.1, 0.35)
    if (found := _room(rng, side, width, height, kept)) is None:
        return
    x, y = found
    end, ink = (round(x + width), round(y + height)), _ink(rng, PAINTS + SIGNS)
    cv2.rectangle(ground, found, end, ink, -1)
    cv2.rectangle(ground, found, end, tuple(0.6 * part for part in ink), 1)
    dark, level = tuple(0.35 * part for part in ink), round(y + 0.3 * height)
    if chance(rng, 0.5):
        left, right = (round(x + 0.2 * width), level), (round(x + 0.8 * width), level)
        cv2.line(ground, left, right, dark, max(1, round(side / 80)))
    else:
        middle = (round(x + width / 2), round(y + height / 2))
        cv2.circle(ground, middle, round(min(width, height) / 4), dark, -1, cv2.LINE_AA)


def leaves(rng: np.random.Generator, ground: np.ndarray, kept: Span) -> None:
    side = len(ground)
    size = side * rng.uniform(0.2, 0.5)
    if (found := _room(rng, side, size, size, kept)) is None:
        return
    for x, y in np.array(found) + rng.beta(2, 2, (int(rng.integers(8, 30)), 2)) * size:
        length = max(1, round(side * rng.uniform(0.015, 0.05)))
        axes, turn = (length, max(1, length // 2)), rng.uniform(0, 360)
        cv2.ellipse(ground, (round(x), round(y)), axes, turn, 0, 360, _ink(rng, GREENS), -1, cv2.LINE_AA)


THINGS: tuple[Callable[[np.random.Generator, np.ndarray, Span], None], ...] = (
    cable, pipe, frame, letters, letters, scrawl, box, leaves,
)  # fmt: skip


def light(rng: np.random.Generator, side: int, strength: float) -> np.ndarray:
    """How much light falls on each pixel, float32 (side, side), at most 1: a gradient, and often an edged shadow.

    ``strength`` 0 is even light; at 1 the darkest place gets a little less than a half of the brightest.
    """
    turn = rng.uniform(0, 2 * math.pi)
    down, across = np.linspace(-1, 1, side, dtype=np.float32)[:, None], np.linspace(-1, 1, side, dtype=np.float32)
    made = 1 + np.float32(strength * rng.uniform(0, 0.13)) * (math.cos(turn) * across + math.sin(turn) * down)
    if chance(rng, 0.6 * strength):
        cover = np.zeros((side, side), np.uint8)
        middle, ray = rng.uniform(0, side, 2), rng.uniform(0, 2 * math.pi)
        ahead = np.array([math.cos(ray), math.sin(ray)]) * 2 * side
        aside = ahead[::-1] * (1, -1)
        deep = pick(rng, (ahead, ahead * rng.uniform(0.02, 0.15)))  # a half of the picture, or a stripe
        points = np.stack([middle + aside, middle - aside, middle - aside + deep, middle + aside + deep])
        cv2.fillConvexPoly(cover, np.round(points).astype(np.int32), 255, cv2.LINE_AA)
        soft = cv2.GaussianBlur(cover, (0, 0), side / 160 * rng.uniform(0.5, 5))
        made *= 1 - np.float32(strength * rng.uniform(0.15, 0.4) / 255) * soft
    return made / made.max()
