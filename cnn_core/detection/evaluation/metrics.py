"""How good a detector is: average precision, what is confused with what, and how sure that is.

A detected box is right when its class is right and it overlaps a true box, which no better box has
taken, by at least an IoU. From the best score to the worst, precision over recall is a curve; AP is
the mean of the curve's envelope at 101 recalls (Everingham et al., PASCAL VOC, 2010; Lin et al.,
COCO, 2014). mAP50 is its mean over the classes at IoU 0.50, mAP50-95 the mean over the IoUs 0.50,
0.55 … 0.95 too. pycocotools' ``COCOeval`` computes all of it.

Ultralytics' validator matches by the same rule, but joins the curve's points by straight lines and
integrates, where COCO takes the step to the right of each recall: on the same boxes the two differ
in the third digit.
"""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

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

_NO_ROWS = np.empty(0, int)

Areas = Mapping[str, tuple[float, float]]  # name -> least, most


def relative_areas(small: float, large: float) -> Areas:
    """Sizes as shares of the image, for images that are not COCO's 640 pixels.

    A share is the side of a square as large as the box, divided by that of one as large as the
    image. Boxes below ``small`` are small, those above ``large`` are large.
    """
    return {ALL: (0.0, ANY_AREA), SMALL: (0.0, small**2), MEDIUM: (small**2, large**2), LARGE: (large**2, ANY_AREA)}


def evaluate_boxes(
    images: pd.DataFrame,
    truth: pd.DataFrame,
    detections: pd.DataFrame,
    classes: Sequence[str],
    *,
    max_det: int,
    areas: Areas,
    relative: bool,
) -> COCOeval:
    """Run and accumulate pycocotools' evaluation on tables of `annotations`.

    Args:
        max_det: at most so many boxes of a class count in an image, the best first.
        areas: AP is measured for each of these sizes; "all" comes first.
        relative: sizes are shares of the image's area and measured by the box. Otherwise they are
            in pixels and measured by the mask where there is one, as COCO does it.
    """
    evaluation = COCOeval(*_coco(images, truth, detections, classes, relative=relative), "bbox")
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [list(limits) for limits in areas.values()], list(areas)
    evaluation.params.maxDets = [max_det]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def average_precision(evaluation: COCOeval, *, size: str = ALL, at: float | None = None) -> np.ndarray:
    """AP of each class: float (K,), NaN for a class without an object of that size.

    Args:
        at: an IoU, such as 0.5; None = the mean over 0.50 to 0.95.
    """
    params, precision = evaluation.params, evaluation.eval["precision"]  # (IoUs, recalls, K, sizes, 1)
    of_size = precision[..., params.areaRngLbl.index(size), -1]
    if at is not None:
        of_size = of_size[np.isclose(params.iouThrs, at)]
    return np.where((of_size < 0).any((0, 1)), np.nan, of_size.mean((0, 1)))


def mean(values: np.ndarray) -> float | None:
    """The mean over the classes that occur; None when none does."""
    return None if np.isnan(values).all() else float(np.nanmean(values))


def precision_recall(evaluation: COCOeval, classes: Sequence[str]) -> pd.DataFrame:
    """The envelope at IoU 0.5: recall, precision and class, 101 rows for each class that occurs and for their mean."""
    curves = evaluation.eval["precision"][0, :, :, 0, -1]  # (101, K)
    occurs = [number for number in range(len(classes)) if curves[0, number] >= 0]
    by_name = {f"mean of {len(occurs)} classes": curves[:, occurs].mean(1)} if occurs else {}
    by_name |= {classes[number]: curves[:, number] for number in occurs}
    tables = [
        pd.DataFrame({"recall": evaluation.params.recThrs.round(2), "precision": curve.round(5), "class": name})
        for name, curve in by_name.items()
    ]
    return pd.concat(tables) if tables else pd.DataFrame(columns=["recall", "precision", "class"])


def map50_interval(evaluation: COCOeval, *, resamples: int, seed: int) -> tuple[float, float] | None:
    """The 95 % percentile interval of mAP50 over images drawn with replacement (Efron, 1979).

    A draw changes no match, only how often an image counts. None without resamples or objects.
    """
    count = len(evaluation.params.imgIds)
    if not count or not resamples:
        return None
    weights = draw_images(count, resamples, seed)
    by_class = np.stack([weighted_ap50(evaluation, number, weights) for number in range(len(evaluation.params.catIds))])
    means = [mean(of_classes) for of_classes in by_class.T]
    values = [value for value in means if value is not None]
    if not values:
        return None
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def draw_images(count: int, draws: int, seed: int) -> np.ndarray:
    """Draw ``count`` images with replacement: how often each comes in each draw, int64 (draws, count)."""
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)


