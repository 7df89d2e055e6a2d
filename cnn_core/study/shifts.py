"""Changes of an image that keep its meaning: moved, turned, scaled, blurred, noisy or faint, by any strength."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from cnn_core.seeds import generator

_CPU = torch.device("cpu")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shift:
    """A change of images.

    Attributes:
        apply: images float32 (N, 1, H, W) in 0..1 and a strength -> images of the same shape and range.
        strengths: from the first, which changes nothing, to the strongest.
        unit: of the strengths, for an axis.
    """

    apply: Callable[[Tensor, float], Tensor]
    strengths: tuple[float, ...]
    unit: str


def _affine(images: Tensor, *, angle: float = 0.0, right: float = 0.0, scale: float = 1.0) -> Tensor:
    if (angle, right, scale) == (0.0, 0.0, 1.0):
        return images
    return F.affine(images, angle, [right, 0.0], scale, [0.0, 0.0], interpolation=InterpolationMode.BILINEAR)


def _noise(images: Tensor, deviation: float) -> Tensor:
    noise = torch.randn(images.shape, generator=generator(_CPU, "noise"))
    return (images + deviation * noise).clamp(0, 1)


def _blur(images: Tensor, sigma: float) -> Tensor:
    return images if sigma == 0 else F.gaussian_blur(images, [9, 9], [sigma, sigma])


SHIFTS = {
    "translation": Shift(
        apply=lambda images, right: _affine(images, right=right),
        strengths=(0, 1, 2, 3, 4, 6),
        unit="pixels to the right",
    ),
    "rotation": Shift(
        apply=lambda images, angle: _affine(images, angle=angle), strengths=(0, 10, 20, 30, 45, 60), unit="degrees"
    ),
    "scale": Shift(
        apply=lambda images, scale: _affine(images, scale=scale),
        strengths=(1.0, 0.9, 0.8, 0.7, 0.6, 0.5),
        unit="of the size",
    ),
    "blur": Shift(apply=_blur, strengths=(0, 0.5, 1, 1.5, 2, 3), unit="pixels (sigma)"),
    "noise": Shift(apply=_noise, strengths=(0, 0.1, 0.2, 0.3, 0.4, 0.6), unit="standard deviation"),
    "contrast": Shift(
        apply=lambda images, share: images * share, strengths=(1.0, 0.8, 0.6, 0.4, 0.3, 0.2), unit="of the brightness"
    ),
}
