"""The parameters of a segmenter. This module imports no torch, so that who only reads parameters starts fast."""

from __future__ import annotations

import dataclasses
from typing import Literal

from cnn_core.files import NONE
from cnn_core.params import Params, bounded


@dataclasses.dataclass(frozen=True, kw_only=True)
class EverythingParams(Params):
    """Automatic masks. The names are those of Ultralytics' `Predictor.generate`; comments begin with its own values."""

    points_stride: int = bounded(1, 256)  # 32: points along each side of the image
    conf_thres: float = bounded(0, 1)  # 0.88: masks with a greater predicted IoU are kept
    stability_score_thresh: float = bounded(0, 1)  # 0.95
    stability_score_offset: float = bounded(above=0)  # 0.95, in logits
    iou: float = bounded(0, 1)  # 0.7: of two masks whose boxes overlap more, the better one is kept
    crop_n_layers: int = bounded(0, 3)  # 0: 4 crops in the first layer, 16 in the second …, each encoded on its own
    crop_overlap_ratio: float = bounded(0, 0.9)  # 0.341
    crop_downscale_factor: int = bounded(1, 16)  # 1: fewer points a side in each further layer
    crop_nms_thresh: float = bounded(0, 1)  # 0.7: as ``iou``, between crops
    min_mask_region_area: int = bounded(0)  # 0: pixels; smaller holes and islands are removed

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.points_stride < self.crop_downscale_factor**self.crop_n_layers:
            raise ValueError(
                f"points_stride {self.points_stride} leaves no point in crop layer {self.crop_n_layers}, with "
                f"{self.crop_downscale_factor} times fewer in each further one"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmenterParams(Params):
    """What a `Segmenter` computes. The names are Ultralytics'; `SAM.predict` itself uses 1024, 0.25 and false."""

    imgsz: int = bounded(0, 4096)  # 0 = what the weights were trained with
    conf: float = bounded(0, 1)  # masks with a predicted IoU greater than this are kept
    multimask_output: bool  # for each prompt keep the best of three masks: for single points, which are ambiguous
    half: Literal["auto", True, False]  # auto = on an NVIDIA GPU; true on a CPU: bfloat16
    everything: EverythingParams


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrackingParams(Params):
    """How objects are followed through a video: the section ``segment.<model>.video``."""

    folders: bool  # a folder of images is a video, its files are the frames
    backwards: bool  # also through the frames before an object's first prompt
    non_overlap_masks: bool  # a pixel of two objects goes to the one with the higher logit, as with Ultralytics
    max_cond_frames_in_attn: int = bounded(1)  # frames with a prompt that an object's memory holds: the closest ones
    memory_frames: int = bounded(1, 16)  # other frames: Ultralytics holds 8; SAM 2 looks at 16 at most
    patience: int = bounded(0)  # an object that was hidden for this many frames is given up; 0 = never


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoParams(TrackingParams):
    """How objects are followed, and how the network is asked (as `SegmenterParams`)."""

    imgsz: int = bounded(0, 4096)
    conf: float = bounded(0, 1)
    half: Literal["auto", True, False]
    stability_score_offset: float = bounded(above=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmentParams(SegmenterParams):
    """The section ``segment.<model>``; the names are Ultralytics'."""

    weights: str  # SAM, SAM 2, FastSAM, a YOLO -seg, or a model folder
    source: str
    match: str  # which of its files
    prompt: Literal["boxes", "points", "everything"]
    prompts: str  # detect's output, or a .parquet, .csv or .json
    backend: Literal["auto", "torch", "openvino", "onnx", "tensorrt"]  # of FastSAM and YOLO
    vid_stride: int = bounded(1)
    pictures: int = bounded(-1)  # overlays of the first images, this many; -1 = of all
    cutouts: int = bounded(-1)
    video: TrackingParams
    truth: str = NONE  # a COCO JSON whose image and category ids coco.json carries

    @property
    def prompted(self) -> bool:
        """Whether objects are prompted, by boxes or points."""
        return self.prompt != "everything"
