"""How the images of one sign each look that a model learned from, and other pictures brought into that form.

A photograph of a sign on paper is dark on light, larger, off the middle. A network that learned light signs on black in
fields of 28 pixels answers it at chance. So a model folder says how its images look (`measure_look`), and `Fitter`
turns the ink of any picture of one sign into such an image, as LeCun, Cortes and Burges made MNIST: scaled to a box,
centred by its mass.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

MEASURED = 2000  # images of a set, evenly spaced
_FAINT, _INK = 0.2, 0.5  # of the way from ground to ink: where a sign's box ends, and what counts as ink
_TAILS = (0.005, 0.5, 0.995)  # quantiles that say what is usual
_SLACK = 0.25  # by which an image may be beyond the usual sizes and shares
_GROUND = 0.2  # of the range of brightness, that a ground may differ
_MIXED = 0.05  # of a set's images may have the other polarity
_FLAT = 24  # grey levels; with less contrast there is no ink
_LONGEST = 512  # pixels of a picture's longer side, in which ink is looked for
_COARSE = 64  # and in which its ground is
_SPECK = 0.05  # of the largest piece of ink, below which a piece is dirt


@dataclasses.dataclass(frozen=True, kw_only=True)
class Look:
    """How images of one sign look; lengths and areas are shares of the image's side and area.

    ``sizes`` are those of the longer side of the ink's box, and ``shares`` those of the ink: the lowest usual one, the
    median and the highest usual one. ``centre`` (row, column) is where the ink's middle is, and ``offset`` how far from
    there it usually is at most.
    """

    ground: float  # brightness in 0..1
    ink: float
    sizes: tuple[float, float, float]
    shares: tuple[float, float, float]
    centre: tuple[float, float]
    offset: float
    by_mass: bool  # whether the middle is the centre of mass, or that of the box

    @classmethod
    def of(cls, preprocessing: Mapping[str, Any]) -> Look | None:
        """Read the look that model.json holds, if any."""
        if not preprocessing.get("look"):
            return None
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in preprocessing["look"].items()
        }
        return cls(**values)

    def __str__(self) -> str:
        ink, ground = ("light", "dark") if self.ink > self.ground else ("dark", "light")
        return f"{ink} ink on a {ground} ground, the sign {self.sizes[1]:.0%} as long as the image's side"


def measure_look(images: np.ndarray) -> Look | None:
    """Measure how uint8 images (N, 1, H, H) look; None where they have no ink, or some have light and some dark ink."""
    images = np.asarray(images[:: max(1, -(-len(images) // MEASURED))])[:, 0]
    grounds = np.array([np.median(_frame(image)) for image in images])
    light = np.array([image.mean() > ground for image, ground in zip(images, grounds, strict=True)]).mean()
    ground = float(np.median(grounds)) / 255
    ink = float(np.median([np.quantile(image, 0.99 if light > 0.5 else 0.01) for image in images])) / 255
    if min(light, 1 - light) > _MIXED or abs(ink - ground) < _FLAT / 255:
        return None
    look = Look(ground=ground, ink=ink, sizes=(0, 0, 0), shares=(0, 0, 0), centre=(0.5, 0.5), offset=0, by_mass=True)
    facts = [fact for image in images if (fact := _facts(_ink(image, look))) is not None]
    if not facts:
        return None
    sizes, shares, *middles = (np.array(column) for column in zip(*facts, strict=True))
    centres = [np.median(middle, axis=0) for middle in middles]
    offsets = [np.abs(middle - centre).max(1) for middle, centre in zip(middles, centres, strict=True)]
    best = int(offsets[1].mean() < offsets[0].mean())
    row, column = centres[best].round(4).tolist()
    return dataclasses.replace(
        look,
        sizes=_usual(sizes),
        shares=_usual(shares),
        centre=(row, column),
        offset=_usual(offsets[best])[-1],
        by_mass=best == 0,
    )


def is_like(image: np.ndarray, look: Look) -> bool:
    """Whether an image, uint8 (H, H), looks as ``look`` says: ground, polarity, size, amount and place of the ink."""
    if abs(float(np.median(_frame(image))) / 255 - look.ground) > _GROUND:
        return False
    if (facts := _facts(_ink(image, look))) is None:
        return False
    size, share, by_mass, by_box = facts
    usual = ((size, look.sizes), (share, look.shares))
    fits = all(low * (1 - _SLACK) <= value <= high * (1 + _SLACK) for value, (low, _, high) in usual)
    middle = by_mass if look.by_mass else by_box
    return fits and float(np.abs(middle - look.centre).max()) <= look.offset + 1.5 / len(image)


def about_looks(fitted: int, odd: Sequence[str], total: int, look: Look | None) -> Iterator[str]:
    """Yield what a person should know of ``total`` pictures: how many were brought into the form, and which are not."""
    if fitted:
        yield f"{fitted:,} of {total:,} pictures were brought into the form of the model's images: {look}"
    if odd:
        names = ", ".join(name if name.isprintable() else ascii(name) for name in odd[:3])
        yield (
            f"warning: {len(odd):,} of {total:,} pictures do not look like what the model learned from ({look}), so "
            f"their classes are guesses: {names}{', …' if len(odd) > 3 else ''}"
        )


def unlike(images: np.ndarray, look: Look | None) -> np.ndarray:
    """The indices of the images, uint8 (N, C, H, H), that do not look as ``look`` says; none where there is no look."""
    return np.array([index for index, image in enumerate(images) if look and not is_like(image[0], look)], np.int64)


class Fitter:
    """Brings pictures of one sign into the form of a model's images: uint8 (H, W, 3) -> uint8 (1, S, S).

    A picture that looks like them, at once or as its middle square, keeps its pixels. ``fitted`` counts the others.
    """

    def __init__(self, look: Look, side: int) -> None:
        self.look, self.side, self.fitted = look, side, 0
        self._lock = threading.Lock()  # pictures are decoded by several threads

    def __call__(self, picture: np.ndarray, square: np.ndarray) -> np.ndarray:
        """Return ``square``, the picture's middle square uint8 (1, S, S), or the picture's sign in its place."""
        if is_like(square[0], self.look):
            return square
        grey = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY)
        if (ink := find_ink(grey)) is None:
            return square
        with self._lock:
            self.fitted += 1
        field = placed(ink, self.side, self.look)
        values = self.look.ground + (self.look.ink - self.look.ground) * field
        return np.rint(255 * values).astype(np.uint8)[None]


def find_ink(grey: np.ndarray) -> np.ndarray | None:
    """Find the ink of one sign on a ground that may be uneven: uint8 (H, W) -> float32 (H', W') in 0..1, or None.

    The ground is what most pixels show; ink is darker or lighter than it, whichever is farther. Pieces at the picture's
    edge, such as the shadow of a hand, do not count where others stand free of it.
    """
    if (scale := _LONGEST / max(grey.shape)) < 1:
        size = tuple(max(1, round(side * scale)) for side in grey.shape[::-1])
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    values = grey.astype(np.float32)
    low, ground, high = np.quantile(values, (0.005, 0.5, 0.995))
    light = bool(high - ground > ground - low)
    away = ((values - _uneven(values, light=light)) * (1 if light else -1)).clip(0)
    if away.max() < _FLAT:
        return None
    level, mask = cv2.threshold(np.rint(away).astype(np.uint8), 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    mask = _sign(mask)
    full = float(np.quantile(away[mask], 0.8)) if mask.any() else 0.0
    if full < max(_FLAT, level):
        return None
    near = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    return np.where(near, away / full, 0).clip(0, 1).astype(np.float32)


def placed(ink: np.ndarray, side: int, look: Look) -> np.ndarray:
    """Scale ink (H, W) in 0..1 to the usual size, and put its middle where it usually is: float32 (side, side).

    The shift is by whole pixels, as in MNIST. Reduction takes the mean of the pixels, which gives smooth edges.
    """
    field = np.zeros((side, side), np.float32)
    rows, columns = np.flatnonzero((ink > _FAINT).any(1)), np.flatnonzero((ink > _FAINT).any(0))
    if not len(rows):
        return field
    sign = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = look.sizes[1] * side / max(sign.shape)
    height, width = (min(side, max(1, round(length * scale))) for length in sign.shape)
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small: np.ndarray = cv2.resize(np.ascontiguousarray(sign, np.float32), (width, height), interpolation=interpolation)
    small = small / max(float(small.max()), 1e-6)  # a thin stroke would come out grey
    middle = _middle(small) if look.by_mass else (height / 2, width / 2)
    top, left = (
        int(np.clip(round(side * centre - at), 0, side - length))
        for centre, at, length in zip(look.centre, middle, small.shape, strict=True)
    )
    field[top : top + height, left : left + width] = small
    return field


def _usual(values: np.ndarray) -> tuple[float, float, float]:
    low, middle, high = np.quantile(values, _TAILS).round(4).tolist()
    return low, middle, high


def _frame(image: np.ndarray) -> np.ndarray:
    return np.concatenate([image[0], image[-1], image[1:-1, 0], image[1:-1, -1]])


def _ink(image: np.ndarray, look: Look) -> np.ndarray:
    return ((image.astype(np.float32) / 255 - look.ground) / (look.ink - look.ground)).clip(0, 1)


def _facts(ink: np.ndarray) -> tuple[float, float, np.ndarray, np.ndarray] | None:
    """The longer side of the box, the share of ink, and the centres (row, column) of its mass and its box."""
    rows, columns = np.flatnonzero((ink > _FAINT).any(1)), np.flatnonzero((ink > _FAINT).any(0))
    if not len(rows):
        return None
    longer = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    box = np.array([rows[0] + rows[-1] + 1, columns[0] + columns[-1] + 1]) / 2
    return longer / len(ink), float((ink > _INK).mean()), np.array(_middle(ink)) / len(ink), box / len(ink)


def _middle(ink: np.ndarray) -> tuple[float, float]:
    """The centre of mass in pixels: row and column."""
    mass = max(float(ink.sum()), 1e-6)
    row, column = (ink.sum(1 - axis) @ (np.arange(ink.shape[axis]) + 0.5) / mass for axis in (0, 1))
    return float(row), float(column)


def _uneven(values: np.ndarray, *, light: bool) -> np.ndarray:
    """The ground behind the ink, float32 (H, W): in a small picture strokes are closed by what is around them."""
    scale = min(1.0, _COARSE / max(values.shape))
    height, width = (max(3, round(side * scale)) for side in values.shape)
    coarse = cv2.resize(values, (width, height), interpolation=cv2.INTER_AREA)
    reach = min(height, width) // 2 | 1  # wider than any stroke
    ground = cv2.morphologyEx(coarse, cv2.MORPH_OPEN if light else cv2.MORPH_CLOSE, np.ones((reach, reach), np.uint8))
    return cv2.resize(cv2.blur(ground, (reach, reach)), values.shape[::-1], interpolation=cv2.INTER_LINEAR)


def _sign(mask: np.ndarray) -> np.ndarray:
    """The pieces of a mask, uint8 (H, W), that belong to the sign, as bool (H, W)."""
    count, labels, facts, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    left, top, width, height, area = (facts[1:, column] for column in range(5))
    edge = (left == 0) | (top == 0) | (left + width == mask.shape[1]) | (top + height == mask.shape[0])
    free = area[~edge].max(initial=0)
    wanted = ~edge if free >= 0.2 * area.max(initial=0) and free else np.ones(count - 1, bool)
    wanted &= area >= _SPECK * area[wanted].max(initial=0)
    return np.concatenate([[False], wanted])[labels]
