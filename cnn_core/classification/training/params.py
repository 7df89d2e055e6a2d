"""The parameters of a classifier's training, without torch, so that a process that only reads them starts fast."""

from __future__ import annotations

import dataclasses
from typing import Literal

from cnn_core.classification.architectures import registry
from cnn_core.classification.augmentation.params import augmentation_params
from cnn_core.params import Params, Precision, bounded


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerParams(Params):
    """How a step changes the weights."""

    optimizer: Literal["adamw", "sgd"]
    learning_rate: float = bounded(above=0)  # the peak of the one-cycle schedule: cosine up, cosine down to 0
    warmup_fraction: float = bounded(0, 0.9)  # share of all steps that comes before the peak
    layer_decay: float = bounded(above=0, high=1)  # learning rate of each layer group against the next towards the head
    weight_decay: float = bounded(0)  # of matrices and kernels only, not of biases and norms
    momentum: float = bounded(0, 0.999)  # of sgd, with Nesterov's correction
    label_smoothing: float = bounded(0, 0.9)
    # balanced = rare classes count as much as frequent ones; of several labels an image: a class's images as much as
    # those without it
    class_weights: Literal["none", "balanced"]
    ema_decay: float = bounded(0, 0.99999)  # per step; 0 = the weights are not averaged
    ema_every: int = bounded(
        1, 1000
    )  # steps from one update of the average to the next; the decay per step stays the same
    grad_clip: float = bounded(0)  # the largest norm of the gradient; 0 = any


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainParams(OptimizerParams):
    """The section ``train.<model>``."""

    data: str  # the set that it learns from
    model: dict  # architecture, and that architecture's own parameters
    weights: str  # what it starts from: a path, see initial_weights.py; one that ends in `none` = random weights
    image_size: int = bounded(0, 1024)  # side of the images that the network takes; 0 = as they are stored
    start_size: int = bounded(
        0, 1024
    )  # side that training begins with, which grows to image_size; 0 = image_size from the start
    freeze_epochs: int = bounded(0)  # the first epochs, in which the head alone learns
    unfreeze_every: int = bounded(0)  # epochs from one layer group to the next after that, head first; 0 = all at once
    epochs: int = bounded(1)
    epoch_images: int = bounded(0)  # training images drawn an epoch; 0 = each once
    batch_size: int = bounded(1)  # images of a step, over all workers
    precision: Precision
    # Which epoch is kept: the best on val (ties: the later one), by accuracy or, of several labels an image, by mAP; or
    # the last.
    select: Literal["accuracy", "last"]
    patience: int = bounded(0)  # epochs without a better figure on val before stopping; 0 = never
    refit: Literal["none", "all"]
    seed: int = bounded(0)
    augmentation: dict  # kind, and that kind's own parameters

    def __post_init__(self) -> None:
        super().__post_init__()
        registry.model_params(self.model)
        augmentation_params(self.augmentation)
        if self.augmentation["kind"] != "photo" and (self.image_size or self.start_size):
            raise ValueError("image_size and start_size are for augmentation.kind photo; set them to 0")
        if self.start_size > self.image_size:
            raise ValueError(f"start_size ({self.start_size}) must not be larger than image_size ({self.image_size})")
        if self.image_size:
            registry.check_sides(self.model, image_size=self.image_size, start_size=self.start_size)

    def frozen_groups(self, epoch: int, groups: int) -> int:
        """The number of a network's ``groups`` layer groups that are frozen in an epoch (from 0)."""
        if epoch < self.freeze_epochs:
            return groups - 1
        if not self.unfreeze_every:
            return 0
        return max(0, groups - 2 - (epoch - self.freeze_epochs) // self.unfreeze_every)
