"""What a network is shown of an image that is measured."""

from __future__ import annotations

import math

import pytest
import torch

from cnn_core.classification.inference.views import centre_view
from tests.helpers.photographs import augment, coordinates, steps


def test_the_centre_view_shows_the_middle_and_mirrors_it():
    images = coordinates(2)
    assert torch.equal(centre_view(images, 64), images)
    assert torch.equal(centre_view(images, 64, flip=True), images.flip(3))
    zoomed = centre_view(images, 64, zoom=2)
    assert zoomed.shape == (2, 3, 64, 64)
    assert zoomed[0, 0].min().item() == pytest.approx(0.25, abs=0.02)
    assert zoomed[0, 0].max().item() == pytest.approx(0.75, abs=0.02)
    assert zoomed[:, :2].mean().item() == pytest.approx(0.5, abs=1e-4)  # neither to the left nor to the right


def test_the_centre_view_shrinks_with_antialiasing():
    stripes = (torch.arange(64) % 4 == 0).float().expand(1, 3, 64, 64)
    assert (centre_view(stripes, 16)[..., 2:-2] - 0.25).abs().max() < 0.03


def test_a_view_cannot_zoom_out():
    with pytest.raises(ValueError, match="zoom"):
        centre_view(coordinates(1), 64, zoom=0.5)


def test_sides_of_a_crop_of_half_the_area():
    x, y = steps(augment(coordinates(50), size=48, crop_scale=0.5))
    assert torch.allclose(x[:, 0], y[:, 1], atol=0.01)  # ratio 1: a square
    assert x[:, 0].min() > math.sqrt(0.5) - 0.01
