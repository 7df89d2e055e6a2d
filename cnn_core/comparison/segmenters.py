"""Compare two segmenters that got the same true boxes as prompts, by their mean IoU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cnn_core.comparison.bootstrap import DRAWS, BootstrapComparison, bootstrap_comparison, draw_images
from cnn_core.comparison.promotion import ClassScores

TRUTH = "truth"  # in the column prompted_by: the prompt was the object's true box


def compare_segmenters(
    images: pd.DataFrame,
    truth: pd.DataFrame,
    champion: pd.DataFrame,
    challenger: pd.DataFrame,
    classes: Sequence[str],
    *,
    draws: int = DRAWS,
) -> BootstrapComparison:
    """Compare the mean IoU of two segmenters over all objects.

    Args:
        images, truth: the held-out split, as tables of `annotations`.
        champion, challenger: the masks of each, as the stage evaluate_segmenter writes them:
            ``object`` (the position in the truth without crowds), ``prompted_by`` and ``iou``. An
            object without a mask has an IoU of 0.

    Raises:
        ValueError: the split holds no object.
    """
    if "iscrowd" in truth:
        truth = truth[truth["iscrowd"] == 0].reset_index(drop=True)
    if truth.empty:
        raise ValueError("the held-out split holds no object")
    before, after = (_ious(masks, len(truth)) for masks in (champion, challenger))
    image_of_object = pd.Index(images["image_id"]).get_indexer(truth["image_id"])
    objects, gains = (
        np.bincount(image_of_object, weights=values, minlength=len(images))
        for values in (np.ones(len(truth)), after - before)
    )
    weights = draw_images(len(images), draws)
    with np.errstate(invalid="ignore"):  # a draw without an object
        differences = (weights @ gains) / (weights @ objects)
    members = {name: (truth["class_name"] == name).to_numpy() for name in classes}
    return bootstrap_comparison(
        "mean IoU",
        len(images),
        float(before.mean()),
        float(after.mean()),
        differences,
        {
            name: ClassScores(int(rows.sum()), float(before[rows].mean()), float(after[rows].mean()))
            for name, rows in members.items()
            if rows.any()
        },
    )


def _ious(masks: pd.DataFrame, count: int) -> np.ndarray:
    """Give the IoU of each of the ``count`` objects: float64 (count,)."""
    masks = masks[masks["prompted_by"] == TRUTH]
    ious = np.zeros(count)
    ious[masks["object"].to_numpy(int)] = masks["iou"].to_numpy(float)
    return ious
