"""Composed scenes: what is drawn is what the truth says, every parameter does what its name says, the seed decides."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
import yaml

from cnn_core.annotations.masks import mask_box
from cnn_core.params import from_mapping
from cnn_core.synthetic.clutter import light
from cnn_core.synthetic.digits import COLOURS, INK, LUMA, colour_of_luma, lay_row, remove_specks, stamp_row
from cnn_core.synthetic.house_numbers import DigitInks, chosen_digits, compose_picture
from cnn_core.synthetic.picture import ComposeParams, draw_picture
from cnn_core.synthetic.walls import WALLS
from tests.helpers.paths import ROOT

SECTION = {
    "source": "data/raw/digits", "train": 8, "val": 2, "test": 2, "side": 160, "digits_min": 1, "digits_max": 5,
    "size_min": 0.15, "size_max": 0.45, "smallest": 16, "rotation": 8.0, "tilt": 8.0, "jitter": 0.06,
    "spacing_min": 0.03, "spacing_max": 0.3, "overlap": 0.2, "overlap_rate": 0.1, "contrast_min": 0.22,
    "contrast_max": 0.7, "light_on_dark": 0.5, "signs": 0.5, "shade": 0.7, "clutter": 4, "blur": 0.9, "noise": 0.035,
    "jpeg_quality": 90, "seed": 0,
}  # fmt: skip
PARAMS = from_mapping(ComposeParams, SECTION, "compose")
QUIET = dataclasses.replace(PARAMS, blur=0.0, noise=0.0)


def digit(seed: int) -> np.ndarray:
    """Something like a digit's ink: two thick soft strokes, float32 (28, 28)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:28, :28]
    first = np.abs(x - 14 - rng.uniform(-3, 3) - (y - 14) * rng.uniform(-0.3, 0.3)) + 9 * (np.abs(y - 14) > 9)
    second = np.abs(np.hypot(y - 18, x - 14) - rng.uniform(3, 5))
    return np.clip(2.4 - np.minimum(first, second), 0, 1).astype(np.float32)


DIGITS = DigitInks(
    inks=np.stack([digit(i) for i in range(30)]), labels=np.arange(30) % 10, ids=[f"d{i}" for i in range(30)]
)


def scenes(params: ComposeParams, count: int = 12, split: str = "train"):
    return [compose_picture(i, DIGITS, params, split)[0] for i in range(count)]


def stamps(params: ComposeParams, count: int, numbers: range = range(40)):
    """(place, stamps) of rows of ``count`` digits"""
    for number in numbers:
        rng = np.random.default_rng(number)
        inks = DIGITS.inks[rng.integers(0, 30, count)]
        place, matrices = lay_row(rng, inks, params.side, params.style())
        yield place, stamp_row(inks, matrices, params.side)


def test_each_picture_and_its_masks():
    for i in range(25):
        scene, chosen = compose_picture(i, DIGITS, PARAMS, "train")
        assert scene.image.shape == (160, 160, 3)
        assert scene.image.dtype == np.uint8
        assert len(scene.masks) == len(chosen)
        assert np.sum(scene.masks, axis=0).max() <= 1, "no pixel shows two digits"
        assert min(mask.sum() for mask in scene.masks) > 20
        left = [mask_box(mask)[0] for mask in scene.masks]
        assert left == sorted(left), "it reads from left to right"


def test_the_mask_is_just_where_the_digit_was_drawn():
    """The same scene once with its digits and once with ink too faint to be drawn differs in the masks alone."""
    plain = dataclasses.replace(QUIET, signs=0.0, shade=0.0, clutter=0, contrast_min=0.3, light_on_dark=0.0)
    for seed in range(12):
        inks = DIGITS.inks[:3]
        scene = draw_picture(np.random.default_rng(seed), inks, plain)
        crisp = np.any(scene.masks, axis=0)
        luma = scene.image @ LUMA / 255
        inside = luma[crisp]
        near = np.zeros_like(crisp)
        for mask in scene.masks:
            x1, y1, x2, y2 = map(int, mask_box(mask))
            near[max(0, y1 - 6) : y2 + 6, max(0, x1 - 6) : x2 + 6] = True
        middle = (np.median(inside) + np.median(luma[near & ~crisp])) / 2
        dark = (luma < middle) & near
        assert (dark & crisp).sum() / (dark | crisp).sum() > 0.85