def weighted_ap50(evaluation: COCOeval, number: int, weights: np.ndarray) -> np.ndarray:
    """AP at IoU 0.5 of one class when image i counts ``weights[r, i]`` times: int (R, images) -> float (R,).

    It does what ``COCOeval.accumulate`` does, which counts every image once. The result is NaN
    where no counted image holds the class.
    """
    params = evaluation.params
    count, sizes = len(params.imgIds), len(params.areaRng)
    start = number * sizes * count  # of this class with the first size, "all"
    matches = [(i, match) for i, match in enumerate(evaluation.evalImgs[start : start + count]) if match is not None]
    objects = sum(weights[:, i] * int((match["gtIgnore"] == 0).sum()) for i, match in matches) + np.zeros(len(weights))
    image = np.concatenate([np.full(len(match["dtScores"]), i) for i, match in matches] or [np.empty(0)]).astype(int)
    scores = np.concatenate([match["dtScores"] for _, match in matches] or [np.empty(0)])
    right = np.concatenate([match["dtMatches"][0] > 0 for _, match in matches] or [np.empty(0, bool)])
    ignored = np.concatenate([match["dtIgnore"][0] for _, match in matches] or [np.empty(0)]).astype(bool)
    order = np.argsort(-scores, kind="stable")
    order = order[~ignored[order]]
    times = weights[:, image[order]]  # (R, detections)
    hits, detected = np.cumsum(times * right[order], 1), np.cumsum(times, 1)
    precision = hits / (detected + np.spacing(1))
    envelope = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    envelope = np.pad(envelope, ((0, 0), (0, 1)))  # what is never recalled has precision 0
    aps = [
        envelope[row, np.searchsorted(hits[row] / objects[row], params.recThrs)].mean() if objects[row] else np.nan
        for row in range(len(weights))
    ]
    return np.array(aps)


def match(truth: np.ndarray, detections: np.ndarray, scores: np.ndarray, least_iou: float) -> list[tuple[int, int]]:
    """Match detected boxes with true ones. Classes do not count, so that mix-ups of classes show.

    Each detected box, from the best score to the worst, takes the free true box that it overlaps
    most, if their IoU is greater than ``least_iou``.

    Args:
        truth: float (N, 4), xyxy. detections: float (M, 4). scores: float (M,).

    Returns:
        Pairs of indices of a true and a detected box.
    """
    overlap = iou(truth, detections)
    pairs = []
    for index in np.argsort(-scores, kind="stable") if len(truth) else []:
        best = int(overlap[:, index].argmax())
        if overlap[best, index] > least_iou:
            pairs.append((best, int(index)))
            overlap[best] = 0.0
    return pairs


class OutcomeRow(NamedTuple):
    """What became of one object or of one detected box."""

    image_id: str
    actual: str  # class; "background" for a box on nothing
    predicted: str  # class; "background" for an object that was missed
    score: float  # NaN where there is no box
    truth: int  # row number; -1 = none
    detection: int


def outcome_rows(table: pd.DataFrame) -> Iterator[OutcomeRow]:
    return itertools.starmap(OutcomeRow, table[[*OutcomeRow._fields]].itertuples(index=False, name=None))


def outcomes(
    images: pd.DataFrame, truth: pd.DataFrame, detections: pd.DataFrame, *, confidence: float, least_iou: float
) -> pd.DataFrame:
    """Tell what became of every object and of every box of at least ``confidence``: a table of `OutcomeRow`."""
    rows: list[OutcomeRow] = []
    sure = np.flatnonzero(detections["score"].to_numpy() >= confidence)
    true_rows, sure_rows = (table.groupby("image_id").indices for table in (truth, detections.iloc[sure]))
    true_boxes, boxes = truth[BOX].to_numpy(), detections[BOX].to_numpy()
    actual, predicted = truth["class_name"].tolist(), detections["class_name"].tolist()
    scores = detections["score"].to_numpy()
    for name in images["image_id"]:
        of_truth, of_boxes = true_rows.get(name, _NO_ROWS), sure[sure_rows.get(name, _NO_ROWS)]
        pairs = match(true_boxes[of_truth], boxes[of_boxes], scores[of_boxes], least_iou)
        matched = [(int(of_truth[t]), int(of_boxes[d])) for t, d in pairs]
        missed = sorted(set(of_truth) - {t for t, _ in matched})
        false = sorted(set(of_boxes) - {d for _, d in matched})
        rows += [OutcomeRow(name, actual[t], predicted[d], scores[d], t, d) for t, d in matched]
        rows += [OutcomeRow(name, actual[t], BACKGROUND, np.nan, t, -1) for t in missed]
        rows += [OutcomeRow(name, BACKGROUND, predicted[d], scores[d], -1, d) for d in false]
    return pd.DataFrame(rows, columns=[*OutcomeRow._fields])


def wrong(table: pd.DataFrame) -> pd.Series:
    """Which of `outcomes` are mistakes; a class may be called "background" itself."""
    return (table["truth"] < 0) | (table["detection"] < 0) | (table["actual"] != table["predicted"])


def rates(table: pd.DataFrame) -> dict[str, float]:
    """Precision, recall and their harmonic mean F1 of `outcomes`; 0 where the divisor is 0."""
    right = int((~wrong(table)).sum())
    detected, objects = int((table["detection"] >= 0).sum()), int((table["truth"] >= 0).sum())
    return {
        "precision": right / max(1, detected),
        "recall": right / max(1, objects),
        "f1": 2 * right / max(1, detected + objects),
    }


def _coco(
    images: pd.DataFrame, truth: pd.DataFrame, detections: pd.DataFrame, classes: Sequence[str], *, relative: bool
) -> tuple[COCO, COCO]:
    true = to_coco(images, truth, classes)
    results = [
        {**entry, "id": number, "area": entry["bbox"][2] * entry["bbox"][3], "iscrowd": 0}
        for number, entry in enumerate(coco_results(images, detections), start=1)
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
