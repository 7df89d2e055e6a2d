"""Drift is found where there is one, and no alarm is raised where there is none."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ks_2samp

from cnn_core.inbox.drift import (
    DriftParams,
    Sample,
    check_drift,
    kolmogorov_smirnov,
    pixel_measures,
    population_stability,
    sentence,
)

PARAMS = DriftParams(alpha=0.05, draws=200, most=400, least=20, seed=0)
CLASSES = tuple("abcd")


def sample(count: int, seed: int, *, bright: float = 0.5, shift: float = 0.0, shares: tuple = (1, 1, 1, 1)) -> Sample:
    random = np.random.default_rng(seed)
    pixels = random.normal((bright, 0.2, 0.05), (0.1, 0.05, 0.01), (count, 3))
    weights = np.array(shares) / sum(shares)
    features = random.normal(shift, 1.0, (count, 16))
    return Sample(labels=random.choice(4, count, p=weights), pixels=pixels, features=features)


def drifted(old: Sample, new: Sample, params: DriftParams = PARAMS) -> set[str]:
    return {drift.measure for drift in check_drift(old, new, CLASSES, params) if drift.drifted}


def test_alarms_without_a_change_are_as_rare_as_asked_for() -> None:
    """30 pairs at 10 %: 3 expected, more than 8 in one of 500 such tests."""
    small = DriftParams(alpha=0.1, draws=100, most=80, least=20, seed=0)
    alarms = sum(bool(drifted(sample(80, seed), sample(40, 1000 + seed), small)) for seed in range(30))
    assert alarms <= 8


@pytest.mark.parametrize(
    ("change", "measure"),
    [
        ({"bright": 0.6}, "brightness"),
        ({"shift": 0.4}, "features"),
        ({"shares": (4, 1, 1, 1)}, "class balance"),
    ],
)
def test_a_change_is_found_and_named(change: dict, measure: str) -> None:
    drifts = check_drift(sample(600, 0), sample(200, 1, **change), CLASSES, PARAMS)
    assert {drift.measure for drift in drifts if drift.drifted} == {measure}
    assert sentence(drifts).startswith(f"{measure} (")


def test_the_detail_says_what_moved() -> None:
    text = sentence(check_drift(sample(600, 0), sample(200, 1, shares=(0, 1, 1, 6)), CLASSES, PARAMS))
    assert "d 2" in text
    assert "-> 7" in text


def test_without_a_network_the_rest_is_measured() -> None:
    old, new = sample(100, 0), sample(50, 1)
    plain = Sample(labels=old.labels, pixels=old.pixels)
    assert len(check_drift(plain, new, CLASSES, PARAMS)) == 4


def test_too_few_images_are_refused() -> None:
    with pytest.raises(ValueError, match="19 new and 100 old images are too few"):
        check_drift(sample(100, 0), sample(19, 1), CLASSES, PARAMS)


def test_the_same_seed_gives_the_same_answer() -> None:
    old, new = sample(900, 0), sample(500, 1)
    assert check_drift(old, new, CLASSES, PARAMS) == check_drift(old, new, CLASSES, PARAMS)


def test_pixel_measures_are_mean_spread_and_steps() -> None:
    image = np.zeros((1, 4, 4), np.uint8)
    image[:, :, 2:] = 255
    assert pixel_measures(image)[0] == pytest.approx([0.5, 0.5, (0 + 1 / 3) / 2])
    assert pixel_measures(np.repeat(image[..., None], 3, -1)) == pytest.approx(pixel_measures(image))


def test_kolmogorov_smirnov_is_scipys() -> None:
    random = np.random.default_rng(0)
    old, new = random.normal(0, 1, 70).round(1), random.normal(0.3, 1, 40).round(1)
    assert kolmogorov_smirnov(old, new) == pytest.approx(ks_2samp(old, new).statistic)


def test_population_stability_is_zero_for_equal_shares() -> None:
    assert population_stability(np.array([10, 30]), np.array([10, 30])) == 0
    assert population_stability(np.array([50, 50]), np.array([80, 20])) == pytest.approx(0.41, abs=0.02)
