"""The same photograph is found again, another one is not, and the answer depends on the images alone."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from cnn_core.images.decoding import read_picture
from cnn_core.images.near_duplicates import near_groups, near_keys
from tests.helpers.scene_files import encoded, scene

COUNT = 40
SCENES = [scene(seed, (100, 100)) for seed in range(COUNT)]


def thumbnails(images: list[Image.Image], kind: str = "PNG", **options: object) -> list[np.ndarray]:
    return [read_picture(encoded(image, kind, **options)).thumbnail for image in images]


ORIGINALS = thumbnails(SCENES)
CHANGES = {
    "saved again": lambda: thumbnails(SCENES, "JPEG", quality=30),
    "smaller": lambda: thumbnails([image.resize((40, 40)) for image in SCENES]),
    "larger and squeezed": lambda: thumbnails([image.resize((200, 150)) for image in SCENES]),
    "trimmed": lambda: thumbnails([image.crop((1, 1, 99, 99)) for image in SCENES]),
    "darker": lambda: thumbnails([ImageEnhance.Brightness(image).enhance(0.7) for image in SCENES]),
    "grey": lambda: thumbnails([image.convert("L") for image in SCENES]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_same_photograph_is_found_again(change):
    groups = near_groups(ORIGINALS + change())
    assert groups[:COUNT] == groups[COUNT:]
    assert len(set(groups)) == COUNT, "and no other"


def test_flat_images_are_not_tied_together():
    rows = np.arange(64, dtype=np.uint8)[:, None]
    blank = [np.full((64, 64), value, np.uint8) for value in (0, 90, 90, 255)]
    skies = [np.broadcast_to(rows * step + 20, (64, 64)).astype(np.uint8) for step in (1, 2, 3)]
    noisy = [sky + np.random.default_rng(seed).integers(0, 3, (64, 64), np.uint8) for seed, sky in enumerate(skies * 3)]
    groups = near_groups(thumbnails([Image.fromarray(image) for image in blank + noisy]))
    assert len(set(groups)) == len(groups)


def test_a_chain_is_one_group_wherever_its_images_stand():
    width = 60
    large = scene(7, (100 + width, 100))
    steps = thumbnails([large.crop((left, 0, left + 100, 100)) for left in range(0, width, 2)])
    assert near_groups([steps[0], steps[-1]]) == [0, 1], "the ends are not alike"
    far_apart = [*steps[:10], *ORIGINALS * 4, *steps[10:]]
    groups = near_groups(far_apart)
    assert len({*groups[:10], *groups[-20:]}) == 1
    assert len(set(groups)) == COUNT + 1


def test_a_key_follows_from_the_group_alone():
    hashes = [f"{number:064x}" for number in range(COUNT)]
    keys = near_keys(hashes, ORIGINALS)
    assert keys == hashes, "without a near-duplicate an image has its own"
    more = near_keys(["f" * 64, *hashes, "0" * 64], [ORIGINALS[3], *ORIGINALS, ORIGINALS[5]])
    assert more[0] == more[4] == hashes[3]
    assert more[6] == more[-1] == "0" * 64
    assert [key for row, key in enumerate(more[1:-1]) if row != 5] == [key for row, key in enumerate(keys) if row != 5]
    assert near_keys([], []) == []
