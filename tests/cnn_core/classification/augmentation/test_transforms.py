from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml

from cnn_core.classification.augmentation.params import KINDS, augmentation_params
from cnn_core.classification.augmentation.transforms import Photo, Rotations, transform, turned
from cnn_core.classification.inference.views import PHOTO, centre_view, views
from cnn_core.classification.training.batches import ahead
from tasks.pretrain import all_rotations
from tests.helpers.learning import ROOT, params

SECTIONS = yaml.safe_load((ROOT / "params.yaml").read_text())["train"]


def photo(size=32, start_size=0, **changes) -> Photo:
    section = SECTIONS["scenes"]["augmentation"] | changes
    return transform(section, size=size, start_size=start_size, num_classes=6)


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def images(count=6, side=40):
    return torch.randint(0, 256, (count, 3, side, side), generator=draws(1), dtype=torch.uint8)


def test_photographs_come_in_the_networks_size_and_keep_their_labels():
    labels = torch.arange(6)
    pixels, targets = photo().training(images(), labels, progress=0.5, generator=draws())
    assert pixels.shape == (6, 3, 32, 32)
    assert 0 <= pixels.min() < pixels.max() <= 1
    assert torch.equal(targets, labels)
    assert photo().view(images()).shape == (6, 3, 32, 32)


def test_mixed_photographs_have_shares_of_classes():
    mixed = photo(mixup=0.4)
    _, targets = mixed.training(images(), torch.arange(6), progress=0.5, generator=draws())
    assert targets.shape == (6, 6)
    torch.testing.assert_close(targets.sum(1), torch.ones(6))


def test_training_images_grow_in_steps_until_they_have_their_size():
    growing = photo(size=128, start_size=80)
    sizes = [growing.size_at(step / 100) for step in range(101)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 80
    assert set(sizes) == {80, 96, 112, 128}
    assert growing.size_at(0.7) == 128
    assert photo(size=128, start_size=72).size_at(0) == 72  # never below what a network was checked for
    assert {photo(size=100).size_at(step / 10) for step in range(11)} == {100}
    small, _ = growing.training(images(), torch.arange(6), progress=0.0, generator=draws())
    assert small.shape[-1] == 80


def test_a_rotation_is_what_is_to_be_told():
    whole = photo(size=40, flip=0.0, crop_scale=1.0, brightness=0.0, contrast=0.0, saturation=0.0)
    plain = images().float() / 255
    pixels, turns = Rotations(of=whole).training(images(), torch.zeros(6), progress=0.0, generator=draws())
    assert set(turns.tolist()) > {turns[0].item()}
    for image, original, turn in zip(pixels, plain, turns.tolist(), strict=True):
        torch.testing.assert_close(image, original.rot90(turn, (1, 2)))


def test_validation_asks_for_every_rotation_of_every_image():
    split = all_rotations(images(5).numpy(), torch.device("cpu"))
    assert split.labels.tolist() == [turn for turn in range(4) for _ in range(5)]
    back = turned(split.images, (4 - split.labels) % 4)
    assert torch.equal(back, images(5).repeat(4, 1, 1, 1))


def test_the_views_of_a_photograph_are_zoomed_and_mirrored():
    pixels = images(2).float() / 255
    seen = views(pixels, "photo", count=len(PHOTO), size=32)
    assert all(view.shape == (2, 3, 32, 32) for view in seen)
    torch.testing.assert_close(seen[1], seen[0].flip(-1))
    torch.testing.assert_close(seen[2], centre_view(pixels, 32, zoom=PHOTO[2][0]))
    assert len({tuple(view.flatten().tolist()) for view in seen}) == len(PHOTO)
    with pytest.raises(ValueError, match="tta is 9, but there are 8 views of a photo"):
        views(pixels, "photo", count=9, size=32)


def test_an_unknown_kind_and_an_unknown_strength_are_named():
    with pytest.raises(ValueError, match=r"augmentation\.kind must be one of affine_elastic, photo, not 'blur'"):
        augmentation_params({"kind": "blur"})
    with pytest.raises(ValueError, match=r"augmentation\.flip must be at least 0 and at most 1"):
        photo(flip=2.0)
    with pytest.raises(ValueError, match="image_size and start_size are for"):
        params(image_size=32)
    assert set(KINDS) == {section["augmentation"]["kind"] for section in SECTIONS.values()}


def test_a_thread_loads_ahead_in_order_and_passes_errors_on():
    batches = [torch.tensor(number) for number in range(20)]
    assert list(ahead(lambda batch: int(batch) ** 2, batches)) == [number**2 for number in range(20)]

    def broken(batch):
        if int(batch) == 5:
            raise ValueError("five")
        return int(batch)

    taken = []
    with pytest.raises(ValueError, match="five"):
        taken.extend(ahead(broken, batches))
    assert list(np.arange(5)) == taken or taken == []
