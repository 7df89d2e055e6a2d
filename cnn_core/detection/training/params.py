"""The parameters of a detector's training, without torch, so that a process that only reads parameters starts fast."""

from __future__ import annotations

import dataclasses
from typing import Literal

from cnn_core.params import Params, Precision, bounded


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainDetectorParams(Params):
    """The section ``train_detector.<model>``. Names are Ultralytics' own where it has one; https://docs.ultralytics.com/usage/cfg
    says more of each."""

    source: str  # a folder with a data.yaml, a data.yaml of Ultralytics, or a COCO JSON
    weights: str  # what it starts from: none, a .pt of Ultralytics, or a model folder
    model: str  # a yaml of Ultralytics (yolo11n.yaml, yolo11s-seg.yaml) or of one's own; weights = as they are
    imgsz: int = bounded(32)
    epochs: int = bounded(1)
    batch: int = bounded(2)
    nbs: int = bounded(1)  # images a step: gradients of nbs / batch batches are summed
    optimizer: Literal["SGD", "MuSGD", "Adam", "AdamW", "NAdam", "RAdam"]
    lr0: float = bounded(None, 1, above=0)
    lrf: float = bounded(0, 1)
    cos_lr: bool
    momentum: float = bounded(0, 1)
    weight_decay: float = bounded(0)
    warmup_epochs: float = bounded(0)
    warmup_bias_lr: float = bounded(0)
    ema_decay: float = bounded(0, 1)
    ema_tau: float = bounded(above=0)
    box: float = bounded(0)
    cls: float = bounded(0)
    dfl: float = bounded(0)
    freeze: int = bounded(0)
    precision: Precision
    val_every: int = bounded(1)
    patience: int = bounded(0)
    select: Literal["best", "last"]
    fraction: float = bounded(0, 1)
    seed: int = bounded(0)
    mosaic: float = bounded(0, 1)
    close_mosaic: int = bounded(0)
    mixup: float = bounded(0, 1)
    degrees: float = bounded(0, 180)
    translate: float = bounded(0, 1)
    scale: float = bounded(0, 1)
    shear: float = bounded(0, 90)
    fliplr: float = bounded(0, 1)
    flipud: float = bounded(0, 1)
    hsv_h: float = bounded(0, 1)
    hsv_s: float = bounded(0, 1)
    hsv_v: float = bounded(0, 1)
    multi_scale: float = bounded(0, 1)
