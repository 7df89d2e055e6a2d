"""Random crops, colours and policies for a batch of photographs, on the device that holds them.

Crop, flip and rotation are one sampling grid; all changes of colour are one 3 x 3 matrix and one offset an image. So
there are two passes over the pixels, and nothing runs per image in Python.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from cnn_core.classification.augmentation.mixing import drawn_seed, seeded_cpu
from cnn_core.classification.augmentation.params import PhotoAugmentationParams

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in Pillow's and torchvision's greys
CHROMA = ((0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))  # I and Q of YIQ
CPU_PART = 32  # images at a time on a CPU, kept in its cache: 128 of 128 pixels in 45 ms of one core instead of 80
POLICY_GROUPS = 8  # parts of a batch that get a policy's operations of their own
ERASED_AREA = (0.02, 0.33)  # of the image; this and the aspect ratio as in Zhong et al. and torchvision
ERASED_RATIO = 3.3
SAMPLE_IMAGES, SAMPLE_SIDE = 512, 32  # evenly spaced, for the principal colours: enough to settle three numbers


def photo_augment(
    images: Tensor,
    params: PhotoAugmentationParams,
    generator: torch.Generator,
    *,
    size: int,
    principal: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """Change each image at random, in this order: policy; crop, flip and rotation; colours; erasing.

    Args:
        images: (N, 3, S, S) float in 0..1.
        generator: as in `affine_elastic`.
        size: side of the result, in pixels; a different one from S resizes, also when all strengths are 0.
        principal: of `principal_colours`; None only where ``pca_colour`` is 0.

    Returns:
        (N, 3, size, size) in 0..1, of the images' dtype and device (``images`` itself when there is nothing to do).
    """
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
        raise ValueError(f"photographs are augmented as (N, 3, side, side), not {tuple(images.shape)}")
    if params.pca_colour and principal is None:
        raise ValueError("pca_colour needs the principal colours of the training images")
    if len(images) == 0:
        return images.new_zeros(0, 3, size, size)
    # Without autocast: in bfloat16 the grid would be a tenth of a pixel off.
    devices = (images.device.type, generator.device.type)
    with torch.autocast(devices[0], enabled=False), torch.autocast(devices[1], enabled=False):
        draws = torch.rand(16, len(images), generator=generator, device=generator.device).to(images.device)
        normal = torch.randn(len(images), 3, generator=generator, device=generator.device).to(images.device)
        seed = drawn_seed(generator)
        if params.policy != "none":
            images = _by_policy(images, params, seed)
        if images.shape[3] == size and not (_moves(params) or any(_colour_strengths(params)) or params.erasing):
            return images
        changed = images.new_empty(len(images), 3, size, size)
        step = CPU_PART if images.device.type == "cpu" else len(images)
        parts = zip(changed.split(step), images.split(step), draws.split(step, 1), normal.split(step), strict=True)
        for out, part, uniform, gaussian in parts:
            geometry, colour, erased = uniform.split([6, 5, 5])
            pixels = _resampled(part.float(), params, geometry, size)
            pixels = _recoloured(pixels, params, colour, gaussian, principal)
            out.copy_(_erased(pixels, params, erased) if params.erasing else pixels)
    return changed


def principal_colours(images: Tensor) -> tuple[Tensor, Tensor]:
    """Principal components of the colours of ``images``, uint8 (N, 3, H, W), N >= 1.

    Returns:
        The eigenvalues (3,) of the RGB covariance in 0..1, largest first, and the eigenvectors (3, 3) in columns, each
        with its largest component positive. float32, on the images' device.
    """
    chosen = torch.linspace(0, len(images) - 1, min(len(images), SAMPLE_IMAGES)).round().long().to(images.device)
    down, across = (max(1, side // SAMPLE_SIDE) for side in images.shape[2:])
    pixels = images[chosen, :, ::down, ::across].transpose(0, 1).flatten(1).cpu().double() / 255
    values, vectors = torch.linalg.eigh(torch.cov(pixels, correction=0))
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    values, vectors = values.clamp(min=0).flip(0), (vectors * largest.sign()).flip(1)
    return values.float().to(images.device), vectors.float().to(images.device)


def _moves(params: PhotoAugmentationParams) -> bool:
    return bool(params.flip or params.degrees or params.crop_scale < 1)


def _colour_strengths(p: PhotoAugmentationParams) -> tuple[float, ...]:
    return (p.brightness, p.contrast, p.saturation, p.hue, p.grayscale, p.pca_colour)


def _resampled(images: Tensor, params: PhotoAugmentationParams, draws: Tensor, size: int) -> Tensor:
    """A random crop, mirrored and turned about its middle, at ``size`` x ``size``: (N, 3, S, S) -> (N, 3, size, size).

    Sampling reads 2 x 2 pixels, so it shrinks by up to 2 without gaps. Larger images are averaged down first, which
    makes small crops of them a little softer than they could be.
    """
    if not _moves(params) and images.shape[3] == size:
        return images
    if images.shape[3] >= 2 * size:
        images = F.avg_pool2d(images, images.shape[3] // size)
    area = params.crop_scale + (1 - params.crop_scale) * draws[0]
    width, height = _sides(area, draws[1], params.crop_ratio)
    shift = torch.stack([(draws[2] * 2 - 1) * (1 - width), (draws[3] * 2 - 1) * (1 - height)], dim=1)  # -1..1
    mirrored = width * torch.where(draws[4] < params.flip, -1.0, 1.0)
    angle = (draws[5] * 2 - 1) * math.radians(params.degrees)
    across = torch.stack([angle.cos(), angle.sin()], dim=1) * mirrored[:, None]  # where a step along x leads: x, y
    down = torch.stack([-angle.sin(), angle.cos()], dim=1) * height[:, None]
    axis = (torch.arange(size, device=images.device) * 2 + 1) / size - 1  # the pixels' middles in -1..1
    rows = down[..., None] * axis + shift[..., None]  # (N, 2, size)
    columns = across[..., None] * axis
    # x and y as planes: a sixth of affine_grid's time, and grid_sample reads them as fast
    grid = (rows[..., None] + columns[:, :, None]).permute(0, 2, 3, 1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _sides(area: Tensor, draw: Tensor, ratio: float) -> tuple[Tensor, Tensor]:
    """Width and height of boxes with this ``area`` that fit into a square of side 1.

    Their width / height is uniform in the logarithm between 1 / ``ratio`` and ``ratio``, or as far from 1 as fits.
    torchvision draws again when a box does not fit; here each image takes the same count of random numbers.
    """
    limit = torch.minimum(-area.log(), torch.full_like(area, math.log(ratio)))
    root = torch.exp((draw * 2 - 1) * limit / 2)
    return (area.sqrt() * root).clamp(max=1), (area.sqrt() / root).clamp(max=1)


def _by_policy(images: Tensor, params: PhotoAugmentationParams, seed: int) -> Tensor:
    """TrivialAugmentWide (Müller and Hutter, ICCV 2021) or RandAugment (Cubuk et al., 2020) by torchvision.

    torchvision draws once a call, so a batch is cut into eight parts, whose images share their operations. It comes
    before the crop: the operations take whole numbers in 0..255, and the stored pixels are just that.
    """
    from torchvision.transforms import InterpolationMode, v2  # slow to import, and digits do not need it

    options = {"interpolation": InterpolationMode.BILINEAR, "fill": [128.0]}  # grey, as in the papers' code
    if params.policy == "trivial":
        policy = v2.TrivialAugmentWide(**options)
    else:
        policy = v2.RandAugment(num_ops=params.rand_ops, magnitude=params.rand_magnitude, **options)
    parts = (images * 255).round().byte().tensor_split(min(POLICY_GROUPS, len(images)))
    with seeded_cpu(seed):
        return (torch.cat([policy(part) for part in parts]).float() / 255).to(images.dtype)


def _recoloured(
    images: Tensor,
    params: PhotoAugmentationParams,
    draws: Tensor,
    normal: Tensor,
    principal: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """Change brightness, contrast, saturation, hue, grey and the PCA shift by one matrix and one offset an image.

    Unlike in torchvision, nothing is clamped between the steps, so they commute and there is no order to draw. In YIQ,
    brightness scales all three axes, contrast moves Y towards its mean, saturation scales the plane of I and Q, and
    hue turns that plane (torchvision turns the hue of HSV, which is nearly the same change). The PCA shift is that of
    Krizhevsky, Sutskever and Hinton (2012), section 4.1: each eigenvector times its eigenvalue times a normal number.
    """
    if not any(_colour_strengths(params)):
        return images
    brightness, contrast, saturation = map(_factor, _colour_strengths(params)[:3], draws[:3])
    saturation = torch.where(draws[4] < params.grayscale, 0.0, saturation)
    angle = (draws[3] * 2 - 1) * (2 * math.pi * params.hue)
    luma, turn = (part.to(images) for part in _luma_and_turn())
    chroma = angle.cos()[:, None, None] * (torch.eye(3).to(luma) - luma) + angle.sin()[:, None, None] * turn
    matrix = luma + saturation[:, None, None] * chroma
    shift = torch.zeros_like(normal)
    if principal is not None:
        values, vectors = (part.to(images) for part in principal)
        shift = (params.pca_colour * normal * values) @ vectors.T
    means = images.mean((2, 3)) + shift if params.contrast else shift
    offset = contrast[:, None, None] * (matrix @ shift[..., None]) + (1 - contrast)[:, None, None] * (
        luma @ means[..., None]
    )
    scaled = (brightness * contrast)[:, None, None] * matrix
    mixed = torch.bmm(scaled, images.flatten(2))  # baddbmm would first write the offset out for every pixel
    return mixed.add_(brightness[:, None, None] * offset).clamp_(0, 1).view_as(images)


def _factor(strength: float, draws: Tensor) -> Tensor:
    """Factors uniform in 1 +- ``strength`` and not below 0, as torchvision's ColorJitter draws them."""
    low = max(0.0, 1 - strength)
    return low + (1 + strength - low) * draws


