"""Objects of the generated scenes (`synthetic.scenes`): walls, houses, people, cars, boats, and clutter.

An object stands at (x, y), the middle of its foot, in units of the sheet's side. ``depth`` decides its haze.
"""

from __future__ import annotations

import numpy as np

from cnn_core.synthetic.canvas import Canvas, Rgb, chance, noise, pick
from cnn_core.synthetic.plants import LEAVES

WALLS: tuple[Rgb, ...] = (
    (0.62, 0.36, 0.28), (0.80, 0.74, 0.62), (0.70, 0.70, 0.70), (0.88, 0.85, 0.80), (0.45, 0.48, 0.54),
    (0.36, 0.52, 0.66), (0.78, 0.60, 0.40), (0.55, 0.62, 0.52), (0.84, 0.66, 0.60), (0.30, 0.32, 0.36),
)  # fmt: skip
PAINTS: tuple[Rgb, ...] = (
    (0.75, 0.12, 0.10), (0.92, 0.92, 0.92), (0.12, 0.12, 0.14), (0.15, 0.28, 0.58), (0.90, 0.75, 0.15),
    (0.55, 0.57, 0.60), (0.12, 0.42, 0.30),
)  # fmt: skip
ROOFS: tuple[Rgb, ...] = ((0.50, 0.22, 0.16), (0.30, 0.28, 0.28), (0.45, 0.33, 0.24), (0.88, 0.90, 0.94))
LAMPLIGHT: tuple[Rgb, ...] = ((1.0, 0.85, 0.50), (1.0, 0.93, 0.75), (0.85, 0.92, 1.0))


def wall(c: Canvas, corners: np.ndarray, rows: int, columns: int, colour: Rgb, depth: float = 0.0) -> None:
    """Draw a wall of a house with windows; corners (4, 2) from the top left clockwise, unequal sides at an angle."""
    rng = c.rng
    top_left, top_right, bottom_right, bottom_left = corners
    c.polygon(corners, c.ink(colour, depth))
    heights = max(bottom_left[1] - top_left[1], 1e-3), max(bottom_right[1] - top_right[1], 1e-3)
    wide, tall = rng.uniform(0.35, 0.85), rng.uniform(0.4, 0.8)
    glass = pick(rng, ((0.18, 0.22, 0.28), (0.40, 0.52, 0.62), (0.10, 0.11, 0.13), (0.60, 0.70, 0.78)))
    along = (np.arange(columns)[:, None] + 0.5 + np.array([-0.5, 0.5]) * wide) / columns  # (columns, 2)
    near = 1 / ((1 - along) / heights[0] + along / heights[1])  # the wall's height there, in perspective
    ratio = heights[1] - heights[0]
    along = along if abs(ratio) < 1e-6 else (near - heights[0]) / ratio
    down = (np.arange(rows)[:, None] + 0.55 + np.array([-0.5, 0.5]) * tall) / (rows + 0.4)
    upper = top_left + along[..., None] * (top_right - top_left)  # (columns, 2, 2)
    lower = bottom_left + along[..., None] * (bottom_right - bottom_left)
    places = (upper + down[:, :, None, None, None] * (lower - upper)).swapaxes(1, 2)  # (rows, columns, down, along, xy)
    windows = places.reshape(-1, 4, 2)[:, [0, 1, 3, 2]].reshape(-1, 8) * c.size
    panes = [c.ink((glass[0] * gain, glass[1] * gain, glass[2] * gain), depth) for gain in (0.75, 1.0, 1.3)]
    lamps = [tuple(int(255 * v) for v in lamp) for lamp in LAMPLIGHT]
    shades, shining = rng.integers(0, 3, len(windows)), rng.random(len(windows)) < c.light.lit
    for corners_, shade, shines in zip(windows.tolist(), shades.tolist(), shining.tolist(), strict=True):
        c.draw.polygon(corners_, fill=lamps[shade] if shines else panes[shade])
    if chance(rng, 0.3):  # ledges between the floors
        ledge = c.ink((colour[0] * 0.75, colour[1] * 0.75, colour[2] * 0.75), depth)
        for share in (np.arange(rows) + 1.05) / (rows + 0.4):
            left, right = top_left + share * (bottom_left - top_left), top_right + share * (bottom_right - top_right)
            c.line(np.array([left, right]), ledge, 0.006)


