"""How good masks are: by hand, by pycocotools and by DAVIS's own definition of the boundary's F-score."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pandas as pd
import pytest
from pycocotools import mask as coco_mask

from cnn_core.annotations.masks import encode_mask, mask_box
from cnn_core.annotations.tables import images_table, objects_table
from cnn_core.segmentation.evaluation import metrics
from cnn_core.segmentation.evaluation.pictures import draw_examples


def blob(seed: int, shape: tuple[int, int] = (60, 80)) -> np.ndarray:
    draws = np.random.default_rng(seed)
    return cv2.GaussianBlur(draws.random(shape), (0, 0), 5) > 0.5


def square(left: int, top: int, side: int, shape: tuple[int, int] = (60, 80)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_overlap_by_hand():
    iou, dice = metrics.overlap(square(10, 10, 10), square(15, 10, 10))
    assert iou == pytest.approx(50 / 150)
    assert dice == pytest.approx(100 / 200)
    empty = square(0, 0, 0)
    assert metrics.overlap(empty, empty) == (1, 1)
    assert metrics.overlap(square(0, 0, 5), empty) == (0, 0)


def test_iou_is_that_of_pycocotools():
    for seed in range(10):
        first, second = blob(seed), blob(seed + 100)
        theirs = coco_mask.iou(*([coco_mask.encode(np.asfortranarray(m, np.uint8))] for m in (first, second)), [0])
        assert metrics.overlap(first, second)[0] == pytest.approx(theirs[0, 0])


def davis(truth: np.ndarray, mask: np.ndarray, tolerance: float) -> float:
    """As the benchmark's db_eval_boundary: both outlines dilated by a disk."""
    reach = math.ceil(tolerance * np.linalg.norm(truth.shape))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = (x**2 + y**2 <= reach**2).astype(np.uint8)
    lines = [metrics.outline(m) for m in (truth, mask)]
    near = [cv2.dilate(line.astype(np.uint8), disk) > 0 for line in lines]
    precision, recall = (lines[1] & near[0]).sum() / lines[1].sum(), (lines[0] & near[1]).sum() / lines[0].sum()
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("tolerance", [0.008, 0.03])
def test_the_boundary_score_is_that_of_davis(tolerance):
    for seed in range(10):
        truth, mask = blob(seed), blob(seed) ^ (blob(seed + 50) & (np.random.default_rng(seed).random((60, 80)) < 0.2))
        assert metrics.boundary_f(truth, mask, tolerance) == pytest.approx(davis(truth, mask, tolerance))


def test_the_boundary_score_of_a_shifted_square():
    truth = square(20, 20, 20)
    tolerance = 2 / 100  # of a diagonal of 100: 2 pixels
    assert metrics.boundary_f(truth, square(22, 20, 20), tolerance) == 1
    assert 0.5 < metrics.boundary_f(truth, square(24, 20, 20), tolerance) < 1  # two sides of four are still near
    assert metrics.boundary_f(truth, square(50, 20, 20), tolerance) == 0
    assert metrics.outline(truth).sum() == 4 * 19
    notched = truth & ~square(35, 35, 5)
    assert metrics.outline(notched).sum() == 4 * 19 - 1  # without the pixel that touches the notch by a corner
    whole = np.ones((60, 80), bool)
    assert metrics.boundary_f(whole, whole, tolerance) == 1
    assert metrics.boundary_f(truth, np.zeros((60, 80), bool), tolerance) == 0


