"""The parameters of detection; importing them loads no torch."""

from __future__ import annotations

import dataclasses
from typing import Literal

from cnn_core.files import NONE
from cnn_core.images.media import check_source
from cnn_core.params import Params, bounded

Backend = Literal["auto", "torch", "openvino", "onnx", "tensorrt"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectorParams(Params):
    """What a `Detector` needs to know, by Ultralytics' names.

    `yolo predict` itself uses imgsz 0, conf 0.25, iou 0.7, max_det 300, no classes and no
    agnostic_nms.
    """

    imgsz: int = bounded(0, 8192)  # 0 = what the weights were trained with
    conf: float = bounded(0, 1)
    iou: float = bounded(0, 1)
    max_det: int = bounded(1)
    classes: tuple[int, ...]  # empty = all
    agnostic_nms: bool
    half: Literal["auto", True, False]  # auto = on an NVIDIA GPU
    int8: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectParams(DetectorParams):
    """The section ``detect.<model>`` of ``params.yaml``."""

    weights: str  # a model folder, an Ultralytics .pt, or an exported engine
    source: str
    match: str  # which of its files
    backend: Backend
    vid_stride: int = bounded(1)
    tracker: Literal["none", "bytetrack", "botsort"]
    save_txt: bool
    pictures: int = bounded(-1)
    truth: str = NONE  # a COCO JSON whose image and category ids coco.json carries

    def __post_init__(self) -> None:
        super().__post_init__()
        check_source(self.source)
