"""Are new images like the old ones? Class balance, brightness, contrast, sharpness, and what a network sees in them.

How far two samples lie apart by chance is not looked up but measured: as many images as there are new ones are drawn
from the old ones again and again and compared with the rest, and a measure drifts when the new ones lie farther off
than all but a share ``alpha`` of those draws (the share divided by the number of measures, Bonferroni). The draws have
fewer images to be compared with than the new ones have, so the check is rather too calm than too loud.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from cnn_core.params import Params, bounded


@dataclasses.dataclass(frozen=True, kw_only=True)
class DriftParams(Params):
    """How the check is made."""

    alpha: float = bounded(0.0, 1.0, above=0.0)  # probability of an alarm though nothing has changed, over all measures
    draws: int = bounded(20)  # from the old images, for each measure
    most: int = bounded(20)  # images of each side that are looked at, drawn evenly
    least: int = bounded(2)  # fewer new images than this tell nothing
    seed: int = bounded(0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """Images of one side: ``labels`` int (N,), ``pixels`` float (N, 3) of `pixel_measures`, ``features`` float (N, D)
    of a network, or None."""

    labels: np.ndarray
    pixels: np.ndarray
    features: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> Sample:
        features = None if self.features is None else self.features[rows]
        return Sample(labels=self.labels[rows], pixels=self.pixels[rows], features=features)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drift:
    """One measure: its ``distance``, the ``threshold`` that draws from the old images hardly ever pass, the share
    ``p_value`` of them that lie as far, and what changed, in words."""

    measure: str
    distance: float
    threshold: float
    p_value: float
    drifted: bool
    detail: str


PIXELS = ("brightness", "contrast", "sharpness")


def pixel_measures(images: np.ndarray) -> np.ndarray:
    """uint8 (N, H, W) or (N, H, W, 3) -> float64 (N, 3), in 0..1: mean, standard deviation, mean step to neighbours."""
    grey = images.astype(np.float32).reshape(*images.shape[:3], -1).mean(-1) / 255
    steps = (np.abs(np.diff(grey, axis=1)).mean((1, 2)) + np.abs(np.diff(grey, axis=2)).mean((1, 2))) / 2
    return np.stack([grey.mean((1, 2)), grey.std((1, 2)), steps], axis=1).astype(np.float64)


def check_drift(old: Sample, new: Sample, classes: Sequence[str], params: DriftParams) -> list[Drift]:
    """Every measure of new against old.

    Raises:
        ValueError: there are too few images on either side.
    """
    random = np.random.default_rng(params.seed)
    new, old = _thin(new, params.most, random), _thin(old, params.most, random)
    size = min(len(new), len(old) // 2)  # of a draw: the rest has to be there to compare it with
    if size < params.least:
        raise ValueError(
            f"{len(new):,} new and {len(old):,} old images are too few to tell a drift (least: {params.least})"
        )
    new = _thin(new, size, random)
    distances = _distances(old, new, classes)
    alpha = params.alpha / len(distances)
    draws = max(params.draws, int(np.ceil(4 / alpha)))  # so that the threshold is not the very last of them
    places = [random.permutation(len(old)) for _ in range(draws)]
    found = []
    for measure, (distance, detail) in distances.items():
        by_chance = np.array([distance(place[:size], place[size:]) for place in places])
        here = distance(None, None)
        p_value = float((1 + (by_chance >= here - 1e-12).sum()) / (1 + draws))
        found.append(
            Drift(
                measure=measure,
                distance=float(here),
                threshold=float(np.quantile(by_chance, 1 - alpha, method="higher")),
                p_value=p_value,
                drifted=p_value <= alpha,
                detail=detail,
            )
        )
    return found


def sentence(found: Sequence[Drift]) -> str:
    """What has drifted, for a person; empty when nothing has."""
    return "; ".join(
        f"{drift.measure} ({drift.detail}; distance {drift.distance:.3g}, by chance at most {drift.threshold:.3g})"
        for drift in found
        if drift.drifted
    )


# A distance takes rows of the old sample, drawn and rest; of None it is that of the new from all the old.
_Distance = Callable[[np.ndarray | None, np.ndarray | None], float]


def _distances(old: Sample, new: Sample, classes: Sequence[str]) -> dict[str, tuple[_Distance, str]]:
    shares_old, shares_new = _shares(old.labels, len(classes)), _shares(new.labels, len(classes))
    moved = int(np.abs(shares_new - shares_old).argmax())
    detail = f"{classes[moved]} {shares_old[moved]:.1%} -> {shares_new[moved]:.1%}"
    found: dict[str, tuple[_Distance, str]] = {
        "class balance": (_balance(old.labels, new.labels, len(classes)), detail)
    }
    for place, name in enumerate(PIXELS):
        before, after = old.pixels[:, place], new.pixels[:, place]
        detail = f"median {np.median(before):.3f} -> {np.median(after):.3f}"
        found[name] = (_between(before, after, kolmogorov_smirnov), detail)
    if old.features is not None and new.features is not None:
        found["features"] = (_mmd(old.features, new.features), f"{old.features.shape[1]} of the champion's network")
    return found


def _shares(labels: np.ndarray, classes: int) -> np.ndarray:
    return np.bincount(labels, minlength=classes) / max(len(labels), 1)


def population_stability(expected: np.ndarray, found: np.ndarray) -> float:
    """The population stability index of two vectors of counts: sum of (q - p) ln(q / p), with half a count in each."""
    p, q = (expected + 0.5) / (expected + 0.5).sum(), (found + 0.5) / (found + 0.5).sum()
    return float(((q - p) * np.log(q / p)).sum())


def kolmogorov_smirnov(old: np.ndarray, new: np.ndarray) -> float:
    """The largest gap between the two cumulative shares, 0..1."""
    old, new = np.sort(old), np.sort(new)
    values = np.concatenate([old, new])
    shares = np.searchsorted(old, values, side="right") / len(old) - np.searchsorted(new, values, side="right") / len(
        new
    )
    return float(np.abs(shares).max())


def _between(old: np.ndarray, new: np.ndarray, measure: Callable[[np.ndarray, np.ndarray], float]) -> _Distance:
    def distance(drawn: np.ndarray | None, rest: np.ndarray | None) -> float:
        return measure(old, new) if drawn is None else measure(old[rest], old[drawn])

    return distance


def _balance(old: np.ndarray, new: np.ndarray, classes: int) -> _Distance:
    def measure(expected: np.ndarray, found: np.ndarray) -> float:
        counts = (np.bincount(labels, minlength=classes) for labels in (expected, found))
        return population_stability(*counts)

    return _between(old, new, measure)


def _mmd(old: np.ndarray, new: np.ndarray) -> _Distance:
    """Maximum mean discrepancy (Gretton et al., 2012), squared and unbiased, of a Gaussian kernel whose width is the
    median distance: unlike a Fréchet distance it needs no more images than there are features."""
    both = np.concatenate([old, new]).astype(np.float32)
    both = (both - both[: len(old)].mean(0)) / (both[: len(old)].std(0) + 1e-6)
    squares = (both**2).sum(1)
    apart = np.maximum(squares[:, None] + squares[None] - 2 * both @ both.T, 0)
    kernel = np.exp(-apart / np.median(apart[apart > 0])) if (apart > 0).any() else np.ones_like(apart)
    np.fill_diagonal(kernel, 0.0)
    inside, total = kernel[: len(old), : len(old)], float(kernel[: len(old), : len(old)].sum())

    def distance(drawn: np.ndarray | None, rest: np.ndarray | None) -> float:
        if drawn is None or rest is None:
            first, second, across = total, float(kernel[len(old) :, len(old) :].sum()), kernel[: len(old), len(old) :]
            sizes, between = (len(old), len(new)), float(across.sum())
        else:
            rows = inside[drawn]
            second, between = float(rows[:, drawn].sum()), float(rows[:, rest].sum())
            first, sizes = total - second - 2 * between, (len(rest), len(drawn))
        n, m = sizes
        return first / (n * (n - 1)) + second / (m * (m - 1)) - 2 * between / (n * m)

    return distance


def _thin(sample: Sample, most: int, random: np.random.Generator) -> Sample:
    if len(sample) <= most:
        return sample
    return sample.take(np.sort(random.choice(len(sample), most, replace=False)))