@pytest.fixture
def tables() -> tuple[pd.DataFrame, pd.DataFrame, list[np.ndarray]]:
    """Two images with two squares each, of 5, 20, 10 and 40 pixels."""
    sides = [5, 20, 10, 40]
    masks = [square(2 + 15 * (n % 2), 2, side) for n, side in enumerate(sides)]
    images = images_table({"image_id": name, "file": name, "width": 80, "height": 60} for name in ("a", "b"))
    rows = [
        {
            "image_id": "ab"[n // 2], "class_id": n % 2, "class_name": "xy"[n % 2], "rle": encode_mask(mask),
            **dict(zip(("x1", "y1", "x2", "y2"), mask_box(mask), strict=True)),
        }
        for n, mask in enumerate(masks)
    ]  # fmt: skip
    return images, objects_table(rows), masks


def test_objects_without_a_mask_count_nought(tables):
    images, truth, masks = tables
    found = {0: encode_mask(masks[0]), 3: encode_mask(square(17, 2, 20))}
    scores = metrics.compare_masks(truth, found, images, 0.01)
    assert scores["iou"].tolist() == [1, 0, 0, 400 / 1600]
    assert scores["dice"].tolist() == [1, 0, 0, 800 / 2000]
    assert metrics.mean_scores(scores)["mean_iou"] == pytest.approx(1.25 / 4)
    by = metrics.means_by_group(scores, truth["class_name"])
    assert (by["x"]["mean_iou"], by["y"]["mean_iou"], by["y"]["objects"]) == (0.5, 0.125, 2)


def test_sizes_are_shares_of_the_image(tables):
    images, truth, _ = tables
    side = math.sqrt(60 * 80)
    assert metrics.size_groups(truth, images, 8 / side, 30 / side) == ["small", "medium", "medium", "large"]


def test_the_interval_draws_whole_images():
    """Objects of an image are alike: as many images as objects tell more than few images with many alike."""
    draws = np.random.default_rng(0)
    levels = draws.random(20)
    values = np.repeat(levels, 50)
    low, high = metrics.bootstrap_interval(values, np.repeat(np.arange(20).astype(str), 50), resamples=500, seed=0)
    spread = 1.96 * levels.std() / math.sqrt(20)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * spread, rel=0.15)
    alone = metrics.bootstrap_interval(values, np.arange(1000).astype(str), resamples=500, seed=0)
    assert alone[1] - alone[0] < (high - low) / 4
    assert metrics.bootstrap_interval(values, [""] * 1000, resamples=0, seed=0) is None
    uneven = metrics.bootstrap_interval(np.full(10, 0.7), list("aaaaaaabbc"), resamples=50, seed=0)
    assert uneven == pytest.approx((0.7, 0.7))


def test_calibration_by_hand():
    predicted, actual = np.array([0.91, 0.95, 0.42, 1.2, -0.1, np.nan]), np.array([0.5, 0.7, 0.42, 0.9, 0.0, 0.3])
    table = metrics.calibration(predicted, actual)
    assert table["objects"].tolist() == [1, 1, 3]
    assert table["predicted"].tolist() == pytest.approx([-0.1, 0.42, 1.02])
    assert table["actual"].tolist() == pytest.approx([0, 0.42, 0.7])
    error = metrics.score_reliability(predicted, actual)["calibration_error"]
    assert error == pytest.approx((0.1 + 3 * 0.32) / 5)
    assert metrics.score_reliability(predicted, actual)["rank_correlation"] == pytest.approx(1)
    assert metrics.score_reliability(predicted[:3], np.array([0.7, 0.5, 0.4]))["rank_correlation"] == pytest.approx(0.5)
    assert metrics.score_reliability(np.full(3, np.nan), np.zeros(3)) == {
        "mean": None, "calibration_error": 0.0, "rank_correlation": None,
    }  # fmt: skip


@pytest.mark.parametrize("box", [(5, 5, 5, 5), (70, 50, 90, 60), (-9, -9, -2, -2), (0, 0, 1, 1), (0, 0, 80, 60)])
def test_an_example_is_drawn_whatever_its_box(tmp_path, box):
    """Of other people's truth a box may have no area, or lie beside the image."""
    file = tmp_path / "a.png"
    cv2.imwrite(str(file), np.full((60, 80, 3), 90, np.uint8))
    images = images_table([{"image_id": "a", "file": str(file), "width": 80, "height": 60}])
    row = {"image_id": "a", "class_id": 0, "class_name": "NA", **dict(zip(("x1", "y1", "x2", "y2"), box, strict=True))}
    truth = objects_table([{**row, "rle": encode_mask(square(10, 10, 1))}])
    masks = truth.assign(object=0, score=0.5)
    draw_examples(tmp_path / "e.png", images, truth, masks, pd.Series([0.5]), 1)
    assert (tmp_path / "e.png").stat().st_size > 1000
