"""Light, sheet and camera of the generated scenes (`synthetic.scenes`), which all six classes share.

The same light falls on every class and the same camera takes its picture, so that neither tells the class. Points are
in units of the sheet's side, with (0, 0) its top left corner. Colours are RGB in 0..1 as they look in plain daylight.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

Rgb = tuple[float, float, float]
Ink = tuple[int, int, int]
T = TypeVar("T")

# time of day: its frequency, the sky overhead, the sky at the horizon, the light on things, haze, share of lit windows
TIMES: dict[str, tuple[float, Rgb, Rgb, Rgb, float, float]] = {
    "day": (0.38, (0.25, 0.47, 0.80), (0.72, 0.85, 0.95), (1.00, 0.98, 0.94), 0.35, 0.04),
    "dusk": (0.20, (0.30, 0.28, 0.50), (0.98, 0.62, 0.38), (0.80, 0.60, 0.52), 0.5, 0.35),
    "night": (0.12, (0.03, 0.05, 0.13), (0.16, 0.19, 0.31), (0.38, 0.41, 0.54), 0.35, 0.55),
    "overcast": (0.18, (0.58, 0.61, 0.66), (0.80, 0.81, 0.82), (0.76, 0.78, 0.80), 0.45, 0.10),
    "fog": (0.12, (0.74, 0.76, 0.78), (0.84, 0.85, 0.85), (0.78, 0.79, 0.80), 1.0, 0.20),
}


def pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    return choices[int(rng.integers(len(choices)))]


def rgb(colour: Rgb) -> np.ndarray:
    """A colour as float32 (3,). All pictures are computed in float32, which takes half the time of float64."""
    return np.array(colour, np.float32)


def mix(first: np.ndarray, second: np.ndarray, share: np.ndarray | float) -> np.ndarray:
    """Blend: ``first`` where ``share`` is 0, ``second`` where it is 1."""
    return first + (second - first) * share


def chance(rng: np.random.Generator, probability: float) -> bool:
    return bool(rng.random() < probability)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Light:
    time: str
    top: np.ndarray  # colour of the sky overhead, (3,)
    low: np.ndarray  # and at the horizon
    ambient: np.ndarray  # colour of a white thing, (3,)
    haze: float  # how fast things fade into ``low`` with their depth
    lit: float  # share of windows and lamps that shine
    side: float  # -1.0 if the sun is on the left, 1.0 on the right


def draw_light(rng: np.random.Generator) -> Light:
    shares = np.cumsum([entry[0] for entry in TIMES.values()])
    time = list(TIMES)[int(np.searchsorted(shares / shares[-1], rng.random()))]
    _, top, low, ambient, haze, lit = TIMES[time]
    return Light(
        time=time,
        top=np.clip(rgb(top) + 0.05 * rng.standard_normal(3, np.float32), 0, 1),
        low=np.clip(rgb(low) + 0.05 * rng.standard_normal(3, np.float32), 0, 1),
        ambient=rgb(ambient) * rng.uniform(0.8, 1.15),
        haze=haze * rng.uniform(0.5, 1.4),
        lit=lit,
        side=pick(rng, (-1.0, 1.0)),
    )


class Canvas:
    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self.size, self.rng, self.light = size, rng, draw_light(rng)
        self._ambient, self._low = self.light.ambient.tolist(), self.light.low.tolist()
        self.image = Image.new("RGB", (size, size))
        self.draw = ImageDraw.Draw(self.image)
        self.rows = ((np.arange(size, dtype=np.float32) + 0.5) / size)[:, None]  # y of each row of pixels, (size, 1)

    def ink(self, colour: Rgb, depth: float = 0.0, vary: float = 0.0) -> Ink:
        """A colour in this light at ``depth`` (0 near, 1 far), its brightness varied by up to the share ``vary``."""
        gain, clear = 1 + vary * (2 * self.rng.random() - 1), math.exp(-depth * self.light.haze)
        red, green, blue = (
            min(255, int(255 * (part * gain * light * clear + low * (1 - clear))))
            for part, light, low in zip(colour, self._ambient, self._low, strict=True)
        )
        return red, green, blue

    def shade(self, colours: np.ndarray, depth: float = 0.0) -> np.ndarray:
        clear = math.exp(-depth * self.light.haze)
        return colours * (self.light.ambient * clear) + self.light.low * (1 - clear)

    def polygon(self, points: Sequence[tuple[float, float]] | np.ndarray, ink: Ink) -> None:
        self.draw.polygon((np.asarray(points) * self.size).ravel().tolist(), fill=ink)

    def line(self, points: Sequence[tuple[float, float]] | np.ndarray, ink: Ink, width: float) -> None:
        flat = (np.asarray(points) * self.size).ravel().tolist()
        self.draw.line(flat, fill=ink, width=max(1, round(width * self.size)))

    def box(self, left: float, top: float, right: float, bottom: float, ink: Ink) -> None:
        size = self.size
        if right > left and bottom > top:
            self.draw.rectangle((left * size, top * size, right * size, bottom * size), fill=ink)

    def oval(self, x: float, y: float, across: float, down: float, ink: Ink) -> None:
        size = self.size
        self.draw.ellipse(((x - across) * size, (y - down) * size, (x + across) * size, (y + down) * size), fill=ink)

    def paint(self, colours: np.ndarray, mask: np.ndarray | None = None, start: int = 0) -> None:
        """Paint final colours (rows, size, 3), 0..1, from row ``start`` on, as opaque as ``mask``, 0..1."""
        layer = Image.fromarray((colours * 255).clip(0, 255).astype(np.uint8))
        if mask is None:
            self.image.paste(layer, (0, start))
        else:
            cover = (np.broadcast_to(mask, colours.shape[:2]) * 255).clip(0, 255).astype(np.uint8)
            self.image.paste(layer, (0, start), Image.fromarray(cover))


def noise(
    rng: np.random.Generator, size: int, *, cells: float, octaves: int = 4, stretch: float = 1.0, rough: float = 0.55
) -> np.ndarray:
    """Fractal noise, float32 (size, size) around 0, most of it in -1..1; ``stretch`` > 1 lengthens it sideways."""
    total, weight = np.zeros((size, size), np.float32), 1.0
    for octave in range(octaves):
        fine, long = cells * 2**octave, stretch**0.5
        shape = (max(2, min(size, round(fine * long))), max(2, min(size, round(fine / long))))
        grid = rng.standard_normal(shape, np.float32)
        total += weight * np.asarray(Image.fromarray(grid).resize((size, size), Image.Resampling.BILINEAR))
        weight *= rough
    return total * 0.75


def ground_noise(
    rng: np.random.Generator, size: int, horizon: float, *, cells: float, stretch: float, octaves: int = 4
) -> np.ndarray:
    """`noise` in perspective on level ground, ever flatter up to the row of the horizon, (size, size)."""
    flat = noise(rng, size, cells=cells, stretch=stretch, octaves=octaves)
    below = np.clip((np.arange(size) + 0.5) / size - horizon, 0.004, None)
    return flat[(size * 0.13 / below).astype(int) % size]


def ridge(rng: np.random.Generator, size: int, *, rough: float, peaks: int = 2) -> np.ndarray:
    """The outline of a mountain range by midpoint displacement, (size,) in 0..1; 1 is its highest peak."""
    line, spread = rng.random(2 * peaks + 1), 0.5
    line[1::2] += 0.6
    while len(line) < size:
        middle = (line[1:] + line[:-1]) / 2 + spread * rng.uniform(-0.5, 0.5, len(line) - 1)
        line = np.insert(line, np.arange(1, len(line)), middle)
        spread *= rough
    line = np.interp(np.linspace(0, 1, size), np.linspace(0, 1, len(line)), line)
    return ((line - line.min()) / (np.ptp(line) + 1e-6)).astype(np.float32)


def sky(c: Canvas, horizon: float) -> None:
    """Paint a sky over the sheet: a gradient down to the horizon, sun or moon or stars, clouds."""
    rng, light, size = c.rng, c.light, c.size
    down = np.clip(c.rows / max(horizon, 0.1), 0, 1)[..., None] ** rng.uniform(0.6, 1.8)
    colours = np.broadcast_to(mix(light.top, light.low, down), (size, size, 3))
    if light.time != "fog" and chance(rng, 0.75):
        cover = noise(rng, size, cells=rng.uniform(1.5, 4), stretch=rng.uniform(1.5, 6)) + rng.uniform(-0.9, 0.7)
        bright = light.low * 0.4 + 0.6 * light.ambient * rng.uniform(0.55, 1.1)
        cover = np.clip(cover, 0, 1)[..., None] * rng.uniform(0.5, 1)
        colours = mix(colours, bright, cover)
    c.paint(colours)
    x, y = rng.uniform(0.05, 0.95), horizon * rng.uniform(0.2, 0.95)
    if light.time in ("day", "dusk") and chance(rng, 0.35):
        glow = np.exp(-np.hypot(c.rows - y, c.rows.T - x) / rng.uniform(0.05, 0.2))
        c.paint(np.broadcast_to(rgb((1.0, 0.93, 0.75)), (size, size, 3)), glow * 0.9)
        c.oval(x, y, 0.03, 0.03, (255, 248, 220))
    elif light.time == "night":
        for star_x, star_y in rng.random((rng.integers(0, 40), 2)):
            c.oval(star_x, star_y * horizon, 0.002, 0.002, (200, 205, 220))
        if chance(rng, 0.4):
            c.oval(x, y, 0.03, 0.03, (236, 234, 215))


def photograph(c: Canvas, side: int) -> np.ndarray:
    """Photograph the sheet, uint8 (side, side, 3): cut-out, tilt, lens, exposure, colour cast, grain."""
    rng = c.rng
    tilt = math.radians(rng.normal(0, 3))
    across = rng.uniform(0.74, 0.98) / (abs(math.sin(tilt)) + math.cos(tilt))  # always inside the sheet
    room = (1 - across * (abs(math.sin(tilt)) + math.cos(tilt))) / 2
    x, y = 0.5 + rng.uniform(-room, room), 0.5 + rng.uniform(-room, room)
    cos, sin = across * c.size / (2 * side) * math.cos(tilt), across * c.size / (2 * side) * math.sin(tilt)
    corner = (x * c.size - (cos - sin) * side, y * c.size - (cos + sin) * side)
    matrix = (cos, -sin, corner[0], sin, cos, corner[1])
    photo = c.image.transform((2 * side, 2 * side), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR).reduce(2)
    if chance(rng, 0.3):
        photo = photo.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.9) * side / 100))
    photo = ImageEnhance.Color(photo).enhance(rng.uniform(0.4, 1.4))
    pixels = np.asarray(photo, np.float32) / 255
    if chance(rng, 0.5):
        pixels = pixels[:, ::-1]
    reach = np.linspace(-1, 1, side, dtype=np.float32) ** 2
    pixels = pixels * (1 - rng.uniform(0, 0.25) * (reach[:, None] + reach)[..., None])
    mean = rng.uniform(0.16, 0.38) if c.light.time == "night" else rng.uniform(0.32, 0.64)
    gain = (mean / max(float(pixels.mean()), 0.02)) ** 0.7  # the camera's meter, which is not always right
    pixels = pixels * (gain * np.exp(0.08 * rng.standard_normal(3, np.float32)))
    pixels = pixels.clip(0, 1) ** math.exp(rng.normal(0, 0.2))
    pixels = pixels + rng.uniform(0, 0.08) * (0.7 - pixels)  # veiling glare
    pixels = pixels + rng.uniform(0.003, 0.03) * rng.standard_normal(pixels.shape, np.float32)
    return (pixels.clip(0, 1) * 255).round().astype(np.uint8)
