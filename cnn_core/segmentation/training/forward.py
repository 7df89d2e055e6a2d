"""The forward pass of a SAM in training: images to embeddings, and embeddings with prompts to masks."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from cnn_core.segmentation.sam.decoder import predict_masks

Family = Literal["sam", "sam2"]
Maps = list[Tensor]  # embeddings (B, C, side / 16, side / 16), then the finer feature maps of networks that have them


def encode(network: Any, family: Family, pixels: Tensor) -> Maps:
    """Encode normalised images (B, 3, side, side) into what the decoder takes, as Ultralytics' predictors do."""
    if family == "sam2":
        maps = network.forward_image(pixels)["backbone_fpn"][-network.num_feature_levels :]
        embedding = maps[-1]
        if network.directly_add_no_mem_embed:
            embedding = embedding + network.no_mem_embed.view(1, -1, 1, 1)
        return [embedding, *maps[:-1]]
    encoded = network.image_encoder(pixels)
    return [encoded["image_embed"], *encoded["high_res_feats"]] if isinstance(encoded, dict) else [encoded]


def decode(
    network: Any, family: Family, maps: Maps, boxes: Tensor | None, points: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Decode N prompts on B images into masks.

    Args:
        boxes: (N, 4), or points: (N, 1, 2), in pixels of the input. N is a multiple of B; the prompts of the first
            image come first.

    Returns:
        Mask logits (N, 4, side / 4, side / 4) and predicted IoUs (N, 4): of the single mask, then of the three masks
        of an ambiguous prompt.
    """
    encoder = network.sam_prompt_encoder if family == "sam2" else network.prompt_encoder
    decoder = network.sam_mask_decoder if family == "sam2" else network.mask_decoder
    labels = None if points is None else torch.ones(points.shape[:2], dtype=torch.int32, device=points.device)
    if family == "sam2" and boxes is not None:  # its boxes are two points
        points, boxes = boxes.view(-1, 2, 2), None
        labels = torch.tensor([[2, 3]], dtype=torch.int32, device=points.device).expand(len(points), 2)
    with torch.autocast(maps[0].device.type, enabled=False):  # bfloat16 would blur where the prompts are
        sparse, dense = encoder(points=None if points is None else (points, labels), boxes=boxes, masks=None)
        position_encoding = encoder.get_dense_pe()
    predictions = predict_masks(
        decoder,
        image_embeddings=maps[0],
        image_pe=position_encoding,
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        repeat_image=True if family == "sam2" else None,
        high_res_features=maps[1:] or None,
    )
    return predictions[0], predictions[1]


class PromptedSam(nn.Module):
    """`encode` and `decode` as one forward pass, which `DistributedDataParallel` needs."""

    def __init__(self, network: nn.Module, family: Family) -> None:
        super().__init__()
        self.network, self.family = network, family

    def forward(
        self, images: Tensor | None, maps: Maps | None, boxes: Tensor | None, points: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if maps is None:
            assert images is not None, "either the images or their maps"
            maps = encode(self.network, self.family, images)
        return decode(self.network, self.family, maps, boxes, points)
