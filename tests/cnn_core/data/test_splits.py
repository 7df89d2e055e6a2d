"""The split function: stable, fair, and blind to what else there is."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnn_core.data.splits import assign_split, check_proportions, ink_keys

fractions = st.floats(0.01, 0.4)
keys = st.binary(max_size=32).map(bytes.hex)


@given(keys, st.integers(0, 2**40), fractions, fractions)
def test_a_split_is_a_pure_function_of_seed_and_key(key, seed, val, test):
    first = assign_split(key, seed=seed, val_fraction=val, test_fraction=test)
    assert first in ("train", "val", "test")
    assert first == assign_split(key, seed=seed, val_fraction=val, test_fraction=test)


@given(keys, st.integers(0, 9), fractions, fractions, fractions)
def test_a_smaller_val_fraction_moves_images_to_train_only(key, seed, val, smaller, test):
    before = assign_split(key, seed=seed, val_fraction=val, test_fraction=test)
    after = assign_split(key, seed=seed, val_fraction=min(val, smaller), test_fraction=test)
    assert after == before or (before, after) == ("val", "train")


@pytest.mark.parametrize("seed", [0, 1])
def test_the_fractions_hold(seed):
    names = [assign_split(str(key), seed=seed, val_fraction=0.1, test_fraction=0.2) for key in range(10_000)]
    for split, share in (("val", 0.1), ("test", 0.2), ("train", 0.7)):
        assert abs(names.count(split) - 10_000 * share) < 4 * math.sqrt(10_000 * share * (1 - share))


def test_known_splits_stay_for_ever():
    """A change here would move every image of every user between splits."""
    found = [assign_split(key, seed=0, val_fraction=0.3, test_fraction=0.3) for key in "abcdefgh"]
    assert found == ["train", "train", "train", "val", "train", "test", "val", "test"]


@given(st.integers(0, 2**32), st.integers(-4, 4), st.integers(-4, 4))
def test_shifted_and_dimmed_digits_share_a_key(seed, down, right):
    image = np.zeros((1, 28, 28), np.uint8)
    image[0, 5:20, 6:22] = np.random.default_rng(seed).choice([0, 40, 200, 250], (15, 16))
    moved = np.roll(image, (down, right), axis=(1, 2))
    dimmed = image // 2
    assert ink_keys(image) == ink_keys(moved) == ink_keys(dimmed)


def test_other_ink_has_another_key():
    image = np.zeros((1, 28, 28), np.uint8)
    image[0, 5:20, 6:9] = 255
    other, wide = image.copy(), np.zeros_like(image)
    other[0, 7, 7] = 0
    wide[0, 5:8, 6:21] = 255  # the same number of pixels in a box of another shape
    assert len({*ink_keys(image), *ink_keys(other), *ink_keys(wide), *ink_keys(image * 0)}) == 4
    assert len(ink_keys(np.zeros((0, 28, 28), np.uint8))) == 0


def counts(**splits: dict[str, int]) -> dict[str, dict[str, int]]:
    return {split: dict(zip("ab", values, strict=True)) for split, values in splits.items()}


def test_proportions():
    assert check_proportions(counts(train=(500, 500), val=(48, 52), test=(55, 45))) == []
    (warning,) = check_proportions(counts(train=(500, 500), val=(48, 52), test=(0, 3)))
    assert warning == "test has no image of the class a"
    warnings = check_proportions(counts(train=(500, 500), val=(95, 5), test=(50, 50)))
    assert "val has 95.0% of the class a, all splits 53.8%" in warnings
    with pytest.raises(ValueError, match=r"no image of the class b is left to train from.*add images"):
        check_proportions(counts(train=(5, 0), val=(1, 1), test=(1, 1)))
    with pytest.raises(ValueError, match=r"no image of the class a, b"):
        check_proportions(counts(train=(0, 0), val=(0, 0), test=(0, 0)))
