"""Detectors and segmenters are compared by pycocotools' own figures and an honest paired test."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cnn_core.annotations.tables import images_table, objects_table
from cnn_core.comparison.objects import compare_detectors, compare_segmenters
from cnn_core.comparison.promotion import PromotionRule
from cnn_core.detection.evaluation.metrics import COCO_AREAS, average_precision, evaluate_boxes, mean

CLASSES = ["one", "two"]
RULE = PromotionRule(margin=0.0, alpha=0.05, class_bound=0.05)


def pictures(count: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Images and their objects, two in each."""
    names = [f"{number:03d}" for number in range(count)]
    images = images_table(
        [{"image_id": name, "file": f"{name}.png", "split": "test", "width": 100, "height": 100} for name in names]
    )
    rows = [
        {"image_id": name, "class_id": kind, "class_name": CLASSES[kind], "x1": 10.0 + 40 * kind, "y1": 10.0,
         "x2": 40.0 + 40 * kind, "y2": 50.0} for name in names for kind in (0, 1)
    ]  # fmt: skip
    return images, objects_table(rows)


def detections(truth: pd.DataFrame, right: float, seed: int, only: str = "") -> pd.DataFrame:
    """Boxes of a detector that finds this share of the objects (of one class, if named), the others are off."""
    draws = np.random.default_rng(seed)
    rows = truth.copy()
    rows["score"] = draws.uniform(0.3, 1, len(rows))
    missed = (draws.uniform(size=len(rows)) > right) & (rows["class_name"].eq(only) if only else True)
    rows.loc[missed, ["x1", "x2"]] += 45.0
    return objects_table(rows)


def test_the_figures_are_pycocotools_own() -> None:
    images, truth = pictures(40)
    tables = detections(truth, 0.6, 1), detections(truth, 0.9, 2)
    gain = compare_detectors(images, truth, *tables, CLASSES)
    for measured, table in zip((gain.champion, gain.challenger), tables, strict=True):
        evaluation = evaluate_boxes(images, truth, table, CLASSES, max_det=300, areas=COCO_AREAS, relative=False)
        assert measured == pytest.approx(mean(average_precision(evaluation, at=0.5)))
    assert gain.low < gain.challenger - gain.champion < gain.high
    assert gain.classes["two"][0] == 40


def test_a_better_one_is_promoted_and_equal_or_worse_ones_are_not() -> None:
    images, truth = pictures(80)
    good, other, bad = detections(truth, 0.9, 1), detections(truth, 0.9, 7), detections(truth, 0.6, 3)
    better, why = compare_detectors(images, truth, bad, good, CLASSES).decide(RULE)
    assert better, why
    assert why.startswith("The challenger is better: mAP50 0.")
    assert "not better at all" in compare_detectors(images, truth, good, bad, CLASSES).decide(RULE)[1]
    same = compare_detectors(images, truth, good, good, CLASSES)
    assert (same.low, same.high, same.p_value) == (0.0, 0.0, 1.0)
    first, second = (
        compare_detectors(images, truth, good, other, CLASSES),
        compare_detectors(images, truth, other, good, CLASSES),
    )
    assert [gain.decide(RULE)[0] for gain in (first, second)] == [False, False]


def test_a_class_may_not_pay_for_the_others() -> None:
    images, truth = pictures(80)
    before, after = detections(truth, 0.3, 1, only="one"), detections(truth, 0.75, 2, only="two")
    better, why = compare_detectors(images, truth, before, after, CLASSES).decide(RULE)
    assert not better
    assert "worse by more than 0.0500 in the class two" in why


def test_the_p_value_is_an_honest_one() -> None:
    """Of equal detectors, about one in twenty looks better by luck at p <= 0.05: here of 40, on other images each."""
    images, truth = pictures(40)
    values = [
        compare_detectors(
            images, truth, detections(truth, 0.8, seed), detections(truth, 0.8, 1000 + seed), CLASSES, draws=200
        ).p_value
        for seed in range(40)
    ]
    assert sum(value <= 0.05 for value in values) <= 6
    assert 0.3 < float(np.mean(values)) < 0.7


