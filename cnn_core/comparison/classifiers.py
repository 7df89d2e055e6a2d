"""Compare two classifiers that answered the same held-out images, image by image.

Only the images that one of the two got right and the other wrong tell them apart. If neither
classifier were better, each of those images would be a throw of a fair coin. This is McNemar's
test, exact, from the binomial distribution (McNemar, 1947; Dietterich, 1998).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from scipy.stats import binomtest

from cnn_core.comparison.promotion import ClassScores, Decision, NewClassScores, PromotionRule, decide

ANSWER_COLUMNS = ["id", "label", "predicted"]
ROW_COLUMNS = ["id", "split", "sha256"]


def read_answers(path: Path) -> pd.DataFrame:
    """Read id, label and predicted; of several labels an image id, labels, predicted and p0 … pK."""
    if "label" in pq.read_schema(path).names:
        return pd.read_parquet(path, columns=ANSWER_COLUMNS)
    return pd.read_parquet(path)


def has_several_labels(answers: pd.DataFrame) -> bool:
    return "labels" in answers


def read_rows(raw: Path) -> pd.DataFrame | None:
    """Read id, split and SHA-256 of every image of a RAW set; None where there is no such set."""
    parts = sorted(raw.glob("part-*.parquet"))
    if not parts:
        return None
    return pd.concat([pd.read_parquet(part, columns=ROW_COLUMNS) for part in parts], ignore_index=True)


def by_hash(answers: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Replace the images' ids, which each source gives anew, by the SHA-256 of their pixels.

    Where an image comes twice (a publisher's test part may repeat some), its first answer counts.

    Raises:
        ValueError: an id is not among the ``rows``, so the answers are of another set.
    """
    hashes = answers["id"].map(rows.set_index("id")["sha256"])
    if hashes.isna().any():
        raise ValueError(f"{answers.loc[hashes.isna(), 'id'].iloc[0]} was predicted but is not in the set")
    return answers.assign(id=hashes).drop_duplicates("id", ignore_index=True)


def shared_hashes(champion: pd.DataFrame, challenger: pd.DataFrame, *, unseen: bool = False) -> set[str]:
    """Give the SHA-256s of the images in the test parts of both models' RAW sets (`read_rows`).

    Args:
        unseen: count also images that came after the champion, which it has not seen either.
    """
    tested = set(challenger.loc[challenger["split"] == "test", "sha256"])
    if unseen:
        return tested - set(champion.loc[champion["split"].isin(("train", "val")), "sha256"])
    return tested & set(champion.loc[champion["split"] == "test", "sha256"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierComparison:
    """Champion and challenger on ``n`` images that both answered: their shares of right answers."""

    n: int
    champion: float
    challenger: float
    gained: int  # images that only the challenger has right
    lost: int  # images that only the champion has right
    p_value: float  # one-sided, of at least so many gained images if neither were better
    classes: dict[str, ClassScores]

    @property
    def difference(self) -> float:
        return (self.gained - self.lost) / self.n

    def decide(self, rule: PromotionRule) -> Decision:
        figures = (
            f"{self.challenger:.2%} against {self.champion:.2%} right on {self.n:,} held-out images that both know "
            f"({self.gained} gained, {self.lost} lost, p = {self.p_value:.3g})"
        )
        return decide(
            rule, self.difference, self.p_value, self.classes, figures=figures, number_format=".2%", unit="images"
        )


def compare_classifiers(
    champion: pd.DataFrame,
    challenger: pd.DataFrame,
    classes: Sequence[str],
    ids: Collection[str] | None = None,
    *,
    new: Collection[str] = (),
) -> ClassifierComparison:
    """Compare two classifiers by their answers (`read_answers`) to the images that both answered.

    Args:
        classes: the names that the numbers in the answers index.
        ids: the images to compare them on; None takes all that both answered.
        new: classes that the champion does not know, whose images are left out.

    Raises:
        ValueError: an id comes twice, the two give one image different labels, or there is no image
            that both answered.
    """
    pairs = champion[ANSWER_COLUMNS].merge(
        challenger[ANSWER_COLUMNS], on="id", suffixes=("", "_new"), validate="one_to_one"
    )
    if ids is not None:
        pairs = pairs[pairs["id"].isin(set(ids))]
    pairs = pairs[~pairs["label_new"].isin([number for number, name in enumerate(classes) if name in new])]
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


def score_new_classes(
    challenger: pd.DataFrame, classes: Sequence[str], new: Collection[str]
) -> dict[str, NewClassScores]:
    """Measure the challenger on classes that the champion does not know: their recall, and how many images of the other
    classes it takes for them."""
    labels, predicted = challenger["label"].to_numpy(), challenger["predicted"].to_numpy()
    numbers = {name: number for number, name in enumerate(classes) if name in new}
    others = ~np.isin(labels, list(numbers.values()))
    return {
        name: NewClassScores(
            n=int((labels == number).sum()),
            score=float((predicted[labels == number] == number).mean()) if (labels == number).any() else None,
            called=int((predicted[others] == number).sum()),
            known=int(others.sum()),
        )
        for name, number in numbers.items()
    }


def mcnemar(gained: int, lost: int) -> float:
    """Compute the one-sided exact p-value of McNemar's test: that of ``gained`` heads or more in all throws."""
    if gained + lost == 0:
        return 1.0
    return float(binomtest(gained, gained + lost, 0.5, alternative="greater").pvalue)
