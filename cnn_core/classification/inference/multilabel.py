"""Classifiers of several labels an image: average precision, and the probability from which a class is a label.

Average precision is scikit-learn's (the mean precision over the ranks of the images that have the class). mAP is its
mean over the classes that an image has; of the others nothing is known.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

DEFAULT_THRESHOLD = 0.5  # of a class that no validation image has


def average_precisions(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The average precision of each class, float (K,); NaN where no image has the class.

    Args:
        probabilities: float (N, K). labels: zeros and ones (N, K).
    """
    from sklearn.metrics import average_precision_score

    values = np.full(labels.shape[1], np.nan)
    for number in np.flatnonzero(labels.any(0)):
        values[number] = average_precision_score(labels[:, number], probabilities[:, number])
    return values


def mean_average_precision(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The mean of `average_precisions` over the classes that have an image; 0 where none has."""
    values = average_precisions(probabilities, labels)
    return float(np.nanmean(values)) if not np.isnan(values).all() else 0.0


def best_thresholds(probabilities: np.ndarray, labels: np.ndarray) -> list[float]:
    """For each class, the probability from which an image has it, chosen so that F1 over these images is highest.

    It lies in the middle between two probabilities that occur. Of several the highest F1 with the largest threshold
    counts. `DEFAULT_THRESHOLD` where no image has the class.
    """
    return [_best_threshold(probabilities[:, number], labels[:, number]) for number in range(labels.shape[1])]


def _best_threshold(probabilities: np.ndarray, labels: np.ndarray) -> float:
    if not labels.any():
        return DEFAULT_THRESHOLD
    order = np.argsort(-probabilities, kind="stable")
    values, right = probabilities[order].astype(float), np.cumsum(labels[order])
    f1 = 2 * right / (np.arange(1, len(order) + 1) + labels.sum())
    ends = np.append(values[1:] < values[:-1], True)  # equal probabilities are on one side of a threshold
    last = int(np.argmax(np.where(ends, f1, -1)))
    below = values[last + 1] if last + 1 < len(values) else 0.0
    return round(float((values[last] + below) / 2), 6)


def predicted_labels(probabilities: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """Which classes each image has by its probabilities, bool (N, K)."""
    return probabilities >= np.asarray(thresholds)


def joined_labels(predicted: np.ndarray, classes: Sequence[str]) -> list[str]:
    """The labels of each image (N, K) in one text, parted by a sign that no class bears."""
    separator = next((sign for sign in "|;," if not any(sign in name for name in classes)), " | ")
    return [separator.join(classes[number] for number in np.flatnonzero(row).tolist()) for row in predicted]
