"""The two classes of generated scenes (`synthetic.scenes`) with houses: buildings and street."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cnn_core.synthetic.canvas import Canvas, Ink, chance, pick, sky
from cnn_core.synthetic.ground import ground, mountain_range
from cnn_core.synthetic.objects import WALLS, car, house, lamp_post, person, rectangle, wall
from cnn_core.synthetic.plants import LEAVES, SPECIES, broadleaf, grove


def buildings(c: Canvas) -> float:
    """Draw a skyline, a house's corner, a facade that fills the picture, a row of houses, or towers from below."""
    rng = c.rng
    horizon = rng.uniform(0.6, 0.95)
    sky(c, horizon)
    view = pick(rng, (_skyline, _corner, _facade, _row, _from_below))
    view(c, horizon)
    if chance(rng, 0.45):
        grove(c, rng.uniform(0.92, 1.05), int(rng.integers(1, 5)), rng.uniform(0.15, 0.5))
    return horizon * 0.5


def _skyline(c: Canvas, horizon: float) -> None:
    rng = c.rng
    if chance(rng, 0.3):
        mountain_range(c, horizon, rng.uniform(0.1, 0.3), 1.0)
    ground(c, horizon)
    for depth in np.sort(rng.uniform(0, 1.0, rng.integers(6, 14)))[::-1].tolist():
        x, half, tall = rng.random(), rng.uniform(0.05, 0.13), rng.uniform(0.2, 0.85) * (1 - 0.3 * depth)
        foot = horizon + 0.12 * (1 - depth)
        columns, rows = max(2, round(half * rng.uniform(30, 60))), max(3, round(tall * rng.uniform(12, 26)))
        wall(c, rectangle(x - half, foot - tall, x + half, foot), rows, columns, pick(rng, WALLS), depth)
        if chance(rng, 0.3):
            c.line([(x, foot - tall), (x, foot - tall - rng.uniform(0.03, 0.12))], c.ink((0.3,) * 3, depth), 0.008)


def _corner(c: Canvas, horizon: float) -> None:
    rng = c.rng
    ground(c, horizon)
    colour, edge = pick(rng, WALLS), rng.uniform(0.25, 0.75)
    top, rows, level = rng.uniform(-0.25, 0.25), int(rng.integers(3, 10)), rng.uniform(0.7, 0.95)
    foot = min(level + 0.25 * (level - top) * rng.uniform(0.2, 0.6), 1.1)
    for side in (-1, 1):
        far, shrink = edge + side * rng.uniform(0.35, 0.8), rng.uniform(0.4, 0.75)
        corners = np.array(
            [[edge, top], [far, level - (level - top) * shrink], [far, level + (foot - level) * shrink], [edge, foot]]
        )
        gain = 1.0 if side == c.light.side else 0.62
        tint = (colour[0] * gain, colour[1] * gain, colour[2] * gain)
        wall(c, corners[[1, 0, 3, 2]] if side < 0 else corners, rows, int(rng.integers(3, 9)), tint, 0.1)


def _facade(c: Canvas, horizon: float) -> None:
    rng = c.rng
    top = rng.uniform(-0.2, 0.2)
    turn = rng.normal(0, 0.12, 2)
    corners = rectangle(rng.uniform(-0.2, 0.12), top, rng.uniform(0.88, 1.2), rng.uniform(0.95, 1.2))
    corners[:, 1] += (turn[0], -turn[0], turn[1], -turn[1])
    ground(c, min(horizon, 0.9))
    wall(c, corners, int(rng.integers(3, 10)), int(rng.integers(3, 10)), pick(rng, WALLS))
    if chance(rng, 0.4):
        x = rng.uniform(0.2, 0.8)
        c.box(x - 0.06, 0.78, x + 0.06, 1.0, c.ink((0.25, 0.16, 0.12), 0, 0.4))


def _row(c: Canvas, horizon: float) -> None:
    rng = c.rng
    if chance(rng, 0.3):
        mountain_range(c, horizon, rng.uniform(0.1, 0.35), 1.0)
    ground(c, horizon * 0.9)
    count = int(rng.integers(1, 5))
    for number in range(count):
        x, y = (number + rng.uniform(0.3, 0.7)) / count, horizon + rng.uniform(0, 0.06)
        house(c, x, y, rng.uniform(0.45, 0.8) / count**0.4, 0.1)


def _from_below(c: Canvas, _horizon: float) -> None:
    rng = c.rng
    summit = np.array([rng.uniform(0.3, 0.7), rng.uniform(-0.5, 0.1)])
    for x in np.sort(rng.uniform(-0.1, 1.1, rng.integers(2, 5))).tolist():
        half, reach = rng.uniform(0.12, 0.3), rng.uniform(0.45, 0.8)
        foot = np.array([[x - half, 1.1], [x + half, 1.1]])
        left, right = foot + (summit - foot) * reach
        rows, columns = int(rng.integers(6, 14)), int(rng.integers(3, 7))
        wall(c, np.array([left, right, foot[1], foot[0]]), rows, columns, pick(rng, WALLS), 0.15)


