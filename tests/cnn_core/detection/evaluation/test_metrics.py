"""Average precision, its interval and the matching, against pycocotools, Ultralytics' validator and by hand."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

from cnn_core.annotations.masks import encode_mask
from cnn_core.annotations.tables import BOX, images_table, objects_table
from cnn_core.detection.evaluation.metrics import (
    BACKGROUND,
    COCO_AREAS,
    average_precision,
    evaluate_boxes,
    map50_interval,
    match,
    mean,
    outcomes,
    precision_recall,
    rates,
    relative_areas,
    weighted_ap50,
)

CLASSES = ["a", "b", "c"]


def images_of(count: int, side: int = 160) -> pd.DataFrame:
    return images_table(
        [{"image_id": f"i{n}", "file": f"i{n}.png", "width": side, "height": side} for n in range(count)]
    )


def thing(image: int, class_id: int, box: tuple, score: float = float("nan"), **more: object) -> dict:
    return {"image_id": f"i{image}", "class_id": class_id, "class_name": CLASSES[class_id],
            **dict(zip(BOX, map(float, box), strict=True)), "score": score, **more}  # fmt: skip


def noisy_set(count: int = 60, seed: int = 0):
    """Truth, and found boxes that are shifted, of a wrong class, missing or on nothing, with many scores."""
    draws = np.random.default_rng(seed)
    truth, found = [], []
    for image in range(count):
        for _ in range(draws.integers(0, 5)):
            corner, size = draws.uniform(0, 100, 2), draws.uniform(8, 60, 2)
            class_id = int(draws.integers(0, 3))
            truth.append(thing(image, class_id, (*corner, *(corner + size))))
            for copy in range(draws.integers(0, 4)):
                moved = corner + draws.normal(0, 2, 2)
                said = class_id if draws.random() < 0.85 else int(draws.integers(0, 3))
                end, score = moved + size * draws.uniform(0.9, 1.1, 2), draws.uniform(0.2, 1) * 0.6**copy
                found.append(thing(image, said, (*moved, *end), score))
        for _ in range(draws.integers(0, 3)):
            corner = draws.uniform(0, 100, 2)
            found.append(thing(image, int(draws.integers(0, 3)), (*corner, *(corner + 30)), 0.6 * draws.random()))
    return images_of(count), objects_table(truth), objects_table(found)


def evaluated(images, truth, found, areas=COCO_AREAS, relative=False):
    return evaluate_boxes(images, truth, found, CLASSES, max_det=300, areas=areas, relative=relative)


def test_the_truth_itself_is_perfect_and_nothing_found_is_nothing() -> None:
    images, truth, _ = noisy_set()
    perfect = evaluated(images, truth, truth.assign(score=1.0))
    assert mean(average_precision(perfect)) == mean(average_precision(perfect, at=0.5)) == pytest.approx(1)
    nothing = evaluated(images, truth, truth.iloc[:0])
    assert mean(average_precision(nothing)) == 0.0
    assert set(precision_recall(nothing, CLASSES)["precision"]) == {0.0}
    assert mean(average_precision(evaluated(images, truth.iloc[:0], truth.assign(score=1.0)))) is None


def test_ap_by_hand() -> None:
    """Two objects; the best box is right, the next on nothing, the third right: precision 1 up to recall 0.5 (51 of
    the 101 points), then 2/3."""
    truth = objects_table([thing(0, 0, (0, 0, 10, 10)), thing(0, 0, (50, 50, 60, 60))])
    boxes = [(0, 0, 10, 10), (100, 100, 110, 110), (50, 50, 60, 60)]
    found = objects_table([thing(0, 0, box, score) for box, score in zip(boxes, (0.9, 0.8, 0.7), strict=True)])
    evaluation = evaluated(images_of(1), truth, found)
    assert average_precision(evaluation)[0] == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert np.isnan(average_precision(evaluation)[1:]).all()  # classes that do not occur
    assert sorted(set(precision_recall(evaluation, CLASSES)["class"])) == ["a", "mean of 1 classes"]


def test_it_is_what_pycocotools_gives_for_the_same_things_as_json(tmp_path) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    from cnn_core.annotations.coco import coco_results, to_coco

    images, truth, found = noisy_set()
    (tmp_path / "truth.json").write_text(json.dumps(to_coco(images, truth, CLASSES)))
    reference = COCO(str(tmp_path / "truth.json"))
    results = [{k: v for k, v in row.items() if k != "file_name"} for row in coco_results(images, found)]
    evaluation = COCOeval(reference, reference.loadRes(results), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    ours = evaluated(images, truth, found)
    levels = [{}, {"at": 0.5}, {"at": 0.75}, {"size": "small"}, {"size": "medium"}]
    figures = [mean(average_precision(ours, **level)) for level in levels]
    np.testing.assert_allclose(figures, evaluation.stats[:5], atol=1e-12)
    assert 0.2 < figures[0] < figures[1] < 0.9


def test_ultralytics_validator_agrees_on_the_same_boxes() -> None:
    """It matches by the same rule (the best score first, each to its best free object) but interpolates otherwise: a
    trapezoid between the curve's points, where COCO takes the step to the right of each of the 101 recalls."""
    from ultralytics.utils.metrics import ap_per_class, box_iou

    images, truth, found = noisy_set(120)
    correct, scores, said, actual = [], [], [], []
    levels = np.linspace(0.5, 0.95, 10)
    for name in images["image_id"]:
        true = truth[truth["image_id"] == name]
        boxes = found[found["image_id"] == name].sort_values("score", ascending=False)
        overlap = box_iou(torch.from_numpy(true[BOX].to_numpy()), torch.from_numpy(boxes[BOX].to_numpy()))
        kinds = (torch.tensor(table["class_id"].tolist()) for table in (boxes, true))
        correct.append(validator().match_predictions(*kinds, overlap))
        scores.append(boxes["score"])
        said.append(boxes["class_id"])
        actual.append(true["class_id"])
    ap = ap_per_class(*(np.concatenate(part) for part in (correct, scores, said, actual)))[5]
    ours = evaluated(images, truth, found)
    assert mean(average_precision(ours, at=0.5)) == pytest.approx(ap[:, 0].mean(), abs=0.01)
    assert mean(average_precision(ours)) == pytest.approx(ap.mean(), abs=0.01)
    assert len(levels) == ap.shape[1]


