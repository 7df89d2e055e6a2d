"""The measures of a classifier of several labels an image, from its probabilities and the true labels."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from cnn_core.classification.inference.metrics import wilson
from cnn_core.classification.inference.multilabel import average_precisions, predicted_labels

RESAMPLES, SEED = 300, 0  # draws of the images with replacement, for the intervals of AP and mAP
_AT_A_TIME = 20_000_000  # numbers of a bootstrap that are in memory together


def multilabel_classification(
    probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str], thresholds: Sequence[float]
) -> dict[str, Any]:
    """mAP, the average precision of each class, F1 and the share of exact answers, with intervals.

    ``map`` and ``ap`` need no thresholds; all else is measured at them. The intervals are at 95 %: Wilson's of the
    exact answers, bootstrapped over the images for mAP and AP. Classes that no image has are in none of the means.

    Raises:
        ValueError: there is no image, or no image has a label.
    """
    if len(labels) == 0:
        raise ValueError("there is no image to measure on: the test part is empty; raise ingest's test_fraction")
    if not labels.any():
        raise ValueError(
            "no image of the test part has a label, so nothing is known of any class; raise ingest's test_fraction"
        )
    values, predicted = average_precisions(probabilities, labels), predicted_labels(probabilities, thresholds)
    tested = np.flatnonzero(labels.any(0))
    truth = labels.astype(bool)
    right = int((predicted == truth).all(1).sum())
    drawn = bootstrapped(probabilities[:, tested], labels[:, tested])
    low, high = interval(mean_of_draws(drawn))
    exact_low, exact_high = wilson(right, len(labels))
    hits, calls, positives = ((one.sum(0)) for one in (predicted & truth, predicted, truth))
    precision, recall, f1 = hits / calls.clip(1), hits / positives.clip(1), 2 * hits / (calls + positives).clip(1)
    return {
        "n": len(labels),
        "map": float(np.nanmean(values)),
        "map_low": float(low),
        "map_high": float(high),
        "f1_micro": float(2 * hits.sum() / max(1, calls.sum() + positives.sum())),
        "f1_macro": float(np.mean(f1[tested])),
        "exact_match": right / len(labels),
        "exact_match_low": exact_low,
        "exact_match_high": exact_high,
        "labels": int(labels.sum()),
        "predicted_labels": int(predicted.sum()),
        "without_label": int((~labels.any(1)).sum()),
        "classes": len(classes),
        "tested_classes": len(tested),
        "by_class": {
            classes[number]: {
                "images": int(labels[:, number].sum()),
                "ap": float(values[number]),
                "ap_low": float(low),
                "ap_high": float(high),
                "precision": float(precision[number]),
                "recall": float(recall[number]),
                "f1": float(f1[number]),
                "threshold": float(thresholds[number]),
            }
            for number, low, high in zip(tested.tolist(), *interval(drawn), strict=True)
        },
    }


def bootstrapped(probabilities: np.ndarray, labels: np.ndarray, *, resamples: int = RESAMPLES) -> np.ndarray:
    """The average precision of each class in draws of the images with replacement, float (K, resamples).

    A draw without an image of the class gives NaN. The draws are the same for every model on these images.
    """
    count = len(labels)
    times = np.random.default_rng(SEED).multinomial(count, np.full(count, 1 / count), size=resamples)
    rows = max(1, _AT_A_TIME // max(count, 1))
    return np.array(
        [
            np.concatenate(
                [
                    weighted_average_precisions(
                        probabilities[:, number], labels[:, number], times[start : start + rows]
                    )
                    for start in range(0, resamples, rows)
                ]
            )
            for number in range(labels.shape[1])
        ]
    )


def weighted_average_precisions(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The average precision of one class (N,) for each row of weights of the images, (draws, N); NaN without images."""
    order = np.argsort(-probabilities, kind="stable")
    values, has = probabilities[order], labels[order].astype(float)
    ends = np.append(values[1:] < values[:-1], True)
    drawn = weights[:, order].astype(float)
    right, all_ = np.cumsum(drawn * has, axis=1)[:, ends], np.cumsum(drawn, axis=1)[:, ends]
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(all_ > 0, right / all_, 0.0)
        gained = np.diff(right, axis=1, prepend=0.0)
        return (precision * gained).sum(1) / right[:, -1]


def mean_of_draws(drawn: np.ndarray) -> np.ndarray:
    """The mean over the classes in each draw, float (resamples,); NaN in a draw without any label."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmean(drawn, axis=0)


def interval(drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % percentile interval over the last axis."""
    low, high = np.nanpercentile(drawn, [2.5, 97.5], axis=-1)
    return low, high
