from __future__ import annotations

import pytest
import torch

from cnn_core.classification.augmentation.photo import photo_augment
from cnn_core.classification.inference.views import centre_view
from tests.helpers.photographs import FULL, PRINCIPAL, augment, coordinates, params, photographs, seeded, steps


@pytest.mark.parametrize("policy", ["none", "trivial", "rand"])
@pytest.mark.parametrize("size", [24, 32, 40])
def test_shape_dtype_and_range(policy: str, size: int):
    out = augment(torch.rand(5, 3, 32, 32, generator=seeded()), size=size, **FULL, policy=policy)
    assert out.shape == (5, 3, size, size)
    assert out.dtype == torch.float32
    assert out.min() >= 0
    assert out.max() <= 1


def test_all_strengths_0_is_the_identity():
    images = torch.rand(3, 3, 32, 32, generator=seeded())
    assert augment(images) is images


def test_the_input_is_not_changed():
    images = photographs()
    augment(images, **FULL, policy="trivial")
    assert torch.equal(images, photographs())


@pytest.mark.parametrize("policy", ["none", "trivial", "rand"])
def test_the_same_generator_state_gives_the_same_images(policy: str):
    first, second, other = (augment(photographs(), seed, **FULL, policy=policy) for seed in (7, 7, 8))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_one_image_does_not_touch_another_and_each_changes_in_its_own_way():
    images = photographs(1).repeat(40, 1, 1, 1)  # more than the CPU takes at a time
    out = augment(images, **FULL)
    assert len({image.numpy().tobytes() for image in out}) == 40
    images[2] = 0.5
    changed = augment(images, **FULL)
    rest = [i for i in range(40) if i != 2]
    assert torch.allclose(out[rest], changed[rest], atol=1e-6)
    assert not torch.allclose(out[2], changed[2], atol=1e-2)


def test_one_strength_leaves_the_other_draws_alone():
    images = coordinates(30)
    alone = augment(images, flip=0.5, crop_scale=0.5)
    both = augment(images, flip=0.5, crop_scale=0.5, degrees=1e-4, brightness=1e-5, pca_colour=1e-6, hue=1e-6)
    assert torch.allclose(alone, both, atol=1e-3)


def test_the_policy_leaves_the_other_draws_alone():
    after = []
    for policy in ("none", "trivial", "rand"):
        generator = seeded()
        photo_augment(photographs(), params(policy=policy, flip=0.5), generator, size=32, principal=None)
        after.append(torch.rand(1, generator=generator).item())
    assert len(set(after)) == 1


def test_flip_mirrors_exactly_left_and_right_as_often_as_asked():
    images = torch.rand(200, 3, 16, 16, generator=seeded())
    assert torch.allclose(augment(images, flip=1), images.flip(3), atol=1e-5)
    mirrored = (augment(images, flip=0.3) - images.flip(3)).abs().amax((1, 2, 3)) < 1e-4
    assert 40 <= mirrored.sum() <= 80


def test_a_crop_keeps_the_area_and_the_ratio_asked_for_and_stays_inside():
    out = augment(coordinates(600), size=48, crop_scale=0.25, crop_ratio=2)
    x, y = steps(out)
    width, height = x[:, 0], y[:, 1]
    area, ratio = width * height, width / height
    assert area.min() == pytest.approx(0.25, abs=0.02)
    assert area.max() == pytest.approx(1, abs=0.02)
    assert area.mean() == pytest.approx(0.625, abs=0.03)
    assert 1.8 < ratio.max() < 2.05
    assert 1 / 2.05 < ratio.min() < 1 / 1.8
    assert ratio.log().mean().abs() < 0.05
    assert max(width.max(), height.max()) < 1.01  # a reflected border would read as a shorter step
    middle = out[:, :2].mean((2, 3))  # it moves about, along both axes, as far as it fits
    assert (middle.amax(0) > 0.72).all()
    assert (middle.amin(0) < 0.28).all()


def test_crop_scale_1_crops_nothing_whatever_the_ratio():
    images = coordinates(20)
    assert torch.allclose(augment(images, crop_scale=1, crop_ratio=2, flip=1e-9), images, atol=1e-5)


def test_rotation_turns_without_stretching_and_stays_in_its_bound():
    x, y = steps(augment(coordinates(400), degrees=20))
    angle = torch.rad2deg(torch.atan2(x[:, 1], x[:, 0]))
    assert angle.abs().max() <= 20.1
    assert angle.max() > 19
    assert angle.min() < -19
    assert torch.allclose(x.norm(dim=1), torch.ones(400), atol=0.01)
    assert (x * y).sum(1).abs().max() < 0.01


