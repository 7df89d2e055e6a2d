"""The features that a trained network sees in images: the activations that its last layer gets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cnn_core.classification.inference.model_folder import load_model
from cnn_core.classification.inference.views import views


@torch.inference_mode()
def last_features(folder: str | Path, images: np.ndarray, *, batch: int = 100) -> np.ndarray:
    """Compute the input of the network's last linear layer, float32 (N, D), for squares uint8 (N, H, W[, 3]).

    Raises:
        ValueError: the model folder is not complete, or the network takes images of another shape.
    """
    network, card = load_model(folder)
    channels, side, _ = card.shape
    squares = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    if squares.shape[1] != channels or (card.preprocessing["views"] == "glyph" and squares.shape[-1] != side):
        raise ValueError(f"{folder} takes images of the shape {card.shape}, not {squares.shape[1:]}")
    mean, std = (torch.tensor(card.preprocessing[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
    *_, head = (module for module in network.modules() if isinstance(module, nn.Linear))
    features: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0].flatten(1)))
    try:
        for start in range(0, len(squares), batch):
            pixels = torch.from_numpy(np.array(squares[start : start + batch])).float() / 255
            (view,) = views(pixels, card.preprocessing["views"], count=1, size=side)
            network((view - mean) / std)
    finally:
        handle.remove()
    return torch.cat(features).numpy()
