"""Images of one photograph with different bytes: saved again, resized, trimmed a little, made darker or brighter.

A pair must pass ever dearer tests. The *detail* of coarse thumbnails (less its 4x4 blocks' means and the mean of each
row) must correlate, and no point may differ by more than its surroundings. These cannot tell apart all pictures that
share a ground: icons on white, products before one wall, radiographs, frames of a fixed camera. So the last test lays
one thumbnail over the other by least squares, in position and size, and asks in each window whether something is left
that neither light nor contrast explains, compared with how finely the window is drawn. The *worst* window decides: what
two pictures share does not speak for them, and a blank area says nothing either way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from scipy.ndimage import correlate1d, maximum_filter, minimum_filter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cnn_core.images.decoding import THUMBNAIL as SIDE

# Measured on photographs and on generated sets of different pictures that share a ground (docs/decisions.md): of true
# copies less than 0.45 is left, of different pictures more than 0.55. Clipped highlights are not recognised.
MAX_LEFT = 0.5
QUICK_LEFT = 0.8  # without laying one over the other
MAX_STRAY = 1.2  # of a coarse thumbnail's standard deviation: how far a point may lie outside its surroundings
MIN_CORRELATION = 0.70  # of the detail

_STEPS = 4  # of the alignment (Lucas and Kanade, 1981)
_REACH = np.linspace(-1, 1, SIDE, dtype=np.float32)
_FURTHEST = 4  # pixels of a thumbnail that anything is moved
_EDGE, _WINDOW = 2, 8  # pixels; what a trim cut off stands at the edge
_NOISE = 1.5  # grey levels that saving again as JPEG leaves anywhere
_BLOCK = 128  # images compared with all others at a time: 13 MB for 25,000
_PAIRS = 500  # pairs compared at a time
_UNIT = 2_000  # norm of a detail in whole numbers: products stay below 2**24, so float32 sums are exact in any order


def near_pairs(
    thumbnails: Sequence[np.ndarray], *, threads: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield pairs of near-duplicates among thumbnails, uint8 (SIDE, SIDE), as rows: int (N,) < int (N,)."""
    if not thumbnails:
        return
    grey = np.stack(thumbnails)
    detail, surroundings = details(grey), _surroundings(grey)

    def near(pairs: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        for test in (
            lambda left, right: _stray(surroundings, left, right) <= MAX_STRAY,
            lambda left, right: _quick_left_over(grey[left], grey[right]) <= QUICK_LEFT,
            lambda left, right: left_over(grey[left], grey[right]) <= MAX_LEFT,
        ):
            if len(pairs[0]):
                passed = test(*pairs)
                pairs = pairs[0][passed], pairs[1][passed]
        return pairs

    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(grey), _BLOCK):
            # A blank image has no detail, so it correlates with nothing.
            alike = detail[start : start + _BLOCK] @ detail[start:].T >= MIN_CORRELATION * _UNIT**2
            rows, others = (index + start for index in np.nonzero(alike))
            rows, others = rows[rows < others], others[rows < others]
            chunks = range(0, len(rows), _PAIRS)
            yield from pool.map(near, ((rows[at : at + _PAIRS], others[at : at + _PAIRS]) for at in chunks))


def details(grey: np.ndarray) -> np.ndarray:
    """Turn uint8 (N, SIDE, SIDE) into whole float32 (N, 256) of the norm `_UNIT`, free of light and slopes."""
    blocks = _coarse(grey).reshape(len(grey), 4, 4, 4, 4)
    rest = (blocks - blocks.mean(axis=(2, 4), keepdims=True)).reshape(len(grey), 16, 16)
    rest = (rest - rest.mean(axis=2, keepdims=True)).reshape(len(grey), -1)
    norms = np.linalg.norm(rest, axis=1, keepdims=True)
    return np.rint(np.divide(rest * _UNIT, norms, out=np.zeros_like(rest), where=norms > 1e-6)).astype(np.float32)


def _coarse(grey: np.ndarray) -> np.ndarray:
    return grey.reshape(len(grey), 16, 2, 16, 2).mean(axis=(2, 4))