@pytest.mark.parametrize("size", [16, 32, 50])
def test_a_constant_image_stays_constant(size: int):
    images = torch.tensor([0.2, 0.5, 0.9]).view(1, 3, 1, 1).expand(8, 3, 32, 32).contiguous()
    out = augment(images, size=size, flip=0.5, crop_scale=0.3, crop_ratio=1.5, degrees=30)
    assert torch.allclose(out, images[:, :, :1, :1].expand_as(out), atol=1e-5)


def test_shrinking_averages_instead_of_skipping_pixels():
    stripes = (torch.arange(64) % 4 == 0).float().expand(4, 3, 64, 64).contiguous()
    assert torch.allclose(augment(stripes, size=16), torch.full((4, 3, 16, 16), 0.25), atol=1e-5)


def test_only_resizing_is_what_the_evaluation_s_view_shows():
    images = photographs(2, side=32)
    assert torch.allclose(augment(images, size=48), centre_view(images, 48), atol=1e-4)


def test_erasing_fills_one_box_of_the_size_asked_for_as_often_as_asked():
    images = coordinates(500, side=32)
    out = augment(images, erasing=0.6)
    erased = (out != images).any(1).float()
    share = erased.mean((1, 2))
    assert 0.5 < (share > 0).float().mean() < 0.7
    inside = share[share > 0]
    assert 0.01 < inside.min() < 0.06
    assert 0.28 < inside.max() < 0.38
    boxes = erased.amax(1).sum(1) * erased.amax(2).sum(1) / 32**2
    assert torch.allclose(boxes, share)  # one box, with no holes
    assert torch.allclose(out[erased.bool()[:, None].expand_as(out)].view(-1)[:1], torch.tensor(0.5), atol=1e-4)


@pytest.mark.parametrize("policy", ["trivial", "rand"])
def test_a_policy_changes_images_and_its_parts_in_different_ways(policy: str):
    images = photographs(1).repeat(64, 1, 1, 1)
    out = augment(images, policy=policy)
    different = {image.numpy().tobytes() for image in out}
    assert 4 <= len(different) <= 8
    assert not torch.equal(out, images)


def test_a_policy_s_magnitude_counts():
    images = photographs(8)
    weak, strong = (
        (augment(images, policy="rand", rand_ops=1, rand_magnitude=m) - images).abs().mean() for m in (1, 25)
    )
    assert weak < strong


def test_torch_s_own_random_numbers_are_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    augment(photographs(), **FULL, policy="trivial")
    assert torch.equal(torch.rand(3), expected)


def test_autocast_does_not_coarsen_the_grid():
    plain = augment(photographs(), **FULL)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(augment(photographs(), **FULL), plain)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_what_the_cpu_gives():
    images = photographs(40)
    out = augment(images.cuda(), **FULL)
    assert out.device.type == "cuda"
    assert torch.allclose(out.cpu(), augment(images, **FULL), atol=1e-3)
    on_device = photo_augment(
        images.cuda(),
        params(**FULL, policy="trivial"),
        torch.Generator("cuda").manual_seed(0),
        size=48,
        principal=PRINCIPAL,
    )
    assert on_device.shape == (40, 3, 48, 48)


def test_an_empty_batch_stays_empty():
    assert augment(torch.zeros(0, 3, 32, 32), size=24, **FULL, policy="trivial").shape == (0, 3, 24, 24)


def test_half_precision_is_kept():
    assert augment(photographs().bfloat16(), **FULL, policy="trivial").dtype == torch.bfloat16


@pytest.mark.parametrize("shape", [(2, 1, 32, 32), (2, 3, 32, 24), (3, 3, 3)])
def test_what_is_no_batch_of_square_colour_images_is_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match="side, side"):
        photo_augment(torch.zeros(shape), params(), seeded(), size=32, principal=None)


@pytest.mark.parametrize(
    ("key", "value"),
    [("flip", 2), ("crop_scale", 0), ("crop_ratio", 0.5), ("hue", 0.6), ("policy", "auto"), ("rand_ops", 0)],
)
def test_a_strength_out_of_bounds_is_refused_by_name(key: str, value: float | str):
    with pytest.raises(ValueError, match=f"augmentation.{key}"):
        params(**{key: value})
