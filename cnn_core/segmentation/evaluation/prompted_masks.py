"""Boxes as prompts, from the truth and from a detector, and the masks that a segmenter and Ultralytics give."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cnn_core.annotations.checks import Refused, size_fault
from cnn_core.annotations.masks import encode_mask
from cnn_core.annotations.tables import BOX, Annotations
from cnn_core.annotations.truth import read_truth
from cnn_core.detection.evaluation.metrics import match
from cnn_core.images.decoding import BadImage
from cnn_core.images.reader import read_image
from cnn_core.segmentation.inference.segmenter import Segmenter
from cnn_core.segmentation.sam.network import LoadedSam, reference_predictor

TRUTH, DETECTOR = "truth", "detector"  # where a prompt comes from
PROMPTS = ("image_id", "prompted_by", "object", *BOX)


def read_masked_truth(source: str | Path, split: str, *, refused: list[Refused] | None = None) -> Annotations:
    """Read images, objects and classes as `annotations.truth.read_truth` does; leave out crowds and what has no mask.

    Raises:
        ValueError: as there; or the split holds no object, or none has a mask.
    """
    refused = [] if refused is None else refused
    images, truth, classes = read_truth(source, split, refused=refused)
    if "iscrowd" in truth:
        truth = truth[truth["iscrowd"] == 0].reset_index(drop=True)
    if truth.empty:
        raise ValueError(f"the split {split} of {source} holds no object: there is nothing to measure on")
    without = truth["rle"].isna()
    if without.all():
        raise ValueError(
            f"{len(truth):,} of the {len(truth):,} objects of {source} have a box but no mask: name a set with masks "
            "(polygons in a data.yaml's labels, or segmentation in a COCO JSON)"
        )
    for row in truth[without].itertuples():
        refused.append(Refused("annotation", str(source), f"a {row.class_name} in {row.image_id}", "it has no mask"))
    truth = truth[~without].reset_index(drop=True)
    return images, truth, classes


def true_prompts(truth: pd.DataFrame) -> pd.DataFrame:
    """The box of each object: rows of `PROMPTS`; ``object`` is its position in ``truth``."""
    return truth[["image_id", *BOX]].assign(prompted_by=TRUTH, object=np.arange(len(truth)))[list(PROMPTS)]


def detected_prompts(truth: pd.DataFrame, detections: pd.DataFrame, min_iou: float) -> pd.DataFrame:
    """The detector's boxes of the objects that it found, whatever class it gave them: rows of `PROMPTS`."""
    by_image = detections.groupby("image_id", sort=False).indices
    boxes, true_boxes, scores = detections[BOX].to_numpy(), truth[BOX].to_numpy(), detections["score"].to_numpy()
    rows = []
    for image_id, objects in truth.groupby("image_id", sort=False).indices.items():
        indices = by_image.get(image_id, np.empty(0, int))
        for true, position in match(true_boxes[objects], boxes[indices], scores[indices], min_iou):
            rows.append((image_id, DETECTOR, int(objects[true]), *boxes[indices[position]]))
    return pd.DataFrame(rows, columns=list(PROMPTS))


def segment_prompts(
    segmenter: Segmenter, images: pd.DataFrame, prompts: pd.DataFrame, faults: dict[str, str]
) -> Iterator[pd.DataFrame]:
    """Yield the prompts with their masks, one image after the other. All prompts of an image share one embedding.

    Args:
        faults: takes the images that are left out, by their file: they cannot be read or segmented, or have another
            size than the set says, so that its masks lie elsewhere.

    Yields:
        The prompts' rows with ``rle`` (None = no mask), ``score`` (the predicted IoU), ``stability`` and the tight box.
    """
    by_image = prompts.reset_index(drop=True).groupby("image_id", sort=False).indices
    row: Any  # of itertuples, whose fields have no types
    for row in images.itertuples():
        rows = prompts.iloc[by_image.get(row.image_id, np.empty(0, int))]
        try:
            image = read_image(row.file)
            fault = size_fault(*image.shape[:2], listed=(row.height, row.width))
            embedding = None if fault or rows.empty else segmenter.embed(image)
        except BadImage as bad:
            fault, embedding = str(bad), None
        if fault:
            faults[row.file] = fault
        if embedding is None:
            yield rows[:0]
            continue
        segments = segmenter.masks(embedding, boxes=rows[BOX].to_numpy())
        yield _with_masks(rows, {int(mask["prompt_id"]): mask for mask in segments.rows()})


def _with_masks(rows: pd.DataFrame, masks: dict[int, dict[str, Any]]) -> pd.DataFrame:
    no_mask = {"rle": None, "score": np.nan, "stability": np.nan, **dict.fromkeys(BOX, np.nan)}
    values = [masks.get(number, no_mask) for number in range(len(rows))]
    columns = {name: [value[name] for value in values] for name in no_mask}
    texts = pd.Series(columns.pop("rle"), dtype=object, index=rows.index)  # else pandas makes NaN of None
    return rows.rename(columns={name: f"prompt_{name}" for name in BOX}).assign(rle=texts, **columns)


def ultralytics_masks(
    loaded: LoadedSam, imgsz: int, images: Iterable[Any], prompts: pd.DataFrame
) -> Iterator[dict[int, str | None]]:
    """Yield, image by image, the mask of each prompt (by its position in the table) by Ultralytics' own predictor.

    Args:
        loaded: a network that no `Segmenter` uses, as that one changes the decoder.
    """
    predictor = reference_predictor(loaded, imgsz)
    for row in images:
        positions = np.flatnonzero(prompts["image_id"].to_numpy() == row.image_id)
        image = read_image(row.file)
        boxes = prompts[BOX].to_numpy()[positions]
        result = next(iter(predictor(image, stream=True, bboxes=boxes.tolist())))
        masks: dict[int, str | None] = dict.fromkeys(positions.tolist())
        if result.masks is not None:
            numbers = result.boxes.cls.int().tolist()  # it leaves out those with a predicted IoU of 0
            for number, mask in zip(numbers, result.masks.data.bool().cpu().numpy(), strict=True):
                masks[int(positions[number])] = encode_mask(mask) if mask.any() else None
        yield masks


def evenly_spaced(images: pd.DataFrame, count: int) -> pd.DataFrame:
    return images.iloc[np.unique(np.linspace(0, len(images) - 1, min(count, len(images))).astype(int))]
