"""Parameters with all strengths at 0 or all at once, and images, for the tests of augmented photographs."""

from __future__ import annotations

import torch

from cnn_core.classification.augmentation.params import PhotoAugmentationParams
from cnn_core.classification.augmentation.photo import photo_augment
from cnn_core.params import from_mapping

OFF = {
    **{"flip": 0, "crop_scale": 1, "crop_ratio": 1, "degrees": 0, "brightness": 0, "contrast": 0, "saturation": 0},
    **{"hue": 0, "grayscale": 0, "pca_colour": 0, "policy": "none", "rand_ops": 2, "rand_magnitude": 9, "erasing": 0},
    **{"mixup": 0, "cutmix": 0, "mix_probability": 0},
}

FULL = {
    **{"flip": 0.5, "crop_scale": 0.35, "crop_ratio": 4 / 3, "degrees": 8, "brightness": 0.3, "contrast": 0.3},
    **{"saturation": 0.3, "hue": 0.05, "grayscale": 0.1, "pca_colour": 0.1, "erasing": 0.5},
}

PRINCIPAL = (torch.tensor([0.2, 0.02, 0.004]), torch.linalg.qr(torch.tensor([[1.0, 2, 3], [1, 0, 1], [1, 1, -5]])).Q)


def params(**changes: float | str) -> PhotoAugmentationParams:
    return from_mapping(PhotoAugmentationParams, {**OFF, **changes}, "augmentation")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def augment(images: torch.Tensor, seed: int = 0, size: int | None = None, **changes: float | str) -> torch.Tensor:
    return photo_augment(images, params(**changes), seeded(seed), size=size or images.shape[3], principal=PRINCIPAL)


def photographs(count: int = 4, side: int = 32, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
    """Images of smooth random colours, which resampling changes little."""
    coarse = torch.rand(count, 3, 4, 4, generator=seeded(99)) * (high - low) + low
    return torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")


def coordinates(count: int, side: int = 64) -> torch.Tensor:
    """Images whose pixels show where they were read from: red is x, green is y, in 0..1."""
    axis = (torch.arange(float(side)) + 0.5) / side
    image = torch.stack([axis.expand(side, side), axis[:, None].expand(side, side), torch.zeros(side, side)])
    return image.expand(count, 3, side, side).contiguous()


def steps(out: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How far apart the left and right (the top and bottom) of augmented `coordinates` were read.

    Both are (N, 2) vectors x, y, whose lengths are the sides of the crop.
    """
    size = out.shape[3]
    middle = slice(size // 2 - 4, size // 2 + 4)
    x = (out[:, :2, middle, size // 2 + 4] - out[:, :2, middle, size // 2 - 4]).mean(2) * size / 8
    y = (out[:, :2, size // 2 + 4, middle] - out[:, :2, size // 2 - 4, middle]).mean(2) * size / 8
    return x, y
