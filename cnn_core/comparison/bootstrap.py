"""A paired bootstrap over images, by which detectors and segmenters are compared.

The images are drawn anew with replacement, each time the same for both models, and the difference
of their measures is taken. What is hard in an image is hard for both models and drops out (Efron
and Tibshirani, An Introduction to the Bootstrap, 1993).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from cnn_core.comparison.promotion import ClassScores, Decision, PromotionRule, decide

DRAWS, SEED = 2_000, 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class BootstrapComparison:
    """Champion and challenger on the same ``n`` images.

    Attributes:
        measure: the name of what is compared.
        champion, challenger: the measure of each.
        low, high: the 95 % interval of the difference.
        p_value: one-sided: the share of draws in which the challenger was not better.
        classes: the objects of each class, and the measure of both models for it.
    """

    measure: str
    n: int
    champion: float
    challenger: float
    low: float
    high: float
    p_value: float
    classes: dict[str, ClassScores]

    def decide(self, rule: PromotionRule) -> Decision:
        """Apply the promotion rule."""
        figures = (
            f"{self.measure} {self.challenger:.4f} against {self.champion:.4f} on the same {self.n:,} held-out images "
            f"(difference {self.low:+.4f} to {self.high:+.4f}, p = {self.p_value:.3g})"
        )
        difference = self.challenger - self.champion
        return decide(
            rule, difference, self.p_value, self.classes, figures=figures, number_format=".4f", unit="objects"
        )


def draw_images(count: int, draws: int) -> np.ndarray:
    """Draw ``count`` images with replacement.

    Returns:
        how often each image comes in each draw: int64 (draws, count).
    """
    return np.random.default_rng(SEED).multinomial(count, np.full(count, 1 / count), size=draws)


def bootstrap_comparison(
    measure: str,
    n: int,
    champion: float,
    challenger: float,
    differences: np.ndarray,
    classes: dict[str, ClassScores],
) -> BootstrapComparison:
    """Build the comparison from the difference of the measure in each draw: float (draws,).

    NaN stands for a draw that holds no object.
    """
    differences = differences[~np.isnan(differences)]
    low, high = np.percentile(differences, [2.5, 97.5])
    return BootstrapComparison(
        measure=measure,
        n=n,
        champion=champion,
        challenger=challenger,
        low=float(low),
        high=float(high),
        p_value=float((1 + (differences <= 0).sum()) / (1 + len(differences))),
        classes=classes,
    )
