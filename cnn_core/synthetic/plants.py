"""Trees of the generated scenes (`synthetic.scenes`).

A tree stands at (x, y), the middle of its foot, in units of the sheet's side. ``depth`` decides its haze.
"""

from __future__ import annotations

import numpy as np

from cnn_core.synthetic.canvas import Canvas, Rgb, chance, pick

LEAVES: tuple[tuple[Rgb, ...], ...] = (  # seasons, each with the colours of its trees
    ((0.20, 0.36, 0.13), (0.29, 0.45, 0.17), (0.15, 0.30, 0.16)),
    ((0.38, 0.55, 0.20), (0.48, 0.62, 0.24), (0.30, 0.47, 0.18)),
    ((0.72, 0.42, 0.12), (0.66, 0.28, 0.12), (0.76, 0.60, 0.18), (0.40, 0.42, 0.16)),
    ((0.80, 0.84, 0.88), (0.62, 0.68, 0.72), (0.30, 0.38, 0.36)),
    ((0.10, 0.20, 0.16), (0.14, 0.25, 0.20)),
)
BARK: tuple[Rgb, ...] = ((0.30, 0.21, 0.14), (0.40, 0.31, 0.23), (0.22, 0.17, 0.14), (0.48, 0.40, 0.34))


def conifer(c: Canvas, x: float, y: float, height: float, leaf: Rgb, depth: float = 0.0) -> None:
    rng, wide = c.rng, height * c.rng.uniform(0.16, 0.26)
    c.box(x - height * 0.02, y - height * 0.2, x + height * 0.02, y, c.ink(BARK[0], depth))
    bright, dark = c.ink(leaf, depth, 0.2), c.ink((leaf[0] * 0.62, leaf[1] * 0.62, leaf[2] * 0.7), depth, 0.2)
    tiers = int(rng.integers(4, 7))
    for tier in range(tiers):
        foot = y - height * (0.1 + 0.75 * tier / tiers)
        half, tip = wide * (1 - tier / (tiers + 0.6)), foot - height * 1.7 / (tiers + 1)
        side = half * c.light.side
        c.polygon([(x - side, foot), (x, foot - height * 0.03), (x, tip)], dark)
        c.polygon([(x + side, foot), (x, foot - height * 0.03), (x, tip)], bright)


def broadleaf(c: Canvas, x: float, y: float, height: float, leaf: Rgb, depth: float = 0.0) -> None:
    rng = c.rng
    trunk = height * rng.uniform(0.02, 0.04)
    c.box(x - trunk, y - height * 0.6, x + trunk, y, c.ink(pick(rng, BARK), depth, 0.2))
    clumps = rng.normal(0, 0.13, (16, 2)) * height
    clumps = clumps[np.argsort(-clumps[:, 1] + clumps[:, 0] * c.light.side)]  # the lit ones last
    for number, (right, down) in enumerate(clumps.tolist()):
        gain, across = 0.6 + 0.035 * number, height * rng.uniform(0.06, 0.13)
        ink = c.ink((leaf[0] * gain, leaf[1] * gain, leaf[2] * gain), depth, 0.15)
        c.oval(x + right, y - height * 0.68 + down, across, across * 0.8, ink)


def birch(c: Canvas, x: float, y: float, height: float, leaf: Rgb, depth: float = 0.0) -> None:
    rng, half = c.rng, height * c.rng.uniform(0.012, 0.022)
    broadleaf(c, x, y - height * 0.1, height * 0.9, leaf, depth)
    c.box(x - half, y - height * 0.75, x + half, y, c.ink((0.86, 0.85, 0.80), depth, 0.1))
    for up in rng.uniform(0.02, 0.75, 9).tolist():
        c.box(x - half, y - height * up, x + half * rng.uniform(-0.5, 1), y - height * (up - 0.012), c.ink((0.2,) * 3))


def bare(c: Canvas, x: float, y: float, height: float, _leaf: Rgb, depth: float = 0.0) -> None:
    ink = c.ink(pick(c.rng, BARK), depth)
    ends = [(x, y, 0.0, height * 0.34)]
    for width in (0.05, 0.03, 0.018, 0.01):
        branches = []
        for left, low, lean, length in ends:
            tip = (left + np.sin(lean) * length, low - np.cos(lean) * length)
            c.line([(left, low), tip], ink, width * height)
            for turn in (-1, 1):
                branches.append((*tip, lean + c.rng.uniform(0.15, 0.6) * turn, length * c.rng.uniform(0.6, 0.85)))
        ends = branches


def palm(c: Canvas, x: float, y: float, height: float, leaf: Rgb, depth: float = 0.0) -> None:
    lean, ink = c.rng.uniform(-0.25, 0.25) * height, c.ink(BARK[3], depth)
    top = (x + lean, y - height * 0.8)
    c.line([(x, y), (x + lean * 0.3, y - height * 0.45), top], ink, height * 0.035)
    green = c.ink(leaf, depth, 0.2)
    for angle in np.linspace(-0.5, 3.6, 9) + c.rng.normal(0, 0.15, 9):
        out, up = np.cos(angle) * height * 0.32, np.sin(angle) * height * 0.2
        c.line([top, (top[0] + out * 0.6, top[1] - up - height * 0.04), (top[0] + out, top[1] - up + height * 0.1)],
               green, height * 0.03)  # fmt: skip


SPECIES = (conifer, broadleaf, birch, bare)


def trunk(c: Canvas, x: float, foot: float, half: float, depth: float) -> None:
    """Draw a trunk seen from among the trees, with bark and shadow; its top is outside the picture."""
    rng = c.rng
    pale = chance(rng, 0.15)
    bark = (0.84, 0.83, 0.78) if pale else pick(rng, BARK)
    lean = rng.normal(0, 0.03)
    edge = np.array([[x + lean - 0.7 * half, -0.05], [x + lean + 0.7 * half, -0.05], [x + half, foot - half],
                     [x + 1.6 * half, foot], [x - 1.6 * half, foot], [x - half, foot - half]])  # fmt: skip
    c.polygon(edge, c.ink(bark, depth, 0.15))
    dark, side = c.ink((bark[0] * 0.55, bark[1] * 0.55, bark[2] * 0.6), depth), half * c.light.side
    c.polygon([(x + lean, -0.05), (x + lean - 0.7 * side, -0.05), (x - side, foot), (x - 0.3 * side, foot)], dark)
    for _ in range(int(half * 400)):
        low, right = rng.uniform(0, foot), x + rng.uniform(-0.9, 0.9) * half
        if pale:
            c.box(right - half * 0.4, low, right + half * 0.3, low + 0.008, c.ink((0.15,) * 3, depth))
        else:
            end = (right + lean * (0.9 - low), low + rng.uniform(0.03, 0.1))
            c.line([(right + lean * (1 - low), low), end], dark, 0.004)


def grove(c: Canvas, foot: float, count: int, tall: float, back: float | None = None) -> None:
    """Draw trees in the foreground, or spread from ``foot`` back to the row ``back``."""
    rng, leaves, kinds = c.rng, pick(c.rng, LEAVES), (pick(c.rng, SPECIES), pick(c.rng, SPECIES))
    for y in np.sort(rng.uniform(foot if back is None else back, foot, count)).tolist():
        size = tall * (1.0 if back is None else 0.4 + 0.6 * (y - back) / max(foot - back, 0.01))
        pick(rng, kinds)(c, rng.uniform(0, 1), y, size * rng.uniform(0.7, 1.2), pick(rng, leaves), 0.2)
