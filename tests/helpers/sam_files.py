"""Checkpoints in the official format of Meta and Ultralytics, but with random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from cnn_core.detection.yolo import quiet


def sam_state(name: str, seed: int = 0) -> dict[str, Tensor]:
    """The tensors of ``sam_b``, ``mobile_sam``, ``sam2_t``, ``sam2.1_t`` … by their official names.

    Ultralytics' builders make them. They resemble trained weights in that predicted IoUs are around 0.9 and mask logits
    have both signs.
    """
    from ultralytics.models.sam.build import sam_model_map

    torch.manual_seed(seed)
    network = sam_model_map[f"{name}.pt"]()
    decoder = network.sam_mask_decoder if name.startswith("sam2") else network.mask_decoder
    with torch.no_grad():
        last = decoder.iou_prediction_head.layers[-1]
        last.bias.fill_(2.5 if name.startswith("sam2") else 0.9)
        for key, value in network.named_parameters():  # zeros of the builders, which training would change
            if not value.any() and key.endswith(("pos_embed", "rel_pos_h", "rel_pos_w", "pos_embed_window")):
                nn.init.normal_(value, std=0.02)
        for branch in decoder.output_hypernetworks_mlps:
            branch.layers[-1].weight.mul_(20)
    state = dict(network.state_dict())
    if name.startswith("sam2.1"):
        state["no_obj_embed_spatial"] = 0.02 * torch.randn(1, network.mem_dim)
        state["obj_ptr_tpos_proj.weight"] = 0.02 * torch.randn(network.mem_dim, network.hidden_dim)
        state["obj_ptr_tpos_proj.bias"] = torch.zeros(network.mem_dim)
    return state


def write_sam(folder: Path, name: str, *, file: str = "", seed: int = 0) -> Path:
    """Write a checkpoint, by default under its official name."""
    quiet(folder)
    state = sam_state(name, seed)
    path = folder / (file or f"{name}.pt")
    torch.save({"model": state} if name.startswith("sam2") else state, path)
    return path
