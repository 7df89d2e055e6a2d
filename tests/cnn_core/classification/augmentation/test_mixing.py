from __future__ import annotations

import pytest
import torch

from cnn_core.classification.augmentation.mixing import drawn_seed, mix
from cnn_core.classification.augmentation.params import MixingParams
from cnn_core.params import from_mapping
from tests.helpers.imports import imported, project_files
from tests.helpers.paths import ROOT

CLASSES = 6


def params(**changes: float) -> MixingParams:
    return from_mapping(MixingParams, {"mixup": 0, "cutmix": 0, "mix_probability": 1, **changes}, "mixing")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(count: int = 6, side: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    """Image i is filled with i, and its label is i: a pixel tells which image it came from."""
    labels = torch.arange(count) % CLASSES
    return labels.float().view(-1, 1, 1, 1).expand(count, 3, side, side).contiguous(), labels


def mixed(seed: int = 0, count: int = 6, **changes: float) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = batch(count)
    return mix(images, labels, params(**changes), num_classes=CLASSES, generator=seeded(seed))


def is_mixed(targets: torch.Tensor) -> bool:
    return bool(((targets > 0).sum(1) > 1).any())


@pytest.mark.parametrize("changes", [{}, {"mixup": 0.2, "cutmix": 1, "mix_probability": 0}])
def test_what_is_off_leaves_images_and_gives_one_hot_targets(changes: dict[str, float]):
    images, labels = batch()
    out, targets = mix(images, labels, params(**changes), num_classes=CLASSES, generator=seeded())
    assert out is images
    assert torch.equal(targets, torch.eye(CLASSES))


@pytest.mark.parametrize("seed", range(5))
def test_mixup_weighs_pixels_as_it_weighs_labels(seed: int):
    out, targets = mixed(seed, mixup=1)
    assert torch.allclose(targets.sum(1), torch.ones(6))
    assert torch.allclose(out[:, 0, 0, 0], targets @ torch.arange(6.0), atol=1e-5)
    assert is_mixed(targets)


@pytest.mark.parametrize("seed", range(5))
def test_cutmix_weighs_labels_by_the_area_really_pasted(seed: int):
    out, targets = mixed(seed, cutmix=1)
    own = (out[:, 0] == torch.arange(6.0).view(-1, 1, 1)).float().mean((1, 2))
    assert torch.allclose(targets.sum(1), torch.ones(6))
    assert torch.allclose(targets.diagonal(), own, atol=1e-6)
    assert torch.equal(out, out.round())  # pasted, not blended


def test_the_share_follows_alpha():
    means = [
        sum(mixed(seed, mixup=alpha)[1].amax(1).mean().item() for seed in range(60)) / 60 for alpha in (0.1, 1, 20)
    ]
    assert means[0] > 0.9  # Beta(0.1, 0.1): nearly all of one image
    assert means[1] == pytest.approx(0.75, abs=0.05)  # the larger of lambda and 1 - lambda, uniform
    assert means[2] < 0.65


def test_the_share_follows_cutmix_s_alpha():
    little, much = (
        sum(mixed(seed, cutmix=alpha)[1].amax(1).mean().item() for seed in range(150)) / 150 for alpha in (0.1, 20)
    )
    assert little > much + 0.04


def test_with_both_on_each_is_taken_about_as_often():
    blended = [bool((out != out.round()).any()) for out, _ in (mixed(seed, mixup=1, cutmix=1) for seed in range(60))]
    assert 15 <= sum(blended) <= 45


def test_the_probability_is_that_of_a_batch():
    assert 20 <= sum(is_mixed(mixed(seed, mixup=1, mix_probability=0.5)[1]) for seed in range(60)) <= 40


def test_the_same_generator_state_gives_the_same_batch_and_the_input_stays():
    images, _ = batch()
    first, second, other = (mixed(seed, mixup=1, cutmix=1)[1] for seed in (3, 3, 4))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(images, batch()[0])


def test_torch_s_own_random_numbers_are_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    mixed(0, mixup=1)
    assert torch.equal(torch.rand(3), expected)


def test_the_generator_moves_on_by_the_same_step_whatever_the_parameters():
    after = []
    for changes in ({}, {"mixup": 1}, {"cutmix": 1, "mix_probability": 0.5}):
        generator = seeded()
        mix(*batch(), params(**changes), num_classes=CLASSES, generator=generator)
        after.append(torch.rand(1, generator=generator).item())
    assert len(set(after)) == 1


def test_seeds_drawn_in_a_row_differ():
    generator = seeded()
    assert len({drawn_seed(generator) for _ in range(100)}) == 100


@pytest.mark.parametrize("count", [0, 1])
def test_a_batch_without_a_partner_stays(count: int):
    out, targets = mixed(count=count, mixup=1, cutmix=1)
    assert torch.equal(out, batch(count)[0])
    assert targets.shape == (count, CLASSES)
    assert not is_mixed(targets)


@pytest.mark.parametrize(("key", "value"), [("mixup", -1), ("cutmix", -0.1), ("mix_probability", 1.5)])
def test_a_value_out_of_bounds_is_refused_by_name(key: str, value: float):
    with pytest.raises(ValueError, match=f"mixing.{key}"):
        params(**{key: value})


def test_importing_it_does_not_import_torchvision():
    """Which costs seconds, and every stage that trains imports it."""
    for name in ("mixing", "photo"):
        files = project_files(ROOT, ROOT / f"cnn_core/classification/augmentation/{name}.py")
        roots = {name.split(".")[0] for file in files for name in imported(file, top_level_only=True)}
        assert "torch" in roots
        assert "torchvision" not in roots
