"""Numbers read off pictures: digits found twice are dropped, the rest put in order, and how right it all is.

A picture bears one number, of one row or several. Digits come as boxes, in pixels, with or without masks; what each is
comes as probabilities of a classifier, of a detector, or of both.
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
ROW_GAP = 0.6  # of a digit's height: digits whose middles lie farther apart, across the row, are of two rows
STEEPEST = 45.0  # degrees that a row may be tilted by


def remove_islands(objects: pd.DataFrame, images: pd.DataFrame, least: float) -> pd.DataFrame:
    """The masks without their small parts, and their tight boxes: a digit is one stroke or two, and a few stray pixels
    elsewhere would spoil where it lies and how large it is.

    Args:
        objects: rows of `annotations.OBJECTS`; those without a mask stay as they are.
        images: with image_id, height and width.
        least: of a mask's parts, those with less than this share of the largest one's pixels are left out; 0 = none is.
    """
    sizes = {row.image_id: (row.height, row.width) for row in images.itertuples()}
    objects = objects.reset_index(drop=True)
    rles, boxes = objects["rle"].tolist(), objects[BOX].to_numpy(float).copy()
    for place, (name, rle) in enumerate(zip(objects["image_id"], rles, strict=True)):
        if not rle or not least:
            continue
        mask = decode_mask(rle, *sizes[name]).astype(np.uint8)
        count, parts, about, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        pixels = about[1:, cv2.CC_STAT_AREA]
        if count > 2 and (pixels < least * pixels.max()).any():
            solid = np.isin(parts, 1 + np.flatnonzero(pixels >= least * pixels.max()))
            rles[place], boxes[place] = encode_mask(solid), mask_box(solid)
    return objects.assign(rle=pd.Series(rles, dtype=object), **dict(zip(BOX, boxes.T, strict=True)))


def unique_digits(objects: pd.DataFrame, images: pd.DataFrame, *, conf: float, duplicate_iou: float) -> pd.DataFrame:
    """The objects that are sure enough, each once, in the order of the images' table.

    Args:
        objects: rows of `annotations.OBJECTS`, with prompt_score where masks were prompted by detections.
        images: with image_id, height and width.

    Returns:
        The rows with the further columns ``sure`` (the detection's score, else the object's own) and ``detected`` (the
        class that came with the box).
    """
    sure = objects["score"]
    if "prompt_score" in objects:
        sure = objects["prompt_score"].astype(float).fillna(sure)
    table = objects.assign(sure=sure, detected=objects["class_name"])
    table = table[table["sure"] >= conf].reset_index(drop=True)
    rows, boxes = table.groupby("image_id", sort=False).indices, table[BOX].to_numpy()
    kept: list[np.ndarray] = [np.empty(0, np.int64)]
    for image in images.itertuples():
        own = rows.get(image.image_id, np.empty(0, int))
        masks = table["rle"].iloc[own].tolist()
        overlap = mask_iou(masks, image.height, image.width) if masks and all(masks) else iou(boxes[own], boxes[own])
        kept.append(own[drop_duplicates(overlap, table["sure"].to_numpy()[own], duplicate_iou)])
    return table.iloc[np.concatenate(kept)].reset_index(drop=True)


def drop_duplicates(overlap: np.ndarray, scores: np.ndarray, most: float) -> np.ndarray:
    """Which digits of a picture to keep, int (K,) in rising order: of two that overlap by more than ``most`` the one
    with the better score (of equal ones the first).

    Args:
        overlap: (N, N), of each with each: `mask_iou`, or `nms.iou` of boxes where there are no masks.
    """
    kept: list[int] = []
    for number in np.argsort(-scores, kind="stable"):
        if all(overlap[number, other] <= most for other in kept):
            kept.append(int(number))
    return np.sort(np.array(kept, np.int64))


def mask_iou(rles: Sequence[str], height: int, width: int) -> np.ndarray:
    """Intersection over union of every mask of an image with every other, (N, N): digits may lie so close that their
    boxes overlap and their strokes do not."""
    masks = [{"size": [height, width], "counts": rle.encode("ascii")} for rle in rles]
    return np.asarray(coco_mask.iou(masks, masks, [0] * len(masks))).reshape(len(masks), len(masks))


def reading_order(boxes: np.ndarray) -> list[np.ndarray]:
    """The rows of a picture from top to bottom, each the positions of its digits from left to right.

    How far the rows are tilted is told by each digit's nearest neighbour; across that direction a gap parts two rows.
    Within a row the order is that along its principal axis.

    Args:
        boxes: float (N, 4), xyxy.
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
    """In radians, the median direction from each digit to its nearest neighbour, as far as that lies beside it."""
    apart = centres[None] - centres[:, None]
    far = np.hypot(apart[..., 0], apart[..., 1])
    np.fill_diagonal(far, np.inf)
    steps = apart[np.arange(len(centres)), far.argmin(1)] if len(centres) > 1 else np.empty((0, 2))
    steps = steps[steps[:, 0] != 0]
    angles = np.arctan(steps[:, 1] / steps[:, 0])
    angles = angles[np.abs(angles) <= np.radians(STEEPEST)]
    return float(np.median(angles)) if len(angles) else 0.0


