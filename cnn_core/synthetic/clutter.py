"""Clutter on the walls of the house numbers (`synthetic.house_numbers`), and the light that falls on them.

Clutter is cables, pipes, frames, letters, scrawls, boxes and leaves, but no digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np

from cnn_core.synthetic.canvas import Rgb, chance, pick
from cnn_core.synthetic.walls import PAINTS, SIGNS, STONES, RowPlace

LETTERS = "ACDEFHKMNPRTUVWXY"  # none that could pass for a digit, as B, G, I, L, O, Q, S and Z do
GREENS: tuple[Rgb, ...] = ((0.20, 0.36, 0.14), (0.34, 0.48, 0.18), (0.14, 0.26, 0.12), (0.52, 0.42, 0.16))
_TRIES = 6  # to find space beside the number

Ink = tuple[float, float, float]
Span = tuple[float, float, float, float]  # x1, y1, x2, y2


def clutter(rng: np.random.Generator, ground: np.ndarray, row: RowPlace, count: int) -> None:
    """Draw ``count`` things on ``ground``, uint8 (side, side, 3), in place, most of them beside the row of digits."""
    corners = row.corners(0.1 * row.height)
    number = (*corners.min(axis=0), *corners.max(axis=0))
    for _ in range(count):
        pick(rng, THINGS)(rng, ground, number)


def _ink(rng: np.random.Generator, colours: tuple[Rgb, ...]) -> Ink:
    gain = 255 * rng.uniform(0.7, 1.1)
    red, green, blue = (min(255.0, part * gain) for part in pick(rng, colours))
    return red, green, blue


def _free_corner(
    rng: np.random.Generator, side: int, width: float, height: float, number: Span
) -> tuple[int, int] | None:
    for _ in range(_TRIES):
        x, y = rng.uniform(-0.3 * width, side - 0.7 * width), rng.uniform(-0.3 * height, side - 0.7 * height)
        if x > number[2] or x + width < number[0] or y > number[3] or y + height < number[1]:
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


def pipe(rng: np.random.Generator, ground: np.ndarray, number: Span) -> None:
    side = len(ground)
    wide = side * rng.uniform(0.03, 0.1)
    if (corner := _free_corner(rng, side, wide, side, number)) is None:
        return
    left, right = max(0, corner[0]), min(side, round(corner[0] + wide) + 1)
    across = np.linspace(-1, 1, right - left)
    tone = (0.45 + 0.55 * np.sqrt(1 - (0.95 * across) ** 2))[:, None] * np.array(_ink(rng, STONES + PAINTS))
    ground[:, left:right] = tone.astype(np.uint8)


def frame(rng: np.random.Generator, ground: np.ndarray, number: Span) -> None:
    side = len(ground)
    width, height = rng.uniform(0.2, 0.7, 2) * side
    if (corner := _free_corner(rng, side, width, height, number)) is None:
        return
    end = (round(corner[0] + width), round(corner[1] + height))
    cv2.rectangle(ground, corner, end, _ink(rng, ((0.12, 0.14, 0.18), (0.5, 0.6, 0.7), (0.3, 0.3, 0.34))), -1)
    cv2.rectangle(ground, corner, end, _ink(rng, PAINTS), max(1, round(side * rng.uniform(0.01, 0.05))))


def letters(rng: np.random.Generator, ground: np.ndarray, number: Span) -> None:
    side = len(ground)
    text = "".join(pick(rng, LETTERS) for _ in range(int(rng.integers(1, 8))))
    font = pick(rng, (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX))
    size, thick = side / 160 * rng.uniform(0.25, 0.9), max(1, round(side / 160 * rng.uniform(0.6, 2.2)))
    (width, height), _ = cv2.getTextSize(text, font, size, thick)
    if corner := _free_corner(rng, side, width, height, number):
        ink = _ink(rng, SIGNS)
        cv2.putText(ground, text, (corner[0], corner[1] + height), font, size, ink, thick, cv2.LINE_AA)


def scrawl(rng: np.random.Generator, ground: np.ndarray, number: Span) -> None:
    side = len(ground)
    size = side * rng.uniform(0.08, 0.35)
    if (corner := _free_corner(rng, side, size, size, number)) is None:
        return
    points = np.round(np.array(corner) + rng.random((int(rng.integers(3, 7)), 2)) * size).astype(np.int32)
    thick = max(1, round(side / 160 * rng.uniform(0.6, 2)))
    cv2.polylines(ground, [points], False, _ink(rng, SIGNS + STONES), thick, cv2.LINE_AA)


def box(rng: np.random.Generator, ground: np.ndarray, number: Span) -> None:
    side = len(ground)
    width, height = side * rng.uniform(0.1, 0.35), side * rng.uniform(0.1, 0.35)
    if (corner := _free_corner(rng, side, width, height, number)) is None:
        return
    x, y = corner
    end, ink = (round(x + width), round(y + height)), _ink(rng, PAINTS + SIGNS)
    cv2.rectangle(ground, corner, end, ink, -1)
    cv2.rectangle(ground, corner, end, tuple(0.6 * part for part in ink), 1)
    dark, level = tuple(0.35 * part for part in ink), round(y + 0.3 * height)
    if chance(rng, 0.5):
        left, right = (round(x + 0.2 * width), level), (round(x + 0.8 * width), level)
        cv2.line(ground, left, right, dark, max(1, round(side / 80)))
    else:
        middle = (round(x + width / 2), round(y + height / 2))
        cv2.circle(ground, middle, round(min(width, height) / 4), dark, -1, cv2.LINE_AA)


def leaves(rng: np.random.Generator, ground: np.ndarray, number: Span) -> None:
    side = len(ground)
    size = side * rng.uniform(0.2, 0.5)
    if (corner := _free_corner(rng, side, size, size, number)) is None:
        return
    for x, y in np.array(corner) + rng.beta(2, 2, (int(rng.integers(8, 30)), 2)) * size:
        length = max(1, round(side * rng.uniform(0.015, 0.05)))
        axes, turn = (length, max(1, length // 2)), rng.uniform(0, 360)
        cv2.ellipse(ground, (round(x), round(y)), axes, turn, 0, 360, _ink(rng, GREENS), -1, cv2.LINE_AA)


THINGS: tuple[Callable[[np.random.Generator, np.ndarray, Span], None], ...] = (
    cable, pipe, frame, letters, letters, scrawl, box, leaves,
)  # fmt: skip


def light(rng: np.random.Generator, side: int, strength: float) -> np.ndarray:
    """The light on each pixel, float32 (side, side), at most 1: a gradient, and often a shadow with an edge.

    At a ``strength`` of 1 the darkest pixel gets a little less than half of the brightest one's light, at 0 all of it.
    """
    turn = rng.uniform(0, 2 * math.pi)
    down, across = np.linspace(-1, 1, side, dtype=np.float32)[:, None], np.linspace(-1, 1, side, dtype=np.float32)
    light_map = 1 + np.float32(strength * rng.uniform(0, 0.13)) * (math.cos(turn) * across + math.sin(turn) * down)
    if chance(rng, 0.6 * strength):
        cover = np.zeros((side, side), np.uint8)
        middle, ray = rng.uniform(0, side, 2), rng.uniform(0, 2 * math.pi)
        ahead = np.array([math.cos(ray), math.sin(ray)]) * 2 * side
        aside = ahead[::-1] * (1, -1)
        deep = pick(rng, (ahead, ahead * rng.uniform(0.02, 0.15)))  # half of the picture, or a stripe
        points = np.stack([middle + aside, middle - aside, middle - aside + deep, middle + aside + deep])
        cv2.fillConvexPoly(cover, np.round(points).astype(np.int32), 255, cv2.LINE_AA)
        soft = cv2.GaussianBlur(cover, (0, 0), side / 160 * rng.uniform(0.5, 5))
        light_map *= 1 - np.float32(strength * rng.uniform(0.15, 0.4) / 255) * soft
    return light_map / light_map.max()
