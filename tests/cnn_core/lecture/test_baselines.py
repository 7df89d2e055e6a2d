"""The classifiers beside the CNN: fitted, measured and counted; blind to where a pixel lies."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cnn_core.lecture import baselines


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    """Generated 6 x 6 images of three classes: a bright row, column or block, in noise."""
    draws = np.random.default_rng(0)
    labels = np.arange(240) % 3
    images = draws.integers(0, 120, (240, 1, 6, 6))
    images[labels == 0, :, 2, :] += 110
    images[labels == 1, :, :, 3] += 110
    images[labels == 2, :, 4:, 4:] += 110
    return images.astype(np.uint8), labels


@pytest.fixture(scope="module")
def table(data: tuple[np.ndarray, np.ndarray]) -> pd.DataFrame:
    images, labels = data
    return baselines.compare((images[:180], labels[:180]), (images[180:], labels[180:]), seed=0)


def test_each_is_fitted_and_measured(table: pd.DataFrame) -> None:
    assert list(table["model"]) == list(baselines.BASELINES)
    assert (table["accuracy"] > 0.9).all()
    assert ((table["accuracy_low"] < table["accuracy"]) | (table["accuracy"] == 0)).all()
    assert (table["images"] == 180).all()


def test_the_numbers_that_each_keeps_are_counted(table: pd.DataFrame) -> None:
    kept = table.set_index("model")["parameters"]
    assert kept["logistic regression"] == 3 * 36 + 3
    assert kept["k nearest neighbours"] == 180 * 36
    assert kept["MLP, 256 hidden units"] == 36 * 256 + 256 + 256 * 3 + 3
    assert kept["SVM, RBF kernel"] <= 180 * 36 + 2 * 180 + 3


def test_pixels_in_another_order_make_no_difference_to_them(data: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = data
    order = np.random.default_rng(1).permutation(36)
    mixed = images.reshape(240, 36)[:, order].reshape(240, 1, 6, 6)
    for name in ("logistic regression", "k nearest neighbours", "SVM, RBF kernel"):
        model = baselines.BASELINES[name][0]
        flat, other = (x.reshape(240, -1) / np.float32(255) for x in (images, mixed))
        said = model(0).fit(flat[:180], labels[:180]).predict(flat[180:])
        assert (said == model(0).fit(other[:180], labels[:180]).predict(other[180:])).all()
