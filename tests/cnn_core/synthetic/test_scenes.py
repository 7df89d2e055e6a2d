"""The generated scenes: every class at every size, the same bytes for the same seed, and colour that tells little."""

from __future__ import annotations

import numpy as np
import pytest

from cnn_core.synthetic.canvas import TIMES, Canvas, draw_light, ground_noise, photograph, ridge
from cnn_core.synthetic.scenes import SCENES, draw_scene


def draw(kind: str, side: int = 64, *, seed: int = 0, first: int = 0, count: int = 1) -> np.ndarray:
    return np.stack([draw_scene(kind, side, np.random.default_rng([seed, i])) for i in range(first, first + count)])


def test_the_classes_are_intels():
    assert list(SCENES) == ["buildings", "forest", "glacier", "mountain", "sea", "street"]


@pytest.mark.parametrize("side", [64, 100, 150])
@pytest.mark.parametrize("kind", SCENES)
def test_every_kind_at_every_size(kind, side):
    images = draw(kind, side, count=3)
    assert images.shape == (3, side, side, 3)
    assert images.dtype == np.uint8
    assert images.std(axis=(1, 2, 3)).min() > 4, "a picture, not a plane"


@pytest.mark.parametrize("kind", SCENES)
def test_the_generator_decides_every_byte(kind):
    first, again, other = draw(kind, seed=1), draw(kind, seed=1), draw(kind, seed=2)
    assert (first == again).all()
    assert (first != other).mean() > 0.5


def test_nothing_but_the_generator_decides():
    """No global state: what was drawn before and numpy's own stream change nothing."""
    alone = draw("street")
    draw("forest", 100)
    np.random.seed(7)
    assert (draw("street") == alone).all()


@pytest.mark.parametrize("kind", SCENES)
def test_no_two_images_are_near(kind):
    small = draw(kind, count=24).reshape(24, 8, 8, 8, 8, 3).mean(axis=(2, 4)).reshape(24, -1)
    distances = np.abs(small[:, None] - small).mean(axis=2) + 255 * np.eye(24)
    assert distances.min() > 3


def test_the_mean_colours_of_the_classes_overlap():
    means = np.stack([draw(kind, count=30).mean(axis=(1, 2)) for kind in SCENES])  # (class, image, RGB)
    between, within = means.mean(axis=1).std(axis=0), means.std(axis=1).mean(axis=0)
    assert (between < 0.6 * within).all()


def test_an_unknown_class():
    with pytest.raises(ValueError, match="no generated scene of desert: the classes are buildings, forest"):
        draw("desert")


def test_every_time_of_day_comes_up():
    assert {draw_light(np.random.default_rng(i)).time for i in range(60)} == set(TIMES)


def test_the_camera_never_looks_beyond_the_sheet():
    for i in range(200):
        c = Canvas(64, np.random.default_rng(i))
        c.paint(np.ones((64, 64, 3)))
        seen = photograph(c, 32).mean(axis=2)
        corners = [
            seen[rows, columns].mean()
            for rows in (slice(3), slice(-3, None))
            for columns in (slice(2), slice(-2, None))
        ]
        assert min(corners) > 0.4 * seen.mean(), i


def test_a_ridge_and_the_ground():
    rng = np.random.default_rng(0)
    line = ridge(rng, 90, rough=0.5)
    assert (line.shape, float(line.min()), round(float(line.max()), 3)) == ((90,), 0.0, 1.0)
    ground = ground_noise(rng, 90, 0.3, cells=4, stretch=2)
    assert ground.shape == (90, 90)
    change = np.abs(np.diff(ground, axis=0)).mean(axis=1)
    assert change[28:38].mean() > 2 * change[-20:].mean(), "flatter, so denser, towards the horizon"
