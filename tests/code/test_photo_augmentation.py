from __future__ import annotations

import math

import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from cnn_core.params import from_mapping
from cnn_core.photo_augmentation import PhotoAugmentationParams, photo_augment, principal_colours
from cnn_core.views import centre_view

OFF = {
    **{"flip": 0, "crop_scale": 1, "crop_ratio": 1, "degrees": 0, "brightness": 0, "contrast": 0, "saturation": 0},
    **{"hue": 0, "grayscale": 0, "pca_colour": 0, "policy": "none", "rand_ops": 2, "rand_magnitude": 9, "erasing": 0},
    **{"mixup": 0, "cutmix": 0, "mix_probability": 0},
}
FULL = {
    **{"flip": 0.5, "crop_scale": 0.35, "crop_ratio": 4 / 3, "degrees": 8, "brightness": 0.3, "contrast": 0.3},
    **{"saturation": 0.3, "hue": 0.05, "grayscale": 0.1, "pca_colour": 0.1, "erasing": 0.5},
}
PRINCIPAL = (torch.tensor([0.2, 0.02, 0.004]), torch.linalg.qr(torch.tensor([[1.0, 2, 3], [1, 0, 1], [1, 1, -5]])).Q)


def params(**changes: float | str) -> PhotoAugmentationParams:
    return from_mapping(PhotoAugmentationParams, {**OFF, **changes}, "augmentation")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def augment(images: torch.Tensor, seed: int = 0, size: int | None = None, **changes: float | str) -> torch.Tensor:
    return photo_augment(images, params(**changes), seeded(seed), size=size or images.shape[3], principal=PRINCIPAL)


