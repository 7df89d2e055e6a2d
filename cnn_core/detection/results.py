"""The parameters of detection, and the detections of one image."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from cnn_core.images.media import check_source
from cnn_core.params import Params, bounded


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectorParams(Params):
    """Ultralytics' own names; `yolo predict`'s own values are 0 0.25 0.7 300 [] false."""

    imgsz: int = bounded(0, 8192)  # 0 = what the weights were trained with
    conf: float = bounded(0, 1)
    iou: float = bounded(0, 1)
    max_det: int = bounded(1)
    classes: tuple[int, ...]  # empty = all
    agnostic_nms: bool
    half: Literal["auto", True, False]  # auto = on an NVIDIA GPU
    int8: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """What is in one image, in falling order of score.

    Attributes:
        boxes: float32 (n, 4), xyxy in the image's pixels.
        scores: float32 (n,)
        classes: int64 (n,)
        masks: n texts (`cnn_core.annotations.masks.encode_mask`), or None of a detector.
        tracks: int64 (n,), or None where nothing was followed.
    """

    height: int
    width: int
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    masks: list[str] | None
    tracks: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectParams(Params):
    """The section ``detect``; Ultralytics' own names."""

    weights: str  # a model folder, an Ultralytics .pt, or an exported engine
    source: str
    match: str  # which of its files
    imgsz: int = bounded(0, 8192)
    conf: float = bounded(0, 1)
    iou: float = bounded(0, 1)
    max_det: int = bounded(1)
    classes: tuple[int, ...]
    agnostic_nms: bool
    half: Literal["auto", True, False]
    int8: bool
    backend: Literal["auto", "torch", "openvino", "onnx", "tensorrt"]
    vid_stride: int = bounded(1)
    tracker: Literal["none", "bytetrack", "botsort"]
    save_txt: bool
    pictures: int = bounded(-1)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_source(self.source)