def validator():
    """Ultralytics' own matching, without a model to validate."""
    from ultralytics.engine.validator import BaseValidator

    bare = BaseValidator.__new__(BaseValidator)
    bare.iouv = torch.linspace(0.5, 0.95, 10)
    return bare


def test_the_confusion_is_ultralytics() -> None:
    from ultralytics.utils.metrics import ConfusionMatrix

    images, truth, found = noisy_set()
    matrix = ConfusionMatrix(names=dict(enumerate(CLASSES)))
    for name in images["image_id"]:
        true, boxes = truth[truth["image_id"] == name], found[found["image_id"] == name]
        matrix.process_batch(
            {"cls": torch.tensor(boxes["class_id"].to_numpy()), "conf": torch.tensor(boxes["score"].to_numpy()),
             "bboxes": torch.tensor(boxes[BOX].to_numpy())},
            {"cls": torch.tensor(true["class_id"].to_numpy()), "bboxes": torch.tensor(true[BOX].to_numpy())},
            conf=0.25, iou_thres=0.45)  # fmt: skip
    ours = outcomes(images, truth, found, confidence=0.25, least_iou=0.45)
    names = [*CLASSES, BACKGROUND]
    counts = pd.crosstab(ours["predicted"], ours["actual"]).reindex(index=names, columns=names, fill_value=0)
    assert counts.to_numpy().tolist() == matrix.matrix.astype(int).tolist()
    # every object once, every sure box once
    assert sorted(ours.loc[ours["truth"] >= 0, "truth"]) == list(range(len(truth)))
    assert sorted(ours.loc[ours["detection"] >= 0, "detection"]) == np.flatnonzero(found["score"] >= 0.25).tolist()


