"""Images with boxes as one side of a check for drift: their classes, sizes and numbers, and their pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd

from cnn_core.inbox.drift import (
    PIXELS,
    Distance,
    between,
    kolmogorov_smirnov,
    largest_change,
    pixel_distances,
    population_stability,
)

ROUNDED = 3  # digits of a size: one box comes out of two formats with different roundings
STEPS = 64  # quantiles of both sides at which the sizes of objects are compared


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectSample:
    """Images of one side.

    Attributes:
        counts: objects of each class in each image, int (N, classes).
        sizes: the sizes of each image's objects: the root of a box's share of its picture.
        pixels: `drift.pixel_measures` (N, 3).
    """

    counts: np.ndarray
    sizes: Sequence[np.ndarray]
    pixels: np.ndarray

    def __len__(self) -> int:
        return len(self.counts)

    def take(self, rows: np.ndarray) -> ObjectSample:
        return ObjectSample(
            counts=self.counts[rows], sizes=[self.sizes[row] for row in rows.tolist()], pixels=self.pixels[rows]
        )

    def distances(self, new: ObjectSample, classes: Sequence[str]) -> dict[str, tuple[Distance, str]]:
        """The measures; without an object on either side, only how many there are and the pixels."""
        distances: dict[str, tuple[Distance, str]] = {}
        before, after = self.counts.sum(axis=1), new.counts.sum(axis=1)
        if before.any() and after.any():
            detail = largest_change(self.counts.sum(axis=0), new.counts.sum(axis=0), classes)
            distances["class balance"] = (between(self.counts, new.counts, _balance), detail)
            detail = f"median {_median(self.sizes):.3f} -> {_median(new.sizes):.3f} of the picture's side"
            distances["object size"] = (between(*_histograms(self.sizes, new.sizes), _largest_gap), detail)
        detail = f"mean {before.mean():.2f} -> {after.mean():.2f}"
        distances["objects an image"] = (between(before, after, kolmogorov_smirnov), detail)
        return distances | pixel_distances(self.pixels, new.pixels)


def object_sample(images: pd.DataFrame, objects: pd.DataFrame, pixels: np.ndarray, classes: int) -> ObjectSample:
    """Make a sample of tables; ``pixels`` is of the images, in their order."""
    rows = {image_id: row for row, image_id in enumerate(images["image_id"])}
    objects = objects[objects["image_id"].isin(rows.keys())]
    owners = np.array([rows[image_id] for image_id in objects["image_id"]], int)
    counts = np.zeros((len(images), classes), int)
    np.add.at(counts, (owners, objects["class_id"].to_numpy(int)), 1)
    areas = images[["width", "height"]].to_numpy(float).prod(axis=1)
    sides = objects[["x2", "y2"]].to_numpy(float) - objects[["x1", "y1"]].to_numpy(float)
    sizes = np.sqrt(sides.prod(axis=1).clip(0) / areas[owners]).round(ROUNDED)
    order = np.argsort(owners, kind="stable")
    starts = np.cumsum(counts.sum(axis=1))[:-1]
    assert pixels.shape == (len(images), len(PIXELS)), "measures of other images"
    return ObjectSample(counts=counts, sizes=np.split(sizes[order], starts), pixels=pixels)


def _balance(expected: np.ndarray, observed: np.ndarray) -> float:
    return population_stability(expected.sum(axis=0), observed.sum(axis=0))


def _median(sizes: Sequence[np.ndarray]) -> float:
    return float(np.median(np.concatenate(list(sizes))))


def _histograms(old: Sequence[np.ndarray], new: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """How many objects of each image lie between two of `STEPS` quantiles, so that a draw is a sum of rows."""
    edges = np.unique(np.quantile(np.concatenate([*old, *new]), np.linspace(0, 1, STEPS + 1)[1:-1]))
    first, second = (
        np.stack([np.bincount(np.searchsorted(edges, sizes), minlength=len(edges) + 1) for sizes in side])
        for side in (old, new)
    )
    return first, second


def _largest_gap(old: np.ndarray, new: np.ndarray) -> float:
    """The Kolmogorov-Smirnov distance, at the quantiles."""
    shares = [np.cumsum(side.sum(axis=0)) / max(side.sum(), 1) for side in (old, new)]
    return float(np.abs(shares[0] - shares[1]).max())