def photographs(count: int = 4, side: int = 32, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
    """Smooth random colours, so that resampling changes them little."""
    coarse = torch.rand(count, 3, 4, 4, generator=seeded(99)) * (high - low) + low
    return torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")


def coordinates(count: int, side: int = 64) -> torch.Tensor:
    """A pixel's value tells where it was read from: red is x, green is y, in 0..1."""
    axis = (torch.arange(float(side)) + 0.5) / side
    image = torch.stack([axis.expand(side, side), axis[:, None].expand(side, side), torch.zeros(side, side)])
    return image.expand(count, 3, side, side).contiguous()


def steps(out: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of augmented coordinates: how far apart left and right (top and bottom) were read, as (N, 2) x, y vectors whose
    lengths are the crop's sides."""
    size = out.shape[3]
    middle = slice(size // 2 - 4, size // 2 + 4)
    x = (out[:, :2, middle, size // 2 + 4] - out[:, :2, middle, size // 2 - 4]).mean(2) * size / 8
    y = (out[:, :2, size // 2 + 4, middle] - out[:, :2, size // 2 - 4, middle]).mean(2) * size / 8
    return x, y


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


COLOURS = {
    "brightness": (tv.adjust_brightness, lambda image: image.mean()),
    "contrast": (tv.adjust_contrast, lambda image: image[0, 0, 0] - image[0, 9, 9]),
    "saturation": (tv.adjust_saturation, lambda image: image[0, 3, 3] - image[1, 3, 3]),
}


@pytest.mark.parametrize("name", COLOURS)
def test_a_colour_change_is_torchvision_s(name: str):
    change, measure = COLOURS[name]
    images = photographs(1, low=0.3, high=0.6).repeat(200, 1, 1, 1)  # far enough from 0 and 1 that nothing is clamped
    factors = []
    for image, out in zip(images, augment(images, **{name: 0.4}), strict=True):
        factors.append((measure(out) / measure(image)).item())
        assert torch.allclose(out, change(image, factors[-1]), atol=1e-3)
    assert min(factors) == pytest.approx(0.6, abs=0.02)
    assert max(factors) == pytest.approx(1.4, abs=0.02)


def test_bright_pixels_are_clamped_as_torchvision_clamps_them():
    images = photographs(1).repeat(20, 1, 1, 1)
    for image, out in zip(images, augment(images, brightness=0.9), strict=True):
        factor = (out[:, 9, 9].sum() / image[:, 9, 9].sum()).item()
        if out[:, 9, 9].max() < 1:
            assert torch.allclose(out, tv.adjust_brightness(image, factor), atol=1e-3)
    assert augment(images, brightness=0.9).max() == 1


def test_grey_is_torchvision_s_grey_also_with_every_other_colour_change():
    images = photographs(50)
    grey = tv.rgb_to_grayscale(images, num_output_channels=3)
    assert torch.allclose(augment(images, grayscale=1), grey, atol=1e-3)
    out = augment(images, **{**FULL, "grayscale": 1, "erasing": 0})
    assert torch.allclose(out[:, 0], out[:, 2], atol=1e-5)
    kept = (augment(images, grayscale=0.5) - images).abs().amax((1, 2, 3)) < 1e-4
    assert 15 <= kept.sum() <= 35


def test_hue_turns_the_colour_circle_the_way_torchvision_does_and_keeps_the_luma():
    red = torch.tensor([0.5, 0.3, 0.3]).view(1, 3, 1, 1).expand(400, 3, 4, 4).contiguous()
    out = augment(red, hue=0.5)[:, :, 0, 0]
    luma = torch.tensor([0.299, 0.587, 0.114])
    assert torch.allclose(out @ luma, red[:, :, 0, 0] @ luma, atol=1e-3)
    assert {0, 1, 2} == set(out.argmax(1).tolist())  # all the way round
    chroma = lambda rgb: rgb @ torch.tensor([[0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]]).T  # noqa: E731
    cosine = torch.cosine_similarity(chroma(augment(red, hue=0.1)[:, :, 0, 0]), chroma(red[:, :, 0, 0]))
    assert torch.rad2deg(cosine.clamp(max=1).acos()).max().item() == pytest.approx(36, abs=0.5)  # a tenth of the circle
    nearly = augment(red, hue=0.05)[:, :, 0, 0] - red[:, :, 0, 0]
    turned = torch.stack([tv.adjust_hue(red[0], h)[:, 0, 0] for h in (-0.05, 0.05)]) - red[0, :, 0, 0]
    sides = (nearly @ turned.T).argmax(1)
    toward_green = nearly[:, 1] > nearly[:, 2]
    assert torch.equal(sides == 1, toward_green)
    hue = torch.rand(16, 400, generator=seeded())[9] * 2 - 1  # the row of the draws that the hue takes
    assert torch.equal(toward_green, hue > 0)  # towards yellow and green for positive ones, as in HSV


def test_the_pca_shift_has_the_paper_s_direction_and_size():
    images = torch.full((4000, 3, 1, 1), 0.5)
    shift = (augment(images, pca_colour=0.1) - images)[:, :, 0, 0]
    along = shift @ PRINCIPAL[1]  # what each eigenvector took
    assert torch.allclose(along.std(0), 0.1 * PRINCIPAL[0], rtol=0.05)
    assert along.mean(0).abs().max() < 0.002
    textured = photographs(3, low=0.4, high=0.6)
    moved = augment(textured, pca_colour=0.1) - textured
    assert torch.allclose(moved, moved[:, :, :1, :1].expand_as(moved), atol=1e-5)  # the same for every pixel


def test_pca_colour_needs_the_principal_colours():
    with pytest.raises(ValueError, match="principal colours"):
        photo_augment(photographs(), params(pca_colour=0.1), seeded(), size=32, principal=None)


def test_principal_colours_are_those_of_the_covariance():
    deviations = torch.tensor([30.0, 10.0, 3.0])
    pixels = 128 + (torch.randn(700, 900, 3, generator=seeded()) * deviations) @ PRINCIPAL[1].T
    images = pixels.round().clamp(0, 255).byte().transpose(1, 2).reshape(700, 3, 30, 30)
    values, vectors = principal_colours(images)
    assert torch.allclose(values, (deviations / 255) ** 2, rtol=0.03)
    assert torch.allclose((vectors * PRINCIPAL[1]).sum(0).abs(), torch.ones(3), atol=1e-3)
    assert (vectors.gather(0, vectors.abs().argmax(0, keepdim=True)) > 0).all()
    assert all(torch.equal(a, b) for a, b in zip((values, vectors), principal_colours(images), strict=True))


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


def test_the_centre_view_shows_the_middle_and_mirrors_it():
    images = coordinates(2)
    assert torch.equal(centre_view(images, 64), images)
    assert torch.equal(centre_view(images, 64, flip=True), images.flip(3))
    zoomed = centre_view(images, 64, zoom=2)
    assert zoomed.shape == (2, 3, 64, 64)
    assert zoomed[0, 0].min().item() == pytest.approx(0.25, abs=0.02)
    assert zoomed[0, 0].max().item() == pytest.approx(0.75, abs=0.02)
    assert zoomed[:, :2].mean().item() == pytest.approx(0.5, abs=1e-4)  # neither to the left nor to the right


def test_the_centre_view_shrinks_with_antialiasing():
    stripes = (torch.arange(64) % 4 == 0).float().expand(1, 3, 64, 64)
    assert (centre_view(stripes, 16)[..., 2:-2] - 0.25).abs().max() < 0.03


def test_a_view_cannot_zoom_out():
    with pytest.raises(ValueError, match="zoom"):
        centre_view(coordinates(1), 64, zoom=0.5)


def test_sides_of_a_crop_of_half_the_area():
    x, y = steps(augment(coordinates(50), size=48, crop_scale=0.5))
    assert torch.allclose(x[:, 0], y[:, 1], atol=0.01)  # ratio 1: a square
    assert x[:, 0].min() > math.sqrt(0.5) - 0.01