def test_a_found_box_takes_one_object_and_the_surer_box_comes_first() -> None:
    truth = np.array([[0, 0, 10, 10], [0, 0, 10, 9]], float)
    found = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [40, 40, 50, 50]], float)
    assert match(truth, found, np.array([0.5, 0.9, 0.8]), 0.45) == [(0, 1), (1, 0)]
    assert match(truth[:0], found, np.ones(3), 0.45) == []


def test_rates() -> None:
    pairs = [("a", "a"), ("a", "b"), ("b", BACKGROUND), (BACKGROUND, "a")]
    rows = {"truth": [0, 1, 2, -1], "detection": [0, 1, -1, 2]}
    measured = rates(pd.DataFrame(pairs, columns=["actual", "predicted"]).assign(**rows))
    assert measured == pytest.approx({"precision": 1 / 3, "recall": 1 / 3, "f1": 1 / 3})


def test_sizes_are_told_apart_by_the_share_of_the_image() -> None:
    """The large object is found, the small one is not: at 160 pixels COCO calls both small."""
    truth = objects_table([thing(0, 0, (0, 0, 12, 12)), thing(0, 0, (50, 50, 80, 80))])
    found = objects_table([thing(0, 0, (50, 50, 80, 80), 0.9)])
    relative = evaluated(images_of(1), truth, found, relative_areas(0.1, 0.15), relative=True)
    assert [mean(average_precision(relative, size=size)) for size in ("small", "medium", "large")] == [
        0.0,
        None,
        pytest.approx(1),
    ]
    coco = evaluated(images_of(1), truth, found)
    assert [mean(average_precision(coco, size=size)) for size in ("medium", "large")] == [None, None]


def test_cocos_size_of_an_object_with_a_mask_is_the_masks() -> None:
    mask = np.zeros((160, 160), bool)
    mask[10:50, 10:20] = True  # 400 pixels in a box of 40 x 40 = 1,600 > 32 squared
    truth = objects_table([thing(0, 0, (10, 10, 50, 50), rle=encode_mask(mask))])
    ours = evaluated(images_of(1), truth, objects_table([thing(0, 0, (10, 10, 50, 50), 0.9)]))
    assert mean(average_precision(ours, size="small")) == pytest.approx(1)
    assert mean(average_precision(ours, size="medium")) is None


def test_the_weighted_ap_is_cocos_and_counts_an_image_as_often_as_it_is_drawn() -> None:
    images, truth, found = noisy_set()
    ours = evaluated(images, truth, found)
    once, often = np.ones((1, 60), int), np.random.default_rng(1).multinomial(60, np.full(60, 1 / 60), size=1)
    for number in range(3):
        assert weighted_ap50(ours, number, once)[0] == pytest.approx(average_precision(ours, at=0.5)[number], abs=1e-12)
    drawn = [(position, copy) for position, times in enumerate(often[0]) for copy in range(times)]

    def repeated(table: pd.DataFrame) -> pd.DataFrame:
        parts = [table[table["image_id"] == f"i{p}"].assign(image_id=f"i{n}") for n, (p, _) in enumerate(drawn)]
        return objects_table(pd.concat(parts))

    again = average_precision(evaluated(images_of(60), repeated(truth), repeated(found)), at=0.5)
    assert [weighted_ap50(ours, number, often)[0] for number in range(3)] == pytest.approx(again.tolist(), abs=0.003)


def test_the_interval_holds_the_figure_and_narrows_with_more_images() -> None:
    widths = []
    for count in (40, 160):
        ours = evaluated(*noisy_set(count))
        low, high = map50_interval(ours, resamples=200, seed=0)
        assert low < mean(average_precision(ours, at=0.5)) < high
        widths.append(high - low)
    assert widths[1] < 0.75 * widths[0]
    assert map50_interval(ours, resamples=0, seed=0) is None
