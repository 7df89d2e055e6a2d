"""Compare two classifiers that answered the same held-out images, image by image.

Only the images that one of the two got right and the other wrong tell them apart. If neither
classifier were better, each of those images would be a throw of a fair coin. This is McNemar's
test, exact, from the binomial distribution (McNemar, 1947; Dietterich, 1998).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from cnn_core.comparison.answers import ANSWER_COLUMNS
from cnn_core.comparison.promotion import ClassScores, Decision, PromotionRule, decide


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierComparison:
    """Champion and challenger on ``n`` images that both answered.

    Attributes:
        champion, challenger: each one's share of right answers.
        gained, lost: images that only the challenger, or only the champion, has right.
        p_value: one-sided, of at least so many gained images if neither were better.
        classes: the images of each class, and both shares of right answers.
    """

    n: int
    champion: float
    challenger: float
    gained: int
    lost: int
    p_value: float
    classes: dict[str, ClassScores]

    @property
    def difference(self) -> float:
        """The challenger's share of right answers less the champion's."""
        return (self.gained - self.lost) / self.n

    def decide(self, rule: PromotionRule) -> Decision:
        """Apply the promotion rule."""
        figures = (
            f"{self.challenger:.2%} against {self.champion:.2%} right on {self.n:,} held-out images that both know "
            f"({self.gained} gained, {self.lost} lost, p = {self.p_value:.3g})"
        )
        return decide(
            rule, self.difference, self.p_value, self.classes, figures=figures, number_format=".2%", unit="images"
        )


def compare_classifiers(
    champion: pd.DataFrame, challenger: pd.DataFrame, classes: Sequence[str], ids: Collection[str] | None = None
) -> ClassifierComparison:
    """Compare two classifiers on the images that both answered.

    Args:
        champion, challenger: the answers of each (`answers.read_answers`).
        classes: the names that the numbers in the answers index.
        ids: the images to compare them on; None takes all that both answered.

    Raises:
        ValueError: an id comes twice, the two give one image different labels, or there is no image
            that both answered.
    """
    pairs = champion[ANSWER_COLUMNS].merge(
        challenger[ANSWER_COLUMNS], on="id", suffixes=("", "_new"), validate="one_to_one"
    )
    if ids is not None:
        pairs = pairs[pairs["id"].isin(set(ids))]
    if pairs.empty:
        raise ValueError("there is no held-out image that champion and challenger both answered")
    if (disagree := pairs["label"] != pairs["label_new"]).any():
        example = pairs.loc[disagree, "id"].iloc[0]
        raise ValueError(f"champion and challenger have different labels for {disagree.sum():,} images ({example})")
    labels = pairs["label"].to_numpy()
    before, after = (pairs["predicted"].to_numpy() == labels), (pairs["predicted_new"].to_numpy() == labels)
    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    members = {name: labels == number for number, name in enumerate(classes)}
    return ClassifierComparison(
        n=len(pairs),
        champion=float(before.mean()),
        challenger=float(after.mean()),
        gained=gained,
        lost=lost,
        p_value=mcnemar(gained, lost),
        classes={
            name: ClassScores(int(rows.sum()), float(before[rows].mean()), float(after[rows].mean()))
            for name, rows in members.items()
            if rows.any()
        },
    )


def mcnemar(gained: int, lost: int) -> float:
    """Compute the one-sided exact p-value of McNemar's test.

    It is the probability of ``gained`` or more heads in ``gained + lost`` throws of a fair coin, 1
    without a throw.
    """
    if gained + lost == 0:
        return 1.0
    return float(binomtest(gained, gained + lost, 0.5, alternative="greater").pvalue)


def power(n: int, *, disagreement: float, difference: float, alpha: float, draws: int = 2_000, seed: int = 0) -> float:
    """Estimate how often the test finds a challenger that truly is better.

    It tells whether a test part is large enough.

    Args:
        n: held-out images.
        disagreement: the share of images that exactly one of the two has right.
        difference: the challenger's true share of right answers less the champion's; at most
            ``disagreement``.
    """
    random = np.random.default_rng(seed)
    chances = [(disagreement + difference) / 2, (disagreement - difference) / 2, 1 - disagreement]
    counts = random.multinomial(n, chances, size=draws)[:, :2]
    pairs, times = np.unique(counts, axis=0, return_counts=True)
    significant = np.array([mcnemar(int(gained), int(lost)) <= alpha for gained, lost in pairs])
    return float((significant * times).sum() / draws)
