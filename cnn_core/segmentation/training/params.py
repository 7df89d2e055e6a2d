"""The parameters of a segmenter's training, without torch, so that a process that only reads parameters starts fast."""

from __future__ import annotations

import dataclasses
from typing import Literal

from cnn_core.files import is_none
from cnn_core.params import Params, Precision, bounded
from cnn_core.segmentation.sam.params import INPUT_STRIDE, SmallSamParams


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSegmenterParams(Params):
    """The section ``train_segmenter.<model>``."""

    learning_rate: float = bounded(above=0)
    warmup_fraction: float = bounded(0, 0.9)
    weight_decay: float = bounded(0)
    grad_clip: float = bounded(0)
    ema_decay: float = bounded(0, 0.99999)
    focal: float = bounded(0)
    dice: float = bounded(0)
    iou: float = bounded(0)
    colour: float = bounded(0, 1)
    fliplr: float = bounded(0, 1)
    source: str  # a set of ours, a folder with a data.yaml, a data.yaml, or a COCO JSON
    weights: str  # what it starts from: none, a checkpoint of SAM, MobileSAM or SAM 2, or a model folder
    model: SmallSamParams  # of the network that is trained from scratch
    imgsz: int = bounded(0, 4096)  # side of the network's input; 0 = what the weights were trained with
    freeze: Literal["auto", "encoder", "none"]  # auto = the encoder, where there are weights to start from
    epochs: int = bounded(1)
    batch: int = bounded(1)  # images a step
    prompts: int = bounded(1, 64)  # of each image
    points: float = bounded(0, 1)  # share of the steps with points as prompts; the others have boxes
    box_jitter: float = bounded(0, 0.5)
    precision: Precision
    val_every: int = bounded(1)
    seed: int = bounded(0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.imgsz % INPUT_STRIDE:
            raise ValueError(f"imgsz must be a multiple of {INPUT_STRIDE}, not {self.imgsz}")
        if is_none(self.weights) and self.freeze == "encoder":
            raise ValueError("freeze is encoder, but weights is none: an encoder of random weights learns nothing then")
        if is_none(self.weights) and not self.imgsz:
            raise ValueError("imgsz is 0, but weights is none: say how large the input is to be")

    @property
    def frozen(self) -> bool:
        return self.freeze == "encoder" or (self.freeze == "auto" and not is_none(self.weights))
