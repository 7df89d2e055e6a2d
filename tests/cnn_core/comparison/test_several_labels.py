"""Champion and challenger of several labels an image: the paired bootstrap of mAP."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score

from cnn_core.classification.inference.multilabel import mean_average_precision
from cnn_core.comparison.classifiers import has_several_labels, read_answers
from cnn_core.comparison.promotion import PromotionRule
from cnn_core.comparison.several_labels import compare_several_labels

CLASSES = ["cat", "dog", "owl"]
RULE = PromotionRule(margin=0.0, alpha=0.05, class_bound=1.0)
LABELS = (np.random.default_rng(0).random((150, 3)) < (0.5, 0.3, 0.0)).astype(int)


def answers(skill: float, labels: np.ndarray = LABELS, seed: int = 1) -> pd.DataFrame:
    chances = skill * labels + (1 - skill) * np.random.default_rng(seed).random(labels.shape)
    lists = {name: [np.flatnonzero(row).tolist() for row in rows] for name, rows in
             (("labels", labels), ("predicted", chances > 0.5))}  # fmt: skip
    table = pd.DataFrame({"id": [f"i{number}" for number in range(len(labels))], **lists})
    return table.join(pd.DataFrame(chances, columns=[f"p{number}" for number in range(3)]))


def test_the_better_one_is_promoted_and_an_equal_one_is_not(tmp_path: Path) -> None:
    answers(0.2).to_parquet(tmp_path / "champion.parquet")
    champion, challenger = read_answers(tmp_path / "champion.parquet"), answers(0.4, seed=2)
    assert has_several_labels(champion)
    gain = compare_several_labels(champion, challenger.sample(frac=1, random_state=0), CLASSES)
    assert gain.challenger == pytest.approx(mean_average_precision(challenger[["p0", "p1", "p2"]].to_numpy(), LABELS))
    assert 0 < gain.low < gain.challenger - gain.champion < gain.high
    assert {name: scores.n for name, scores in gain.classes.items()} == {
        "cat": LABELS[:, 0].sum(),
        "dog": LABELS[:, 1].sum(),
    }
    assert gain.decide(RULE).promoted
    assert not compare_several_labels(champion, champion, CLASSES).decide(RULE).promoted


def test_what_cannot_be_compared_is_one_sentence() -> None:
    champion, others = answers(0.3), 1 - LABELS
    with pytest.raises(ValueError, match="no held-out image that champion and challenger both answered"):
        compare_several_labels(champion, champion, CLASSES, ids={"elsewhere"})
    with pytest.raises(ValueError, match="have different labels for 150 images"):
        compare_several_labels(champion, answers(0.3, others), CLASSES)
    with pytest.raises(ValueError, match="gives an image one label, the other one several"):
        compare_several_labels(pd.DataFrame({"id": ["i0"], "label": [0], "predicted": [0]}), champion, CLASSES)


def test_a_class_that_the_champion_does_not_know_stands_apart() -> None:
    champion, challenger = answers(0.2), answers(0.4, seed=2)
    gain = compare_several_labels(champion.assign(p1=0.0), challenger, CLASSES, new=["dog", "owl"])
    assert list(gain.classes) == ["cat"]
    assert gain.new["dog"].n == LABELS[:, 1].sum()
    assert gain.new["dog"].score == pytest.approx(average_precision_score(LABELS[:, 1], challenger["p1"]))
    assert gain.new["owl"].score is None
