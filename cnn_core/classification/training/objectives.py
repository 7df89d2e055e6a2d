"""What a classifier learns and what its epochs are compared by: one label an image, or several."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple, Protocol

import torch.nn.functional as F
from torch import Tensor

from cnn_core.classification.inference.multilabel import best_thresholds, mean_average_precision


class Measured(NamedTuple):
    """What the validation part gives.

    Attributes:
        figures: the loss, the accuracy and, of several labels an image, mAP.
        score: what epochs are compared by; more is better.
        thresholds: of the classes; of several labels an image only.
    """

    figures: dict[str, float]
    score: float
    thresholds: list[float]


class Objective(Protocol):
    """How logits (n, K) are judged by targets."""

    def loss(self, logits: Tensor, targets: Tensor, *, smoothing: float = 0.0, weighted: bool = True) -> Tensor:
        """The loss summed over the images, a scalar; with or without the weights of the classes."""
        ...

    def right(self, logits: Tensor, targets: Tensor) -> Tensor:
        """How many images are answered rightly, a scalar."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneLabel:
    """Cross-entropy; targets are class numbers (n,) or the share of each class (n, K)."""

    weights: Tensor | None = None  # of the classes (K,)

    def loss(self, logits: Tensor, targets: Tensor, *, smoothing: float = 0.0, weighted: bool = True) -> Tensor:
        weights = self.weights if weighted else None
        return F.cross_entropy(logits, targets, weights, reduction="sum", label_smoothing=smoothing)

    def right(self, logits: Tensor, targets: Tensor) -> Tensor:
        return (logits.argmax(1) == (targets if targets.ndim == 1 else targets.argmax(1))).sum()


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeveralLabels:
    """The mean of the classes' binary cross-entropies; targets are zeros and ones (n, K), or between where mixed.

    An answer is right where those for all classes are, as in scikit-learn's accuracy. Smoothing moves targets to 0.5.
    """

    weights: Tensor | None = None  # of the classes' positive targets (K,)

    def loss(self, logits: Tensor, targets: Tensor, *, smoothing: float = 0.0, weighted: bool = True) -> Tensor:
        smoothed = targets.float() * (1 - smoothing) + smoothing / 2
        weights = self.weights if weighted else None
        losses = F.binary_cross_entropy_with_logits(logits, smoothed, pos_weight=weights, reduction="sum")
        return losses / logits.shape[1]

    def right(self, logits: Tensor, targets: Tensor) -> Tensor:
        return ((logits > 0) == (targets > 0.5)).all(1).sum()


def measured_map(logits: Tensor, labels: Tensor) -> tuple[float, list[float]]:
    """mAP and the classes' thresholds by the logits (N, K) of a whole split."""
    probabilities, truth = logits.sigmoid().cpu().numpy(), labels.cpu().numpy()
    return mean_average_precision(probabilities, truth), best_thresholds(probabilities, truth)