Projection = Callable[[float, float, float], tuple[float, float]]  # right, up, away -> x, y on the sheet


def street(c: Canvas) -> float:
    """Draw a road to its vanishing point, with houses or trees along both sides, cars, lamps, people."""
    rng = c.rng
    horizon, middle = rng.uniform(0.35, 0.65), rng.uniform(0.3, 0.7)
    sky(c, horizon)
    if chance(rng, 0.25):
        mountain_range(c, horizon, rng.uniform(0.05, 0.25), 1.2)
    ground(c, horizon)
    eye, lane = rng.uniform(0.25, 0.5), rng.uniform(0.3, 0.75)  # height of the eye over the road, half of its width

    def project(right: float, up: float, away: float) -> tuple[float, float]:
        return middle + right / away, horizon + (eye - up) / away

    walk = lane + rng.uniform(0.08, 0.3)
    _road(c, project, lane, walk)
    for side in (-1, 1):
        _roadside(c, project, side, walk + rng.uniform(0, 0.25))
    for away in np.sort(rng.uniform(1.0, 6, rng.integers(0, 6)))[::-1].tolist():
        x, y = project(lane * pick(rng, (-0.8, -0.45, 0.45, 0.8)), 0, away)
        car(c, x, y, 0.34 * lane / 0.5 / away, min(1, away / 8))
    for away in np.sort(rng.uniform(1.2, 5, rng.integers(0, 5)))[::-1].tolist():
        person(c, *project(pick(rng, (-1, 1)) * (lane + walk) / 2, 0, away), 0.34 / away, away / 8)
    return horizon * 0.7


def _road(c: Canvas, project: Projection, lane: float, walk: float) -> None:
    rng = c.rng
    asphalt, pavement = rng.uniform(0.18, 0.5), rng.uniform(0.4, 0.7)
    tint = pick(rng, ((1, 1, 1), (1, 0.92, 0.82), (0.94, 0.97, 1.05)))

    def strip(left: float, right: float, near: float, far: float, ink: Ink) -> None:
        c.polygon([project(left, 0, far), project(right, 0, far), project(right, 0, near), project(left, 0, near)], ink)

    for half, grey in ((walk, pavement), (lane + 0.02, 0.72), (lane, asphalt)):
        strip(-half, half, 0.4, 60, c.ink((grey * tint[0], grey * tint[1], grey * tint[2]), 0.1))
    paint = c.ink(pick(rng, ((0.92, 0.92, 0.88), (0.9, 0.75, 0.25))), 0.1)
    if chance(rng, 0.75):
        unbroken = chance(rng, 0.3)
        for away in np.geomspace(0.5, 12, 14).tolist():
            strip(-0.018, 0.018, away * (1.27 if unbroken else 1.12), away, paint)
    if chance(rng, 0.2):  # a crossing
        away = rng.uniform(0.7, 1.6)
        for x in np.arange(-lane, lane, lane / 4).tolist():
            strip(x, x + lane / 8, away * 1.25, away, paint)


def _roadside(c: Canvas, project: Projection, side: int, edge: float) -> None:
    rng = c.rng
    houses, gap = pick(rng, (0.95, 0.95, 0.6, 0.1)), rng.uniform(0, 0.4)
    tall, leaves = rng.uniform(0.5, 1.6), pick(rng, LEAVES)
    stops = np.geomspace(9, 0.45, int(rng.integers(5, 9)))
    lamps, tree_before = chance(rng, 0.45), rng.uniform(0, 0.5)
    for far, near in zip(stops[:-1].tolist(), stops[1:].tolist(), strict=True):
        depth, near_ = min(1.0, far / 8), near + gap * (far - near)
        if chance(rng, houses):
            up, colour = tall * rng.uniform(0.7, 1.3), pick(rng, WALLS)
            gain = 1.0 if side == -c.light.side else 0.7
            tint = (colour[0] * gain, colour[1] * gain, colour[2] * gain)
            (x, top), (_, foot) = project(side * edge, up, near_), project(side * edge, 0, near_)
            ends = [(x, top), project(side * edge, up, far), project(side * edge, 0, far), (x, foot)]
            corners = np.array(ends if side < 0 else [ends[1], ends[0], ends[3], ends[2]])
            wall(c, corners, max(2, round(up * rng.uniform(4, 7))), int(rng.integers(2, 5)), tint, depth)
            if gap > 0.05:  # the front of the house is visible in the gap
                left, right = sorted((x, x + side * 0.5 / near_))
                c.box(left, top, right, foot, c.ink(colour, depth, 0.1))
        else:
            x, y = project(side * (edge + 0.15), 0, far)
            pick(rng, (broadleaf, *SPECIES))(c, x, y, rng.uniform(0.6, 1.2) / far, pick(rng, leaves), depth)
        if chance(rng, tree_before):
            x, y = project(side * edge * 0.97, 0, far)
            broadleaf(c, x, y, rng.uniform(0.4, 0.8) / far, pick(rng, leaves), depth)
        if lamps:
            x, y = project(side * edge * 0.95, 0, far)
            lamp_post(c, x, y, 0.75 / far, -side * 0.15 / far, depth)
