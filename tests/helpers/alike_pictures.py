"""Sets of different pictures that share a ground: icons, drawings, radiographs, products, frames of a fixed camera."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIDE = 128


def icon(seed: int) -> Image.Image:
    """One of many small coloured signs in the middle of a white square."""
    rng = np.random.default_rng([1, seed])
    image = Image.new("RGB", (SIDE, SIDE), "white")
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(1, 4))):
        x, y, reach = *rng.uniform(48, 80, 2), rng.uniform(8, 22)
        ink, box = tuple(rng.integers(0, 200, 3).tolist()), (x - reach, y - reach, x + reach, y + reach)
        kind = int(rng.integers(4))
        if kind == 0:
            draw.ellipse(box, fill=ink)
        elif kind == 1:
            draw.rectangle(box, fill=ink)
        elif kind == 2:
            draw.regular_polygon((x, y, reach), int(rng.integers(3, 7)), rotation=int(rng.integers(360)), fill=ink)
        else:
            draw.arc(box, *sorted(rng.uniform(0, 360, 2)), fill=ink, width=6)
    return image


def drawing(seed: int) -> Image.Image:
    """Thin dark strokes on paper."""
    rng = np.random.default_rng([2, seed])
    image = Image.new("L", (SIDE, SIDE), 250)
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(2, 6))):
        points = rng.uniform(20, 108, (int(rng.integers(3, 8)), 2))
        draw.line([tuple(point) for point in points.tolist()], fill=20, width=2)
    return image


def product(seed: int) -> Image.Image:
    """A bottle before a pale wall with its shadow, always at the same place; its label and colour differ."""
    rng = np.random.default_rng([3, seed])
    image = Image.fromarray(np.tile(np.linspace(235, 215, SIDE)[:, None], (1, SIDE)).astype(np.uint8)).convert("RGB")
    draw = ImageDraw.Draw(image)
    draw.ellipse((36, 108, 100, 120), fill=(170, 170, 172))
    draw.rounded_rectangle((46, 40, 82, 114), 8, fill=tuple(rng.integers(30, 200, 3).tolist()))
    draw.rectangle((58, 18, 70, 42), fill=(60, 60, 60))
    for top in range(60, 100, 8):
        draw.rectangle((50, top, 50 + int(rng.integers(4, 28)), top + 4), fill=tuple(rng.integers(0, 256, 3).tolist()))
    return image


def radiograph(seed: int) -> Image.Image:
    """Something like a chest from the front: the same parts in everybody, a little differently built."""
    rng = np.random.default_rng([4, seed])
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE - 0.5
    shift, build = rng.normal(0, 0.012, 2), 1 + rng.normal(0, 0.06, 6)
    x, y = x + shift[0], y + shift[1]
    body = 1 / (1 + np.exp((np.hypot(x / (0.46 * build[0]), y / 0.6) - 1) * 14))
    lungs = sum(
        1 / (1 + np.exp((np.hypot((x - side * 0.19) / (0.13 * build[1]), (y + 0.02) / (0.3 * build[2])) - 1) * 8))
        for side in (-1, 1)
    )
    ribs = np.sin((y * 34 * build[3] + 12 * x**2) + rng.normal(0, 0.4)) * lungs
    heart = np.exp(-(((x - 0.05) / (0.11 * build[4])) ** 2) - ((y - 0.12) / (0.13 * build[5])) ** 2)
    coarse = Image.fromarray(rng.normal(0, 1, (24, 24)).astype(np.float32)).resize(
        (SIDE, SIDE), Image.Resampling.BICUBIC
    )
    grey = 20 + 165 * body - 95 * lungs + 14 * ribs + 60 * heart + 5 * np.asarray(coarse) + rng.normal(0, 2, x.shape)
    return Image.fromarray(grey.clip(0, 255).astype(np.uint8))


def frame(seed: int) -> Image.Image:
    """What a fixed camera sees: always the same yard; a person or a car stands somewhere else each time."""
    ground = np.random.default_rng(5).integers(60, 190, (14, 14, 3), np.uint8)
    image = Image.fromarray(ground).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    rng = np.random.default_rng([5, seed])
    x, y = rng.uniform(16, 112, 2)
    draw = ImageDraw.Draw(image)
    width, height = ((4, 11), (12, 6))[seed % 2]
    draw.ellipse((x - width, y - height, x + width, y + height), fill=tuple(rng.integers(0, 256, 3).tolist()))
    noisy = np.asarray(image.filter(ImageFilter.GaussianBlur(0.6))) + rng.normal(0, 2, (SIDE, SIDE, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


ALIKE = {"icons": icon, "drawings": drawing, "products": product, "radiographs": radiograph, "frames": frame}
