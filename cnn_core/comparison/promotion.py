"""Is a challenger better than the champion? Both answered the same held-out images, so the test is a paired one.

Only the images that one of the two got right and the other wrong tell them apart. If neither were better, each of those
would be a fair coin's throw: McNemar's test, exact, from the binomial distribution (McNemar, 1947; Dietterich, 1998).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from cnn_core.params import Params, bounded


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromotionRule(Params):
    """What a challenger has to show. Shares of right answers, in 0..1."""

    margin: float = bounded(0.0, 1.0)  # by which it has to be better
    alpha: float = bounded(0.0, 1.0, above=0.0)  # at most this probability that an equal one does as well by luck
    class_bound: float = bounded(0.0, 1.0)  # by which it may be worse in a class


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Champion and challenger on ``n`` images that both were asked.

    ``gained``: images that only the challenger has right, ``lost``: only the champion; ``p_value``: one-sided, of so
    many gained among those if neither were better; ``classes``: class -> (images, champion's and challenger's share of
    right answers).
    """

    n: int
    champion: float
    challenger: float
    gained: int
    lost: int
    p_value: float
    classes: dict[str, tuple[int, float, float]]

    @property
    def difference(self) -> float:
        return (self.gained - self.lost) / self.n


def shared_ids(champion: pd.DataFrame, challenger: pd.DataFrame, *, unseen: bool = False) -> set[str]:
    """The SHA-256s of images that both are measured on: in the test parts of both RAW sets.

    Args:
        champion: the RAW set that it was trained on: columns ``sha256`` and ``split`` (as `datasets.ROWS`).
        challenger: likewise.
        unseen: also what is new in the challenger's test part, which the champion has not seen either.
    """
    tested = set(challenger.loc[challenger["split"] == "test", "sha256"])
    if unseen:
        return tested - set(champion.loc[champion["split"].isin(("train", "val")), "sha256"])
    return tested & set(champion.loc[champion["split"] == "test", "sha256"])


def compare(
    champion: pd.DataFrame, challenger: pd.DataFrame, classes: Sequence[str], ids: Collection[str] | None = None
) -> Comparison:
    """
    Args:
        champion: its answers as `evaluate` writes them, a row an image: ``id``, ``label``, ``predicted`` (numbers).
        challenger: likewise; of the two only ids that both have are used.
        classes: the names that the numbers index.
        ids: only these.

    Raises:
        ValueError: an id comes twice, the two give one image different labels, or there is no image that both answered.
    """
    pairs = champion[["id", "label", "predicted"]].merge(
        challenger[["id", "label", "predicted"]], on="id", suffixes=("", "_new"), validate="one_to_one"
    )
    if ids is not None:
        pairs = pairs[pairs["id"].isin(set(ids))]
    if pairs.empty:
        raise ValueError("there is no held-out image that champion and challenger both answered")
    if (disagree := pairs["label"] != pairs["label_new"]).any():
        example = pairs.loc[disagree, "id"].iloc[0]
        raise ValueError(f"champion and challenger were told different labels of {disagree.sum():,} images ({example})")
    labels = pairs["label"].to_numpy()
    before, after = (pairs["predicted"].to_numpy() == labels), (pairs["predicted_new"].to_numpy() == labels)
    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    by_class = {}
    for number, name in enumerate(classes):
        of_class = labels == number
        if of_class.any():
            by_class[name] = int(of_class.sum()), float(before[of_class].mean()), float(after[of_class].mean())
    return Comparison(
        n=len(pairs),
        champion=float(before.mean()),
        challenger=float(after.mean()),
        gained=gained,
        lost=lost,
        p_value=mcnemar(gained, lost),
        classes=by_class,
    )


def mcnemar(gained: int, lost: int) -> float:
    """One-sided exact p-value that so many of ``gained + lost`` throws of a fair coin show heads; 1 without a throw."""
    if gained + lost == 0:
        return 1.0
    return float(binomtest(gained, gained + lost, 0.5, alternative="greater").pvalue)


def verdict(found: Comparison, rule: PromotionRule) -> tuple[bool, str]:
    """Whether the challenger is promoted, and why (not), in one sentence with the figures."""
    figures = (
        f"{found.challenger:.2%} against {found.champion:.2%} right on {found.n:,} held-out images that both know "
        f"({found.gained} gained, {found.lost} lost, p = {found.p_value:.3g})"
    )
    return judge(rule, found.difference, found.p_value, found.classes, figures=figures, shown=".2%", of="images")


def judge(
    rule: PromotionRule,
    difference: float,
    p_value: float,
    classes: Mapping[str, tuple[int, float, float]],
    *,
    figures: str,
    shown: str,
    of: str,
) -> tuple[bool, str]:
    """The rule applied to any paired comparison: whether the challenger is promoted, and a sentence why (not).

    Args:
        difference: the challenger's measure less the champion's.
        classes: by class: how many, and the measure of the champion and of the challenger.
        figures: what the sentence says of the whole.
        shown: the format in which measures are told.
        of: what the classes count.
    """
    bound = f"{rule.class_bound:{shown}}"
    worst = min(classes, key=lambda name: classes[name][2] - classes[name][1])
    n, before, after = classes[worst]
    # Differences of shares carry rounding: 0.92 - 0.90 is a hair more than 0.02.
    if difference < rule.margin - 1e-12 or difference <= 0:
        wanted = f"by at least {rule.margin:{shown}}" if rule.margin else "at all"
        return False, f"The challenger is not better {wanted}: {figures}."
    if p_value > rule.alpha:
        return False, f"The challenger may be better by luck (p is above {rule.alpha:g}): {figures}."
    if before - after > rule.class_bound + 1e-12:
        return False, (
            f"The challenger is better over all but worse by more than {bound} in the class {worst} "
            f"({after:{shown}} against {before:{shown}} of {n:,} {of}): {figures}."
        )
    return True, f"The challenger is better: {figures}; in no class is it worse by more than {bound}."


def as_ids(predictions: pd.DataFrame, hashes: pd.Series) -> pd.DataFrame:
    """Predictions whose ids are the images' SHA-256 and not their names, which another source may have given anew.

    Args:
        hashes: SHA-256 by id. Of images that come twice (a publisher's test part may repeat some), the first counts.

    Raises:
        ValueError: an id has no hash: the predictions are of another set.
    """
    found = predictions["id"].map(hashes)
    if found.isna().any():
        raise ValueError(f"{predictions.loc[found.isna(), 'id'].iloc[0]} was predicted but is not in the set")
    return predictions.assign(id=found).drop_duplicates("id", ignore_index=True)


def power(n: int, *, disagreement: float, difference: float, alpha: float, draws: int = 2_000, seed: int = 0) -> float:
    """How often the test finds a challenger that truly is better: to judge whether a test part is large enough.

    Args:
        n: held-out images.
        disagreement: the share of images that exactly one of the two has right.
        difference: the challenger's true share of right answers less the champion's; at most ``disagreement``.
    """
    random = np.random.default_rng(seed)
    chances = [(disagreement + difference) / 2, (disagreement - difference) / 2, 1 - disagreement]
    counts = random.multinomial(n, chances, size=draws)[:, :2]
    pairs, times = np.unique(counts, axis=0, return_counts=True)
    found = np.array([mcnemar(int(gained), int(lost)) <= alpha for gained, lost in pairs])
    return float((found * times).sum() / draws)