@pytest.mark.parametrize("shade", [0.0, 1.0])
@pytest.mark.parametrize("light_on_dark", [0.0, 1.0])
def test_the_contrast_asked_for(light_on_dark, shade):
    """Darker or lighter than the ground around, as asked, by contrast_min at least."""
    params = dataclasses.replace(QUIET, light_on_dark=light_on_dark, shade=shade, contrast_min=0.25, contrast_max=0.3)
    sign = 1 if light_on_dark else -1
    found = []
    for scene in scenes(params, 30):
        luma = scene.image.astype(np.float32) @ LUMA / 255
        every = np.any(scene.masks, axis=0)
        for mask in scene.masks:
            x1, y1, x2, y2 = map(int, mask_box(mask))
            around = np.zeros_like(mask)
            around[y1:y2, x1:x2] = True
            found.append(sign * (np.median(luma[mask]) - luma[around & ~every].mean()))
    assert np.quantile(found, 0.02) > 0.15, "the soft rim of the ink is part of what is around"
    assert np.median(found) > 0.22


def test_more_contrast_is_more():
    def spread(low: float, high: float) -> float:
        params = dataclasses.replace(QUIET, contrast_min=low, contrast_max=high, shade=0.0)
        both = []
        for scene in scenes(params, 20):
            luma, crisp = scene.image @ LUMA / 255, np.any(scene.masks, axis=0)
            both.append(abs(luma[crisp].mean() - luma[~crisp].mean()))
        return float(np.mean(both))

    assert spread(0.3, 0.9) > spread(0.05, 0.1) + 0.15


def test_no_overlap_means_none_and_overlap_is_bounded():
    apart = dataclasses.replace(PARAMS, overlap=0.0, overlap_rate=1.0, spacing_min=0.0, spacing_max=0.0)
    for _, row in stamps(apart, 4):
        assert all((stamp.visible == (stamp.alpha >= 0.5)).all() for stamp in row)
    close = dataclasses.replace(PARAMS, overlap=0.4, overlap_rate=1.0)
    shares = [s.visible.sum() / (s.alpha >= 0.5).sum() for _, row in stamps(close, 4) for s in row[:-1]]
    assert min(shares) > 0.3
    assert np.mean(np.array(shares) < 0.98) > 0.3
    rows = [row for _, row in stamps(close, 4)]
    assert all((row[-1].visible == (row[-1].alpha >= 0.5)).all() for row in rows), "the last one covers, none covers it"


@pytest.mark.parametrize(("count", "tilt"), [(1, 0.0), (5, 8.0), (5, 45.0), (2, 45.0)])
def test_a_row_lies_wholly_inside_and_keeps_its_size(count, tilt):
    params = dataclasses.replace(PARAMS, tilt=tilt, rotation=0.0, overlap=0.0)
    for place, row in stamps(params, count):
        for stamp in row:
            mask = np.zeros((160, 160), bool)
            mask[stamp.area] = stamp.visible
            x1, y1, x2, y2 = mask_box(mask)
            assert min(x1, y1) > 0
            assert max(x2, y2) < 160
            assert max(y2 - y1, x2 - x1) >= 0.9 * params.smallest
        assert place.corners().min() >= 0
        assert place.corners().max() <= 160


def test_sizes_follow_their_bounds():
    def heights(low: float, high: float) -> np.ndarray:
        params = dataclasses.replace(PARAMS, size_min=low, size_max=high, rotation=0.0, tilt=0.0, jitter=0.0)
        return np.array([np.ptp(np.nonzero(s.visible.any(1))[0]) + 1 for _, row in stamps(params, 1) for s in row])

    small, large = heights(0.15, 0.15), heights(0.4, 0.4)
    assert np.abs(small - 0.15 * 160).max() <= 3
    assert np.abs(large - 0.4 * 160).max() <= 5


def test_tilt_and_rotation_turn():
    level = dataclasses.replace(PARAMS, tilt=0.0)
    assert {place.tilt for place, _ in stamps(level, 3)} == {0.0}
    tilts = [place.tilt for place, _ in stamps(dataclasses.replace(PARAMS, tilt=30.0), 3)]
    assert max(map(abs, tilts)) <= 30
    assert min(tilts) < -10
    assert max(tilts) > 10
    bar = np.zeros((28, 28), np.float32)
    bar[4:24, 13:15] = 1
    upright, turned = (
        stamp_row([bar], lay_row(np.random.default_rng(5), [bar], 160, style)[1], 160)[0]
        for style in (dataclasses.replace(PARAMS, tilt=0.0, rotation=r).style() for r in (0.0, 45.0))
    )
    assert np.ptp(np.nonzero(turned.visible.any(0))[0]) > 2 * np.ptp(np.nonzero(upright.visible.any(0))[0])