def rectangle(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])


def house(c: Canvas, x: float, y: float, height: float, depth: float = 0.0) -> None:
    rng = c.rng
    half, eaves = height * rng.uniform(0.45, 0.8), y - height * rng.uniform(0.5, 0.65)
    rows, columns = int(rng.integers(1, 3)), int(rng.integers(2, 5))
    wall(c, rectangle(x - half, eaves, x + half, y), rows, columns, pick(rng, WALLS), depth)
    roof = c.ink(pick(rng, ROOFS), depth, 0.15)
    inset, over = 0.8 * pick(rng, (0.0, 0.5, 1.0)) * half, half * 1.12
    c.polygon([(x - over, eaves), (x - inset, y - height), (x + inset, y - height), (x + over, eaves)], roof)
    c.box(x - half * 0.1, y - height * 0.25, x + half * 0.1, y, c.ink((0.28, 0.18, 0.12), depth))
    if chance(rng, 0.5):
        c.box(x + half * 0.4, y - height * 1.02, x + half * 0.52, eaves, c.ink((0.4, 0.3, 0.28), depth))


def person(c: Canvas, x: float, y: float, height: float, depth: float = 0.0) -> None:
    coat, legs = c.ink(pick(c.rng, PAINTS), depth, 0.3), c.ink((0.14, 0.14, 0.18), depth)
    stride = height * c.rng.uniform(0.03, 0.1)
    for foot in (-stride, stride):
        c.line([(x, y - height * 0.48), (x + foot, y)], legs, height * 0.08)
    c.oval(x, y - height * 0.62, height * 0.11, height * 0.22, coat)
    c.oval(x, y - height * 0.91, height * 0.07, height * 0.085, c.ink((0.75, 0.58, 0.46), depth))


def car(c: Canvas, x: float, y: float, wide: float, depth: float = 0.0) -> None:
    rng, tall = c.rng, wide * c.rng.uniform(0.72, 0.95)
    paint, glass = c.ink(pick(rng, PAINTS), depth, 0.15), c.ink((0.16, 0.20, 0.25), depth)
    c.oval(x, y, wide * 0.56, wide * 0.06, c.ink((0.08,) * 3, depth))
    for wheel in (x - wide * 0.38, x + wide * 0.38):
        c.box(wheel - wide * 0.09, y - tall * 0.25, wheel + wide * 0.09, y, c.ink((0.05,) * 3))
    cabin = np.array([[-0.33, -1.0], [0.33, -1.0], [0.44, -0.55], [-0.44, -0.55]])
    c.polygon(cabin * (wide, tall) + (x, y), paint)
    c.polygon(cabin * (wide * 0.84, tall * 0.9) + (x, y - tall * 0.05), glass)
    c.box(x - wide * 0.5, y - tall * 0.58, x + wide * 0.5, y - tall * 0.12, paint)
    lamp = pick(rng, ((220, 30, 25), (255, 246, 214)))
    for side in (-1, 1):
        c.oval(x + side * wide * 0.4, y - tall * 0.42, wide * 0.07, wide * 0.055, lamp)


def boat(c: Canvas, x: float, y: float, length: float, depth: float = 0.0) -> None:
    rng = c.rng
    hull = np.array([[-0.5, -0.14], [0.5, -0.16], [0.38, 0.03], [-0.4, 0.03]]) * length + (x, y)
    c.polygon(hull, c.ink(pick(rng, PAINTS), depth, 0.2))
    if chance(rng, 0.6):
        tall, sail = length * rng.uniform(0.9, 1.5), c.ink(pick(rng, (*PAINTS, (0.95, 0.94, 0.9))), depth)
        for inner, outer in ((x + length * 0.04, x + length * 0.45), (x - length * 0.02, x - length * 0.36)):
            c.polygon([(inner, y - tall), (inner, y - length * 0.2), (outer, y - length * 0.2)], sail)
    else:
        c.box(x - length * 0.3, y - length * 0.32, x + length * 0.05, y - length * 0.14, c.ink((0.9, 0.9, 0.88), depth))
        c.box(x - length * 0.2, y - length * 0.45, x - length * 0.1, y - length * 0.3, c.ink(pick(rng, PAINTS), depth))


