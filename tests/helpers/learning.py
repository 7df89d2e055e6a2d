"""A small problem that is learned in a second, for the tests of training."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from cnn_core.classification.augmentation.params import GlyphAugmentationParams
from cnn_core.classification.augmentation.transforms import Glyph
from cnn_core.classification.training.batches import Split
from cnn_core.classification.training.loop import TrainingSetup
from cnn_core.classification.training.params import TrainParams
from cnn_core.params import load_section
from tests.helpers.paths import ROOT

CPU = torch.device("cpu")
NO_DISTORTION = {"degrees": 0, "translate": 0, "scale": 0, "shear": 0, "elastic_alpha": 0, "elastic_sigma": 4}
PLAIN = Glyph(params=GlyphAugmentationParams(**NO_DISTORTION, padding="zeros"))  # leaves the images as they are


def stripes(count: int, seed: int = 0) -> Split:
    """Noisy 8x8 images of four classes; a bright pair of rows shows the class."""
    draws = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (count,), generator=draws)
    images = torch.randint(0, 60, (count, 1, 8, 8), generator=draws)
    for row, label in enumerate(labels):
        images[row, 0, 2 * label : 2 * label + 2] += 150
    return Split(images=images.to(torch.uint8), labels=labels)


def several_stripes(count: int, seed: int = 0) -> Split:
    """Noisy 8x8 images of four classes, any of which a bright pair of rows shows; some show none."""
    draws = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (count, 4), generator=draws).to(torch.uint8)
    images = torch.randint(0, 60, (count, 1, 8, 8), generator=draws)
    images += 150 * labels.repeat_interleave(2, 1)[:, None, :, None]
    return Split(images=images.to(torch.uint8), labels=labels)


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))


def wide() -> nn.Module:
    """A network of linear layers, one with many more weights than a batch of 16 has features."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 4))


def convolutional() -> nn.Module:
    """A network with what may differ between runs: batch norm and dropout."""
    body = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    return nn.Sequential(*body, nn.Dropout(0.2), nn.Linear(64, 4))


def params(**changes: Any) -> TrainParams:
    """The digits section of params.yaml, made small, with changes."""
    small = {"epochs": 3, "epoch_images": 0, "batch_size": 16, "precision": "float32", "learning_rate": 0.01}
    small |= {"ema_decay": 0.5}
    return dataclasses.replace(load_section(TrainParams, "train.digits", ROOT / "params.yaml"), **small | changes)


def training_setup(**changes: Any) -> TrainingSetup:
    arguments = {"train": stripes(100), "val": stripes(37, seed=1), "refit": None, "build": convolutional}
    arguments["transform"] = PLAIN
    return TrainingSetup(**arguments | {"mean": (0.2,), "std": (0.3,), "device": CPU} | changes)
