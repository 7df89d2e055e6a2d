"""McNemar's test of champion and challenger, checked against tables, by hand and by simulation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom, norm

from cnn_core.comparison.classifiers import by_hash, compare_classifiers, mcnemar, score_new_classes, shared_hashes
from cnn_core.comparison.promotion import PromotionRule

RULE = PromotionRule(margin=0.01, alpha=0.05, class_bound=0.05)
CLASSES = ("zero", "one")


def answers(right: list[bool] | np.ndarray, labels: list[int] | np.ndarray | None = None) -> pd.DataFrame:
    """Predictions of two classes: row i is image i."""
    labels = np.zeros(len(right), int) if labels is None else np.asarray(labels)
    return pd.DataFrame(
        {"id": [f"i{n}" for n in range(len(right))], "label": labels, "predicted": np.where(right, labels, 1 - labels)}
    )


def pair(both: int, gained: int, lost: int, neither: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    before = [True] * both + [False] * gained + [True] * lost + [False] * neither
    after = [True] * both + [True] * gained + [False] * lost + [False] * neither
    return answers(before), answers(after)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (5, 0), (9, 1), (1, 9), (20, 10)])
def test_mcnemar_is_the_tail_of_a_fair_coin(gained: int, lost: int) -> None:
    assert mcnemar(gained, lost) == pytest.approx(binom.sf(gained - 1, gained + lost, 0.5) if gained + lost else 1.0)


def test_a_published_example() -> None:
    """Agresti's table of a prime minister's approval: 150 and 86 changed their minds, z^2 = 64^2 / 236 = 17.36."""
    assert 2 * mcnemar(150, 86) == pytest.approx(2 * norm.sf(17.36**0.5), rel=0.25)


def test_only_what_tells_them_apart_counts() -> None:
    comparison = compare_classifiers(*pair(both=900, gained=20, lost=5, neither=75), CLASSES)
    assert (comparison.n, comparison.gained, comparison.lost) == (1000, 20, 5)
    assert (comparison.champion, comparison.challenger) == (0.905, 0.92)
    assert comparison.difference == pytest.approx(0.015)
    assert comparison.p_value == mcnemar(20, 5)


def test_rows_are_matched_by_id_not_by_place() -> None:
    champion, challenger = pair(both=50, gained=8, lost=1)
    shuffled = challenger.sample(frac=1.0, random_state=0)
    assert compare_classifiers(champion, shuffled, CLASSES) == compare_classifiers(champion, challenger, CLASSES)


def test_ids_of_one_only_are_left_out() -> None:
    champion, challenger = pair(both=50, gained=8, lost=1)
    comparison = compare_classifiers(champion.iloc[10:], challenger.iloc[:55], CLASSES)
    assert comparison.n == 45
    assert compare_classifiers(champion, challenger, CLASSES, ids=["i0", "i50", "x"]).n == 2


def test_different_labels_of_one_image_stop_it() -> None:
    champion, challenger = pair(both=5, gained=1, lost=0)
    challenger.loc[2, "label"] = 1
    with pytest.raises(ValueError, match=r"different labels for 1 images \(i2\)"):
        compare_classifiers(champion, challenger, CLASSES)


def test_nothing_shared_stops_it() -> None:
    champion, challenger = pair(both=5, gained=1, lost=0)
    with pytest.raises(ValueError, match="no held-out image"):
        compare_classifiers(champion, challenger, CLASSES, ids=[])


@pytest.mark.parametrize(
    ("counts", "better", "words"),
    [
        ({"both": 950, "gained": 30, "lost": 5}, True, "The challenger is better: 99.49% against 96.95% right on 985"),
        ({"both": 950, "gained": 5, "lost": 30}, False, "not better by at least 1.00%"),
        ({"both": 950, "gained": 0, "lost": 0}, False, "not better by at least 1.00%"),
        ({"both": 990, "gained": 9, "lost": 0}, False, "not better by at least 1.00%"),  # sure, but too little
        ({"both": 60, "gained": 4, "lost": 2}, False, "may be better by luck (p is above 0.05)"),
    ],
)
def test_the_verdict_says_why_with_figures(counts: dict, better: bool, words: str) -> None:
    assert compare_classifiers(*pair(**counts), CLASSES).decide(RULE)[0] == better
    assert words in compare_classifiers(*pair(**counts), CLASSES).decide(RULE)[1]


def test_a_class_that_gets_worse_keeps_the_champion() -> None:
    labels = [0] * 900 + [1] * 100
    before = answers([True] * 800 + [False] * 100 + [True] * 100, labels)
    after = answers([True] * 900 + [False] * 6 + [True] * 94, labels)
    promoted, why = compare_classifiers(before, after, CLASSES).decide(RULE)
    assert not promoted
    assert "worse by more than 5.00% in the class one (94.00% against 100.00% of 100 images)" in why
    assert compare_classifiers(before, after, CLASSES).decide(PromotionRule(margin=0.01, alpha=0.05, class_bound=0.06))[
        0
    ]


def test_a_margin_that_is_just_met_is_met() -> None:
    comparison = compare_classifiers(*pair(both=90, gained=10, lost=0), CLASSES)
    assert comparison.decide(PromotionRule(margin=0.1, alpha=0.05, class_bound=0.0))[0]


def test_without_a_margin_an_equal_challenger_is_kept_out() -> None:
    comparison = compare_classifiers(*pair(both=90, gained=5, lost=5), CLASSES)
    assert not comparison.decide(PromotionRule(margin=0.0, alpha=1.0, class_bound=1.0))[0]


def power(n: int, *, disagreement: float, difference: float, alpha: float, draws: int = 2_000) -> float:
    """How often the test finds a challenger that is better by ``difference``, when so many answers are told apart."""
    chances = [(disagreement + difference) / 2, (disagreement - difference) / 2, 1 - disagreement]
    counts = np.random.default_rng(0).multinomial(n, chances, size=draws)[:, :2]
    pairs, times = np.unique(counts, axis=0, return_counts=True)
    significant = np.array([mcnemar(int(gained), int(lost)) <= alpha for gained, lost in pairs])
    return float((significant * times).sum() / draws)


def test_an_equal_challenger_is_promoted_no_more_often_than_alpha() -> None:
    """10 % of 500 images are told apart, each way as often: the share of false promotions, exactly, by simulation."""
    assert power(500, disagreement=0.1, difference=0.0, alpha=0.05) <= 0.05 + 0.01
    assert power(500, disagreement=0.1, difference=0.05, alpha=0.05) > 0.9


def sets(**splits: str) -> pd.DataFrame:
    return pd.DataFrame({"sha256": list(splits), "split": list(splits.values())})


def test_shared_hashes_are_the_test_parts_of_both() -> None:
    champion = sets(a="test", b="train", c="val", d="test")
    challenger = sets(a="test", b="test", c="test", d="train", e="test", f="train")
    assert shared_hashes(champion, challenger) == {"a"}
    assert shared_hashes(champion, challenger, unseen=True) == {"a", "e"}


def test_images_are_known_by_their_pixels_whatever_they_are_called() -> None:
    rows = pd.DataFrame({"id": ["train/1", "train/2", "train/3"], "sha256": ["aa", "bb", "aa"]})
    table = pd.DataFrame({"id": ["train/2", "train/1", "train/3"], "label": [1, 0, 0], "predicted": [1, 0, 1]})
    assert by_hash(table, rows)["id"].tolist() == ["bb", "aa"]
    with pytest.raises(ValueError, match="train/9 was predicted but is not in the set"):
        by_hash(table.assign(id=["train/9", "train/1", "train/3"]), rows)


def test_a_new_class_stands_apart_and_a_known_image_called_so_is_a_mistake() -> None:
    labels = [0] * 40 + [1] * 40 + [2] * 20
    champion = pd.DataFrame({"id": map(str, range(100)), "label": labels, "predicted": [0] * 40 + [1] * 30 + [0] * 30})
    challenger = champion.assign(predicted=[0] * 38 + [2] * 2 + [1] * 40 + [2] * 15 + [1] * 5)
    names = ["cat", "dog", "owl"]
    comparison = compare_classifiers(champion, challenger, names, new=["owl"])
    assert (comparison.n, comparison.gained, comparison.lost) == (80, 10, 2)
    assert list(comparison.classes) == ["cat", "dog"]
    assert comparison.classes["cat"] == (40, 1.0, 0.95)
    assert score_new_classes(challenger, names, ["owl"]) == {"owl": (20, 0.75, 2, 80)}
    assert score_new_classes(challenger[:80], names, ["owl"])["owl"].score is None
    with pytest.raises(ValueError, match="no held-out image"):
        compare_classifiers(champion, challenger, names, new=names)
