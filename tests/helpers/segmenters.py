"""Helpers for the tests of segmentation: a small input, prompts, and Ultralytics' own results."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cnn_core.annotations.masks import decode_mask
from cnn_core.segmentation.inference.segmenter import Segmenter
from cnn_core.segmentation.params import EverythingParams, SegmenterParams
from cnn_core.segmentation.sam.network import LoadedSam
from cnn_core.segmentation.segments import Segments

SIDE = 256
HEIGHT, WIDTH = 120, 200
BOXES = [[10, 12, 60, 50], [100.5, 20, 150, 90.25], [0, 0, 200, 120], [3, 70, 90, 119], [150, 5, 199, 40]]


def everything(**changes: Any) -> EverythingParams:
    values = {"points_stride": 3, "conf_thres": 0.5, "stability_score_thresh": 0.1, "stability_score_offset": 0.95}
    values |= {"iou": 1.0, "crop_n_layers": 0, "crop_overlap_ratio": 512 / 1500, "crop_downscale_factor": 1}
    return EverythingParams(**{**values, "crop_nms_thresh": 1.0, "min_mask_region_area": 0, **changes})


def segmenter(
    weights: Path | LoadedSam, *, batch: int = 0, automatic: EverythingParams | None = None, **changes: Any
) -> Segmenter:
    """A segmenter for a file, or for a network that is loaded already, which is faster."""
    values = {"imgsz": SIDE, "conf": 0.0, "multimask_output": False, "half": "auto"}
    params = SegmenterParams(**{**values, "everything": automatic or everything(), **changes})
    settings = weights.parent if isinstance(weights, Path) else tempfile.gettempdir()
    return Segmenter(weights, params, device=torch.device("cpu"), settings=settings, batch=batch)


@functools.cache
def _ultralytics(path: Path) -> Any:
    """Ultralytics' model for a file, made once, as that takes seconds."""
    from ultralytics import SAM

    return SAM(str(path))


def reference(path: Path, image: np.ndarray, **options: Any) -> Any:
    """Ultralytics' own result on the same file."""
    options = {"imgsz": SIDE, "conf": 0.0, "save": False, "verbose": False, **options}
    return _ultralytics(path).predict(image, **options)[0]


def predicted(path: Path, image: np.ndarray, settings: Any = None, **options: Any) -> Any:
    """As `reference`, with options that only Ultralytics' predictors take."""
    from ultralytics.models.sam.predict import Predictor, SAM2Predictor

    overrides = {"imgsz": SIDE, "conf": 0.0, "save": False, "verbose": False, **(settings or {})}
    predictor = (SAM2Predictor if "sam2" in path.name else Predictor)(overrides=overrides)
    predictor.setup_model(_ultralytics(path).model, verbose=False)
    return next(iter(predictor(image, stream=True, **options)))


def masks(segments: Segments) -> np.ndarray:
    return np.stack([decode_mask(rle, segments.height, segments.width) for rle in segments.masks])


def agrees(segments: Segments, result: Any) -> bool:
    """Whether the masks, in this order, and their scores, to 1e-4, are those of Ultralytics' result.

    Processors round differently, so a logit next to the threshold may fall on its other side: one pixel in a hundred
    thousand may differ.
    """
    expected, scores = result.masks.data.bool().numpy(), result.boxes.conf.numpy()
    if len(segments) != len(expected) or not np.allclose(segments.scores, scores, atol=1e-4):
        return False
    decoded = masks(segments)
    different = np.count_nonzero(decoded != expected)
    return different <= expected.size // 100_000 and np.array_equal(segments.areas, decoded.sum((1, 2)))