def rock(c: Canvas, x: float, y: float, half: float, depth: float = 0.0) -> None:
    rng = c.rng
    angles = np.sort(rng.uniform(0, np.pi, 7))
    edge = np.column_stack([x - np.cos(angles) * half, y - np.sin(angles) * half * rng.uniform(0.4, 1.0)])
    grey = rng.uniform(0.18, 0.5)
    c.polygon([(x - half, y), *edge, (x + half, y)], c.ink((grey, grey * 0.96, grey * 0.9), depth))
    c.polygon([(x - half * c.light.side, y), *edge[2:5], (x, y)], c.ink((grey * 0.6, grey * 0.6, grey * 0.62), depth))


def lamp_post(c: Canvas, x: float, y: float, height: float, reach: float, depth: float = 0.0) -> None:
    """Draw a street lamp that leans over the road by ``reach``. It shines when the windows do."""
    c.line([(x, y), (x, y - height), (x + reach, y - height * 1.03)], c.ink((0.22, 0.23, 0.25), depth), height * 0.025)
    lamp = (255, 240, 190) if c.light.lit > 0.3 else c.ink((0.7, 0.7, 0.68), depth)
    c.oval(x + reach, y - height, height * 0.05, height * 0.03, lamp)


def clutter(c: Canvas, horizon: float) -> None:
    """Draw what may be in any picture: birds, a pole with wires, a branch before the lens, a person, a fence."""
    rng, dark = c.rng, c.ink((0.12, 0.12, 0.12))
    if chance(rng, 0.2):
        for x, y in (rng.random((rng.integers(1, 7), 2)) * (1, horizon)).tolist():
            wing = rng.uniform(0.01, 0.03)
            c.line([(x - wing, y - wing * 0.5), (x, y), (x + wing, y - wing * 0.5)], dark, 0.005)
    if chance(rng, 0.12):
        x, y = rng.random(), rng.uniform(0.05, 0.4)
        c.box(x - 0.008, y, x + 0.008, 1, dark)
        for level in (y + 0.02, y + 0.06):
            left, right = level + rng.uniform(-0.1, 0.1), level + rng.uniform(-0.1, 0.1)
            c.line([(0, left), (x, level), (1, right)], dark, 0.004)
    if chance(rng, 0.18):
        leaf, (x, y) = pick(rng, pick(rng, LEAVES)), (pick(rng, (0.0, 1.0)), rng.uniform(-0.05, 0.3))
        for _ in range(int(rng.integers(10, 45))):
            c.oval(x + rng.normal(0, 0.16), y + rng.normal(0, 0.09), 0.025, 0.018, c.ink(leaf, 0, 0.4))
    if chance(rng, 0.15):
        for _ in range(int(rng.integers(1, 3))):
            person(c, rng.uniform(0.1, 0.9), rng.uniform(0.85, 1.0), rng.uniform(0.12, 0.3))
    if chance(rng, 0.08):
        y, ink = rng.uniform(0.8, 0.95), c.ink(pick(rng, ((0.4, 0.3, 0.2), (0.85, 0.85, 0.82))))
        for x in np.arange(0, 1.05, 0.08):
            c.box(x, y, x + 0.015, 1, ink)
        c.box(0, y + 0.02, 1, y + 0.035, ink)
    if chance(rng, 0.15):
        blob = np.clip(noise(rng, c.size, cells=1.5, octaves=2) - 0.3, 0, 0.7)  # mist, smoke or a smear on the lens
        c.paint(np.broadcast_to(c.light.low, (c.size, c.size, 3)), blob)
