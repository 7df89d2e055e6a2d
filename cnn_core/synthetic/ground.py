"""Ground and background of the generated scenes (`synthetic.scenes`): level ground, water, ice, mountain ranges."""

from __future__ import annotations

import numpy as np

from cnn_core.synthetic.canvas import Canvas, Rgb, chance, ground_noise, mix, noise, pick, rgb, ridge
from cnn_core.synthetic.plants import LEAVES

GROUNDS: tuple[Rgb, ...] = (
    (0.33, 0.44, 0.20), (0.48, 0.50, 0.26), (0.52, 0.42, 0.28),
    (0.86, 0.89, 0.93), (0.45, 0.44, 0.42), (0.70, 0.64, 0.48),
)  # fmt: skip
ROCKS: tuple[Rgb, ...] = (
    (0.42, 0.40, 0.40), (0.52, 0.44, 0.36), (0.34, 0.37, 0.42), (0.56, 0.40, 0.32), (0.30, 0.34, 0.28),
)  # fmt: skip
SNOW: Rgb = (0.95, 0.97, 1.0)


def ground(c: Canvas, horizon: float, colours: tuple[Rgb, ...] = GROUNDS) -> None:
    """Paint level ground below the horizon: grass, earth, snow, stone or sand in two tones."""
    rng = c.rng
    start = max(0, int(horizon * c.size))
    share = np.clip(0.3 + 0.35 * ground_noise(rng, c.size, horizon - 0.03, cells=8, stretch=3)[start:], 0, 1)[..., None]
    tones = c.shade(mix(rgb(pick(rng, colours)), rgb(pick(rng, colours)), share), 0.2)
    c.paint(tones, np.clip((c.rows[start:] - horizon) * c.size, 0, 1), start)


def water(c: Canvas, horizon: float) -> None:
    """Paint water below the horizon. It mirrors the sky, is darker and greener close by, and has crests and glitter."""
    rng, size, light = c.rng, c.size, c.light
    start = int(horizon * size)
    waves = ground_noise(rng, size, horizon - 0.01, cells=rng.uniform(3, 8), stretch=rng.uniform(6, 20))[start:]
    near = np.clip((c.rows[start:] - horizon) / (1 - min(horizon, 0.99)), 0, 1)[..., None]
    deep = pick(rng, ((0.10, 0.28, 0.40), (0.10, 0.40, 0.42), (0.28, 0.36, 0.36), (0.06, 0.16, 0.28)))
    calm = mix(mix(light.low, light.top, near), rgb(deep) * light.ambient, rng.uniform(0.3, 0.8) * near)
    colours = calm * (1 + rng.uniform(0.1, 0.35) * np.tanh(waves))[..., None]
    foam = np.clip((waves - rng.uniform(0.7, 2.2)) * 3, 0, 1)[..., None] * rng.uniform(0.3, 1.0)
    colours = mix(colours, light.ambient * 0.97, foam)
    if light.time in ("day", "dusk") and chance(rng, 0.4):
        gleam = np.exp(-(((c.rows.T - rng.random()) / rng.uniform(0.05, 0.2)) ** 2)) * np.clip(waves * 2, 0, 1)
        colours = mix(colours, light.low, gleam[..., None])
    c.paint(colours, np.clip((c.rows[start:] - horizon) * size, 0, 1), start)


def ice_colours(c: Canvas, cracks: np.ndarray, tone: np.ndarray) -> np.ndarray:
    """The colours of ice, (size, size, 3): blue where ``cracks`` crosses 0, grey with debris where ``tone`` is high."""
    rng = c.rng
    deep, width = rgb(pick(rng, ((0.16, 0.45, 0.66), (0.30, 0.60, 0.74), (0.22, 0.32, 0.42)))), rng.uniform(0.1, 0.22)
    open_ = np.exp(-((cracks / width) ** 2))[..., None]
    dirt = np.clip(tone * 0.5 - rng.uniform(0.1, 0.6), 0, 0.8)[..., None]
    ice = rgb(SNOW) * (0.86 + 0.12 * np.tanh(tone + cracks))[..., None] - dirt * rgb((0.45, 0.47, 0.50))
    return mix(ice, deep, open_)


def mountain_range(
    c: Canvas, foot: float, tall: float, depth: float, *, snow: float = 0.2, colour: Rgb | None = None
) -> None:
    """Paint a range that rises by ``tall`` over ``foot``. Its upper share ``snow`` is white; woods are at its foot."""
    rng, size = c.rng, c.size
    top = foot - tall * (0.2 + 0.8 * ridge(rng, size, rough=rng.uniform(0.42, 0.62), peaks=int(rng.integers(1, 4))))
    first, last = max(0, int(top.min() * size)), min(size, int((foot + 0.15) * size))
    rows = c.rows[first:last]
    form = noise(rng, size, cells=rng.uniform(3, 6), octaves=5, stretch=rng.uniform(0.4, 1.0), rough=0.6)
    drift = (np.arange(size)[None] + ((rows - top) * size * rng.uniform(-0.7, 0.7)).astype(int)) % size
    form = form[np.arange(first, last)[:, None], drift]  # spurs run down at an angle
    step = max(1, size // 100)
    lit = np.clip(0.82 + (np.roll(form, step, 1) - form) * c.light.side * 1.6, 0.3, 1.25)[..., None]
    up = (foot - rows) / tall
    woods = np.clip((rng.uniform(-0.2, 0.45) - up + 0.12 * form) * 12, 0, 1)[..., None]
    colours = mix(rgb(colour or pick(rng, ROCKS)) * lit, rgb(pick(rng, pick(rng, LEAVES))) * (0.55 + 0.45 * lit), woods)
    if snow:
        white = np.clip((up - (1 - snow) + 0.22 * form) * 9, 0, 1)[..., None]
        colours = mix(colours, rgb(SNOW) * (0.35 + 0.62 * lit), white)
    c.paint(c.shade(colours, depth), np.clip((rows - top) * size, 0, 1), first)
