"""Generated scenes: drawn pictures of the six classes of Intel Image Classification, a sample without a download.

They are no photographs and replace none. Each shows the marks of its class (windows, trunks, crevasses, ridges, waves,
a road that runs to a vanishing point) under light, weather, colours and clutter that all classes share. So neither the
mean colour nor a linear model of the pixels can tell the classes apart.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cnn_core.synthetic.canvas import Canvas, Rgb, chance, ground_noise, noise, photograph, pick, rgb, ridge, sky
from cnn_core.synthetic.ground import GROUNDS, ROCKS, ground, ice_colours, mountain_range, water
from cnn_core.synthetic.objects import boat, clutter, house, person, rock
from cnn_core.synthetic.plants import LEAVES, SPECIES, broadleaf, conifer, grove, palm, trunk
from cnn_core.synthetic.towns import buildings, street


def draw_scene(kind: str, side: int, rng: np.random.Generator) -> np.ndarray:
    """Draw one picture of a class of `SCENES`, uint8 (side, side, 3), twice as large and reduced: so edges are smooth.

    The same state of ``rng`` gives the same bytes with the same versions of numpy and Pillow.
    """
    if kind not in SCENES:
        raise ValueError(f"there is no generated scene of {kind}: the classes are {', '.join(SCENES)}")
    c = Canvas(2 * side, rng)
    horizon = SCENES[kind](c)
    clutter(c, horizon)
    return photograph(c, side)


def forest(c: Canvas) -> float:
    """Draw a forest: among its trunks, perhaps with a path, or its edge, or its crowns from above."""
    rng = c.rng
    horizon = rng.uniform(0.3, 0.75)
    sky(c, horizon)
    leaves = pick(rng, LEAVES)
    pick(rng, (_among_trunks, _among_trunks, _forest_edge, _crowns))(c, horizon, leaves)
    return horizon * 0.6


def _among_trunks(c: Canvas, horizon: float, leaves: tuple[Rgb, ...]) -> None:
    rng = c.rng
    speckle = noise(rng, c.size, cells=rng.uniform(6, 14), octaves=3)
    canopy = np.clip(speckle + rng.uniform(-0.2, 0.9) + (horizon - c.rows) * 1.5, 0, 1)
    gain = (0.75 + 0.4 * noise(rng, c.size, cells=20, octaves=2))[..., None]
    c.paint(c.shade(rgb(pick(rng, leaves)) * gain, 0.5), canopy)
    ground(c, horizon, (*leaves, *GROUNDS[:4]))
    if chance(rng, 0.3):  # a path
        x, ink = rng.uniform(0.3, 0.7), c.ink((0.55, 0.46, 0.34), 0.2)
        c.polygon([(x - 0.02, horizon), (x + 0.02, horizon), (x + 0.3, 1.0), (x - 0.25, 1.0)], ink)
    slim = rng.uniform(0.6, 1.5)
    for near in np.sort(rng.random(rng.integers(9, 26)) ** 1.6).tolist():
        trunk(c, rng.uniform(-0.05, 1.05), horizon + near * (1 - horizon), (0.007 + 0.045 * near) * slim, 1 - near)
    for _ in range(int(rng.integers(0, 50))):
        x, y = rng.random(), rng.uniform(horizon, 1.0)
        c.oval(x, y, 0.05 * (y - horizon) + 0.01, 0.04 * (y - horizon) + 0.006, c.ink(pick(rng, leaves), 1 - y, 0.35))


def _forest_edge(c: Canvas, horizon: float, leaves: tuple[Rgb, ...]) -> None:
    rng = c.rng
    if chance(rng, 0.3):
        mountain_range(c, horizon, rng.uniform(0.1, 0.3), 1.2)
    ground(c, horizon)
    species = SPECIES if chance(rng, 0.3) else (pick(rng, SPECIES[:2]),)
    tall, count = rng.uniform(0.35, 0.75), int(rng.integers(22, 36))
    for near in np.linspace(0, 1, count).tolist():
        foot, tree = horizon + 0.02 + near**1.5 * (0.95 - horizon), pick(rng, species)
        x, height = rng.uniform(-0.05, 1.05), tall * (0.55 + 0.6 * near) * rng.uniform(0.75, 1.2)
        tree(c, x, foot, height, pick(rng, leaves), 0.8 - 0.7 * near)


def _crowns(c: Canvas, horizon: float, leaves: tuple[Rgb, ...]) -> None:
    rng = c.rng
    horizon *= rng.uniform(-0.2, 0.7)
    ground(c, horizon, tuple((0.55 * red, 0.55 * green, 0.55 * blue) for red, green, blue in leaves))
    conifers, size = chance(rng, 0.5), rng.uniform(0.2, 0.34)
    for near in (np.linspace(0, 1.1, 64) ** 1.3).tolist():
        x, y, tall = rng.uniform(-0.05, 1.05), horizon + near * (1 - horizon), size * (0.35 + near)
        if conifers:
            conifer(c, x, y + tall * 0.4, tall, pick(rng, leaves), 1 - 0.8 * near)
        else:
            broadleaf(c, x, y + tall * 0.7, tall, pick(rng, leaves), 1 - 0.8 * near)


def glacier(c: Canvas) -> float:
    """Draw a glacier: a tongue of ice between slopes, a field of crevasses, or a wall of ice over water."""
    rng = c.rng
    horizon = rng.uniform(0.2, 0.55)
    sky(c, horizon)
    if chance(rng, 0.8):
        mountain_range(c, horizon + 0.05, rng.uniform(0.12, 0.35), 0.7, snow=rng.uniform(0, 0.8))
    pick(rng, (_tongue, _ice_field, _ice_wall))(c, horizon)
    return horizon


def _ice_field(c: Canvas, horizon: float) -> None:
    rng, size = c.rng, c.size
    cracks = ground_noise(rng, size, horizon - 0.12, cells=rng.uniform(3, 6), stretch=rng.uniform(1.5, 7))
    bend = (rng.uniform(-0.5, 0.5) * np.arange(size)).astype(int)
    cracks = cracks[(np.arange(size)[:, None] + bend) % size, np.arange(size)] if chance(rng, 0.5) else cracks
    tone = noise(rng, size, cells=3)
    edge = horizon + 0.04 * noise(rng, size, cells=6, octaves=2)[:1]
    c.paint(c.shade(ice_colours(c, cracks, tone), 0.15), np.clip((c.rows - edge) * size, 0, 1))


def _tongue(c: Canvas, horizon: float) -> None:
    rng, size = c.rng, c.size
    ground(c, horizon, ROCKS)
    near = np.clip((c.rows - horizon) / (1 - horizon), 0, 1)
    middle, bend = rng.uniform(0.3, 0.7), rng.uniform(-0.3, 0.3)
    line = middle + bend * np.sin(near * rng.uniform(2, 5) + rng.uniform(0, 6)) * (1 - near)
    half = rng.uniform(0.05, 0.2) + rng.uniform(0.2, 0.5) * near
    across = (c.rows.T - line) / half  # -1..1 on the ice
    ragged = across + 0.12 * noise(rng, size, cells=6)
    bow = ((c.rows + 0.1 * across**2 * (0.3 + near)) * size).astype(int) % size
    columns = np.broadcast_to(np.arange(size), (size, size))
    cracks = ground_noise(rng, size, horizon - 0.15, cells=rng.uniform(4, 7), stretch=rng.uniform(3, 8))[bow, columns]
    bands = noise(rng, size, cells=6, octaves=2)[0][((across * 0.5 + 0.5) * (size - 1)).clip(0, size - 1).astype(int)]
    c.paint(c.shade(ice_colours(c, cracks, bands * 1.3), 0.25), np.clip((1 - np.abs(ragged)) * 12, 0, 1) * (near > 0))


def _ice_wall(c: Canvas, _horizon: float) -> None:
    rng, size = c.rng, c.size
    shore = rng.uniform(0.62, 0.9)
    top = rng.uniform(0.2, shore - 0.2) - 0.12 * ridge(rng, size, rough=0.7, peaks=6)
    cracks = noise(rng, size, cells=rng.uniform(5, 9), stretch=rng.uniform(0.08, 0.35))
    ice = ice_colours(c, cracks, noise(rng, size, cells=4, stretch=0.4))
    c.paint(c.shade(ice, 0.15), np.clip((c.rows - top) * size, 0, 1))
    water(c, shore)
    for _ in range(int(rng.integers(0, 14))):
        y = rng.uniform(shore, 1.0)
        half = rng.uniform(0.01, 0.09) * (0.4 + 3 * (y - shore))
        edge = [(half * t, -half * rng.uniform(0.2, 0.7)) for t in (-0.6, -0.1, 0.5)]
        outline = np.array([(-half, 0.0), *edge, (half, 0.0)])
        c.polygon(outline + np.array([rng.random(), y]), c.ink((0.85, 0.93, 0.98), 0.1, 0.15))


def mountain(c: Canvas) -> float:
    """Draw ranges one behind the other; before them a meadow, a lake, trees, a hut, or nothing."""
    rng = c.rng
    horizon = rng.uniform(0.55, 1.0)
    sky(c, horizon)
    snow, rocks = pick(rng, (0.0, 0.0, 0.3, 0.6, 0.9)), pick(rng, ROCKS)
    layers = int(rng.integers(1, 4))
    for layer in range(layers):
        left = 1 - layer / layers
        tall = rng.uniform(0.4, 0.75) * (left if layer else 1.0)
        foot = horizon + 0.1 * (1 - left)
        mountain_range(c, foot, tall * min(1.0, horizon), left, snow=snow * left, colour=rocks)
    if horizon < 0.92:
        front = rng.random()
        if front < 0.3:
            water(c, horizon)
        else:
            ground(c, horizon)
        if front > 0.5:
            grove(c, rng.uniform(0.95, 1.05), int(rng.integers(2, 12)), rng.uniform(0.12, 0.35), horizon)
        if chance(rng, 0.2):
            house(c, rng.uniform(0.1, 0.9), rng.uniform(horizon + 0.03, 1.0), rng.uniform(0.08, 0.2), 0.3)
    return horizon * 0.5


def sea(c: Canvas) -> float:
    """Draw water up to the horizon, calm or rough, perhaps with a coast, a beach, rocks, boats."""
    rng = c.rng
    horizon = rng.uniform(0.15, 0.7)
    sky(c, horizon)
    if chance(rng, 0.35):
        mountain_range(c, horizon, rng.uniform(0.05, 0.25), 1.2)
    water(c, horizon)
    for _ in range(int(rng.integers(0, 4))):
        y = horizon + rng.uniform(0.01, 0.3) * (1 - horizon)
        boat(c, rng.uniform(0.05, 0.95), y, 0.03 + 0.6 * (y - horizon), 0.8 - 1.5 * (y - horizon))
    if chance(rng, 0.5):
        _beach(c, horizon)
    if chance(rng, 0.35):
        for _ in range(int(rng.integers(1, 9))):
            y = rng.uniform(horizon + 0.1, 1.0)
            rock(c, rng.random(), y, rng.uniform(0.1, 0.5) * (y - horizon) + 0.01, 1 - y)
    if chance(rng, 0.15):
        for _ in range(int(rng.integers(1, 3))):
            palm(c, pick(rng, (rng.uniform(0, 0.2), rng.uniform(0.8, 1.0))), 1.0, rng.uniform(0.5, 1.0), LEAVES[0][0])
    return horizon


def _beach(c: Canvas, horizon: float) -> None:
    rng, size = c.rng, c.size
    across = c.rows.T
    slope = rng.uniform(0.65, 1.0) + rng.uniform(-0.35, 0.35) * (across - 0.5)
    shore = slope + 0.03 * np.sin(across * rng.uniform(4, 12))
    shore = np.maximum(shore + 0.012 * noise(rng, size, cells=6)[0], horizon + 0.2)
    sand = rgb(pick(rng, GROUNDS[2:])) * (1 + 0.1 * noise(rng, size, cells=25, octaves=2))[..., None]
    seam = np.clip(1 - np.abs(c.rows - shore + 0.012) / 0.022, 0, 1)
    c.paint(np.broadcast_to(c.light.ambient * 0.95, (size, size, 3)), seam)
    c.paint(c.shade(sand), np.clip((c.rows - shore) * size / 3, 0, 1))
    for _ in range(int(rng.integers(0, 4))):
        person(c, rng.random(), rng.uniform(min(0.95, float(shore.min()) + 0.02), 1.0), rng.uniform(0.05, 0.12))


# Each function draws its class, and returns the row down to which birds may fly.
SCENES: dict[str, Callable[[Canvas], float]] = {
    "buildings": buildings,
    "forest": forest,
    "glacier": glacier,
    "mountain": mountain,
    "sea": sea,
    "street": street,
}
