"""Whether new images are like the old ones in their classes, their pixels and their features.

How far two samples lie apart by chance is measured. As many images as there are new ones are drawn
from the old ones again and again and compared with the rest. A measure drifts when the new images
lie farther off than all but a share ``alpha`` of those draws (the share divided by the number of
measures, Bonferroni). The draws are compared with fewer images than the new ones are, so the check
misses a drift rather than raise a false alarm.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import numpy as np

from cnn_core.params import Params, bounded


@dataclasses.dataclass(frozen=True, kw_only=True)
class DriftParams(Params):
    alpha: float = bounded(0.0, 1.0, above=0.0)  # probability of a false alarm, over all measures
    draws: int = bounded(20)  # from the old images, for each measure
    most: int = bounded(20)  # images of each side that are looked at, drawn evenly
    least: int = bounded(2)  # new images: fewer are not checked
    seed: int = bounded(0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """Images of one side: ``labels`` int (N,), `pixel_measures`, and features of a network, float (N, D), or None."""

    labels: np.ndarray
    pixels: np.ndarray
    features: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> Sample:
        features = None if self.features is None else self.features[rows]
        return Sample(labels=self.labels[rows], pixels=self.pixels[rows], features=features)

    def distances(self, new: Sample, classes: Sequence[str]) -> dict[str, tuple[Distance, str]]:
        before, after = (np.bincount(side.labels, minlength=len(classes)) for side in (self, new))
        balance = _balance(self.labels, new.labels, len(classes)), largest_change(before, after, classes)
        distances = {"class balance": balance} | pixel_distances(self.pixels, new.pixels)
        if self.features is not None and new.features is not None:
            detail = f"{self.features.shape[1]} of the champion's network"
            distances["features"] = (_mmd(self.features, new.features), detail)
        return distances


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drift:
    """One measure of new images against old ones.

    Attributes:
        threshold: a distance that draws from the old images hardly ever pass.
        p_value: the share of draws that lie as far.
    """

    measure: str
    distance: float
    threshold: float
    p_value: float
    drifted: bool
    detail: str


# The distance of a draw from the rest, both as rows of the old sample. With (None, None) it is the
# distance of the new sample from the old one.
Distance = Callable[[np.ndarray | None, np.ndarray | None], float]
AnySample = TypeVar("AnySample", bound="_Comparable")


class _Comparable(Protocol):
    """What is compared: `Sample` of images with labels, or images with objects."""

    def __len__(self) -> int: ...

    def take(self: AnySample, rows: np.ndarray) -> AnySample: ...

    def distances(self: AnySample, new: AnySample, classes: Sequence[str]) -> dict[str, tuple[Distance, str]]:
        """Each measure with the distance of draws and, for a person, how it changed."""


PIXELS = ("brightness", "contrast", "sharpness")


def pixel_measures(images: np.ndarray) -> np.ndarray:
    """Compute `PIXELS` of images uint8 (N, H, W[, 3]), float64 (N, 3) in 0..1: mean, deviation, step to neighbours."""
    grey = images.astype(np.float32).reshape(*images.shape[:3], -1).mean(-1) / 255
    steps = (np.abs(np.diff(grey, axis=1)).mean((1, 2)) + np.abs(np.diff(grey, axis=2)).mean((1, 2))) / 2
    return np.stack([grey.mean((1, 2)), grey.std((1, 2)), steps], axis=1).astype(np.float64)


def check_drift(old: AnySample, new: AnySample, classes: Sequence[str], params: DriftParams) -> list[Drift]:
    """Compare new images with old ones by every measure; raises ValueError if either side has too few."""
    random = np.random.default_rng(params.seed)
    new, old = _thin(new, params.most, random), _thin(old, params.most, random)
    size = min(len(new), len(old) // 2)  # of a draw: the rest is what it is compared with
    if size < params.least:
        raise ValueError(
            f"{len(new):,} new and {len(old):,} old images are too few to find a drift (least: {params.least})"
        )
    new = _thin(new, size, random)
    distances = old.distances(new, classes)
    alpha = params.alpha / len(distances)
    # So many that the threshold is not the farthest draw.
    draws = max(params.draws, int(np.ceil(4 / alpha)))
    orders = [random.permutation(len(old)) for _ in range(draws)]
    drifts = []
    for measure, (distance, detail) in distances.items():
        by_chance = np.array([distance(order[:size], order[size:]) for order in orders])
        measured = distance(None, None)
        p_value = float((1 + (by_chance >= measured - 1e-12).sum()) / (1 + draws))
        drifts.append(
            Drift(
                measure=measure,
                distance=float(measured),
                threshold=float(np.quantile(by_chance, 1 - alpha, method="higher")),
                p_value=p_value,
                drifted=p_value <= alpha,
                detail=detail,
            )
        )
    return drifts


def sentence(drifts: Sequence[Drift]) -> str:
    """Say what has drifted; empty when nothing has."""
    return "; ".join(
        f"{drift.measure} ({drift.detail}; distance {drift.distance:.3g}, by chance at most {drift.threshold:.3g})"
        for drift in drifts
        if drift.drifted
    )


def drift_warnings(
    check: Callable[[], Sequence[Drift]], *, delivery: str, images: int, notes: Sequence[str] = (), stop: bool
) -> list[str]:
    """Run a check of a delivery against ``images`` old ones and say what it came to.

    Raises:
        ValueError: the images have drifted and ``stop`` is set.
    """
    try:
        drifts = check()
    except ValueError as error:
        return [f"no drift check: {error}"]
    if not (text := sentence(drifts)):
        return [*notes]
    warning = f"{delivery} differs from the {images:,} images there are in {text}"
    if stop:
        raise ValueError(f"{warning}. If that is as it should be, hand it in with drift: warn")
    return [warning, *notes]


def largest_change(old: np.ndarray, new: np.ndarray, classes: Sequence[str]) -> str:
    """Say which class's share changed most, of two vectors of counts."""
    before, after = (counts / max(counts.sum(), 1) for counts in (old, new))
    moved = int(np.abs(after - before).argmax())
    return f"{classes[moved]} {before[moved]:.1%} -> {after[moved]:.1%}"


