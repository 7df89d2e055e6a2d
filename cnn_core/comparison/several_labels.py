"""Compare two classifiers of several labels an image on the same held-out images, by a paired bootstrap of mAP."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from cnn_core.classification.inference.multilabel import average_precisions
from cnn_core.classification.inference.multilabel_metrics import bootstrapped, mean_of_draws
from cnn_core.comparison.classifiers import has_several_labels
from cnn_core.comparison.objects import BootstrapComparison, bootstrap_comparison
from cnn_core.comparison.promotion import ClassScores, NewClassScores

DRAWS = 1_000  # of images with replacement


def compare_several_labels(
    champion: pd.DataFrame,
    challenger: pd.DataFrame,
    classes: Sequence[str],
    ids: Collection[str] | None = None,
    *,
    new: Collection[str] = (),
) -> BootstrapComparison:
    """Compare two classifiers by their answers (`read_answers`) to the images that both answered.

    Args:
        classes: the names that the numbers in the answers index.
        ids: the images to compare them on; None takes all that both answered.
        new: classes that the champion does not know; mAP is the mean over the others.

    Raises:
        ValueError: one of the two gives one label an image, the two were measured by different labels, or there is no
            image that both answered or none with a label.
    """
    if not (has_several_labels(champion) and has_several_labels(challenger)):
        raise ValueError("one of champion and challenger gives an image one label, the other one several")
    shared = set(champion["id"]) & set(challenger["id"]) & set(champion["id"] if ids is None else ids)
    if not shared:
        raise ValueError("there is no held-out image that champion and challenger both answered")
    before, after = (answers[answers["id"].isin(shared)].sort_values("id") for answers in (champion, challenger))
    truth, truth_after = (_matrix(answers["labels"], len(classes)) for answers in (before, after))
    if (disagree := (truth != truth_after).any(1)).any():
        example = before["id"].to_numpy()[disagree][0]
        raise ValueError(f"champion and challenger have different labels for {disagree.sum():,} images ({example})")
    has_images = np.flatnonzero(truth.any(0)).tolist()
    measured = [number for number in has_images if classes[number] not in new]
    if not measured:
        raise ValueError("no image that champion and challenger both answered has a label that both know")
    scores = {
        name: NewClassScores(n=int(truth[:, number].sum()), score=_ap(after, truth, number))
        for number, name in enumerate(classes)
        if name in new
    }
    columns = [f"p{number}" for number in measured]
    chances, truth = [answers[columns].to_numpy() for answers in (before, after)], truth[:, measured]
    values = [average_precisions(each, truth) for each in chances]
    drawn = [mean_of_draws(bootstrapped(each, truth, resamples=DRAWS)) for each in chances]
    return bootstrap_comparison(
        "mAP",
        len(truth),
        float(values[0].mean()),
        float(values[1].mean()),
        drawn[1] - drawn[0],
        {
            classes[number]: ClassScores(
                int(truth[:, column].sum()), float(values[0][column]), float(values[1][column])
            )
            for column, number in enumerate(measured)
        },
        scores,
        unit="images",
    )


def _ap(answers: pd.DataFrame, truth: np.ndarray, number: int) -> float | None:
    """The average precision of a class; None where no image has it."""
    value = average_precisions(answers[[f"p{number}"]].to_numpy(), truth[:, [number]])[0]
    return None if np.isnan(value) else float(value)


def _matrix(labels: pd.Series, classes: int) -> np.ndarray:
    """Lists of class numbers as zeros and ones (N, K)."""
    matrix = np.zeros((len(labels), classes), np.uint8)
    for row, numbers in enumerate(labels):
        matrix[row, np.asarray(numbers, int)] = 1
    return matrix
