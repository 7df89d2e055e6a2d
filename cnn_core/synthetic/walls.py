"""What the house numbers (`synthetic.house_numbers`) hang on: walls, wood, signs; RGB in 0..1, before any light."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import cv2
import numpy as np

from cnn_core.synthetic.canvas import Rgb, chance, mix, noise, pick, rgb

BRICKS: tuple[Rgb, ...] = (
    (0.58, 0.28, 0.20),
    (0.66, 0.40, 0.28),
    (0.45, 0.26, 0.22),
    (0.74, 0.62, 0.48),
    (0.80, 0.78, 0.74),
)
PLASTERS: tuple[Rgb, ...] = (
    (0.88, 0.86, 0.80), (0.90, 0.80, 0.62), (0.74, 0.78, 0.80), (0.86, 0.70, 0.62), (0.66, 0.70, 0.60),
    (0.52, 0.52, 0.52), (0.40, 0.46, 0.54), (0.62, 0.36, 0.30),
)  # fmt: skip
STONES: tuple[Rgb, ...] = ((0.62, 0.60, 0.56), (0.72, 0.66, 0.54), (0.48, 0.48, 0.50), (0.56, 0.48, 0.42))
WOODS: tuple[Rgb, ...] = ((0.50, 0.33, 0.20), (0.66, 0.48, 0.30), (0.32, 0.22, 0.16), (0.58, 0.54, 0.48))
PAINTS: tuple[Rgb, ...] = (
    (0.14, 0.26, 0.20), (0.16, 0.22, 0.40), (0.50, 0.12, 0.12), (0.88, 0.88, 0.86), (0.16, 0.16, 0.18),
    (0.42, 0.56, 0.62), (0.80, 0.72, 0.52),
)  # fmt: skip
SIGNS: tuple[Rgb, ...] = (
    (0.10, 0.20, 0.52), (0.95, 0.95, 0.93), (0.08, 0.08, 0.09), (0.72, 0.58, 0.28), (0.16, 0.36, 0.24),
    (0.62, 0.10, 0.12), (0.75, 0.76, 0.78), (0.30, 0.30, 0.32), (0.45, 0.30, 0.18), (0.93, 0.88, 0.72),
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowPlace:
    """The rectangle of a row of digits: its centre and size in pixels, turned clockwise by ``tilt`` degrees."""

    x: float
    y: float
    width: float
    height: float
    tilt: float

    def corners(self, margin: float = 0.0) -> np.ndarray:
        """The corners ``margin`` pixels outside the row, float32 (4, 2)."""
        size = (self.width + 2 * margin, self.height + 2 * margin)
        return cv2.boxPoints(((self.x, self.y), size, self.tilt))


def wall(rng: np.random.Generator, side: int) -> np.ndarray:
    return pick(rng, WALLS)(rng, side).clip(0, 1)


def _blocks(rng: np.random.Generator, side: int, tall: float, long: float, joint: float) -> tuple[np.ndarray, ...]:
    """Courses of blocks, each shifted by half a block: a number from N(0, 1) for each block, at each of its pixels,
    (side, side), and how far each pixel belongs to a joint, 0..1, (side, side)."""
    down, across = np.arange(side) + rng.uniform(0, tall), np.arange(side) + rng.uniform(0, long)
    course = (down // tall).astype(int)
    along = across[None] + (course % 2)[:, None] * (long / 2)
    tones = rng.standard_normal((course[-1] + 1, int(along.max() // long) + 1), np.float32)
    tone = tones[course[:, None], (along // long).astype(int)]
    level, upright = np.minimum(down % tall, tall - down % tall), np.minimum(along % long, long - along % long)
    edge = np.minimum(level[:, None], upright)
    return tone, np.clip(joint / 2 + 0.5 - edge, 0, 1).astype(np.float32)


def bricks(rng: np.random.Generator, side: int) -> np.ndarray:
    tall = side * rng.uniform(0.05, 0.11)
    tone, joint = _blocks(rng, side, tall, tall * rng.uniform(2.2, 3.4), tall * rng.uniform(0.1, 0.2))
    tone = rng.uniform(0.03, 0.10) * tone + 0.05 * noise(rng, side, cells=20, octaves=2)
    brick = rgb(pick(rng, BRICKS)) * (1 + tone[..., None])
    mortar = np.float32(rng.uniform(0.45, 0.85)) * rgb((1.0, 0.98, 0.94))
    return mix(brick, mortar, joint[..., None] * np.float32(rng.uniform(0.4, 1.0)))


def stones(rng: np.random.Generator, side: int) -> np.ndarray:
    tall = side * rng.uniform(0.14, 0.4)
    tone, joint = _blocks(rng, side, tall, tall * rng.uniform(1.0, 2.2), max(1.0, side * rng.uniform(0.006, 0.02)))
    tone = 0.05 * tone + 0.06 * noise(rng, side, cells=10, octaves=3)
    stone = rgb(pick(rng, STONES)) * (1 + tone[..., None])
    return mix(stone, stone * np.float32(rng.uniform(0.5, 1.3)), joint[..., None])


def plaster(rng: np.random.Generator, side: int) -> np.ndarray:
    tone = rng.uniform(0.01, 0.06) * noise(rng, side, cells=rng.uniform(2, 40), octaves=3)
    return rgb(pick(rng, PLASTERS)) * (1 + tone[..., None])


def boards(rng: np.random.Generator, side: int) -> np.ndarray:
    wide = side * rng.uniform(0.1, 0.5)
    tone, joint = _blocks(rng, side, wide, 40.0 * side, max(1.0, side * 0.01))
    grain = noise(rng, side, cells=14, octaves=2, stretch=1 / 40)
    tone = 0.06 * tone + rng.uniform(0.03, 0.09) * grain
    wood = rgb(pick(rng, WOODS)) * (1 + tone[..., None]) * (1 - 0.5 * joint[..., None])
    return np.ascontiguousarray(wood.transpose(1, 0, 2)) if chance(rng, 0.6) else wood


def siding(rng: np.random.Generator, side: int) -> np.ndarray:
    tall = side * rng.uniform(0.07, 0.2)
    down = (np.arange(side) + rng.uniform(0, tall)) % tall / tall
    shape = (1 - rng.uniform(0.15, 0.4) * np.exp(-down * rng.uniform(5, 12))).astype(np.float32)[:, None, None]
    tone = 0.015 * noise(rng, side, cells=30, octaves=2)[..., None]
    return rgb(pick(rng, PLASTERS + PAINTS)) * shape * (1 + tone)


def door(rng: np.random.Generator, side: int) -> np.ndarray:
    tone = 0.015 * noise(rng, side, cells=3, octaves=2)
    painted = rgb(pick(rng, PAINTS)) * (1 + tone[..., None])
    left, top = rng.uniform(-0.2, 0.25, 2) * side
    right, below = side - rng.uniform(-0.2, 0.25, 2) * side
    edge = np.zeros((side, side), np.uint8)
    cv2.rectangle(edge, (int(left), int(top)), (int(right), int(below)), 255, max(1, round(side * 0.015)))
    light = cv2.GaussianBlur(edge, (0, 0), max(0.5, side * 0.004)).astype(np.float32) / 255
    return painted * (1 + np.float32(rng.uniform(-0.4, 0.4)) * light[..., None])


WALLS: tuple[Callable[[np.random.Generator, int], np.ndarray], ...] = (bricks, stones, plaster, boards, siding, door)


def sign(rng: np.random.Generator, ground: np.ndarray, row: RowPlace) -> None:
    """Draw a plate behind the row on ``ground``, uint8 (side, side, 3), in place."""
    margin = row.height * rng.uniform(0.15, 0.5)
    paint = rgb(pick(rng, SIGNS)) * rng.uniform(0.85, 1.1)
    rim = rgb(pick(rng, SIGNS)) if chance(rng, 0.4) else paint * rng.uniform(0.5, 0.8)
    thick = max(1.0, row.height * rng.uniform(0.03, 0.09))
    shape = pick(rng, (_square, _rounded, _oval))
    shift = row.height * rng.uniform(0.02, 0.08)
    under = np.zeros(ground.shape[:2], np.uint8)
    shape(under, dataclasses.replace(row, x=row.x + shift, y=row.y + shift), margin + thick, 255)
    shadow = 1 - 0.45 / 255 * cv2.GaussianBlur(under, (0, 0), shift + 0.5).astype(np.float32)
    np.multiply(ground, shadow[..., None], out=ground, casting="unsafe")
    shape(ground, row, margin + thick, _ink(rim))
    shape(ground, row, margin, _ink(paint))
    if chance(rng, 0.5):
        radius = max(1, round(row.height * 0.04))
        for x, y in dataclasses.replace(row, height=0).corners(margin * 0.45)[[0, 2]]:
            cv2.circle(ground, (round(float(x)), round(float(y))), radius, _ink(paint * 0.6), -1, cv2.LINE_AA)


def _ink(colour: np.ndarray) -> tuple[int, int, int]:
    red, green, blue = (min(255, max(0, round(255 * float(part)))) for part in colour)
    return red, green, blue


Colour = int | tuple[int, int, int]  # of a mask, or of a picture


def _square(image: np.ndarray, row: RowPlace, margin: float, colour: Colour) -> None:
    cv2.fillConvexPoly(image, np.round(row.corners(margin) * 16).astype(np.int32), colour, cv2.LINE_AA, 4)


def _rounded(image: np.ndarray, row: RowPlace, margin: float, colour: Colour) -> None:
    radius = max(1.0, (row.height / 2 + margin) * 0.35)
    inner = row.corners(margin - radius)
    arcs = [np.array([math.cos(a), math.sin(a)]) * radius for a in np.linspace(0, 2 * math.pi, 24, endpoint=False)]
    points = (inner[:, None] + np.stack(arcs)[None]).reshape(-1, 2)
    hull = cv2.convexHull(np.round(points * 16).astype(np.int32))
    cv2.fillConvexPoly(image, hull, colour, cv2.LINE_AA, 4)


def _oval(image: np.ndarray, row: RowPlace, margin: float, colour: Colour) -> None:
    axes = ((row.width / 2 + margin) * 1.25, (row.height / 2 + margin) * 1.15)
    points = np.asarray(cv2.ellipse2Poly((0, 0), (1000, 1000), 0, 0, 360, 6)) / 1000 * axes
    turn = math.radians(row.tilt)
    rotated = points @ np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    outline = np.round((rotated + np.array([row.x, row.y])) * 16).astype(np.int32)
    cv2.fillConvexPoly(image, outline, colour, cv2.LINE_AA, 4)
