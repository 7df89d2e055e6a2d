"""A trained network as a predictor: load once, call many times."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from cnn_core.classification.inference.model_folder import ModelCard, Weights, load_model
from cnn_core.classification.inference.multilabel import joined_labels, predicted_labels
from cnn_core.classification.inference.views import views
from cnn_core.devices import autocast_dtype
from cnn_core.params import Precision


class Probabilities(nn.Module):
    """A network with its normalisation and softmax: float32 (N, C, H, W) in 0..1 -> probabilities (N, K).

    Where an image may have several labels, each class has a sigmoid of its own in the place of the softmax.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, card: ModelCard) -> None:
        super().__init__()
        self.network, self.multilabel = network, card.multilabel
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(card.preprocessing[name]).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        inputs = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        logits = self.network(inputs).float()
        return logits.sigmoid() if self.multilabel else logits.softmax(1)


class Classifier:
    """Classifies images: uint8 (N, C, H, W) -> probabilities float32 (N, K), whose rows add up to 1.

    Where an image may have several labels (``card.multilabel``) they do not; ``card.thresholds`` say from which
    probability it has a class.
    Photographs may be squares of any size; `cnn_core.predict` reads files of any shape into squares.

    Args:
        weights: ``evaluated`` takes the network that has not seen val and test.
        tta: the number of views of each image that are averaged (`views`); nothing random is in them.
        device: None = the CPU.
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
        self._network = Probabilities(network, self.card).to(self.device).to(memory_format=torch.channels_last).eval()
        self._kind, self._size = self.card.preprocessing["views"], self.card.shape[-1]
        self._tta, self._batch = tta, batch
        views(torch.zeros(1, *self.card.shape), self._kind, count=tta, size=self._size)  # raises if there are fewer

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> np.ndarray:
        shape, photo = tuple(images.shape[1:]), self._kind == "photo"
        fits = (shape[0], shape[1]) == (self.card.shape[0], shape[2]) if photo else shape == self.card.shape
        if not fits:
            squares = f"squares of {self.card.shape[0]} channels" if photo else f"shape {self.card.shape}"
            raise ValueError(f"the model takes images of {squares}, not {shape}")
        parts = [images[start : start + self._batch] for start in range(0, len(images), self._batch)]
        probabilities = [self._probabilities(part) for part in parts]
        return np.concatenate(probabilities) if parts else np.empty((0, len(self.card.classes)), np.float32)

    def _probabilities(self, images: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(np.array(images, dtype=np.uint8)).to(self.device).float() / 255
        averaged = views(pixels, self._kind, count=self._tta, size=self._size)
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            total = sum((self._network(view) for view in averaged), torch.zeros((), device=self.device))
        return (total / self._tta).cpu().numpy()


def predictions_table(
    files: Sequence[str],
    probabilities: np.ndarray,
    classes: Sequence[str],
    thresholds: Sequence[float] | None = None,
) -> pd.DataFrame:
    """One row a file: ``file``, ``class`` and, for each class, ``p(CLASS)``, which no other column can be called.

    ``probabilities`` are float (N, K). With ``thresholds``, ``labels`` stands in the place of ``class``: the classes
    whose probability reaches them.
    """
    names = pd.DataFrame({"file": list(files)}, dtype=object)
    if thresholds is None:
        names["class"] = pd.Series([classes[index] for index in probabilities.argmax(1)], dtype=object)
    else:
        predicted = predicted_labels(probabilities, thresholds)
        names["labels"] = pd.Series(joined_labels(predicted, classes), dtype=object)
    numbers = probabilities.astype(float).round(6)
    return names.assign(**{f"p({name})": numbers[:, index] for index, name in enumerate(classes)})
