"""How images reach a network: distorted and mixed in training, plain when it is measured.

``train.<set>.augmentation.kind`` names the transform; the other keys of that section are the transform's own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from cnn_core.classification.augmentation.affine import affine_elastic
from cnn_core.classification.augmentation.mixing import mix
from cnn_core.classification.augmentation.params import (
    GlyphAugmentationParams,
    PhotoAugmentationParams,
    augmentation_params,
)
from cnn_core.classification.augmentation.photo import photo_augment
from cnn_core.classification.inference.views import centre_view

SMALL_UNTIL = 0.7  # of a training that begins with small images; from there on images have their full size
SIZE_STEP = 16  # pixels by which the images grow


class Transform(Protocol):
    """What `cnn_core.classification.training.loop` needs of a transform."""

    def training(
        self, images: Tensor, labels: Tensor, *, progress: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Turn uint8 images (N, C, H, W) and labels int64 (N,) into distorted float images in 0..1 and targets.

        Targets are class numbers int64 (N,) or the share of each class, float (N, K); ``progress`` of the training is
        in 0..1. Where an image may have several labels, they are zeros and ones (N, K), and so are the targets.
        """
        ...

    def view(self, images: Tensor) -> Tensor:
        """Turn uint8 images (N, C, H, W) into float ones in 0..1, as held-out images are seen."""
        ...


def transform(
    section: Mapping[str, Any], *, size: int, start_size: int, num_classes: int, principal: Any = None
) -> Transform:
    """The transform of an ``augmentation`` section; all but ``section`` is for photographs only (`Photo`)."""
    params = augmentation_params(section)
    if isinstance(params, GlyphAugmentationParams):
        return Glyph(params=params)
    assert isinstance(params, PhotoAugmentationParams)
    return Photo(params=params, size=size, start_size=start_size, num_classes=num_classes, principal=principal)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Glyph:
    """Bends and shifts small images of one character, and never mirrors them."""

    params: GlyphAugmentationParams

    def training(
        self, images: Tensor, labels: Tensor, *, progress: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        del progress  # the strengths stay the same
        return affine_elastic(images.float() / 255, self.params, generator), labels

    def view(self, images: Tensor) -> Tensor:
        return images.float() / 255


@dataclasses.dataclass(frozen=True, kw_only=True)
class Photo:
    """Crops, mirrors, recolours and mixes photographs.

    With ``start_size`` > 0, training begins with images of this side. They grow to ``size`` over the first
    `SMALL_UNTIL` of the training, so early epochs cost less and learn coarse things first (progressive resizing:
    Howard, fast.ai DAWNBench entry, 2018; Tan and Le, "EfficientNetV2", ICML 2021, section 4).
    """

    params: PhotoAugmentationParams
    size: int
    start_size: int
    num_classes: int
    principal: Any

    def training(
        self, images: Tensor, labels: Tensor, *, progress: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        pixels = photo_augment(
            images.float() / 255, self.params, generator, size=self.size_at(progress), principal=self.principal
        )
        if not (self.params.mixup or self.params.cutmix):
            return pixels, labels
        return mix(pixels, labels, self.params, num_classes=self.num_classes, generator=generator)

    def view(self, images: Tensor) -> Tensor:
        return centre_view(images.float() / 255, self.size)

    def size_at(self, progress: float) -> int:
        if not self.start_size or progress >= SMALL_UNTIL:
            return self.size
        grown = self.start_size + (self.size - self.start_size) * progress / SMALL_UNTIL
        return min(self.size, max(self.start_size, round(grown / SIZE_STEP) * SIZE_STEP))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rotations:
    """Turns the images of another transform by 0, 90, 180 or 270 degrees; the turn is the class to learn.

    Gidaris, Singh and Komodakis, "Unsupervised Representation Learning by Predicting Image Rotations" (ICLR 2018).
    """

    of: Transform

    def training(
        self, images: Tensor, labels: Tensor, *, progress: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        pixels, _ = self.of.training(images, labels, progress=progress, generator=generator)
        turns = torch.randint(4, (len(pixels),), generator=generator, device=generator.device).to(pixels.device)
        return turned(pixels, turns), turns

    def view(self, images: Tensor) -> Tensor:
        return self.of.view(images)


CLASSES_OF_ROTATIONS = ("0 degrees", "90 degrees", "180 degrees", "270 degrees")


def turned(images: Tensor, turns: Tensor) -> Tensor:
    """Turn each of the square images (N, C, H, H) counter-clockwise by its number (N,) of right angles."""
    result = images.clone()
    for count in (1, 2, 3):
        chosen = turns == count
        result[chosen] = images[chosen].rot90(count, (2, 3))
    return result
