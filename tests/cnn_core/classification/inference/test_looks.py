"""How images of one sign look is measured, and pictures of other looks are brought into that form or named."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from cnn_core.classification.inference.looks import Fitter, Look, about_looks, find_ink, is_like, measure_look, unlike
from tests.helpers.handwriting import sheet, sign


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.stack([sign(28, seed) for seed in range(60)])[:, None]


def test_a_look_says_polarity_size_and_place_and_survives_json(images):
    look = measure_look(images)
    assert look
    assert (look.ground, round(look.ink, 1)) == (0.0, 1.0)
    assert 0.65 < look.sizes[1] < 0.8
    assert "light ink on a dark ground" in str(look)
    assert Look.of({"look": json.loads(json.dumps(dataclasses.asdict(look)))}) == look
    dark = measure_look(255 - images)
    assert dark
    assert (dark.ground, round(dark.ink, 1)) == (1.0, 0.0)
    assert (dark.sizes, dark.shares) == (look.sizes, look.shares)
    assert not len(unlike(images, look))
    assert len(unlike(255 - images, look)) == len(images)
    assert not len(unlike(255 - images, None))


def test_sets_without_one_polarity_or_without_ink_have_no_look(images):
    assert measure_look(np.concatenate([images, 255 - images])) is None
    assert measure_look(np.full((9, 1, 28, 28), 7, np.uint8)) is None
    assert Look.of({}) is None
    assert Look.of({"look": None}) is None


@pytest.mark.parametrize("dark", [False, True])
def test_other_pictures_of_the_same_signs_become_like_the_model_s_images(images, dark: bool):
    same_sign = 255 - images if dark else images
    look = measure_look(same_sign)
    fitter = Fitter(look, 28)
    for index in range(0, 60, 7):
        glyph, expected = images[index, 0], same_sign[index].astype(int)
        inverted = np.repeat((255 - same_sign[index, 0])[..., None], 3, axis=2)
        middle = np.full((1, 28, 28), 200, np.uint8)
        for picture, square, most in [(inverted, 255 - same_sign[index], 4), (sheet(glyph, index), middle, 16)]:
            fitted = fitter(picture, square)
            assert is_like(fitted[0], look)
            assert np.abs(fitted.astype(int) - expected).mean() < most
    assert fitter.fitted == 18
    assert np.array_equal(fitter(inverted, same_sign[3]), same_sign[3])  # its square looks right already
    assert fitter.fitted == 18


def test_what_cannot_be_brought_into_the_form_is_named(images):
    look = measure_look(images)
    fitter = Fitter(look, 28)
    noise = np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8)
    blank = np.full((50, 70, 3), 240, np.uint8)
    black = np.zeros((40, 40, 3), np.uint8)
    fitted = np.stack([fitter(picture, picture[None, :28, :28, 0]) for picture in (noise, blank, black)])
    assert unlike(fitted, look).tolist() == [0, 1, 2]
    assert find_ink(blank[..., 0]) is None
    (sentence,) = about_looks(0, ["a.png", "b\n.png"], 9, look)
    assert sentence.startswith(
        "warning: 2 of 9 pictures do not look like what the model learned from (light ink on a dark"
    )
    assert sentence.endswith(r"their classes are guesses: a.png, 'b\n.png'")


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (3, 3), (2000, 30)])
def test_pictures_of_any_shape_are_taken(images, shape):
    picture = np.zeros((*shape, 3), np.uint8)
    picture[0, 0] = 255
    assert Fitter(measure_look(images), 28)(picture, np.zeros((1, 28, 28), np.uint8)).shape == (1, 28, 28)