def _surroundings(grey: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coarse thumbnails in units of their standard deviation, and the lowest and highest value around each point."""
    coarse = _coarse(grey)
    deviations = np.maximum(coarse.std(axis=(1, 2), keepdims=True), 1)
    values = ((coarse - coarse.mean(axis=(1, 2), keepdims=True)) / deviations).astype(np.float32)
    return values, minimum_filter(values, (1, 3, 3)), maximum_filter(values, (1, 3, 3))


def _stray(surroundings: tuple[np.ndarray, np.ndarray, np.ndarray], left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """How far the point of each pair lies outside the other's surroundings that does so the furthest."""
    strays = []
    for one, other in ((left, right), (right, left)):
        values, low, high = surroundings[0][one], surroundings[1][other], surroundings[2][other]
        strays.append(np.maximum(values - high, low - values).max(axis=(1, 2)))
    return np.maximum(*strays)


def _quick_left_over(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    one, other = _smooth(first), _smooth(second)
    return _unexplained(one, other, second - other, stride=_WINDOW)


def left_over(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """What is left in the worst window when one thumbnail, uint8 (N, SIDE, SIDE), is laid over the other.

    Both ways are tried, as one may be easier to move, so the order says nothing.
    """
    return np.minimum(_left_over_one_way(first, second), _left_over_one_way(second, first))


def _left_over_one_way(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    one, other = _smooth(first), _smooth(second)
    moved = _aligned(one, other)
    return np.maximum(_unexplained(moved, other, second - other), _unexplained(other, moved, first - one))


def _aligned(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Shift and stretch ``source``, float32 (N, SIDE, SIDE), sideways and downwards until it lies on ``target``."""
    count = len(source)
    goal, moved, moves = target.reshape(count, -1, 1), source, np.zeros((count, 4), np.float32)
    for _ in range(_STEPS):
        down, across = np.gradient(moved, axis=(1, 2))
        columns = [moved, np.ones_like(moved), across, across * _REACH, down, down * _REACH[:, None]]
        gain, _, *steps = _fitted(np.stack(columns, axis=-1).reshape(count, -1, 6), goal)[..., 0].T
        gain = np.where(np.abs(gain) > 0.2, gain, 1)  # of two pictures that have nothing in common
        moves = np.clip(moves + np.stack([step / gain for step in steps], axis=1), -_FURTHEST, _FURTHEST)
        moved = _sampler(moves[:, 2:]) @ source @ _sampler(moves[:, :2]).swapaxes(1, 2)
    return moved


def _sampler(move: np.ndarray) -> np.ndarray:
    """Matrices (N, SIDE, SIDE) that read rows at positions moved by a shift and a stretch (N, 2), interpolated."""
    at = np.clip(np.arange(SIDE, dtype=np.float32) + move[:, :1] + move[:, 1:] * _REACH, 0, SIDE - 1)
    return np.maximum(0, 1 - np.abs(at[:, :, None] - np.arange(SIDE, dtype=np.float32)))


def _unexplained(source: np.ndarray, target: np.ndarray, fine: np.ndarray, *, stride: int = _WINDOW // 2) -> np.ndarray:
    """What no change of light, contrast and position within a window makes of ``source``, beside the fine structure."""
    down, across = np.gradient(source, axis=(1, 2))
    columns = [_windows(view, stride) for view in (source, source**2 / 255, across, down, np.ones_like(source))]
    stacked, goal = np.stack(columns, axis=-1), _windows(target, stride)[..., None]
    rest = (goal - stacked @ _fitted(stacked, goal))[..., 0]
    return (_rms(rest) / (_NOISE + _rms(_windows(fine, stride)))).max(axis=1)


def _fitted(columns: np.ndarray, goal: np.ndarray) -> np.ndarray:
    turned = columns.swapaxes(-1, -2)
    ridge = np.eye(columns.shape[-1], dtype=np.float32)  # one grey level: a blank window has a solution, too
    return np.linalg.solve(turned @ columns + ridge, turned @ goal)


def _windows(pictures: np.ndarray, stride: int) -> np.ndarray:
    inner = pictures[:, _EDGE:-_EDGE, _EDGE:-_EDGE]
    windows = np.lib.stride_tricks.sliding_window_view(inner, (_WINDOW, _WINDOW), axis=(1, 2))
    return windows[:, ::stride, ::stride].reshape(len(pictures), -1, _WINDOW**2)


def _rms(values: np.ndarray) -> np.ndarray:
    return np.sqrt((values**2).mean(axis=-1))


def _smooth(grey: np.ndarray) -> np.ndarray:
    weights = np.array([0.25, 0.5, 0.25], np.float32)
    rows = correlate1d(grey.astype(np.float32), weights, axis=1, mode="nearest")
    return correlate1d(rows, weights, axis=2, mode="nearest")


def joined(count: int, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Number the groups of ``count`` rows that pairs of rows join, int (count,)."""
    edges = coo_array((np.ones(len(left), bool), (left, right)), shape=(count, count))
    return connected_components(edges, directed=False)[1]