def _along(centres: np.ndarray) -> np.ndarray:
    """Places along the row's principal axis, from left to right."""
    offsets = centres - centres.mean(0)
    axis = np.linalg.eigh(offsets.T @ offsets)[1][:, -1] if len(centres) > 1 else np.array([1.0, 0.0])
    axis = np.array([1.0, 0.0]) if abs(axis[0]) < np.cos(np.radians(STEEPEST)) else axis * np.sign(axis[0])
    return offsets @ axis


def combine_probabilities(how: Combine, cnn: np.ndarray, detected: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """What a digit is, as probabilities float (N, K).

    ``product`` multiplies the classifier's with the detector's, which says a class and how sure it is and spreads the
    rest evenly: what both see is likelier than what one sees.

    Args:
        cnn: float (N, K). detected: int (N,), the detector's class, -1 = none that the classifier knows; then the
            classifier alone counts. scores: float (N,), the detector's.
    """
    if how == "cnn" or not len(cnn):
        return cnn
    classes = cnn.shape[1]
    sure = np.where(detected >= 0, np.nan_to_num(scores, nan=0.0).clip(1 / classes, 1 - 1e-6), 1 / classes)
    said = np.repeat(((1 - sure) / (classes - 1))[:, None], classes, axis=1)
    rows = np.flatnonzero(detected >= 0)
    said[rows, detected[rows]] = sure[rows]
    known = (detected >= 0)[:, None]
    if how == "detector":
        return np.where(known, said, cnn)
    both = np.where(known, cnn * said, cnn)
    return both / both.sum(1, keepdims=True)


def label_digits(digits: pd.DataFrame, cnn: np.ndarray, how: Combine, classes: Sequence[str]) -> pd.DataFrame:
    """`unique_digits` with what they are read as (``read``), how surely (``confidence``), and what the classifier by
    itself says (``cnn``, ``cnn_confidence``).

    Args:
        cnn: float (N, K), the classifier's probabilities of ``classes``.
    """
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
    """image_id, file, text, confidence: of each image the number that its digits make, rows parted by a space.

    ``confidence`` is the product of the digits' own: how likely all are right if their errors have nothing to do with
    each other; 1 of a picture without digits.

    Args:
        digits: image_id, the box, ``read`` and ``confidence``.
    """
    of = digits.reset_index(drop=True).groupby("image_id", sort=False).indices
    boxes, read, sure = digits[BOX].to_numpy(), digits["read"].to_numpy(), digits["confidence"].to_numpy()
    rows = []
    for image_id, file in images[["image_id", "file"]].itertuples(index=False):
        own = of.get(image_id, np.empty(0, int))
        lines = reading_order(boxes[own])
        text = " ".join("".join(read[own[line]]) for line in lines)
        rows.append({"image_id": image_id, "file": file, "text": text, "confidence": float(np.prod(sure[own]))})
    return pd.DataFrame(rows, columns=["image_id", "file", "text", "confidence"])


def digit_positions(digits: pd.DataFrame) -> np.ndarray:
    """int (N,), the place of each digit in its image's number, 0 = the first."""
    found = np.zeros(len(digits), np.int64)
    boxes = digits[BOX].to_numpy()
    for rows in digits.reset_index(drop=True).groupby("image_id", sort=False).indices.values():
        found[rows[np.concatenate(reading_order(boxes[rows]))]] = np.arange(len(rows))
    return found


def match_to_truth(truth: pd.DataFrame, digits: pd.DataFrame, least_iou: float) -> np.ndarray:
    """int (N,): which of the digits found each true one is, -1 = none: by their boxes, the surest first, whatever they
    are read as."""
    of_truth = truth.reset_index(drop=True).groupby("image_id", sort=False).indices
    of_found = digits.reset_index(drop=True).groupby("image_id", sort=False).indices
    true_boxes, boxes, scores = truth[BOX].to_numpy(), digits[BOX].to_numpy(), digits["sure"].to_numpy()
    found = np.full(len(truth), -1, np.int64)
    for name, rows in of_truth.items():
        own = of_found.get(name, np.empty(0, int))
        for true, position in match(true_boxes[rows], boxes[own], scores[own], least_iou):
            found[rows[true]] = own[position]
    return found


def correct_digits(truth: pd.DataFrame, digits: pd.DataFrame, least_iou: float) -> list[bool]:
    """Of each digit whether it is one of the truth's and read right."""
    right = [False] * len(digits)
    for true, position in enumerate(match_to_truth(truth, digits, least_iou)):
        if position >= 0:
            right[position] = bool(digits["read"].iloc[position] == truth["class_name"].iloc[true])
    return right


def accuracy(truth: pd.DataFrame, digits: pd.DataFrame, found: np.ndarray, texts: pd.DataFrame) -> dict[str, Any]:
    """How much of the truth was found, and read.

    Args:
        found: `match_to_truth`. texts: image_id, ``text`` as read and ``truth`` as it is.

    Returns:
        found: share of all true digits. read_right: share of those found whose class is right. found_and_read: share
        of all true digits that were found and read right, with its Wilson interval. spurious: digits on nothing, for
        each true one. plates_right: share of images whose whole number is right, with its Wilson interval.
    """
    hit = found >= 0
    right = int((digits["read"].to_numpy()[found[hit]] == truth["class_name"].to_numpy()[hit]).sum())
    plates = int((texts["text"].str.replace(" ", "") == texts["truth"].str.replace(" ", "")).sum())
    low, high = wilson(right, len(truth))
    plates_low, plates_high = wilson(plates, len(texts))
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
