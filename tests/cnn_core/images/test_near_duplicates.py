"""The same picture is found again; others are not, however much they share; the answer depends on the pair alone."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from cnn_core.images.decoding import read_picture
from cnn_core.images.near_duplicates import joined, near_pairs
from tests.helpers.alike_pictures import ALIKE
from tests.helpers.image_files import encoded, scene

COUNT = 30
EACH = 24


def thumbnails(images: list[Image.Image], kind: str = "PNG", **options: object) -> list[np.ndarray]:
    return [read_picture(encoded(image, kind, **options)).thumbnail for image in images]


def pairs(images: list[np.ndarray]) -> set[tuple[int, int]]:
    return {pair for left, right in near_pairs(images) for pair in zip(left.tolist(), right.tolist(), strict=True)}


def trimmed(image: Image.Image, share: float) -> Image.Image:
    width, height = image.size
    return image.crop((round(share * width), round(share * height), round((1 - share) * width), height))


SCENES = [scene(seed, (100, 100)) for seed in range(COUNT)]
ORIGINALS = thumbnails(SCENES)
CHANGES = {
    "saved again": lambda images: thumbnails(images, "JPEG", quality=30),
    "smaller": lambda images: thumbnails([image.resize((50, 50)) for image in images]),
    "larger and squeezed": lambda images: thumbnails([image.resize((200, 150)) for image in images]),
    "trimmed": lambda images: thumbnails([trimmed(image, 0.02) for image in images], "JPEG"),
    "darker": lambda images: thumbnails([ImageEnhance.Brightness(image).enhance(0.7) for image in images]),
    "grey": lambda images: thumbnails([image.convert("L") for image in images]),
    "other gamma": lambda images: thumbnails(
        [image.convert("L").point(lambda value: 255 * (value / 255) ** 1.3) for image in images]
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_same_photograph_is_found_again(change):
    tied = pairs(ORIGINALS + change(SCENES))
    assert {right - left for left, right in tied} == {COUNT}, "and no other"
    assert len(tied) >= COUNT - 2


@pytest.mark.parametrize("name", ALIKE)
def test_different_pictures_on_one_ground_are_not_tied_and_their_copies_are_found(name):
    images = [ALIKE[name](seed) for seed in range(EACH)]
    again = thumbnails(images, "JPEG", quality=50)
    tied = pairs(thumbnails(images) + again)
    true = {(number, EACH + number) for number in range(EACH)}
    assert len(tied & true) >= EACH - 2
    different = {tuple(sorted((left % EACH, right % EACH))) for left, right in tied - true}
    assert len(different) <= 3, "of 276 pairs, and these differ by next to nothing"


def test_flat_images_are_not_tied_together():
    rows = np.arange(64, dtype=np.uint8)[:, None]
    blank = [np.full((64, 64), value, np.uint8) for value in (0, 90, 90, 255)]
    skies = [np.broadcast_to(rows * step + 20, (64, 64)).astype(np.uint8) for step in (1, 2, 3)]
    noisy = [sky + np.random.default_rng(seed).integers(0, 3, (64, 64), np.uint8) for seed, sky in enumerate(skies * 3)]
    assert pairs(thumbnails([Image.fromarray(image) for image in blank + noisy])) == set()


def test_pairs_are_the_same_wherever_the_images_stand():
    images = [*ORIGINALS, *CHANGES["smaller"](SCENES[:5])]
    order = np.random.default_rng(0).permutation(len(images) * 6)  # over several blocks
    many = [images[number % len(images)] if number < len(images) else np.zeros((32, 32), np.uint8) for number in order]
    tied = {tuple(sorted((order[left], order[right]))) for left, right in pairs(many)}
    assert tied == pairs(images)
    assert pairs([]) == set()


def test_pairs_join_to_groups():
    assert joined(5, np.array([0, 3]), np.array([3, 1])).tolist() == [0, 0, 1, 0, 2]
