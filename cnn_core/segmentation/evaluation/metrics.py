"""The quality of masks: overlap with the truth, distance of the outlines, reliability of the predicted IoU.

IoU (Jaccard) = |A and B| / |A or B|; Dice (F1 of the pixels) = 2 |A and B| / (|A| + |B|), both 0..1.

The boundary F-score is that of Csurka, Larlus and Perronnin, "What is a good evaluation measure for semantic
segmentation?" (BMVC 2013), as DAVIS measures it (Perazzi et al., CVPR 2016): the precision is the share of the mask's
outline that lies within a tolerance of the true one, the recall the share of the true outline within it of the mask's.
The tolerance is a share of the image's diagonal, 0.0075 in the former paper and 0.008 in the latter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import pandas as pd

from cnn_core.annotations.masks import decode_mask, mask_box

SMALL, MEDIUM, LARGE = "small", "medium", "large"
SCORES = ("iou", "dice", "boundary_f")
BINS = 10  # of the predicted IoU


def overlap(truth: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """IoU and Dice of two masks, bool (H, W). Both are 1 for two empty masks."""
    both, first, second = (int(np.count_nonzero(part)) for part in (truth & mask, truth, mask))
    if not first + second:
        return 1.0, 1.0
    return both / (first + second - both), 2 * both / (first + second)


def outline(mask: np.ndarray) -> np.ndarray:
    """The mask's pixels with a side next to a pixel outside the mask. The image's edge is no outline."""
    inner = cv2.erode(mask.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)))
    return mask & (inner == 0)


def boundary_f(truth: np.ndarray, mask: np.ndarray, tolerance: float) -> float:
    """The boundary F-score of two masks, bool (H, W), 0..1.

    Args:
        tolerance: share of the image's diagonal; rounded up to whole pixels, as DAVIS does.
    """
    reach = math.ceil(tolerance * math.hypot(*truth.shape))
    true_line, line = outline(truth), outline(mask)
    if not true_line.any() or not line.any():
        return float(true_line.any() == line.any())
    left, top, right, bottom = map(int, mask_box(true_line | line))  # the rest of the image has no outline
    part = slice(top, bottom), slice(left, right)
    precision, recall = _near(line[part], true_line[part], reach), _near(true_line[part], line[part], reach)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _near(line: np.ndarray, other: np.ndarray, reach: int) -> float:
    far = cv2.distanceTransform((~other).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return float((far[line] <= reach + 1e-3).mean())


def size_groups(truth: pd.DataFrame, images: pd.DataFrame, small: float, large: float) -> list[str]:
    """Call each object `SMALL`, `MEDIUM` or `LARGE` by the square root of its box's share of the image."""
    pixels = dict(zip(images["image_id"], images["width"] * images["height"], strict=True))
    areas = (truth["x2"] - truth["x1"]) * (truth["y2"] - truth["y1"])
    shares = np.sqrt(areas.to_numpy() / truth["image_id"].map(pixels).to_numpy())
    return np.select([shares < small, shares > large], [SMALL, LARGE], MEDIUM).tolist()


def compare_masks(
    truth: pd.DataFrame, masks: Mapping[int, str], images: pd.DataFrame, tolerance: float
) -> pd.DataFrame:
    """Give a row of the `SCORES` for every object of the truth, 0 if it has no mask.

    Args:
        masks: an object's position in ``truth`` -> the mask to compare with, as run lengths.
    """
    shapes = dict(zip(images["image_id"], zip(images["height"], images["width"], strict=True), strict=True))
    rows = np.zeros((len(truth), len(SCORES)))
    for position, (image_id, rle) in enumerate(zip(truth["image_id"], truth["rle"], strict=True)):
        if position in masks:
            true, mask = (decode_mask(text, *shapes[image_id]) for text in (rle, masks[position]))
            rows[position] = *overlap(true, mask), boundary_f(true, mask, tolerance)
    return pd.DataFrame(rows, columns=list(SCORES))


def mean_scores(scores: pd.DataFrame) -> dict[str, float]:
    return {f"mean_{name}": float(scores[name].mean()) for name in SCORES} if len(scores) else {}


def means_by_group(scores: pd.DataFrame, groups: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`mean_scores` and the number of objects of each group, in the groups' order."""
    parts = scores.groupby(pd.CategoricalIndex(list(groups), ordered=False), observed=True)
    return {str(name): {**mean_scores(part), "objects": len(part)} for name, part in parts}


def bootstrap_interval(
    values: np.ndarray, images: Sequence[str], *, resamples: int, seed: int
) -> tuple[float, float] | None:
    """The 95 % percentile bootstrap interval of the mean (Efron, 1979); None without resamples.

    Images are drawn with replacement, each with all its objects: objects of an image are alike, so drawing single
    objects would make the interval too narrow. ``images`` names the image of each value.
    """
    table = pd.DataFrame({"image": list(images), "value": values}).groupby("image")["value"].agg(["sum", "size"])
    if not resamples or table.empty:
        return None
    count = len(table)
    times = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    drawn = (times @ table["sum"].to_numpy()) / (times @ table["size"].to_numpy())
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def summarise_scores(scores: pd.DataFrame, images: Sequence[str], *, resamples: int, seed: int) -> dict[str, float]:
    """`mean_scores` and the `bootstrap_interval` of the mean IoU."""
    bounds = bootstrap_interval(scores["iou"].to_numpy(), images, resamples=resamples, seed=seed)
    return mean_scores(scores) | (dict(zip(("mean_iou_low", "mean_iou_high"), bounds, strict=True)) if bounds else {})


def calibration(predicted: np.ndarray, actual: np.ndarray) -> pd.DataFrame:
    """Compare the predicted with the actual IoU in `BINS` equally wide bins of the predicted one.

    scikit-learn's calibration_curve is for binary outcomes; here the truth is an IoU.

    Returns:
        Columns predicted and actual (means) and objects (their number). Empty bins and NaNs are left out.
    """
    valid = ~np.isnan(predicted)
    predicted, actual = predicted[valid], actual[valid]
    bins = (np.clip(predicted, 0, 1) * BINS).astype(int).clip(0, BINS - 1)
    table = (
        pd.DataFrame({"predicted": predicted, "actual": actual})
        .groupby(bins)
        .agg(predicted=("predicted", "mean"), actual=("actual", "mean"), objects=("actual", "size"))
    )
    return table.reset_index(drop=True)


def score_reliability(predicted: np.ndarray, actual: np.ndarray) -> dict[str, float | None]:
    """Measure how reliable the predicted IoU is; NaNs are left out.

    Returns:
        Its mean; its expected calibration error (Guo et al., 2017: the bins' |predicted - actual|, weighted by their
        objects); its rank correlation with the actual IoU (Spearman; None if all values of one of them are equal).
    """
    valid = ~np.isnan(predicted)
    scores, true = predicted[valid], actual[valid]
    bins = calibration(scores, true)
    gaps = (bins["predicted"] - bins["actual"]).abs()
    varied = len(scores) > 2 and np.ptp(scores) > 0 and np.ptp(true) > 0
    return {
        "mean": float(scores.mean()) if len(scores) else None,
        "calibration_error": float((gaps * bins["objects"]).sum() / max(1, bins["objects"].sum())),
        "rank_correlation": float(pd.Series(scores).rank().corr(pd.Series(true).rank())) if varied else None,
    }
