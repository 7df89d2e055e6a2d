"""Compare two detectors that looked at the same held-out images, by their mAP50."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cnn_core.comparison.bootstrap import DRAWS, BootstrapComparison, bootstrap_comparison, draw_images
from cnn_core.comparison.promotion import ClassScores
from cnn_core.detection.evaluation.metrics import ALL, ANY_AREA, average_precision, evaluate_boxes, mean, weighted_ap50

MAX_DET = 300  # boxes of a class in an image that count


def compare_detectors(
    images: pd.DataFrame,
    truth: pd.DataFrame,
    champion: pd.DataFrame,
    challenger: pd.DataFrame,
    classes: Sequence[str],
    *,
    draws: int = DRAWS,
) -> BootstrapComparison:
    """Compare the mAP50 of two detectors.

    Args:
        images, truth: the held-out split, as tables of `annotations`.
        champion, challenger: the boxes that each found in it, likewise.

    Raises:
        ValueError: the split holds no object.
    """
    if truth.empty:
        raise ValueError("the held-out split holds no object")
    evaluations = [
        evaluate_boxes(images, truth, boxes, classes, max_det=MAX_DET, areas={ALL: (0.0, ANY_AREA)}, relative=False)
        for boxes in (champion, challenger)
    ]
    before, after = (average_precision(evaluation, at=0.5) for evaluation in evaluations)
    measured = np.flatnonzero(~np.isnan(before)).tolist()  # classes with objects
    weights = draw_images(len(images), draws)
    drawn_before, drawn_after = (
        np.nanmean([weighted_ap50(evaluation, number, weights) for number in measured], axis=0)
        for evaluation in evaluations
    )
    counts = truth["class_name"].value_counts()
    return bootstrap_comparison(
        "mAP50",
        len(images),
        float(mean(before) or 0.0),
        float(mean(after) or 0.0),
        drawn_after - drawn_before,
        {
            classes[number]: ClassScores(int(counts[classes[number]]), float(before[number]), float(after[number]))
            for number in measured
        },
    )
