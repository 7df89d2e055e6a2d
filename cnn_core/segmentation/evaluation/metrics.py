"""How good masks are: overlap with the truth, how near the outlines lie, and whether the predicted IoU can be believed.

IoU (Jaccard) = |A and B| / |A or B|; Dice (F1 of the pixels) = 2 |A and B| / (|A| + |B|), both 0..1.

The boundary F-score is that of Csurka, Larlus and Perronnin, "What is a good evaluation measure for semantic
segmentation?" (BMVC 2013), as DAVIS measures it (Perazzi et al., CVPR 2016): the precision is the share of the mask's
outline that lies within a tolerance of the true one, the recall the share of the true outline within it of the mask's.
The tolerance is a share of the image's diagonal, 0.0075 in the one and 0.008 in the other.
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
    """IoU and Dice of two masks, bool (H, W); 1 of two empty ones."""
    both, first, second = (int(np.count_nonzero(part)) for part in (truth & mask, truth, mask))
    if not first + second:
        return 1.0, 1.0
    return both / (first + second - both), 2 * both / (first + second)


def outline(mask: np.ndarray) -> np.ndarray:
    """The mask's own pixels that touch, by a side, one that is not of it; the image's edge is no outline."""
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
    part = _around(true_line | line)  # what lies further out is not near either
    precision, recall = _near(line[part], true_line[part], reach), _near(true_line[part], line[part], reach)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _near(line: np.ndarray, other: np.ndarray, reach: int) -> float:
    """The share of a line's pixels with one of the other at most ``reach`` pixels away."""
    far = cv2.distanceTransform((~other).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return float((far[line] <= reach + 1e-3).mean())


def _around(mask: np.ndarray) -> tuple[slice, slice]:
    left, top, right, bottom = map(int, mask_box(mask))
    return slice(top, bottom), slice(left, right)


def size_groups(truth: pd.DataFrame, images: pd.DataFrame, small: float, large: float) -> list[str]:
    """Of each object `SMALL`, `MEDIUM` or `LARGE`: the side of a square as large as its box, over that of one as large
    as the image, is below ``small`` or above ``large``."""
    pixels = dict(zip(images["image_id"], images["width"] * images["height"], strict=True))
    areas = (truth["x2"] - truth["x1"]) * (truth["y2"] - truth["y1"])
    shares = np.sqrt(areas.to_numpy() / truth["image_id"].map(pixels).to_numpy())
    return np.select([shares < small, shares > large], [SMALL, LARGE], MEDIUM).tolist()


def compare_masks(
    truth: pd.DataFrame, masks: Mapping[int, str], images: pd.DataFrame, tolerance: float
) -> pd.DataFrame:
    """`SCORES` of every object; 0 where it has no mask.

    Args:
        truth: objects with masks. masks: by an object's position in ``truth`` the mask found for it, as run lengths.

    Returns:
        float columns, one row an object of the truth.
    """
    shapes = {row.image_id: (row.height, row.width) for row in images.itertuples()}
    rows = np.zeros((len(truth), len(SCORES)))
    for place, (image_id, rle) in enumerate(zip(truth["image_id"], truth["rle"], strict=True)):
        if place in masks:
            true, mask = (decode_mask(text, *shapes[image_id]) for text in (rle, masks[place]))
            rows[place] = *overlap(true, mask), boundary_f(true, mask, tolerance)
    return pd.DataFrame(rows, columns=list(SCORES))


def mean_scores(scores: pd.DataFrame) -> dict[str, float]:
    """Over the objects."""
    return {f"mean_{name}": float(scores[name].mean()) for name in SCORES} if len(scores) else {}


def means_by_group(scores: pd.DataFrame, groups: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`mean_scores` and the number of objects of each group, in the groups' order."""
    parts = scores.groupby(pd.Categorical(list(groups), ordered=False), observed=True)
    return {str(name): {**mean_scores(part), "objects": len(part)} for name, part in parts}


def bootstrap_interval(
    values: np.ndarray, images: Sequence[str], *, resamples: int, seed: int
) -> tuple[float, float] | None:
    """The 95 % percentile interval of the mean when the images, with all their objects, are drawn anew with replacement
    (Efron, 1979): objects of an image are alike, so drawing objects would make it too narrow. None without resamples.

    Args:
        values: float (N,). images: of each value its image.
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
    """`mean_scores`, and the `bootstrap_interval` of the mean IoU."""
    bounds = bootstrap_interval(scores["iou"].to_numpy(), images, resamples=resamples, seed=seed)
    return mean_scores(scores) | (dict(zip(("mean_iou_low", "mean_iou_high"), bounds, strict=True)) if bounds else {})


def calibration(predicted: np.ndarray, actual: np.ndarray) -> pd.DataFrame:
    """predicted, actual, objects: the means in each of `BINS` equally wide bins of the predicted IoU. Empty bins and
    NaNs are left out. scikit-learn's calibration_curve is for yes and no; here the truth is an IoU."""
    known = ~np.isnan(predicted)
    predicted, actual = predicted[known], actual[known]
    bins = (np.clip(predicted, 0, 1) * BINS).astype(int).clip(0, BINS - 1)
    table = (
        pd.DataFrame({"predicted": predicted, "actual": actual})
        .groupby(bins)
        .agg(predicted=("predicted", "mean"), actual=("actual", "mean"), objects=("actual", "size"))
    )
    return table.reset_index(drop=True)


def calibration_error(table: pd.DataFrame) -> float:
    """The expected calibration error (Guo et al., 2017) of `calibration`'s table: the bins' |predicted - actual|,
    weighted by their objects. 0 is best."""
    gaps = (table["predicted"] - table["actual"]).abs()
    return float((gaps * table["objects"]).sum() / max(1, table["objects"].sum()))


def score_reliability(predicted: np.ndarray, actual: np.ndarray) -> dict[str, float | None]:
    """How far the predicted IoU can be believed: its mean, its calibration error, and Spearman's rank correlation with
    the IoU (None where there is nothing to rank); NaNs left out."""
    known = ~np.isnan(predicted)
    there, true = predicted[known], actual[known]
    varied = len(there) > 2 and np.ptp(there) > 0 and np.ptp(true) > 0
    return {
        "mean": float(there.mean()) if len(there) else None,
        "calibration_error": calibration_error(calibration(there, true)),
        "rank_correlation": float(pd.Series(there).rank().corr(pd.Series(true).rank())) if varied else None,
    }
