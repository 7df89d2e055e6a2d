"""Average precision, thresholds and intervals of several labels an image, held against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score

from cnn_core.classification.inference.multilabel import (
    average_precisions,
    best_thresholds,
    joined_labels,
    mean_average_precision,
    predicted_labels,
)
from cnn_core.classification.inference.multilabel_metrics import (
    bootstrapped,
    multilabel_classification,
    weighted_average_precisions,
)

CLASSES = ["cat", "dog", "owl", "elk"]


def answers(count: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities with ties, and labels that they tell a little of; no image has the last class."""
    draws = np.random.default_rng(seed)
    labels = (draws.random((count, 4)) < (0.5, 0.2, 0.05, 0)).astype(np.uint8)
    return (0.4 * labels + 0.6 * draws.random((count, 4))).round(2).astype(np.float32), labels


def test_a_class_without_images_is_in_no_mean() -> None:
    probabilities, labels = answers()
    values = average_precisions(probabilities, labels)
    assert np.isnan(values[3])
    expected = average_precision_score(labels[:, :3], probabilities[:, :3], average="macro")
    assert mean_average_precision(probabilities, labels) == pytest.approx(expected)
    assert mean_average_precision(probabilities, np.zeros_like(labels)) == 0


def test_a_threshold_gives_the_highest_f1_that_there_is() -> None:
    probabilities, labels = answers()
    thresholds = best_thresholds(probabilities, labels)
    for number in range(3):
        every = [f1_score(labels[:, number], probabilities[:, number] >= at) for at in np.unique(probabilities)]
        at = f1_score(labels[:, number], predicted_labels(probabilities, thresholds)[:, number])
        assert at == pytest.approx(max(every))
    assert thresholds[3] == 0.5
    assert best_thresholds(np.array([[0.2], [0.6], [0.8]]), np.array([[0], [1], [1]])) == [0.4]
    equal = np.array([[0.9], [0.5], [0.5], [0.5], [0.5]])  # which a threshold cannot part
    assert best_thresholds(equal, np.array([[1], [1], [0], [0], [0]])) == [0.7]


def test_a_weighted_average_precision_is_that_of_repeated_images() -> None:
    probabilities, labels = answers(40)
    times = np.random.default_rng(1).integers(0, 4, (5, 40))
    for row, value in zip(times, weighted_average_precisions(probabilities[:, 0], labels[:, 0], times), strict=True):
        repeated = np.repeat(np.arange(40), row)
        assert value == pytest.approx(average_precision_score(labels[repeated, 0], probabilities[repeated, 0]))


def test_the_measures_and_their_intervals() -> None:
    probabilities, labels = answers()
    thresholds = best_thresholds(probabilities, labels)
    measured = multilabel_classification(probabilities, labels, CLASSES, thresholds)
    predicted = predicted_labels(probabilities, thresholds)
    assert (measured["n"], measured["classes"], measured["tested_classes"]) == (200, 4, 3)
    assert list(measured["by_class"]) == CLASSES[:3]
    assert measured["map_low"] < measured["map"] < measured["map_high"]
    assert all(row["ap_low"] <= row["ap"] <= row["ap_high"] for row in measured["by_class"].values())
    assert measured["f1_micro"] == pytest.approx(f1_score(labels, predicted, average="micro"))
    assert measured["f1_macro"] == pytest.approx(f1_score(labels[:, :3], predicted[:, :3], average="macro"))
    assert measured["exact_match"] == (predicted == labels).all(1).mean()
    assert measured["exact_match_low"] < measured["exact_match"] < measured["exact_match_high"]
    assert measured["by_class"]["owl"]["images"] == labels[:, 2].sum()
    assert measured["without_label"] == (labels.sum(1) == 0).sum()
    assert bootstrapped(probabilities, labels, resamples=7).shape == (4, 7)


def test_of_one_class_its_own_figures_are_given() -> None:
    labels = np.array([1, 0, 0, 0, 1, 0], np.uint8)[:, None]
    probabilities = np.array([0.9, 0.8, 0.1, 0.1, 0.1, 0.1], np.float32)[:, None]
    measured = multilabel_classification(probabilities, labels, ["cat"], [0.5])
    assert measured["f1_micro"] == measured["f1_macro"] == measured["by_class"]["cat"]["f1"] == 0.5
    assert (measured["by_class"]["cat"]["precision"], measured["by_class"]["cat"]["recall"]) == (0.5, 0.5)


@pytest.mark.parametrize(("count", "words"), [(0, "there is no image"), (3, "no image of the test part has a label")])
def test_nothing_to_measure_is_one_sentence(count: int, words: str) -> None:
    nothing = np.zeros((count, 4), np.uint8)
    with pytest.raises(ValueError, match=words):
        multilabel_classification(nothing.astype(np.float32), nothing, CLASSES, [0.5] * 4)


def test_labels_are_joined_by_a_sign_that_no_class_bears() -> None:
    rows = np.array([[True, True], [False, False]])
    assert joined_labels(rows, ["cat", "dog"]) == ["cat|dog", ""]
    assert joined_labels(rows, ["a|b", "dog"]) == ["a|b;dog", ""]
