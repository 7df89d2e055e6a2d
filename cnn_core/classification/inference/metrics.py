"""The measures of a classifier, from its probabilities and the true labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def wilson(right: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % interval of a proportion by Wilson (1927), which unlike p ± z·s stays inside 0..1 and holds near 1.

    >>> [round(bound, 4) for bound in wilson(990, 1000)]
    [0.9817, 0.9946]
    """
    if count == 0:
        return 0.0, 1.0
    share, square = right / count, z * z / count
    middle = (share + square / 2) / (1 + square)
    half = z / (1 + square) * math.sqrt(share * (1 - share) / count + square / (4 * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """The expected calibration error (Guo et al., 2017): the mean |accuracy - confidence| over bins of confidence."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(right[bin_of == b].mean() - confidence[bin_of == b].mean()) * (bin_of == b).sum() for b in set(bin_of)]
    return float(sum(gaps) / len(labels))


def classification(probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Accuracy with its interval, calibration error, and precision, recall and F1 of each class that has test images.

    Macro F1 is the mean over these ``tested_classes`` of the ``classes``: of the others nothing is known. The three are
    0 for a class that was never predicted.

    Args:
        probabilities: float (N, K). labels: int (N,).

    Raises:
        ValueError: there is no image.
    """
    from sklearn.metrics import precision_recall_fscore_support

    if len(labels) == 0:
        raise ValueError("there is no image to measure on: the test part is empty; raise ingest's test_fraction")
    predicted = probabilities.argmax(1)
    right = int((predicted == labels).sum())
    low, high = wilson(right, len(labels))
    tested = np.unique(labels)
    scores = precision_recall_fscore_support(labels, predicted, labels=tested, zero_division=0)
    names = [classes[number] for number in tested]
    precision, recall, f1 = (dict(zip(names, map(float, score), strict=True)) for score in scores[:3])
    return {
        "n": len(labels),
        "errors": len(labels) - right,
        "accuracy": right / len(labels),
        "accuracy_low": low,
        "accuracy_high": high,
        "ece": calibration_error(probabilities, labels),
        "macro_f1": float(np.mean(scores[2])),
        "classes": len(classes),
        "tested_classes": len(tested),
        "precision": precision,
        "recall": recall,
        "f1": f1,
    }


def worst_mistakes(probabilities: np.ndarray, labels: np.ndarray, most: int) -> np.ndarray:
    """The positions of the wrong answers, the most confident first."""
    wrong = np.flatnonzero(probabilities.argmax(1) != labels)
    return wrong[np.argsort(-probabilities[wrong].max(1), kind="stable")][:most]
