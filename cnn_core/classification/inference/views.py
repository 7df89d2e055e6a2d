"""The views of a held-out image: the image as it is, and the further views that test-time augmentation averages."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Kind = Literal["glyph", "photo"]

# The first k views of a kind are averaged. They come in pairs of opposites, so that an odd number leans to no side.
GLYPH: tuple[tuple[float, float, float, float], ...] = (  # degrees, right and down in parts of the side, zoom
    (0, 0, 0, 1.0),
    (6, 0, 0, 1.0),
    (-6, 0, 0, 1.0),
    (0, 0.036, 0, 1.0),
    (0, -0.036, 0, 1.0),
    (0, 0, 0.036, 1.0),
    (0, 0, -0.036, 1.0),
    (0, 0, 0, 1.06),
    (0, 0, 0, 0.94),
)
PHOTO: tuple[tuple[float, bool], ...] = (  # zoom into the middle, mirrored
    (1.0, False),
    (1.0, True),
    (1.15, False),
    (1.15, True),
    (1.3, False),
    (1.3, True),
    (1.07, False),
    (1.07, True),
)
MOST_VIEWS = max(len(GLYPH), len(PHOTO))


def views(images: Tensor, kind: Kind, *, count: int, size: int) -> list[Tensor]:
    """The first ``count`` views of float images (N, C, H, W), whose size glyphs keep; photographs get ``size``.

    Raises:
        ValueError: there are fewer views of that kind.
    """
    most = {"glyph": len(GLYPH), "photo": len(PHOTO)}[kind]
    if not 1 <= count <= most:
        raise ValueError(f"tta is {count}, but there are {most} views of a {kind}: choose 1 to {most}")
    if kind == "glyph":
        return [moved(images, view) for view in GLYPH[:count]]
    return [centre_view(images, size, zoom=zoom, flip=flip) for zoom, flip in PHOTO[:count]]


def centre_view(images: Tensor, size: int, *, zoom: float = 1.0, flip: bool = False) -> Tensor:
    """The middle 1/zoom of each side of float images (N, C, H, W) as (N, C, size, size), mirrored when ``flip``.

    Resized bilinearly with antialiasing; a view of ``images`` when there is nothing to do.
    """
    if zoom < 1:
        raise ValueError(f"a view's zoom must be at least 1, not {zoom}")
    top, left = (round(side * (1 - 1 / zoom) / 2) for side in images.shape[2:])  # the same on both sides
    view = images[:, :, top : images.shape[2] - top, left : images.shape[3] - left]
    if view.shape[2:] != (size, size):
        view = F.interpolate(view, size=(size, size), mode="bilinear", antialias=True)
    return view.flip(3) if flip else view


def moved(pixels: Tensor, view: tuple[float, float, float, float]) -> Tensor:
    """Turn, shift and zoom float images (N, C, H, W) as an entry of `GLYPH` says; the outside is black."""
    degrees, right, down, zoom = view
    if view == GLYPH[0]:
        return pixels
    count, _, height, width = pixels.shape
    cos, sin = math.cos(math.radians(degrees)) / zoom, math.sin(math.radians(degrees)) / zoom
    aspect = height / width  # the rotation is one of pixels; -1..1 is wider on the longer side
    theta = torch.tensor(
        [[cos, -sin * aspect, -2 * right], [sin / aspect, cos, -2 * down]], dtype=pixels.dtype, device=pixels.device
    )
    grid = F.affine_grid(theta.expand(count, 2, 3), [count, 1, height, width], align_corners=False)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