def masks(truth: pd.DataFrame, iou: float, seed: int) -> pd.DataFrame:
    """Masks of a segmenter with about this mean IoU: a tenth of the objects has none. Another prompt's rows follow."""
    ious = np.random.default_rng(seed).normal(iou, 0.05, len(truth)).clip(0, 1)
    own = truth.assign(object=np.arange(len(truth)), prompted_by="truth", iou=ious).sample(frac=0.9, random_state=seed)
    return pd.concat([own, own.assign(prompted_by="detector", iou=0.0)])


def test_segmenters_are_compared_by_the_iou_of_every_object() -> None:
    images, truth = pictures(80)
    good, other, bad = masks(truth, 0.8, 1), masks(truth, 0.8, 2), masks(truth, 0.7, 3)
    gain = compare_segmenters(images, truth, bad, good, CLASSES)
    own = good[good["prompted_by"] == "truth"]
    assert gain.challenger == pytest.approx(own["iou"].sum() / len(truth))
    of_two = own[own["class_name"] == "two"]
    assert gain.classes["two"][2] == pytest.approx(of_two["iou"].sum() / 80)
    assert gain.low < gain.challenger - gain.champion < gain.high
    better, why = gain.decide(RULE)
    assert better, why
    assert why.startswith("The challenger is better: mean IoU 0.7")
    assert not compare_segmenters(images, truth, good, bad, CLASSES).decide(RULE)[0]
    assert not compare_segmenters(images, truth, good, other, CLASSES).decide(RULE)[0]
    crowd = pd.concat([truth.iloc[:1].assign(iscrowd=1), truth.assign(iscrowd=0)], ignore_index=True)
    assert compare_segmenters(images, crowd, bad, good, CLASSES) == gain
    with pytest.raises(ValueError, match="holds no object"):
        compare_segmenters(images, truth.iloc[:0], bad, good, CLASSES)


def test_new_classes_of_objects_stand_apart() -> None:
    images, truth = pictures(40)
    only_one = detections(truth[truth["class_name"] == "one"], 0.7, 1)  # the champion knows this class alone
    both = detections(truth, 0.9, 2)
    gain = compare_detectors(images, truth, only_one, both, CLASSES, new=["two"], draws=50)
    alone = truth[truth["class_name"] == "one"].reset_index(drop=True)
    same = compare_detectors(images, alone, only_one, both[both["class_name"] == "one"], CLASSES, draws=50)
    assert (gain.champion, gain.challenger, gain.low, gain.high) == (
        same.champion,
        same.challenger,
        same.low,
        same.high,
    )
    assert (list(gain.classes), gain.new["two"].n) == (["one"], 40)
    evaluation = evaluate_boxes(images, truth, both, CLASSES, max_det=300, areas=COCO_AREAS, relative=False)
    assert gain.new["two"].score == pytest.approx(average_precision(evaluation, at=0.5)[1])

    before, after = masks(truth, 0.7, 1), masks(truth, 0.8, 2)
    gain = compare_segmenters(images, truth, before, after, CLASSES, new=["two"], draws=50)
    of_class = after[after["prompted_by"] == "truth"].groupby("class_name")["iou"].sum() / 40
    assert (gain.challenger, gain.new["two"].score) == pytest.approx((of_class["one"], of_class["two"]))
    of_one = [rows[rows["class_name"] == "one"] for rows in (before, after)]
    of_one = [rows.assign(object=rows["object"] // 2) for rows in of_one]  # the positions in ``alone``
    same = compare_segmenters(images, alone, *of_one, CLASSES, draws=50)
    for key in ("champion", "challenger", "low", "high"):
        assert getattr(gain, key) == pytest.approx(getattr(same, key))
    for compare, tables in ((compare_detectors, (only_one, both)), (compare_segmenters, (before, after))):
        with pytest.raises(ValueError, match="holds no object of a class that both know"):
            compare(images, truth, *tables, CLASSES, new=CLASSES)
