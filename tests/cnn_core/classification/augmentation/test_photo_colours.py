"""Colours of photographs are changed as torchvision changes them, and by AlexNet's shift."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from cnn_core.classification.augmentation.photo import photo_augment, principal_colours
from tests.helpers.photographs import FULL, PRINCIPAL, augment, params, photographs, seeded

COLOURS = {
    "brightness": (tv.adjust_brightness, lambda image: image.mean()),
    "contrast": (tv.adjust_contrast, lambda image: image[0, 0, 0] - image[0, 9, 9]),
    "saturation": (tv.adjust_saturation, lambda image: image[0, 3, 3] - image[1, 3, 3]),
}


@pytest.mark.parametrize("name", COLOURS)
def test_a_colour_change_is_torchvision_s(name: str):
    change, measure = COLOURS[name]
    images = photographs(1, low=0.3, high=0.6).repeat(200, 1, 1, 1)  # far enough from 0 and 1 that nothing is clamped
    factors = []
    for image, out in zip(images, augment(images, **{name: 0.4}), strict=True):
        factors.append((measure(out) / measure(image)).item())
        assert torch.allclose(out, change(image, factors[-1]), atol=1e-3)
    assert min(factors) == pytest.approx(0.6, abs=0.02)
    assert max(factors) == pytest.approx(1.4, abs=0.02)


def test_bright_pixels_are_clamped_as_torchvision_clamps_them():
    images = photographs(1).repeat(20, 1, 1, 1)
    for image, out in zip(images, augment(images, brightness=0.9), strict=True):
        factor = (out[:, 9, 9].sum() / image[:, 9, 9].sum()).item()
        if out[:, 9, 9].max() < 1:
            assert torch.allclose(out, tv.adjust_brightness(image, factor), atol=1e-3)
    assert augment(images, brightness=0.9).max() == 1


def test_grey_is_torchvision_s_grey_also_with_every_other_colour_change():
    images = photographs(50)
    grey = tv.rgb_to_grayscale(images, num_output_channels=3)
    assert torch.allclose(augment(images, grayscale=1), grey, atol=1e-3)
    out = augment(images, **{**FULL, "grayscale": 1, "erasing": 0})
    assert torch.allclose(out[:, 0], out[:, 2], atol=1e-5)
    kept = (augment(images, grayscale=0.5) - images).abs().amax((1, 2, 3)) < 1e-4
    assert 15 <= kept.sum() <= 35


def test_hue_turns_the_colour_circle_the_way_torchvision_does_and_keeps_the_luma():
    red = torch.tensor([0.5, 0.3, 0.3]).view(1, 3, 1, 1).expand(400, 3, 4, 4).contiguous()
    out = augment(red, hue=0.5)[:, :, 0, 0]
    luma = torch.tensor([0.299, 0.587, 0.114])
    assert torch.allclose(out @ luma, red[:, :, 0, 0] @ luma, atol=1e-3)
    assert {0, 1, 2} == set(out.argmax(1).tolist())  # all the way round
    chroma = lambda rgb: rgb @ torch.tensor([[0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]]).T  # noqa: E731
    cosine = torch.cosine_similarity(chroma(augment(red, hue=0.1)[:, :, 0, 0]), chroma(red[:, :, 0, 0]))
    assert torch.rad2deg(cosine.clamp(max=1).acos()).max().item() == pytest.approx(36, abs=0.5)  # a tenth of the circle
    nearly = augment(red, hue=0.05)[:, :, 0, 0] - red[:, :, 0, 0]
    turned = torch.stack([tv.adjust_hue(red[0], h)[:, 0, 0] for h in (-0.05, 0.05)]) - red[0, :, 0, 0]
    sides = (nearly @ turned.T).argmax(1)
    toward_green = nearly[:, 1] > nearly[:, 2]
    assert torch.equal(sides == 1, toward_green)
    hue = torch.rand(16, 400, generator=seeded())[9] * 2 - 1  # the row of the draws that the hue takes
    assert torch.equal(toward_green, hue > 0)  # towards yellow and green for positive ones, as in HSV


def test_the_pca_shift_has_the_paper_s_direction_and_size():
    images = torch.full((4000, 3, 1, 1), 0.5)
    shift = (augment(images, pca_colour=0.1) - images)[:, :, 0, 0]
    along = shift @ PRINCIPAL[1]  # what each eigenvector took
    assert torch.allclose(along.std(0), 0.1 * PRINCIPAL[0], rtol=0.05)
    assert along.mean(0).abs().max() < 0.002
    textured = photographs(3, low=0.4, high=0.6)
    moved = augment(textured, pca_colour=0.1) - textured
    assert torch.allclose(moved, moved[:, :, :1, :1].expand_as(moved), atol=1e-5)  # the same for every pixel


def test_pca_colour_needs_the_principal_colours():
    with pytest.raises(ValueError, match="principal colours"):
        photo_augment(photographs(), params(pca_colour=0.1), seeded(), size=32, principal=None)


def test_principal_colours_are_those_of_the_covariance():
    deviations = torch.tensor([30.0, 10.0, 3.0])
    pixels = 128 + (torch.randn(700, 900, 3, generator=seeded()) * deviations) @ PRINCIPAL[1].T
    images = pixels.round().clamp(0, 255).byte().transpose(1, 2).reshape(700, 3, 30, 30)
    values, vectors = principal_colours(images)
    assert torch.allclose(values, (deviations / 255) ** 2, rtol=0.03)
    assert torch.allclose((vectors * PRINCIPAL[1]).sum(0).abs(), torch.ones(3), atol=1e-3)
    assert (vectors.gather(0, vectors.abs().argmax(0, keepdim=True)) > 0).all()
    assert all(torch.equal(a, b) for a, b in zip((values, vectors), principal_colours(images), strict=True))
