"""A trained network as a predictor: load once, call many times."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cnn_core.classification.inference.model_folder import Weights, load_model
from cnn_core.classification.inference.views import views
from cnn_core.devices import autocast_dtype
from cnn_core.params import Precision


class Classifier:
    """Classifies images: uint8 (N, C, H, W) -> probabilities float32 (N, K), whose rows add up to 1.

    Photographs may be squares of any size; `cnn_core.predict` reads files of any shape into squares.

    Args:
        folder: a model folder.
        weights: ``evaluated`` takes the network that has not seen val and test.
        tta: the number of views of each image that are averaged (`views`); nothing random is in them.
        device: None = the CPU.
        precision: as in training.
        batch: images per forward pass.

    Raises:
        ValueError: the folder is no whole model folder, there are fewer views, or the images have another shape than
            the network's.

    Examples:
        >>> import numpy as np
        >>> from cnn_core.classification.inference.classifier import Classifier
        >>> classifier = Classifier("data/models/digits")
        >>> images = np.zeros((2, *classifier.card.shape), np.uint8)
        >>> probabilities = classifier(images)
        >>> probabilities.shape
        (2, 10)
        >>> names = [classifier.card.classes[index] for index in probabilities.argmax(1)]
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        weights: Weights = "model",
        tta: int = 1,
        device: torch.device | None = None,
        precision: Precision = "float32",
        batch: int = 250,
    ) -> None:
        self.device = device or torch.device("cpu")
        self.dtype = autocast_dtype(precision, self.device)
        network, self.card = load_model(folder, weights)
        self._network = network.to(self.device).to(memory_format=torch.channels_last)
        self._kind, self._size = self.card.preprocessing["views"], self.card.shape[-1]
        self._tta, self._batch = tta, batch
        views(torch.zeros(1, *self.card.shape), self._kind, count=tta, size=self._size)  # raises if there are fewer
        self._mean, self._std = (
            torch.tensor(self.card.preprocessing[key], device=self.device).view(1, -1, 1, 1) for key in ("mean", "std")
        )

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> np.ndarray:
        channels, height, width = images.shape[1:]
        fits = height == width if self._kind == "photo" else (height, width) == self.card.shape[1:]
        if channels != self.card.shape[0] or not fits:
            squares = (
                f"squares of {self.card.shape[0]} channels" if self._kind == "photo" else f"shape {self.card.shape}"
            )
            raise ValueError(f"the model takes images of {squares}, not {tuple(images.shape[1:])}")
        parts = [images[start : start + self._batch] for start in range(0, len(images), self._batch)]
        probabilities = [self._probabilities(part) for part in parts]
        return np.concatenate(probabilities) if parts else np.empty((0, len(self.card.classes)), np.float32)

    def _probabilities(self, images: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(np.array(images, dtype=np.uint8)).to(self.device).float() / 255
        averaged = views(pixels, self._kind, count=self._tta, size=self._size)
        total = sum((self._softmax(view) for view in averaged), torch.zeros((), device=self.device))
        return (total / self._tta).cpu().numpy()

    def _softmax(self, pixels: Tensor) -> Tensor:
        inputs = ((pixels - self._mean) / self._std).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            return self._network(inputs).float().softmax(1)
