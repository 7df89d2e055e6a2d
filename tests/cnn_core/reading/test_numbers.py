"""Digits in order, each once, told by classifier and detector, and counted against the truth."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from cnn_core.annotations.masks import decode_mask, encode_mask, mask_box
from cnn_core.annotations.tables import images_table, objects_table
from cnn_core.detection.nms import iou
from cnn_core.reading import numbers as reading
from cnn_core.reading.numbers import remove_islands

CLASSES = list("0123456789")


def row_of(count: int, *, degrees: float = 0.0, middle: tuple[float, float] = (100, 100), jitter: float = 0.0, seed=0):
    """Boxes 20 wide and 30 high along a tilted row, left to right."""
    draws = np.random.default_rng(seed)
    places = (np.arange(count) - (count - 1) / 2) * 26
    centres = np.stack([places * math.cos(math.radians(degrees)), places * math.sin(math.radians(degrees))], 1) + middle
    centres += draws.uniform(-jitter, jitter, centres.shape)
    return np.hstack([centres - np.array([10, 15]), centres + np.array([10, 15])])


@pytest.mark.parametrize("degrees", [0, 8, -16, 30, -40])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_a_tilted_row_is_read_from_left_to_right(degrees, count):
    boxes = row_of(count, degrees=degrees, jitter=2.0)
    shuffled = np.random.default_rng(count).permutation(count)
    rows = reading.reading_order(boxes[shuffled])
    assert len(rows) == 1
    assert shuffled[rows[0]].tolist() == list(range(count))


@pytest.mark.parametrize("degrees", [0, 8, -12])
def test_rows_are_parted_where_they_clearly_are(degrees):
    turn = math.radians(degrees)
    below = (100 - 45 * math.sin(turn), 100 + 45 * math.cos(turn))
    boxes = np.concatenate([row_of(4, degrees=degrees), row_of(3, degrees=degrees, middle=below)])
    shuffled = np.random.default_rng(1).permutation(7)
    rows = reading.reading_order(boxes[shuffled])
    assert [shuffled[row].tolist() for row in rows] == [[0, 1, 2, 3], [4, 5, 6]]


def test_a_stack_and_nothing():
    assert reading.reading_order(np.empty((0, 4))) == []
    stack = np.array([[0, 100, 20, 130], [1, 0, 21, 30], [0, 50, 20, 80.0]])
    assert [row.tolist() for row in reading.reading_order(stack)] == [[1], [2], [0]]


def square(left: int, side: int = 10) -> str:
    mask = np.zeros((40, 60), bool)
    mask[5 : 5 + side, left : left + side] = True
    return encode_mask(mask)


def test_the_better_of_two_masks_of_a_digit_stays():
    overlap = reading.mask_iou([square(0), square(1), square(30), square(31)], 40, 60)
    assert overlap[0, 1] == pytest.approx(90 / 110)
    assert reading.drop_duplicates(overlap, np.array([0.5, 0.9, 0.8, 0.8]), 0.5).tolist() == [1, 2]
    assert reading.drop_duplicates(overlap, np.array([0.5, 0.9, 0.8, 0.8]), 0.9).tolist() == [0, 1, 2, 3]
    assert reading.drop_duplicates(np.empty((0, 0)), np.empty(0), 0.5).tolist() == []


def found(rows: list[dict]) -> pd.DataFrame:
    table = objects_table(rows)
    for name in ("prompt_score",):
        if rows and name in rows[0]:
            table[name] = [row[name] for row in rows]
    return table


def digit(image: str, left: float, name: str, *, score: float = 0.9, rle: str | None = None, **more) -> dict:
    box = {"x1": left, "y1": 5.0, "x2": left + 10, "y2": 15.0}
    return {"image_id": image, "class_id": int(name), "class_name": name, **box, "score": score, "rle": rle, **more}


def images(*names: str) -> pd.DataFrame:
    return images_table({"image_id": name, "file": f"{name}.png", "width": 60, "height": 40} for name in names)


def test_unsure_digits_and_duplicates_go():
    rows = [
        digit("a", 0, "1", rle=square(0), prompt_score=0.8, score=0.1),
        digit("a", 1, "7", rle=square(1), prompt_score=0.3, score=0.9),  # the same digit, less sure
        digit("a", 30, "2", rle=square(30), prompt_score=0.2, score=0.9),  # too unsure
        digit("b", 0, "3", rle=square(0), prompt_score=float("nan"), score=0.6),  # prompted by no detection
    ]
    kept = reading.unique_digits(found(rows), images("a", "b", "c"), conf=0.25, duplicate_iou=0.5)
    assert kept["detected"].tolist() == ["1", "3"]
    assert kept["sure"].tolist() == [0.8, 0.6]
    boxes = reading.unique_digits(found(rows).assign(rle=None), images("a", "b"), conf=0.0, duplicate_iou=0.5)
    assert boxes["detected"].tolist() == ["1", "2", "3"]
    assert len(reading.unique_digits(found([]), images("a"), conf=0.0, duplicate_iou=0.5)) == 0


def test_what_classifier_and_detector_say_together():
    cnn = np.full((3, 10), 0.02)
    cnn[0, 3], cnn[0, 8] = 0.45, 0.39  # not sure: the detector decides
    cnn[1, 3] = 0.82  # sure: the detector's weak other opinion changes nothing
    cnn[2, 5] = 0.82  # the detector knows no class of it
    detected, scores = np.array([8, 7, -1]), np.array([0.7, 0.3, 0.9])
    assert reading.combine_probabilities("cnn", cnn, detected, scores).argmax(1).tolist() == [3, 3, 5]
    assert reading.combine_probabilities("detector", cnn, detected, scores).argmax(1).tolist() == [8, 7, 5]
    both = reading.combine_probabilities("product", cnn, detected, scores)
    assert both.argmax(1).tolist() == [8, 3, 5]
    assert both.sum(1) == pytest.approx(1)
    nothing = reading.combine_probabilities("product", cnn[:0], detected[:0], scores[:0])
    assert nothing.shape == (0, 10)


def probabilities(*names: str, sure: float = 0.91) -> np.ndarray:
    cnn = np.full((len(names), 10), (1 - sure) / 9)
    cnn[np.arange(len(names)), list(map(int, names))] = sure
    return cnn


def test_numbers_and_their_accuracy():
    truth = objects_table([digit("a", 0, "1"), digit("a", 20, "2"), digit("b", 0, "3"), digit("b", 20, "4")])
    rows = [
        digit("a", 21, "2", score=0.8),
        digit("a", 1, "1", score=0.9),
        digit("b", 0, "3", score=0.7),  # read as 8
        digit("b", 45, "9", score=0.6),  # on nothing; and the 4 is missed
    ]
    shown = images("a", "b", "c")
    table = reading.unique_digits(objects_table(rows), shown, conf=0.0, duplicate_iou=0.5)
    digits = reading.label_digits(table, probabilities("2", "1", "8", "9"), "cnn", CLASSES)
    texts = reading.read_numbers(digits, shown)
    assert texts["text"].tolist() == ["12", "89", ""]
    assert texts["confidence"].tolist() == pytest.approx([0.91**2, 0.91**2, 1])
    hit = reading.match_to_truth(truth, digits, 0.5)
    assert hit.tolist() == [1, 0, 2, -1]
    assert reading.correct_digits(truth, digits, 0.5) == [True, True, False, False]
    figures = reading.accuracy(truth, digits, hit, texts.assign(truth=["12", "34", ""]))
    assert figures["found"] == 3 / 4
    assert figures["read_right"] == pytest.approx(2 / 3)
    assert figures["found_and_read"] == 2 / 4
    assert figures["spurious"] == 1 / 4
    assert figures["plates_right"] == pytest.approx(2 / 3)
    assert figures["found_and_read_low"] < 0.5 < figures["found_and_read_high"]


def test_no_digit_at_all():
    table = reading.unique_digits(objects_table([]), images("a"), conf=0.0, duplicate_iou=0.5)
    digits = reading.label_digits(table, np.empty((0, 10), np.float32), "product", CLASSES)
    texts = reading.read_numbers(digits, images("a"))
    assert texts["text"].tolist() == [""]
    truth = objects_table([digit("a", 0, "1")])
    hit = reading.match_to_truth(truth, digits, 0.5)
    assert reading.accuracy(truth, digits, hit, texts.assign(truth=["1"]))["found_and_read"] == 0
    assert iou(np.empty((0, 4)), np.empty((0, 4))).shape == (0, 0)


def test_a_mask_loses_its_islands_and_its_box_follows() -> None:
    mask = np.zeros((40, 40), bool)
    mask[10:30, 5:11] = True  # 120 pixels
    mask[12:17, 14:20] = True  # 30: a second stroke
    mask[36:38, 36:39] = True  # 6: stray
    objects = objects_table([{"image_id": "a", "class_id": 1, "class_name": "1", "rle": encode_mask(mask),
                              **dict(zip(("x1", "y1", "x2", "y2"), mask_box(mask), strict=True))}])  # fmt: skip
    images = pd.DataFrame({"image_id": ["a"], "height": [40], "width": [40]})
    solid = remove_islands(objects, images, 0.2)
    assert decode_mask(solid["rle"][0], 40, 40).sum() == 150
    assert solid[["x1", "y1", "x2", "y2"]].to_numpy()[0].tolist() == [5, 10, 20, 30]
    assert remove_islands(objects, images, 0.0)["rle"][0] == objects["rle"][0]
    boxes = objects.assign(rle=None)
    assert remove_islands(boxes, images, 0.2)["x2"][0] == objects["x2"][0]


def test_classes_may_bear_any_name():
    """A classifier of letters or words that spell what pandas or we use for nothing."""
    names = ["NA", "nan", "None", "null", "", "-1"]
    images = images_table([{"image_id": "NA", "file": "NA.png", "width": 400, "height": 60}])
    boxes = [{"x1": 40.0 * n, "y1": 5.0, "x2": 40.0 * n + 30, "y2": 45.0} for n in range(6)]
    truth = objects_table(
        {"image_id": "NA", "class_id": n, "class_name": name, **box, "score": 0.9}
        for n, (name, box) in enumerate(zip(names, boxes, strict=True))
    )
    unique = reading.unique_digits(truth, images, conf=0.1, duplicate_iou=0.5)
    digits = reading.label_digits(unique, np.eye(6), "product", names)
    assert digits["read"].tolist() == names
    matches = reading.match_to_truth(truth, digits, 0.5)
    assert matches.tolist() == list(range(6))
    assert reading.correct_digits(truth, digits, 0.5) == [True] * 6
    texts = reading.read_numbers(digits, images)
    assert texts["text"].tolist() == ["".join(names)]
    figures = reading.accuracy(truth, digits, matches, texts.assign(truth=["".join(names)]))
    assert (figures["found_and_read"], figures["plates_right"]) == (1, 1)
