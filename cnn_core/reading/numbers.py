"""Read numbers from pictures: drop digits that were found twice, put the rest in order, and measure the accuracy.

A picture bears one number, of one row or several. Digits are boxes, in pixels, with or without masks. Which digit each
is follows from the probabilities of a classifier, of a detector, or of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import cv2
import numpy as np
import pandas as pd
from pycocotools import mask as coco_mask

from cnn_core.annotations.masks import decode_mask, encode_mask, mask_box
from cnn_core.annotations.tables import BOX
from cnn_core.classification.inference.metrics import wilson
from cnn_core.detection.evaluation.metrics import match
from cnn_core.detection.nms import iou

Combine = Literal["cnn", "detector", "product"]
ROW_GAP = 0.6  # of a digit's height: digits whose centres lie farther apart, across the row, are in two rows
STEEPEST = 45.0  # degrees by which a row may be tilted


def remove_islands(objects: pd.DataFrame, images: pd.DataFrame, min_share: float) -> pd.DataFrame:
    """Remove the parts of masks that are smaller than ``min_share`` of the largest, and make their boxes tight again.

    A digit is one stroke or two, and a few stray pixels elsewhere would change its position and size.
    """
    sizes = dict(zip(images["image_id"], zip(images["height"], images["width"], strict=True), strict=True))
    objects = objects.reset_index(drop=True)
    rles, boxes = objects["rle"].tolist(), objects[BOX].to_numpy(float).copy()
    for index, (name, rle) in enumerate(zip(objects["image_id"], rles, strict=True)):
        if not rle or not min_share:
            continue
        mask = decode_mask(rle, *sizes[name]).astype(np.uint8)
        count, parts, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        pixels = stats[1:, cv2.CC_STAT_AREA]
        if count > 2 and (pixels < min_share * pixels.max()).any():
            solid = np.isin(parts, 1 + np.flatnonzero(pixels >= min_share * pixels.max()))
            rles[index], boxes[index] = encode_mask(solid), mask_box(solid)
    return objects.assign(rle=pd.Series(rles, dtype=object), **dict(zip(BOX, boxes.T, strict=True)))


def unique_digits(objects: pd.DataFrame, images: pd.DataFrame, *, conf: float, duplicate_iou: float) -> pd.DataFrame:
    """Keep the objects with a high enough score, each once, in the order of the images' table.

    Returns:
        The rows with the further columns ``sure`` (the detection's score, else the object's own) and ``detected`` (the
        class of the detection).
    """
    sure = objects["score"]
    if "prompt_score" in objects:
        sure = objects["prompt_score"].astype(float).fillna(sure)
    table = objects.assign(sure=sure, detected=objects["class_name"])
    table = table[table["sure"] >= conf].reset_index(drop=True)
    rows, boxes = table.groupby("image_id", sort=False).indices, table[BOX].to_numpy()
    kept: list[np.ndarray] = [np.empty(0, np.int64)]
    for image_id, height, width in zip(images["image_id"], images["height"], images["width"], strict=True):
        indices = rows.get(image_id, np.empty(0, int))
        masks = table["rle"].iloc[indices].tolist()
        has_masks = bool(masks) and all(masks)
        overlap = mask_iou(masks, height, width) if has_masks else iou(boxes[indices], boxes[indices])
        kept.append(indices[drop_duplicates(overlap, table["sure"].to_numpy()[indices], duplicate_iou)])
    return table.iloc[np.concatenate(kept)].reset_index(drop=True)


def drop_duplicates(overlap: np.ndarray, scores: np.ndarray, max_iou: float) -> np.ndarray:
    """Return the indices, int (K,), of the digits to keep: of two that overlap by more than ``max_iou``, the one with
    the better score (of equal ones the first).

    Args:
        overlap: (N, N), of each digit with each: `mask_iou`, or `nms.iou` of the boxes if there are no masks.
    """
    kept: list[int] = []
    for number in np.argsort(-scores, kind="stable"):
        if all(overlap[number, other] <= max_iou for other in kept):
            kept.append(int(number))
    return np.sort(np.array(kept, np.int64))


def mask_iou(rles: Sequence[str], height: int, width: int) -> np.ndarray:
    """The intersection over union of each mask of an image with each, (N, N).

    Digits may lie so close that their boxes overlap although their strokes do not.
    """
    masks = [{"size": [height, width], "counts": rle.encode("ascii")} for rle in rles]
    return np.asarray(coco_mask.iou(masks, masks, [0] * len(masks))).reshape(len(masks), len(masks))


def reading_order(boxes: np.ndarray) -> list[np.ndarray]:
    """Order a picture's digits: the rows from top to bottom, each with the indices of its digits from left to right.

    The tilt of the rows follows from the direction of each digit's nearest neighbour. Across that direction a gap
    separates two rows. Within a row digits are ordered along its principal axis.
    """
    if not len(boxes):
        return []
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    tilt = _tilt(centres)
    across = centres @ np.array([-np.sin(tilt), np.cos(tilt)])
    height = float(np.median(boxes[:, 3] - boxes[:, 1]))
    order = np.argsort(across, kind="stable")
    rows = np.split(order, np.flatnonzero(np.diff(across[order]) > ROW_GAP * height) + 1)
    return [row[np.argsort(_along(centres[row]), kind="stable")] for row in rows]


def _tilt(centres: np.ndarray) -> float:
    """The median direction, in radians, from each digit to its nearest neighbour, if that is not above or below it."""
    apart = centres[None] - centres[:, None]
    far = np.hypot(apart[..., 0], apart[..., 1])
    np.fill_diagonal(far, np.inf)
    steps = apart[np.arange(len(centres)), far.argmin(1)] if len(centres) > 1 else np.empty((0, 2))
    steps = steps[steps[:, 0] != 0]
    angles = np.arctan(steps[:, 1] / steps[:, 0])
    angles = angles[np.abs(angles) <= np.radians(STEEPEST)]
    return float(np.median(angles)) if len(angles) else 0.0


def _along(centres: np.ndarray) -> np.ndarray:
    """Positions along the row's principal axis, from left to right."""
    offsets = centres - centres.mean(0)
    axis = np.linalg.eigh(offsets.T @ offsets)[1][:, -1] if len(centres) > 1 else np.array([1.0, 0.0])
    axis = np.array([1.0, 0.0]) if abs(axis[0]) < np.cos(np.radians(STEEPEST)) else axis * np.sign(axis[0])
    return offsets @ axis