def test_the_camera_and_the_rest_of_the_wall():
    still = dataclasses.replace(QUIET, clutter=0, signs=0.0, shade=0.0)
    for changes in ({"noise": 0.3}, {"blur": 5.0}, {"clutter": 30}, {"signs": 1.0}, {"shade": 1.0}):
        before, after = scenes(still, 6), scenes(dataclasses.replace(still, **changes), 6)
        assert all((a.image != b.image).any() for a, b in zip(before, after, strict=True) if b.masks), changes

    def roughness(params: ComposeParams) -> float:
        return float(np.mean([np.abs(np.diff(s.image.astype(int), axis=1)).mean() for s in scenes(params, 10)]))

    assert roughness(dataclasses.replace(still, noise=0.2)) > 2 * roughness(still)
    assert roughness(dataclasses.replace(still, blur=5.0)) < 0.8 * roughness(still)
    shades = [light(np.random.default_rng(i), 64, 1.0) for i in range(40)]
    assert min(float(shade.min()) for shade in shades) > 0.4
    assert {float(light(np.random.default_rng(i), 64, 0.0).min()) for i in range(9)} == {1.0}


def test_a_scene_is_a_function_of_seed_split_and_number_alone():
    first, again = compose_picture(7, DIGITS, PARAMS, "train"), compose_picture(7, DIGITS, PARAMS, "train")
    assert (first[0].image == again[0].image).all()
    more = dataclasses.replace(PARAMS, train=999, val=999)
    assert (compose_picture(7, DIGITS, more, "train")[0].image == first[0].image).all()
    for other in (
        compose_picture(8, DIGITS, PARAMS, "train"),
        compose_picture(7, DIGITS, PARAMS, "val"),
        compose_picture(7, DIGITS, dataclasses.replace(PARAMS, seed=1), "train"),
    ):
        assert (other[0].image != first[0].image).mean() > 0.5


@pytest.mark.parametrize(("low", "high", "total"), [(1, 5, 30), (0, 3, 7), (2, 2, 11), (1, 5, 3)])
def test_every_digit_is_used_equally(low, high, total):
    params = dataclasses.replace(PARAMS, digits_min=low, digits_max=high)
    chosen = [chosen_digits(i, total, params, "train") for i in range(300)]
    used = Counter(np.concatenate(chosen).tolist())
    assert len(used) == total
    assert max(used.values()) - min(used.values()) <= 1
    numbers = Counter(map(len, chosen))
    assert set(numbers) == set(range(low, high + 1))
    assert max(numbers.values()) - min(numbers.values()) <= 1
    assert len({tuple(c) for c in chosen if len(c) > 1}) > 50 or total < 5


def test_a_picture_without_a_digit():
    scene = draw_picture(np.random.default_rng(0), [], PARAMS)
    assert scene.masks == []
    assert scene.image.std() > 4


@pytest.mark.parametrize("side", [64, 97, 320])
def test_other_sides(side):
    params = dataclasses.replace(PARAMS, side=side, smallest=8, digits_max=4)
    for scene in scenes(params, 6):
        assert scene.image.shape == (side, side, 3)
        assert all(mask.shape == (side, side) for mask in scene.masks)


@pytest.mark.parametrize("made", WALLS, ids=lambda made: made.__name__)
def test_every_wall(made):
    wall = made(np.random.default_rng(0), 80)
    assert wall.shape == (80, 80, 3)
    assert wall.dtype == np.float32
    assert wall.min() > -0.2


def test_a_colour_of_just_this_luma():
    for colour in COLOURS:
        for luma in (0.02, 0.5, 0.98):
            made = colour_of_luma(colour, luma)
            assert abs(float(made @ LUMA) - luma) < 1e-5
            assert made.min() >= 0
            assert made.max() <= 1 + 1e-6


def test_specks_beside_a_digit_are_no_part_of_it():
    ink = digit(0)
    dirty = ink.copy()
    dirty[0, 27], dirty[1, 27] = 0.9, 0.3
    clean = remove_specks(dirty)
    assert ((clean >= INK) == (ink >= INK)).all()
    assert clean[1, 27] == 0, "its soft rim goes too"
    assert (remove_specks(ink) == ink).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"digits_min": 6}, "compose.digits_min must be at most digits_max"),
        ({"size_min": 0.5}, "compose.size_min must be at most size_max"),
        ({"contrast_min": 0.3, "contrast_max": 0.2}, "compose.contrast_min must be at most contrast_max"),
        ({"spacing_min": 0.9}, "compose.spacing_min must be at most spacing_max"),
        ({"smallest": 40}, "compose.smallest must leave room: 5 digits 40 pixels high"),
        ({"overlap": 0.5}, "compose.overlap must be at least 0 and at most 0.4"),
        ({"train": 0}, "compose.train must be at least 1"),
    ],
)
def test_what_cannot_be_is_said(changes, words):
    with pytest.raises(ValueError, match=words):
        from_mapping(ComposeParams, {**SECTION, **changes}, "compose")


def test_the_parameters_of_this_file_are_those_of_the_project():
    section = yaml.safe_load((ROOT / "params.yaml").read_text())["compose"]["numbers"]
    assert section.keys() == SECTION.keys()
