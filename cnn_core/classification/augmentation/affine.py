"""Random affine and elastic distortion of a batch of images, on the device that holds them.

Rotation, shear, zoom, shift and the elastic field of Simard, Steinkraus and Platt, "Best Practices for Convolutional
Neural Networks Applied to Visual Document Analysis" (ICDAR 2003) are added up in one sampling grid, so every image is
resampled once and blurred once. Nothing runs per image in Python.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from cnn_core.classification.augmentation.params import GlyphAugmentationParams


def affine_elastic(images: Tensor, params: GlyphAugmentationParams, generator: torch.Generator) -> Tensor:
    """Distort each image by a random transform of its own.

    Args:
        images: (N, C, H, W) float in 0..1; so is the result, a new tensor unless all strengths are 0.
        generator: on any device; the same state gives the same images. The same count of numbers is drawn whatever the
            strengths, so changing one strength leaves the other draws as they were.
    """
    strengths = (params.degrees, params.translate, params.scale, params.shear, params.elastic_alpha)
    if not any(strengths) or len(images) == 0:
        return images
    count, _, height, width = images.shape
    # Without autocast: in bfloat16 the grid would be a tenth of a pixel off.
    devices = (images.device.type, generator.device.type)
    with torch.autocast(devices[0], enabled=False), torch.autocast(devices[1], enabled=False):
        grid = _affine_grid(count, height, width, params, generator)
        grid = grid + _elastic_shifts(count, height, width, params, generator)
        sampled = F.grid_sample(
            images.float(), grid.to(images.device), mode="bilinear", padding_mode=params.padding, align_corners=False
        )
    return sampled.clamp_(0, 1).to(images.dtype)


def _affine_grid(
    count: int, height: int, width: int, params: GlyphAugmentationParams, generator: torch.Generator
) -> Tensor:
    """The grid that each output pixel is read from: (N, H, W, 2), x before y, in -1..1 as grid_sample takes it."""
    draws = torch.rand(5, count, generator=generator, device=generator.device) * 2 - 1  # uniform in -1..1
    angle = draws[0] * math.radians(params.degrees)
    slant = torch.tan(draws[1] * math.radians(params.shear))
    zoom = 1 / (1 + draws[2] * params.scale)  # the grid goes from output to input, so a zoom in divides
    shift = draws[3:] * 2 * params.translate  # the side is 2 long
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    aspect = height / width  # the rotation is one of pixels, and -1..1 is wider on the longer side
    rows = (cos, (cos * slant - sin) * aspect, shift[0], sin / aspect, sin * slant + cos, shift[1])
    theta = torch.stack(rows, dim=-1).view(count, 2, 3)  # rotation @ shear, then the shift
    return F.affine_grid(theta, [count, 1, height, width], align_corners=False)


def _elastic_shifts(
    count: int, height: int, width: int, params: GlyphAugmentationParams, generator: torch.Generator
) -> Tensor:
    """Gaussian-smoothed random shifts of every pixel: (N, H, W, 2), x before y, in grid_sample's units.

    Simard et al. smooth one random number a pixel with a wide Gaussian. Gaussian bumps of random heights on a lattice,
    ``sigma`` apart, have nearly the same distribution at the cost of two small matrix products.
    """
    down = _bumps(height, params.elastic_sigma, generator.device)
    across = _bumps(width, params.elastic_sigma, generator.device)
    noise = torch.randn(count, 2, down.shape[1], across.shape[1], generator=generator, device=generator.device)
    pixels = params.elastic_alpha * (down @ noise @ across.T)  # (N, 2, H, W)
    return pixels.permute(0, 2, 3, 1) * torch.tensor([2 / width, 2 / height], device=generator.device)


def _bumps(length: int, sigma: float, device: torch.device) -> Tensor:
    """How much each lattice knot moves each pixel: (length, knots); rows have norm 1, so unit noise stays so."""
    margin = 2 * sigma  # knots outside the image, so that the border moves as freely as the middle
    knots = torch.arange(-margin, length - 1 + margin + sigma, sigma, device=device)
    pixels = torch.arange(length, device=device, dtype=torch.float32)
    return F.normalize(torch.exp(-((pixels[:, None] - knots) ** 2) / (2 * sigma**2)), dim=1)
