"""Is a challenging segmenter better than the champion? The same true boxes were prompts for both: a paired bootstrap.

As in `detection_comparison`; what is compared is the mean over objects of the IoU of mask and true mask.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from cnn_core.comparison.detectors import DRAWS, Gain, drawn_images, interval_and_p

TRUTH = "truth"  # in the column prompted_by: the object's own box


def compare_segmenters(
    images: pd.DataFrame,
    truth: pd.DataFrame,
    champion: pd.DataFrame,
    challenger: pd.DataFrame,
    classes: list[str],
    *,
    draws: int = DRAWS,
) -> Gain:
    """
    Args:
        images, truth: of the held-out split, as `annotations` has them.
        champion, challenger: the masks of each, as the stage evaluate_segmenter writes them: ``object`` (the position
            in the truth without crowds), ``prompted_by`` and ``iou``. An object without a mask has an IoU of 0.

    Raises:
        ValueError: the split holds no object.
    """
    if "iscrowd" in truth:
        truth = truth[truth["iscrowd"] == 0].reset_index(drop=True)
    if truth.empty:
        raise ValueError("the held-out split holds no object")
    before, after = (_ious(table, len(truth)) for table in (champion, challenger))
    place = pd.Index(images["image_id"]).get_indexer(truth["image_id"])
    objects, gained = (
        np.bincount(place, weights=values, minlength=len(images)) for values in (np.ones(len(truth)), after - before)
    )
    weights = drawn_images(len(images), draws)
    with np.errstate(invalid="ignore"):  # a draw without an object
        gains = (weights @ gained) / (weights @ objects)
    of_class = {name: (truth["class_name"] == name).to_numpy() for name in classes}
    return Gain(
        measure="mean IoU",
        n=len(images),
        champion=float(before.mean()),
        challenger=float(after.mean()),
        **interval_and_p(gains),
        classes={
            name: (int(own.sum()), float(before[own].mean()), float(after[own].mean()))
            for name, own in of_class.items()
            if own.any()
        },
    )


def _ious(masks: pd.DataFrame, count: int) -> np.ndarray:
    """Of each of the ``count`` objects: float64 (count,)."""
    own = masks[masks["prompted_by"] == TRUTH]
    ious = np.zeros(count)
    ious[own["object"].to_numpy(int)] = own["iou"].to_numpy(float)
    return ious