def combine_probabilities(how: Combine, cnn: np.ndarray, detected: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Combine the probabilities of the classifier and of the detector, float (N, K).

    The detector's score is the probability of its class; the rest is spread evenly over the others. ``product``
    multiplies both probabilities: a class that both see is likelier than one that only one of them sees.

    Args:
        cnn: float (N, K), the classifier's.
        detected: int (N,), the detector's class; -1 = none that the classifier knows, so the classifier alone counts.
        scores: float (N,), the detector's.
    """
    if how == "cnn" or not len(cnn):
        return cnn
    classes = cnn.shape[1]
    sure = np.where(detected >= 0, np.nan_to_num(scores, nan=0.0).clip(1 / classes, 1 - 1e-6), 1 / classes)
    detector = np.repeat(((1 - sure) / (classes - 1))[:, None], classes, axis=1)
    rows = np.flatnonzero(detected >= 0)
    detector[rows, detected[rows]] = sure[rows]
    valid = (detected >= 0)[:, None]
    if how == "detector":
        return np.where(valid, detector, cnn)
    both = np.where(valid, cnn * detector, cnn)
    return both / both.sum(1, keepdims=True)


def label_digits(digits: pd.DataFrame, cnn: np.ndarray, how: Combine, classes: Sequence[str]) -> pd.DataFrame:
    """Add to `unique_digits` the digit that is read (``read``) with its probability (``confidence``), and those of the
    classifier alone (``cnn``, ``cnn_confidence``)."""
    names = np.array(classes, dtype=object)
    numbered = {name: number for number, name in enumerate(classes)}
    detected = digits["detected"].map(numbered).fillna(-1).to_numpy(np.int64)
    both = combine_probabilities(how, cnn, detected, digits["sure"].to_numpy(float))
    return digits.assign(
        read=names[both.argmax(1)],
        confidence=both.max(1).astype(float),
        cnn=names[cnn.argmax(1)],
        cnn_confidence=cnn.max(1).astype(float),
    )


def read_numbers(digits: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    """Read the number in each image.

    Returns:
        image_id, file, text (rows of digits separated by a space), and confidence: the product of the digits'
        confidences, which is the probability that all are right if their errors are independent. It is 1 for a
        picture without digits.
    """
    by_image = digits.reset_index(drop=True).groupby("image_id", sort=False).indices
    boxes, read, sure = digits[BOX].to_numpy(), digits["read"].to_numpy(), digits["confidence"].to_numpy()
    rows = []
    for image_id, file in images[["image_id", "file"]].itertuples(index=False):
        indices = by_image.get(image_id, np.empty(0, int))
        lines = reading_order(boxes[indices])
        text = " ".join("".join(read[indices[line]]) for line in lines)
        rows.append({"image_id": image_id, "file": file, "text": text, "confidence": float(np.prod(sure[indices]))})
    return pd.DataFrame(rows, columns=["image_id", "file", "text", "confidence"])


def digit_positions(digits: pd.DataFrame) -> np.ndarray:
    """The position of each digit in its image's number, int (N,), 0 = the first."""
    numbers = np.zeros(len(digits), np.int64)
    boxes = digits[BOX].to_numpy()
    for rows in digits.reset_index(drop=True).groupby("image_id", sort=False).indices.values():
        numbers[rows[np.concatenate(reading_order(boxes[rows]))]] = np.arange(len(rows))
    return numbers


def match_to_truth(truth: pd.DataFrame, digits: pd.DataFrame, min_iou: float) -> np.ndarray:
    """Match true digits with ``digits`` by their boxes, the surest first, whatever they are read as.

    Returns:
        int (N,), the index in ``digits``; -1 = not found.
    """
    true_rows = truth.reset_index(drop=True).groupby("image_id", sort=False).indices
    digit_rows = digits.reset_index(drop=True).groupby("image_id", sort=False).indices
    true_boxes, boxes, scores = truth[BOX].to_numpy(), digits[BOX].to_numpy(), digits["sure"].to_numpy()
    matches = np.full(len(truth), -1, np.int64)
    for name, rows in true_rows.items():
        indices = digit_rows.get(name, np.empty(0, int))
        for true, position in match(true_boxes[rows], boxes[indices], scores[indices], min_iou):
            matches[rows[true]] = indices[position]
    return matches


def correct_digits(truth: pd.DataFrame, digits: pd.DataFrame, min_iou: float) -> list[bool]:
    """Whether each digit is one of the truth's and read right."""
    true_names = dict(zip(match_to_truth(truth, digits, min_iou), truth["class_name"], strict=True))
    return [true_names.get(position) == read for position, read in enumerate(digits["read"])]


def accuracy(truth: pd.DataFrame, digits: pd.DataFrame, matches: np.ndarray, texts: pd.DataFrame) -> dict[str, Any]:
    """Measure how much of the truth was found, and read right.

    Args:
        texts: image_id, ``text`` (as read) and ``truth``.

    Returns:
        found: the share of all true digits that were found.
        read_right: the share of these whose class is right.
        found_and_read: the share of all true digits that were found and read right, with its Wilson interval.
        spurious: digits that match no true one, for each true digit.
        plates_right: the share of images whose number is entirely right, with its Wilson interval.
    """
    hit = matches >= 0
    right = int((digits["read"].to_numpy()[matches[hit]] == truth["class_name"].to_numpy()[hit]).sum())
    plates = int((texts["text"].str.replace(" ", "") == texts["truth"].str.replace(" ", "")).sum())
    (low, high), (plates_low, plates_high) = wilson(right, len(truth)), wilson(plates, len(texts))
    return {
        "found": int(hit.sum()) / max(1, len(truth)),
        "read_right": right / max(1, int(hit.sum())),
        "found_and_read": right / max(1, len(truth)),
        "found_and_read_low": low,
        "found_and_read_high": high,
        "spurious": (len(digits) - int(hit.sum())) / max(1, len(truth)),
        "plates_right": plates / max(1, len(texts)),
        "plates_right_low": plates_low,
        "plates_right_high": plates_high,
    }