def _luma_and_turn() -> tuple[Tensor, Tensor]:
    """Two (3, 3) matrices: RGB to its grey, and RGB to its chroma turned by a quarter circle from red to yellow."""
    yiq = torch.tensor([LUMA, *CHROMA], dtype=torch.float64)
    quarter = torch.tensor([[0.0, 0, 0], [0, 0, 1], [0, -1, 0]], dtype=torch.float64)
    return yiq[:1].expand(3, 3), torch.linalg.inv(yiq) @ quarter @ yiq


def _erased(images: Tensor, params: PhotoAugmentationParams, draws: Tensor) -> Tensor:
    """Fill a box of some images with the image's mean (Zhong et al., "Random Erasing Data Augmentation", AAAI 2020)."""
    low, high = ERASED_AREA
    width, height = _sides(low + (high - low) * draws[1], draws[2], ERASED_RATIO)
    left, top = draws[3] * (1 - width), draws[4] * (1 - height)
    axis = (torch.arange(images.shape[3], device=images.device) + 0.5) / images.shape[3]
    columns = (axis >= left[:, None]) & (axis < (left + width)[:, None])
    rows = (axis >= top[:, None]) & (axis < (top + height)[:, None]) & (draws[0] < params.erasing)[:, None]
    hidden = (rows[:, :, None] & columns[:, None])[:, None]
    return torch.where(hidden, images.mean((2, 3), keepdim=True), images)
