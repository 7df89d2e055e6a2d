"""A trained network as a predictor: load once, call many times."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cnn_core.checkpoints import Weights, load_model
from cnn_core.devices import Precision, autocast_dtype

# Views of one image for test-time augmentation, the first k of which are averaged: (degrees, right, down, zoom), the
# shifts in parts of the side. In pairs of opposites, so that an odd number leans to no side.
VIEWS: tuple[tuple[float, float, float, float], ...] = (
    (0, 0, 0, 1.0),
    (6, 0, 0, 1.0),
    (-6, 0, 0, 1.0),
    (0, 0.036, 0, 1.0),
    (0, -0.036, 0, 1.0),
    (0, 0, 0.036, 1.0),
    (0, 0, -0.036, 1.0),
    (0, 0, 0, 1.06),
    (0, 0, 0, 0.94),
)
MOST_VIEWS = len(VIEWS)


class Classifier:
    """``Classifier(folder)(images)``: uint8 images (N, C, H, W) -> probabilities float32 (N, K), rows that add up to 1.

    Args:
        folder: a model folder.
        weights: ``evaluated`` takes the network that has not seen val and test.
        tta: how many of `VIEWS` are averaged; the same images always give the same probabilities.
        precision: as in training.
        batch: images per forward pass.

    Raises:
        ValueError: the folder is no whole model folder, or the images have another shape than the network's.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        weights: Weights = "model",
        tta: int = 1,
        device: torch.device | None = None,
        precision: Precision = "float32",
        batch: int = 500,
    ) -> None:
        assert 1 <= tta <= MOST_VIEWS
        self.device = device or torch.device("cpu")
        self.dtype = autocast_dtype(precision, self.device)
        network, self.card = load_model(folder, weights)
        self._network = network.to(self.device, memory_format=torch.channels_last)
        self._views, self._batch = VIEWS[:tta], batch
        self._mean, self._std = (
            torch.tensor(self.card.preprocessing[key], device=self.device).view(1, -1, 1, 1) for key in ("mean", "std")
        )

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> np.ndarray:
        if images.shape[1:] != self.card.shape:
            raise ValueError(f"the model takes images of shape {self.card.shape}, not {tuple(images.shape[1:])}")
        parts = [images[start : start + self._batch] for start in range(0, len(images), self._batch)]
        probabilities = [self._probabilities(part) for part in parts]
        return np.concatenate(probabilities) if parts else np.empty((0, len(self.card.classes)), np.float32)

    def _probabilities(self, images: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(np.array(images, dtype=np.uint8)).to(self.device).float() / 255
        total = sum(self._softmax(seen_as(pixels, view)) for view in self._views)
        return (total / len(self._views)).cpu().numpy()

    def _softmax(self, pixels: Tensor) -> Tensor:
        inputs = ((pixels - self._mean) / self._std).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            return self._network(inputs).float().softmax(1)


def seen_as(pixels: Tensor, view: tuple[float, float, float, float]) -> Tensor:
    """Float images (N, C, H, W) turned by ``degrees``, shifted to the right and down, and zoomed; black outside."""
    degrees, right, down, zoom = view
    if view == VIEWS[0]:
        return pixels
    count, _, height, width = pixels.shape
    cos, sin = math.cos(math.radians(degrees)) / zoom, math.sin(math.radians(degrees)) / zoom
    aspect = height / width  # the rotation is one of pixels; -1..1 is wider on the longer side
    theta = torch.tensor(
        [[cos, -sin * aspect, -2 * right], [sin / aspect, cos, -2 * down]], dtype=pixels.dtype, device=pixels.device
    )
    grid = F.affine_grid(theta.expand(count, 2, 3), [count, 1, height, width], align_corners=False)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
