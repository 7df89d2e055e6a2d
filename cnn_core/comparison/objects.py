"""Compare two detectors, or two segmenters, on the same held-out images by a paired bootstrap over the images.

The images are drawn anew with replacement, each time the same for both models, and the difference
of their measures is taken. What is hard in an image is hard for both models and drops out (Efron
and Tibshirani, An Introduction to the Bootstrap, 1993).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from cnn_core.comparison.promotion import ClassScores, Decision, NewClassScores, PromotionRule, decide
from cnn_core.detection.evaluation.metrics import (
    ALL,
    ANY_AREA,
    average_precision,
    draw_images,
    evaluate_boxes,
    weighted_ap50,
)

DRAWS, SEED = 2_000, 0  # of images with replacement
MAX_DET = 300  # boxes of a class in an image that count
TRUTH = "truth"  # in the column prompted_by: the prompt was the object's true box


@dataclasses.dataclass(frozen=True, kw_only=True)
class BootstrapComparison:
    """The values of a measure for champion and challenger on the same ``n`` images."""

    measure: str
    n: int
    champion: float
    challenger: float
    low: float  # the 95 % interval of the difference
    high: float
    p_value: float  # one-sided: the share of draws in which the challenger was not better
    classes: dict[str, ClassScores]
    new: dict[str, NewClassScores]  # the challenger's measure for classes that the champion does not know
    unit: str = "objects"  # what the scores of a class count

    def decide(self, rule: PromotionRule) -> Decision:
        figures = (
            f"{self.measure} {self.challenger:.4f} against {self.champion:.4f} on the same {self.n:,} held-out images "
            f"(difference {self.low:+.4f} to {self.high:+.4f}, p = {self.p_value:.3g})"
        )
        difference = self.challenger - self.champion
        return decide(
            rule, difference, self.p_value, self.classes, figures=figures, number_format=".4f", unit=self.unit
        )


def bootstrap_comparison(
    measure: str,
    n: int,
    champion: float,
    challenger: float,
    differences: np.ndarray,
    classes: dict[str, ClassScores],
    new: dict[str, NewClassScores],
    unit: str = "objects",
) -> BootstrapComparison:
    """Build the comparison from the difference in each draw: float (draws,), NaN in a draw without objects."""
    differences = differences[~np.isnan(differences)]
    low, high = np.percentile(differences, [2.5, 97.5])
    return BootstrapComparison(
        measure=measure,
        n=n,
        champion=champion,
        challenger=challenger,
        low=float(low),
        high=float(high),
        p_value=float((1 + (differences <= 0).sum()) / (1 + len(differences))),
        classes=classes,
        new=new,
        unit=unit,
    )


def compare_detectors(
    images: pd.DataFrame,
    truth: pd.DataFrame,
    champion: pd.DataFrame,
    challenger: pd.DataFrame,
    classes: Sequence[str],
    *,
    new: Collection[str] = (),
    draws: int = DRAWS,
) -> BootstrapComparison:
    """Compare the mAP50 of two detectors by their boxes in a held-out split; all are tables of `annotations`.

    Args:
        new: classes that the champion does not know; mAP50 is the mean over the others.

    Raises:
        ValueError: the split holds no object of the other classes.
    """
    _check_objects(truth, new)
    evaluations = [
        evaluate_boxes(images, truth, boxes, classes, max_det=MAX_DET, areas={ALL: (0.0, ANY_AREA)}, relative=False)
        for boxes in (champion, challenger)
    ]
    before, after = (average_precision(evaluation, at=0.5) for evaluation in evaluations)
    measured = [
        number for number in np.flatnonzero(~np.isnan(before)).tolist() if classes[number] not in new
    ]  # with objects
    weights = draw_images(len(images), draws, SEED)
    drawn_before, drawn_after = (
        np.nanmean([weighted_ap50(evaluation, number, weights) for number in measured], axis=0)
        for evaluation in evaluations
    )
    counts = truth["class_name"].value_counts()
    return bootstrap_comparison(
        "mAP50",
        len(images),
        float(before[measured].mean()),
        float(after[measured].mean()),
        drawn_after - drawn_before,
        {
            classes[number]: ClassScores(int(counts[classes[number]]), float(before[number]), float(after[number]))
            for number in measured
        },
        {
            name: NewClassScores(int(counts.get(name, 0)), None if np.isnan(ap) else float(ap))
            for name, ap in zip(classes, after, strict=True)
            if name in new
        },
    )


def compare_segmenters(
    images: pd.DataFrame,
    truth: pd.DataFrame,
    champion: pd.DataFrame,
    challenger: pd.DataFrame,
    classes: Sequence[str],
    *,
    new: Collection[str] = (),
    draws: int = DRAWS,
) -> BootstrapComparison:
    """Compare the mean IoU of two segmenters over all objects of a held-out split.

    Args:
        champion, challenger: the masks of each, as the stage evaluate_segmenter writes them:
            ``object`` (the position in the truth without crowds and boxes alone), ``prompted_by`` and ``iou``. An
            object without a mask has an IoU of 0.
        new: classes that the champion has not learned from; the mean is over the objects of the others.

    Raises:
        ValueError: the split holds no object of the other classes.
    """
    if "iscrowd" in truth:
        truth = truth[truth["iscrowd"] == 0]
    if truth["rle"].notna().any():
        truth = truth[truth["rle"].notna()]
    truth = truth.reset_index(drop=True)
    _check_objects(truth, new)
    before, after = (_ious(masks, len(truth)) for masks in (champion, challenger))
    members = {name: (truth["class_name"] == name).to_numpy() for name in classes}
    new_scores = {
        name: NewClassScores(int(rows.sum()), float(after[rows].mean()) if rows.any() else None)
        for name, rows in members.items()
        if name in new
    }
    both = ~truth["class_name"].isin(new).to_numpy()
    image_of_object = pd.Index(images["image_id"]).get_indexer(truth["image_id"])
    objects, gains = (
        np.bincount(image_of_object, weights=values, minlength=len(images))
        for values in (both.astype(float), (after - before) * both)
    )
    weights = draw_images(len(images), draws, SEED)
    with np.errstate(invalid="ignore"):  # a draw without an object
        differences = (weights @ gains) / (weights @ objects)
    return bootstrap_comparison(
        "mean IoU",
        len(images),
        float(before[both].mean()),
        float(after[both].mean()),
        differences,
        {
            name: ClassScores(int(rows.sum()), float(before[rows].mean()), float(after[rows].mean()))
            for name, rows in members.items()
            if rows.any() and name not in new
        },
        new_scores,
    )


def _check_objects(truth: pd.DataFrame, new: Collection[str]) -> None:
    if truth.empty:
        raise ValueError("the held-out split holds no object")
    if truth["class_name"].isin(new).all():
        raise ValueError("the held-out split holds no object of a class that both know")


def _ious(masks: pd.DataFrame, count: int) -> np.ndarray:
    masks = masks[masks["prompted_by"] == TRUTH]
    ious = np.zeros(count)
    ious[masks["object"].to_numpy(int)] = masks["iou"].to_numpy(float)
    return ious
