"""The parameters of augmentation: how far images may be distorted, recoloured and mixed; without torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from cnn_core.params import Params, bounded, from_mapping


@dataclasses.dataclass(frozen=True, kw_only=True)
class GlyphAugmentationParams(Params):
    """How far a small image of one character may be distorted. 0 switches a distortion off."""

    degrees: float = bounded(0, 180)  # rotation, uniform in +- this
    translate: float = bounded(0, 1)  # shift along x and y, uniform in +- this part of the image's side
    scale: float = bounded(0, 0.9)  # zoom, uniform in 1 +- this
    shear: float = bounded(0, 80)  # slant along x, uniform in +- this many degrees
    elastic_alpha: float = bounded(0)  # standard deviation of the elastic shift along x and y, in pixels
    elastic_sigma: float = bounded(0.5)  # radius over which neighbouring pixels shift together, in pixels
    padding: Literal["zeros", "reflection"]  # what is drawn from outside the image: black, or its mirror image


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixingParams(Params):
    """How batches are mixed. An alpha of 0 switches its way off. All images of a batch are mixed in the same share."""

    mixup: float = bounded(0)  # alpha of the Beta distribution of the first image's share
    cutmix: float = bounded(0)  # alpha, likewise; with both on, a batch gets one of the two, each equally often
    mix_probability: float = bounded(0, 1)  # of a batch being mixed at all


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhotoAugmentationParams(MixingParams):
    """How far a photograph may be changed. 0 (of crop_scale and crop_ratio 1, of policy none) switches a change off."""

    flip: float = bounded(0, 1)  # probability of mirroring left and right
    crop_scale: float = bounded(None, 1, above=0)  # smallest share of the area that a random crop keeps
    crop_ratio: float = bounded(1, 10)  # largest ratio of the crop's sides, either way; uniform in the logarithm
    degrees: float = bounded(0, 180)  # rotation, uniform in +- this; reflected at the border
    brightness: float = bounded(0)  # factor uniform in 1 +- this, and so the next two; as in torchvision's ColorJitter
    contrast: float = bounded(0)
    saturation: float = bounded(0)
    hue: float = bounded(0, 0.5)  # uniform in +- this part of the colour circle
    grayscale: float = bounded(0, 1)  # probability of a grey image
    pca_colour: float = bounded(0, 1)  # standard deviation of AlexNet's colour shift; 0.1 in the paper
    policy: Literal["none", "trivial", "rand"]  # TrivialAugmentWide or RandAugment
    rand_ops: int = bounded(1, 14)  # of policy rand: operations an image
    rand_magnitude: int = bounded(0, 30)  # of policy rand: strength of each
    erasing: float = bounded(0, 1)  # probability of random erasing


KINDS: dict[str, type[Params]] = {"affine_elastic": GlyphAugmentationParams, "photo": PhotoAugmentationParams}


def augmentation_params(section: Mapping[str, Any]) -> Params:
    """The checked parameters of an ``augmentation`` section: ``kind`` and that kind's own keys.

    Raises:
        ValueError: an unknown kind, or a key that its parameters refuse; names start with ``augmentation.``.
    """
    kind = section.get("kind")
    if kind not in KINDS:
        raise ValueError(f"augmentation.kind must be one of {', '.join(KINDS)}, not {kind!r}")
    return from_mapping(KINDS[kind], {k: v for k, v in section.items() if k != "kind"}, "augmentation")
