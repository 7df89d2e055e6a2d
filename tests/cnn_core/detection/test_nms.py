"""Our readable non-maximum suppression against torchvision's compiled one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torchvision.ops import batched_nms, box_iou
from torchvision.ops import nms as compiled_nms

from cnn_core.detection.nms import area, class_nms, iou, nms

THRESHOLDS = st.sampled_from([0.0, 0.1, 0.25, 0.3, 1 / 3, 0.45, 0.5, 0.7, 0.9, 1.0])


@st.composite
def scored_boxes(draw, most: int = 30):
    """Boxes on a coarse grid, so that equal ones, touching ones, empty ones and IoUs at the threshold occur; with few
    different scores, so that they tie."""
    count = draw(st.integers(0, most))
    corners = draw(arrays(np.int64, (count, 2), elements=st.integers(0, 12)))
    sizes = draw(arrays(np.int64, (count, 2), elements=st.integers(0, 8)))
    scores = draw(arrays(np.int64, count, elements=st.integers(0, 6))) / 6
    classes = draw(arrays(np.int64, count, elements=st.integers(0, 3)))
    return np.hstack([corners, corners + sizes]).astype(float), scores, classes


@settings(max_examples=100)
@given(scored_boxes(), THRESHOLDS)
def test_nms_keeps_what_torchvision_keeps_ties_included(boxes, threshold: float) -> None:
    # torchvision's kernel for the CPU sorts stably too, so that of equal scores the earlier box wins
    boxes, scores, _ = boxes
    expected = compiled_nms(torch.from_numpy(boxes), torch.from_numpy(scores), threshold)
    assert nms(boxes, scores, threshold).tolist() == expected.tolist()


@settings(max_examples=100)
@given(scored_boxes(), THRESHOLDS)
def test_class_nms_keeps_what_torchvision_keeps(boxes, threshold: float) -> None:
    boxes, scores, classes = boxes
    expected = batched_nms(*map(torch.from_numpy, (boxes, scores, classes)), threshold)
    assert class_nms(boxes, scores, classes, threshold).tolist() == expected.tolist()


@settings(max_examples=8)
@given(st.integers(0, 2**32 - 1), THRESHOLDS)
def test_many_boxes_anywhere_agree(seed: int, threshold: float) -> None:
    """More boxes than torchvision shifts apart by class, at places and with scores that do not tie."""
    draws = np.random.default_rng(seed)
    corners = draws.uniform(0, 600, (1100, 2))
    boxes = np.hstack([corners, corners + draws.uniform(1, 200, (1100, 2))])
    scores, classes = draws.permutation(1100) / 1100, draws.integers(0, 3, 1100)
    expected = batched_nms(*map(torch.from_numpy, (boxes, scores, classes)), threshold)
    assert class_nms(boxes, scores, classes, threshold).tolist() == expected.tolist()


@settings(max_examples=60)
@given(scored_boxes(), scored_boxes())
def test_iou_is_torchvisions_and_0_where_there_is_no_area(first, second) -> None:
    expected = box_iou(torch.from_numpy(first[0]), torch.from_numpy(second[0])).numpy()
    np.testing.assert_allclose(iou(first[0], second[0]), np.nan_to_num(expected), atol=1e-12)


def test_iou_by_hand() -> None:
    boxes = np.array([[0, 0, 2, 2], [1, 1, 3, 3], [2, 0, 4, 2], [5, 5, 5, 9]], float)
    assert iou(boxes[:1], boxes)[0].tolist() == [1, 1 / 7, 0, 0]  # itself, a corner of 1 in 7, an edge, elsewhere
    assert area(boxes).tolist() == [4, 4, 4, 0]


@pytest.mark.parametrize(("threshold", "kept"), [(0.5, [1, 2]), (0.9, [1, 0, 2])])
def test_the_better_of_two_boxes_on_one_object_stays(threshold: float, kept: list) -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 8], [20, 0, 30, 10]], float)  # the first two: IoU 0.8
    assert nms(boxes, np.array([0.8, 0.9, 0.3]), threshold).tolist() == kept


def test_boxes_of_two_classes_do_not_suppress_each_other() -> None:
    boxes, scores = np.array([[0, 0, 10, 10]] * 3, float), np.array([0.5, 0.9, 0.7])
    assert class_nms(boxes, scores, np.array([0, 1, 1]), 0.5).tolist() == [1, 0]


def test_no_boxes() -> None:
    none = np.empty((0, 4))
    assert iou(none, none).shape == (0, 0)
    assert nms(none, np.empty(0), 0.5).tolist() == class_nms(none, np.empty(0), np.empty(0, int), 0.5).tolist() == []
