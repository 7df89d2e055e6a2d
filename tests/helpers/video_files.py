"""Helpers for the tests of videos: clips of bright shapes that move, and a SAM 2 that takes only milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

from cnn_core.images.clips import Clip, clip_parts
from cnn_core.images.media import list_media
from cnn_core.segmentation.params import VideoParams
from cnn_core.segmentation.sam.network import LoadedSam, make_sam_2_1

SIDE = 64  # of the small network's input


def small_sam2(seed: int = 0, *, version: str = "sam2.1") -> LoadedSam:
    """SAM 2's classes with few blocks, a trunk of 8 channels and random weights.

    As in `sam_files.sam_state`, the object is present according to the network, and its logits have both signs.
    """
    from ultralytics.models.sam import build
    from ultralytics.models.sam.modules.encoders import FpnNeck, Hiera, ImageEncoder, MemoryEncoder
    from ultralytics.models.sam.modules.memory_attention import MemoryAttention, MemoryAttentionLayer

    torch.manual_seed(seed)
    small = {
        "Hiera": lambda **_: Hiera(
            embed_dim=8,
            num_heads=1,
            stages=(1, 1, 2, 1),
            global_att_blocks=(3,),  # not the first of a stage
            window_pos_embed_bkg_spatial_size=(7, 7),
            window_spec=(4, 4, 4, 2),
        ),
        "FpnNeck": lambda **options: FpnNeck(**options | {"backbone_channel_list": [64, 32, 16, 8]}),
        "ImageEncoder": ImageEncoder,
        "MemoryEncoder": MemoryEncoder,
        "MemoryAttention": lambda **options: MemoryAttention(**options | {"num_layers": 1}),
        "MemoryAttentionLayer": lambda: MemoryAttentionLayer(dim_feedforward=64),
    }
    former = {name: getattr(build, name) for name in small}
    try:
        vars(build).update(small)
        network = build.build_sam2_t()
    finally:
        vars(build).update(former)
    if version == "sam2.1":
        make_sam_2_1(network)
    _lively(network)
    return LoadedSam(network=network.eval(), name=f"{version}_t", family="sam2", sha256="0" * 64, imgsz=SIDE)


def _lively(network: Any) -> None:
    decoder = network.sam_mask_decoder
    with torch.no_grad():
        decoder.iou_prediction_head.layers[-1].bias.fill_(2.5)
        decoder.pred_obj_score_head.layers[-1].bias.fill_(5.0)
        for key, value in network.named_parameters():
            if not value.any() and key.endswith(("pos_embed", "pos_embed_window", "no_obj_embed_spatial")):
                nn.init.normal_(value, std=0.02)
        for branch in decoder.output_hypernetworks_mlps:
            branch.layers[-1].weight.mul_(20)
        network.memory_encoder.out_proj.weight.mul_(6)  # so that the memory matters
        for layer in network.memory_attention.layers:
            layer.cross_attn_image.out_proj.weight.mul_(4)


def video_params(**changes: Any) -> VideoParams:
    values: dict[str, Any] = {
        "imgsz": 0,
        "conf": 0.0,
        "half": "auto",
        "stability_score_offset": 0.95,
        "folders": False,
        "backwards": True,
        "non_overlap_masks": True,
        "max_cond_frames_in_attn": 4,
        "memory_frames": 8,
        "patience": 0,
    }
    return VideoParams(**values | changes)


def frames(count: int, height: int = 48, width: int = 64, objects: int = 2) -> tuple[list[np.ndarray], np.ndarray]:
    """Discs that move to the right over noise: BGR frames, and the boxes of the discs (frame, object, 4)."""
    draws = np.random.default_rng(0)
    ground = draws.integers(0, 70, (height, width, 3), dtype=np.uint8)
    images, boxes = [], np.zeros((count, objects, 4))
    for number in range(count):
        image = ground.copy()
        for index in range(objects):
            x = 8 + number * (width - 16) // max(1, count)
            y = (index + 1) * height // (objects + 1)
            cv2.circle(image, (x, y), 5, ((40, 220, 220), (230, 90, 60), (90, 240, 90))[index % 3], -1)
            boxes[number, index] = (x - 5, y - 5, x + 6, y + 6)
        images.append(image)
    return images, boxes


def write_video(path: Path, images: list[np.ndarray], fps: float = 10.0) -> Path:
    """Write a video as Motion JPEG, in which every frame is encoded by itself."""
    height, width = images[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, (width, height))
    assert writer.isOpened()
    for image in images:
        writer.write(image)
    writer.release()
    return path


def write_folder(folder: Path, images: list[np.ndarray]) -> Path:
    """Write frame0.png … frame10.png, which must not be sorted as texts."""
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        cv2.imwrite(str(folder / f"frame{number}.png"), image)
    return folder


def clips(source: Path, *, vid_stride: int = 1) -> list[Clip]:
    from cnn_core.detection.inference.steps import reader

    media = list_media(str(source), vid_stride=vid_stride)
    return [Clip(part, vid_stride=vid_stride, imread=reader(3)) for part in clip_parts(media, folders=True)]
