from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from cnn_core.classification.inference.metrics import calibration_error, classification, wilson, worst_mistakes


def guesses(count=500, classes=4, seed=0):
    draws = np.random.default_rng(seed)
    labels = draws.integers(0, classes, count)
    logits = draws.normal(size=(count, classes)) + 1.5 * np.eye(classes)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return probabilities.astype(np.float32), labels


def test_the_scores_are_those_of_scikit_learn():
    probabilities, labels = guesses()
    found = classification(probabilities, labels, list("abcd"))
    predicted = probabilities.argmax(1)
    report = reference.classification_report(labels, predicted, target_names=list("abcd"), output_dict=True)
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(labels, predicted))
    assert found["macro_f1"] == pytest.approx(report["macro avg"]["f1-score"])
    for name in "abcd":
        assert found["precision"][name] == pytest.approx(report[name]["precision"])
        assert found["recall"][name] == pytest.approx(report[name]["recall"])
        assert found["f1"][name] == pytest.approx(report[name]["f1-score"])
    assert found["errors"] == (predicted != labels).sum()
    assert found["accuracy_low"] < found["accuracy"] < found["accuracy_high"]


def test_the_interval_is_wilsons():
    # Newcombe, Statistics in Medicine 17 (1998), table I: 81 of 263.
    low, high = wilson(81, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert wilson(0, 20)[0] == 0.0
    assert round(wilson(0, 20)[1], 4) == 0.1611
    assert wilson(20, 20)[1] == 1.0
    assert wilson(0, 0) == (0.0, 1.0)


def test_calibration_is_perfect_when_confidence_is_the_share_of_right_answers():
    probabilities = np.tile([0.7, 0.3], (10, 1))
    assert calibration_error(probabilities, np.array([0] * 7 + [1] * 3)) == pytest.approx(0.0)
    assert calibration_error(probabilities, np.array([0] * 2 + [1] * 8)) == pytest.approx(0.5)


def test_a_class_without_test_images_is_counted_and_lowers_no_mean():
    probabilities = np.array([[0.9, 0.05, 0.05], [0.1, 0.8, 0.1]])
    measured = classification(probabilities, np.array([0, 1]), list("abc"))
    assert (measured["macro_f1"], measured["classes"], measured["tested_classes"]) == (1.0, 3, 2)
    assert measured["f1"] == measured["recall"] == measured["precision"] == {"a": 1.0, "b": 1.0}
    never_predicted = classification(probabilities, np.array([0, 2]), list("abc"))
    assert never_predicted["f1"] == {"a": 1.0, "c": 0.0}
    assert never_predicted["macro_f1"] == 0.5
    with pytest.raises(ValueError, match="the test part is empty"):
        classification(np.empty((0, 3)), np.empty(0, int), list("abc"))


def test_the_worst_mistakes_are_wrong_and_the_most_confident_come_first():
    probabilities, labels = guesses()
    worst = worst_mistakes(probabilities, labels, 7)
    assert len(worst) == 7
    assert (probabilities[worst].argmax(1) != labels[worst]).all()
    confidence = probabilities[worst].max(1)
    assert (np.diff(confidence) <= 0).all()
    others = np.setdiff1d(np.flatnonzero(probabilities.argmax(1) != labels), worst)
    assert probabilities[others].max(1).max() <= confidence.min()
