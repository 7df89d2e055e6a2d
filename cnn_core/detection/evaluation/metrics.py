"""How good a detector is: average precision by pycocotools, what is confused with what, and how sure the figure is.

A found box is right when its class is and it overlaps a true box, not taken by a better one, by at least an IoU. From
the best score to the worst, precision over recall is a curve; AP is the mean of the curve's envelope at 101 recalls
(Everingham et al., PASCAL VOC, 2010; Lin et al., COCO, 2014). mAP50 is its mean over the classes at IoU 0.50, mAP50-95
the mean over 0.50, 0.55 … 0.95 too. pycocotools' ``COCOeval`` computes all of it; nothing of it is done again here.

Ultralytics' validator matches by the same rule, but joins the curve's points by straight lines and integrates, where
COCO takes the step to the right of each recall: on the same boxes the two differ in the third digit.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cnn_core.annotations.coco import coco_results, to_coco
from cnn_core.annotations.tables import BOX
from cnn_core.detection.nms import iou

BACKGROUND = "background"
ALL, SMALL, MEDIUM, LARGE = "all", "small", "medium", "large"
ANY_AREA = 1e10
# COCO's own sizes, in pixels of the image as it is.
COCO_AREAS = {ALL: (0.0, ANY_AREA), SMALL: (0.0, 32.0**2), MEDIUM: (32.0**2, 96.0**2), LARGE: (96.0**2, ANY_AREA)}

Areas = Mapping[str, tuple[float, float]]  # name -> least, most


def relative_areas(small: float, large: float) -> Areas:
    """Sizes as shares of the image, for images that are not COCO's 640 pixels: the side of a square as large as the box
    over that of one as large as the image; below ``small`` is small, above ``large`` is large."""
    return {ALL: (0.0, ANY_AREA), SMALL: (0.0, small**2), MEDIUM: (small**2, large**2), LARGE: (large**2, ANY_AREA)}


def evaluate_boxes(
    images: pd.DataFrame,
    truth: pd.DataFrame,
    found: pd.DataFrame,
    classes: Sequence[str],
    *,
    max_det: int,
    areas: Areas,
    relative: bool,
) -> COCOeval:
    """pycocotools' evaluation, run and accumulated.

    Args:
        images, truth, found: tables of `annotations`; an ``iscrowd`` column of the truth is heeded.
        max_det: boxes of a class in an image that count, the best first.
        areas: sizes that AP is measured for apart, "all" first.
        relative: sizes are shares of the image's area, by the box; else pixels, by the mask where there is one, as COCO
            has it.
    """
    evaluation = COCOeval(*_coco(images, truth, found, classes, relative=relative), "bbox")
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [list(limits) for limits in areas.values()], list(areas)
    evaluation.params.maxDets = [max_det]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def average_precision(evaluation: COCOeval, *, size: str = ALL, at: float | None = None) -> np.ndarray:
    """AP of each class, float (K,), NaN for a class without an object of that size.

    Args:
        at: an IoU, such as 0.5; None = the mean over 0.50 to 0.95.
    """
    params, precision = evaluation.params, evaluation.eval["precision"]  # (IoUs, recalls, K, sizes, 1)
    chosen = precision[..., params.areaRngLbl.index(size), -1]
    if at is not None:
        chosen = chosen[np.isclose(params.iouThrs, at)]
    return np.where((chosen < 0).any((0, 1)), np.nan, chosen.mean((0, 1)))


def mean(values: np.ndarray) -> float | None:
    """Over the classes that occur; None when none does."""
    return None if np.isnan(values).all() else float(np.nanmean(values))


def precision_recall(evaluation: COCOeval, classes: Sequence[str]) -> pd.DataFrame:
    """recall, precision, class: the envelope at IoU 0.5, 101 rows for each class that occurs, and for their mean."""
    curves = evaluation.eval["precision"][0, :, :, 0, -1]  # (101, K)
    occurs = [number for number in range(len(classes)) if curves[0, number] >= 0]
    named = {f"mean of {len(occurs)} classes": curves[:, occurs].mean(1)} if occurs else {}
    named |= {classes[number]: curves[:, number] for number in occurs}
    tables = [
        pd.DataFrame({"recall": evaluation.params.recThrs.round(2), "precision": curve.round(5), "class": name})
        for name, curve in named.items()
    ]
    return pd.concat(tables) if tables else pd.DataFrame(columns=["recall", "precision", "class"])


def map50_interval(evaluation: COCOeval, *, resamples: int, seed: int) -> tuple[float, float] | None:
    """The 95 % percentile interval of mAP50 when the images are drawn anew, with replacement (Efron, 1979).

    The matches of found to true boxes are within an image, so they stay as they are; only how often an image counts
    changes. None without resamples or objects.
    """
    count = len(evaluation.params.imgIds)
    draws = np.random.default_rng(seed)
    weights = draws.multinomial(count, np.full(count, 1 / count), size=resamples) if count else np.empty((0, 0))
    if not len(weights):
        return None
    by_class = np.stack([weighted_ap50(evaluation, number, weights) for number in range(len(evaluation.params.catIds))])
    means = [mean(of_classes) for of_classes in by_class.T]
    known = [value for value in means if value is not None]
    return tuple(map(float, np.percentile(known, [2.5, 97.5]))) if known else None  # type: ignore[return-value]


def weighted_ap50(evaluation: COCOeval, number: int, weights: np.ndarray) -> np.ndarray:
    """AP at IoU 0.5 of one class when image i counts ``weights[r, i]`` times: int (R, images) -> float (R,).

    As ``COCOeval.accumulate``, which knows every image once; NaN where no counted image holds the class.
    """
    params = evaluation.params
    count, sizes = len(params.imgIds), len(params.areaRng)
    start = number * sizes * count  # of this class with the first size, "all"
    known = [(i, found) for i, found in enumerate(evaluation.evalImgs[start : start + count]) if found is not None]
    objects = sum(weights[:, i] * int((found["gtIgnore"] == 0).sum()) for i, found in known) + np.zeros(len(weights))
    image = np.concatenate([np.full(len(found["dtScores"]), i) for i, found in known] or [np.empty(0)]).astype(int)
    scores = np.concatenate([found["dtScores"] for _, found in known] or [np.empty(0)])
    right = np.concatenate([found["dtMatches"][0] > 0 for _, found in known] or [np.empty(0, bool)])
    ignored = np.concatenate([found["dtIgnore"][0] for _, found in known] or [np.empty(0)]).astype(bool)
    order = np.argsort(-scores, kind="stable")
    order = order[~ignored[order]]
    times = weights[:, image[order]]  # (R, found)
    hits, all_found = np.cumsum(times * right[order], 1), np.cumsum(times, 1)
    precision = hits / (all_found + np.spacing(1))
    envelope = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    envelope = np.pad(envelope, ((0, 0), (0, 1)))  # what is never recalled has precision 0
    aps = [
        envelope[row, np.searchsorted(hits[row] / objects[row], params.recThrs)].mean() if objects[row] else np.nan
        for row in range(len(weights))
    ]
    return np.array(aps)


def match(truth: np.ndarray, found: np.ndarray, scores: np.ndarray, least_iou: float) -> list[tuple[int, int]]:
    """Pairs (true box, found box): each found box, from the best score to the worst, takes the free true box that it
    overlaps most, if by more than ``least_iou``. Classes play no part, so that mix-ups of classes are seen.

    Args:
        truth: float (N, 4), xyxy. found: float (M, 4). scores: float (M,).
    """
    overlap = iou(truth, found)
    pairs = []
    for position in np.argsort(-scores, kind="stable") if len(truth) else []:
        best = int(overlap[:, position].argmax())
        if overlap[best, position] > least_iou:
            pairs.append((best, int(position)))
            overlap[best] = 0.0
    return pairs


def outcomes(
    images: pd.DataFrame, truth: pd.DataFrame, found: pd.DataFrame, *, confidence: float, least_iou: float
) -> pd.DataFrame:
    """What became of every object and every found box above ``confidence``.

    Returns:
        image_id, actual, predicted, score, truth, found: class names, or "background" as ``actual`` for a box on
        nothing and as ``predicted`` for an object that was missed; the last two are positions in the tables, -1 = none.
    """
    rows: list[tuple[Any, ...]] = []
    sure = np.flatnonzero(found["score"].to_numpy() >= confidence)
    of_truth, of_found = _positions(truth["image_id"]), _positions(found["image_id"].iloc[sure], sure)
    true_boxes, boxes = truth[BOX].to_numpy(), found[BOX].to_numpy()
    actual, predicted, scores = truth["class_name"].tolist(), found["class_name"].tolist(), found["score"].to_numpy()
    none = np.empty(0, int)
    for name in images["image_id"]:
        true_at, found_at = of_truth.get(name, none), of_found.get(name, none)
        pairs = match(true_boxes[true_at], boxes[found_at], scores[found_at], least_iou)
        hit = [(int(true_at[t]), int(found_at[f])) for t, f in pairs]
        rows += [(name, actual[t], predicted[f], scores[f], t, f) for t, f in hit]
        rows += [(name, actual[t], BACKGROUND, np.nan, t, -1) for t in sorted(set(true_at) - {t for t, _ in hit})]
        rows += [
            (name, BACKGROUND, predicted[f], scores[f], -1, f) for f in sorted(set(found_at) - {f for _, f in hit})
        ]
    return pd.DataFrame(rows, columns=["image_id", "actual", "predicted", "score", "truth", "found"])


def rates(table: pd.DataFrame) -> dict[str, float]:
    """Precision, recall and their harmonic mean F1 of `outcomes`; 0 where there is nothing to divide by."""
    right = int((table["actual"] == table["predicted"]).sum())
    found, objects = int((table["predicted"] != BACKGROUND).sum()), int((table["actual"] != BACKGROUND).sum())
    return {
        "precision": right / max(1, found),
        "recall": right / max(1, objects),
        "f1": 2 * right / max(1, found + objects),
    }


def _positions(names: pd.Series, positions: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Where the rows of each image stand, in order."""
    groups = names.reset_index(drop=True).groupby(names.to_numpy(), sort=False).indices
    return groups if positions is None else {name: positions[rows] for name, rows in groups.items()}


def _coco(
    images: pd.DataFrame, truth: pd.DataFrame, found: pd.DataFrame, classes: Sequence[str], *, relative: bool
) -> tuple[COCO, COCO]:
    """pycocotools' data sets of the truth and of what was found."""
    true = to_coco(images, truth, classes)
    results = [
        {**entry, "id": number, "area": entry["bbox"][2] * entry["bbox"][3], "iscrowd": 0}
        for number, entry in enumerate(coco_results(images, found), start=1)
    ]
    if relative:
        pixels = {image["id"]: image["width"] * image["height"] for image in true["images"]}
        for entry in (*true["annotations"], *results):
            entry["area"] = entry["bbox"][2] * entry["bbox"][3] / pixels[entry["image_id"]]
    return _indexed(true), _indexed({**true, "annotations": results})


def _indexed(dataset: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = dataset
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco
