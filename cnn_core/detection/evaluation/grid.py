"""A detector's grid made visible: what each cell predicts, all boxes, and those that NMS keeps.

YOLO (Redmon et al., "You Only Look Once", 2016, figure 2) cuts the image into S x S cells. Each
cell predicts boxes, and the class of an object whose middle lies in it: one pass, no search.
Today's YOLOs do so on several grids at once, fine ones for small objects and coarse ones for large,
with one box a cell and the class's probability as its score.
"""

from __future__ import annotations

import base64
import dataclasses
import io
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cnn_core.detection.nms import class_nms
from cnn_core.detection.yolo import LoadedYolo


@dataclasses.dataclass(frozen=True, kw_only=True)
class Level:
    """One grid: the most probable class of each cell, int (rows, columns), and its probability, 0..1."""

    classes: np.ndarray
    scores: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class GridView:
    """All predictions for one image with a score of at least ``conf``."""

    image: np.ndarray  # uint8 (H, W, 3) RGB, letterboxed: the network's input
    names: dict[int, str]
    levels: list[Level]  # the finest first
    boxes: np.ndarray  # float (n, 4) xyxy in pixels of ``image``
    scores: np.ndarray  # float (n,)
    classes: np.ndarray  # int (n,)
    cells: np.ndarray  # int (n, 3): level, row and column of the cell that predicts the box
    kept: np.ndarray  # indices of the boxes that `nms.class_nms` keeps at ``iou``, the best first
    conf: float
    iou: float


def look_at(loaded: LoadedYolo, image: np.ndarray, *, imgsz: int, conf: float, iou: float) -> GridView:
    """Predict one image, uint8 (H, W, 3) RGB of any size, and keep all that happens."""
    from ultralytics.data.augment import LetterBox

    letterbox = LetterBox((imgsz, imgsz), auto=True, stride=loaded.stride)
    boxed = np.ascontiguousarray(cast(np.ndarray, letterbox(image=image)))
    height, width = boxed.shape[:2]
    device = next(loaded.network.parameters()).device
    values = torch.from_numpy(boxed).permute(2, 0, 1)[None].float().div(255).to(device)
    predicted = raw_predictions(loaded, values)[0].cpu().numpy()  # (anchors, 4 + classes)
    scores, classes = predicted[:, 4:].max(1), predicted[:, 4:].argmax(1)
    sizes = grid_sizes(loaded, height, width)
    parts = np.cumsum([0, *(rows * columns for rows, columns in sizes)])
    levels = [
        Level(classes=classes[start:end].reshape(size), scores=scores[start:end].reshape(size))
        for start, end, size in zip(parts, parts[1:], sizes, strict=False)
    ]
    cells = np.array([(level, *cell) for level, size in enumerate(sizes) for cell in np.ndindex(size)])
    sure = np.flatnonzero(scores >= conf)
    return GridView(
        image=boxed,
        names=loaded.names,
        levels=levels,
        boxes=predicted[sure, :4],
        scores=scores[sure],
        classes=classes[sure],
        cells=cells[sure],
        kept=class_nms(predicted[sure, :4], scores[sure], classes[sure], iou),
        conf=conf,
        iou=iou,
    )


@torch.no_grad()
def raw_predictions(loaded: LoadedYolo, images: Tensor) -> Tensor:
    """Predict without non-maximum suppression: float32 (N, 3, H, W) RGB in 0..1 -> (N, anchors, 4 + classes).

    H and W are multiples of ``loaded.stride``. An anchor has a box, xyxy in pixels of the input,
    and a probability a class; the anchors go row by row through the grids of `grid_sizes`.
    """
    head = _head(loaded)
    decoded, predictions = loaded.network(images)
    if head.end2end:  # it returns the boxes that it chooses, and beside them those from which it chooses
        decoded = head._inference(predictions["one2one"])
    elif isinstance(decoded, tuple):  # of a segmenter: with the prototypes of its masks
        decoded = decoded[0]
    decoded = decoded[:, : 4 + len(loaded.names)].transpose(1, 2)
    if head.end2end or head.xyxy:
        return decoded
    centres, sides = decoded[..., :2], decoded[..., 2:4]
    return torch.cat((centres - sides / 2, centres + sides / 2, decoded[..., 4:]), -1)


def grid_sizes(loaded: LoadedYolo, height: int, width: int) -> list[tuple[int, int]]:
    """(rows, columns) of each grid that an input of this size is predicted on, the finest first."""
    strides = [int(stride) for stride in _head(loaded).stride]
    return [(height // stride, width // stride) for stride in strides]


def _head(loaded: LoadedYolo) -> Any:
    network: Any = loaded.network
    return network.model[-1]


def grid_record(view: GridView) -> dict[str, Any]:
    """The ``view``, of a low ``conf``, as JSON for a page on which a reader chooses the least score.

    Suppression goes from the best box down, so the boxes kept at a higher ``conf`` are those of
    ``kept`` that reach it.
    """
    buffer = io.BytesIO()
    Image.fromarray(view.image).save(buffer, "PNG")
    kept = set(view.kept.tolist())
    return {
        "image": base64.b64encode(buffer.getvalue()).decode(),
        "height": view.image.shape[0],
        "width": view.image.shape[1],
        "names": {str(number): name for number, name in view.names.items()},
        "levels": [
            {"classes": level.classes.tolist(), "scores": np.round(level.scores, 4).tolist()} for level in view.levels
        ],
        "boxes": np.round(view.boxes, 2).tolist(),
        "scores": np.round(view.scores, 4).tolist(),
        "classes": view.classes.tolist(),
        "cells": view.cells.tolist(),
        "kept": [position in kept for position in range(len(view.boxes))],
        "iou": view.iou,
    }
