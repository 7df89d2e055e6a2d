"""Is a challenging detector better than the champion? Both looked at the same held-out images: a paired bootstrap.

The images are drawn anew with replacement, each time the same for both, and the difference of their mAP50 is looked at:
what is hard in an image is hard for both and drops out (Efron and Tibshirani, An Introduction to the Bootstrap, 1993).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd

from cnn_core.comparison.promotion import PromotionRule, judge
from cnn_core.detection.evaluation.metrics import (
    ALL,
    ANY_AREA,
    average_precision,
    evaluate_boxes,
    mean,
    weighted_ap50,
)

DRAWS, SEED = 2_000, 0
MAX_DET = 300  # boxes of a class in an image that count


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gain:
    """Champion and challenger on ``n`` images: the ``measure`` of each, the 95 % interval of the difference, and the
    one-sided ``p_value``: in how many draws the challenger was not better. ``classes``: class -> (objects, the
    measure's value for it of each)."""

    measure: str
    n: int
    champion: float
    challenger: float
    low: float
    high: float
    p_value: float
    classes: dict[str, tuple[int, float, float]]


def compare_detectors(
    images: pd.DataFrame,
    truth: pd.DataFrame,
    champion: pd.DataFrame,
    challenger: pd.DataFrame,
    classes: Sequence[str],
    *,
    draws: int = DRAWS,
) -> Gain:
    """
    Args:
        images, truth: of the held-out split, as `annotations` has them.
        champion, challenger: what each found in it, likewise.

    Raises:
        ValueError: the split holds no object.
    """
    if truth.empty:
        raise ValueError("the held-out split holds no object")
    both = [
        evaluate_boxes(images, truth, found, classes, max_det=MAX_DET, areas={ALL: (0.0, ANY_AREA)}, relative=False)
        for found in (champion, challenger)
    ]
    before, after = (average_precision(evaluation, at=0.5) for evaluation in both)
    weights = drawn_images(len(images), draws)
    drawn = [
        np.nanmean([weighted_ap50(evaluation, number, weights) for number in np.flatnonzero(~np.isnan(before))], axis=0)
        for evaluation in both
    ]
    gains = drawn[1] - drawn[0]
    counts = truth["class_name"].value_counts()
    return Gain(
        measure="mAP50",
        n=len(images),
        champion=float(mean(before) or 0.0),
        challenger=float(mean(after) or 0.0),
        **interval_and_p(gains),
        classes={
            name: (int(counts[name]), float(before[number]), float(after[number]))
            for number, name in enumerate(classes)
            if not np.isnan(before[number])
        },
    )


def drawn_images(count: int, draws: int) -> np.ndarray:
    """How often each of the images comes in each draw: int64 (draws, count)."""
    return np.random.default_rng(SEED).multinomial(count, np.full(count, 1 / count), size=draws)


def interval_and_p(gains: np.ndarray) -> dict[str, float]:
    """``low``, ``high`` and ``p_value`` of a `Gain`, from the difference in each draw; NaN: it holds no object."""
    gains = gains[~np.isnan(gains)]
    low, high = np.percentile(gains, [2.5, 97.5])
    return {"low": float(low), "high": float(high), "p_value": float((1 + (gains <= 0).sum()) / (1 + len(gains)))}


def gain_verdict(found: Gain, rule: PromotionRule) -> tuple[bool, str]:
    """Whether the challenger is promoted, and why (not), in one sentence with the figures."""
    figures = (
        f"{found.measure} {found.challenger:.4f} against {found.champion:.4f} on the same {found.n:,} held-out images "
        f"(difference {found.low:+.4f} to {found.high:+.4f}, p = {found.p_value:.3g})"
    )
    difference = found.challenger - found.champion
    return judge(rule, difference, found.p_value, found.classes, figures=figures, shown=".4f", of="objects")
