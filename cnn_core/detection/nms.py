"""Non-maximum suppression, written out: keep the best of the many boxes on one object.

A detector scores every cell of its grid, so neighbouring cells find the same object, each with a box
of its own. Nearly all detectors use this greedy rule (Felzenszwalb et al., "Object Detection with
Discriminatively Trained Part-Based Models", 2010, section 6.2; for a network's boxes class by class:
Girshick et al., R-CNN, 2014, section 2.2; YOLO: Redmon et al., 2016, section 2.3):

    1. Take the remaining box with the highest score, and keep it.
    2. Drop every remaining box that overlaps it by more than a threshold: it shows the same object.
    3. Repeat from 1 until no box remains.

How much two boxes overlap is their intersection over union, IoU(A, B) = |A ∩ B| / |A ∪ B|, from 0
(apart) to 1 (the same box).

This code is for reading and for the report. Batches use the compiled suppression of torchvision; a
test holds the two against each other.
"""

from __future__ import annotations

import numpy as np


def area(boxes: np.ndarray) -> np.ndarray:
    """The areas (N,) of boxes (N, 4), xyxy; 0 where a box has no extent."""
    return np.maximum(boxes[:, 2] - boxes[:, 0], 0) * np.maximum(boxes[:, 3] - boxes[:, 1], 0)


def iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (N, 4) and (M, 4), xyxy: (N, M), 0..1; 0 for two boxes without an area."""
    left_top = np.maximum(first[:, None, :2], second[None, :, :2])  # (N, M, 2)
    right_bottom = np.minimum(first[:, None, 2:], second[None, :, 2:])
    width, height = np.moveaxis(np.maximum(right_bottom - left_top, 0), -1, 0)  # 0 where the boxes lie apart
    intersection = width * height
    union = area(first)[:, None] + area(second)[None, :] - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection, dtype=float), where=union > 0)


def nms(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Choose the boxes to keep, whatever their class: int (K,), their indices, the best first.

    Args:
        boxes: float (N, 4), xyxy. scores: float (N,); of equal scores the earlier box is the better.
        threshold: 0..1; a box whose IoU with a kept one is greater is dropped.
    """
    remaining = np.argsort(-scores, kind="stable")
    kept = []
    while len(remaining):
        best, rest = remaining[0], remaining[1:]
        kept.append(best)
        overlap = iou(boxes[best : best + 1], boxes[rest])[0]
        remaining = rest[overlap <= threshold]
    return np.array(kept, dtype=np.int64)


def class_nms(boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, threshold: float) -> np.ndarray:
    """Apply `nms` to the boxes of each class, int (N,), separately: a 3 in front of an 8 is two objects."""
    kept = np.zeros(len(boxes), dtype=bool)
    for number in np.unique(classes):
        members = np.flatnonzero(classes == number)
        kept[members[nms(boxes[members], scores[members], threshold)]] = True
    indices = np.flatnonzero(kept)
    return indices[np.argsort(-scores[indices], kind="stable")]