def pixel_distances(old: np.ndarray, new: np.ndarray) -> dict[str, tuple[Distance, str]]:
    """Compare two sides' `pixel_measures`."""
    distances: dict[str, tuple[Distance, str]] = {}
    for column, name in enumerate(PIXELS):
        before, after = old[:, column], new[:, column]
        detail = f"median {np.median(before):.3f} -> {np.median(after):.3f}"
        distances[name] = (between(before, after, kolmogorov_smirnov), detail)
    return distances


def population_stability(expected: np.ndarray, observed: np.ndarray) -> float:
    """The sum of (q - p) ln(q / p) over the classes of two vectors of counts, half a count added to each class."""
    p, q = (expected + 0.5) / (expected + 0.5).sum(), (observed + 0.5) / (observed + 0.5).sum()
    return float(((q - p) * np.log(q / p)).sum())


def kolmogorov_smirnov(old: np.ndarray, new: np.ndarray) -> float:
    """Compute the largest gap between the two cumulative shares, in 0..1."""
    old, new = np.sort(old), np.sort(new)
    values = np.concatenate([old, new])
    old_shares, new_shares = (np.searchsorted(side, values, side="right") / len(side) for side in (old, new))
    return float(np.abs(old_shares - new_shares).max())


def between(old: np.ndarray, new: np.ndarray, measure: Callable[[np.ndarray, np.ndarray], float]) -> Distance:
    """The distance of rows of ``old`` from the others, or of ``new`` from ``old``, by a measure of two sides."""

    def distance(drawn: np.ndarray | None, rest: np.ndarray | None) -> float:
        return measure(old, new) if drawn is None else measure(old[rest], old[drawn])

    return distance


def _balance(old: np.ndarray, new: np.ndarray, classes: int) -> Distance:
    def measure(expected: np.ndarray, observed: np.ndarray) -> float:
        return population_stability(np.bincount(expected, minlength=classes), np.bincount(observed, minlength=classes))

    return between(old, new, measure)


def _mmd(old: np.ndarray, new: np.ndarray) -> Distance:
    """The squared, unbiased maximum mean discrepancy (Gretton et al., 2012), with the median distance as the width.

    Unlike a Fréchet distance it needs no more images than there are features.
    """
    both = np.concatenate([old, new]).astype(np.float32)
    both = (both - both[: len(old)].mean(0)) / (both[: len(old)].std(0) + 1e-6)
    squares = (both**2).sum(1)
    distances = np.maximum(squares[:, None] + squares[None] - 2 * both @ both.T, 0)
    positive = distances[distances > 0]
    kernel = np.exp(-distances / np.median(positive)) if positive.size else np.ones_like(distances)
    np.fill_diagonal(kernel, 0.0)
    among_old = kernel[: len(old), : len(old)]
    total = float(among_old.sum())

    def distance(drawn: np.ndarray | None, rest: np.ndarray | None) -> float:
        if drawn is None or rest is None:
            first, second, across = total, float(kernel[len(old) :, len(old) :].sum()), kernel[: len(old), len(old) :]
            sizes, between = (len(old), len(new)), float(across.sum())
        else:
            rows = among_old[drawn]
            second, between = float(rows[:, drawn].sum()), float(rows[:, rest].sum())
            first, sizes = total - second - 2 * between, (len(rest), len(drawn))
        n, m = sizes
        return first / (n * (n - 1)) + second / (m * (m - 1)) - 2 * between / (n * m)

    return distance


def _thin(sample: AnySample, most: int, random: np.random.Generator) -> AnySample:
    if len(sample) <= most:
        return sample
    return sample.take(np.sort(random.choice(len(sample), most, replace=False)))
