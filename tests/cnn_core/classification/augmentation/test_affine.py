from __future__ import annotations

import pytest
import torch

from cnn_core.classification.augmentation.affine import affine_elastic
from cnn_core.classification.augmentation.params import GlyphAugmentationParams
from cnn_core.params import from_mapping

OFF = {
    "degrees": 0,
    "translate": 0,
    "scale": 0,
    "shear": 0,
    "elastic_alpha": 0,
    "elastic_sigma": 4.0,
    "padding": "zeros",
}
FULL = {"degrees": 12, "translate": 0.08, "scale": 0.12, "shear": 10, "elastic_alpha": 1.5, "elastic_sigma": 4.0}


def params(**changes: float) -> GlyphAugmentationParams:
    return from_mapping(GlyphAugmentationParams, {**OFF, **changes}, "augmentation")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def square(count: int = 1, channels: int = 1, side: int = 28) -> torch.Tensor:
    images = torch.zeros(count, channels, side, side)
    images[..., side // 3 : -(side // 3), side // 3 : -(side // 3)] = 1
    return images


def centre(images: torch.Tensor) -> torch.Tensor:
    """Centre of mass of each image, (N, 2), x before y, in pixels from the middle."""
    axis = torch.arange(images.shape[-1]) - (images.shape[-1] - 1) / 2
    mass = images.sum((1, 2, 3))
    return torch.stack([(images.sum((1, 2)) * axis).sum(1) / mass, (images.sum((1, 3)) * axis).sum(1) / mass], dim=1)


def test_shape_dtype_and_range_are_kept():
    images = torch.rand(5, 3, 20, 28, generator=seeded())
    out = affine_elastic(images, params(**FULL), seeded())
    assert out.shape == images.shape
    assert out.dtype == torch.float32
    assert out.min() >= 0
    assert out.max() <= 1


def test_the_input_is_not_changed():
    images = square(2)
    affine_elastic(images, params(**FULL), seeded())
    assert torch.equal(images, square(2))


def test_the_same_generator_state_gives_the_same_images():
    images = square(4)
    assert torch.equal(
        affine_elastic(images, params(**FULL), seeded(7)), affine_elastic(images, params(**FULL), seeded(7))
    )
    assert not torch.equal(
        affine_elastic(images, params(**FULL), seeded(7)), affine_elastic(images, params(**FULL), seeded(8))
    )


def test_all_strengths_0_is_the_identity():
    images = torch.rand(3, 1, 28, 28, generator=seeded())
    assert torch.equal(affine_elastic(images, params(), seeded()), images)


def test_a_vanishing_strength_is_nearly_the_identity():
    images = torch.rand(3, 1, 20, 28, generator=seeded())
    out = affine_elastic(images, params(degrees=1e-4, elastic_alpha=1e-5), seeded())
    assert torch.allclose(out, images, atol=1e-3)


def test_an_empty_batch_stays_empty():
    assert affine_elastic(torch.zeros(0, 1, 28, 28), params(**FULL), seeded()).shape == (0, 1, 28, 28)


def test_each_image_gets_a_transform_of_its_own():
    out = affine_elastic(square(8), params(**FULL), seeded())
    assert len({image.numpy().tobytes() for image in out}) == 8


def test_one_image_does_not_touch_another():
    images = square(4)
    changed = images.clone()
    changed[2] = torch.rand(1, 28, 28, generator=seeded())
    before, after = (affine_elastic(x, params(**FULL), seeded()) for x in (images, changed))
    assert torch.equal(before[[0, 1, 3]], after[[0, 1, 3]])
    assert not torch.equal(before[2], after[2])


def test_channels_move_together():
    out = affine_elastic(square(2, channels=3), params(**FULL), seeded())
    assert torch.equal(out[:, 0], out[:, 1])
    assert torch.equal(out[:, 0], out[:, 2])


def test_shift_stays_in_its_bound_and_uses_it():
    moved = centre(affine_elastic(square(400), params(translate=0.1), seeded())).abs()
    assert moved.max() <= 2.8 + 1e-3
    assert moved.max() > 2.5


def test_zoom_stays_in_its_bound_and_uses_it():
    area = affine_elastic(square(400), params(scale=0.2), seeded()).sum((1, 2, 3)) / square().sum()
    assert area.max() <= 1.2**2 + 0.03
    assert area.min() >= 0.8**2 - 0.03
    assert area.max() > 1.38
    assert area.min() < 0.68


@pytest.mark.parametrize("height", [28, 56])
def test_rotation_is_one_of_pixels_and_stays_in_its_bound(height: int):
    images = torch.zeros(300, 1, height, 28)
    images[..., height // 2 - 1 : height // 2 + 1, 2:26] = 1  # a level bar
    out = affine_elastic(images, params(degrees=20), seeded())[:, 0]
    x, y = torch.arange(28.0) - 13.5, torch.arange(float(height)) - (height - 1) / 2
    slopes = (out * x * y[:, None]).sum((1, 2)) / (out * x * x).sum((1, 2))
    angles = torch.rad2deg(torch.atan(slopes))
    assert angles.abs().max() <= 20.6
    assert angles.max() > 19
    assert angles.min() < -19


def test_shear_slants_without_lifting():
    images = torch.zeros(300, 1, 28, 28)
    images[..., 4:24, 13:15] = 1  # an upright bar
    out = affine_elastic(images, params(shear=20), seeded())[:, 0]
    axis = torch.arange(28.0) - 13.5
    slopes = (out * axis * axis[:, None]).sum((1, 2)) / (out * axis[:, None] ** 2).sum((1, 2))
    angles = torch.rad2deg(torch.atan(slopes))
    assert 19 < angles.abs().max() <= 20.6
    rows = out.sum(2)
    assert torch.allclose(rows, images[:, 0].sum(2), atol=1e-3)


def test_elastic_shift_has_the_standard_deviation_asked_for():
    ramp = (torch.arange(64.0) / 63).expand(2000, 1, 64, 64)  # a pixel's value tells where it was read from
    out = affine_elastic(ramp, params(elastic_alpha=1.5, elastic_sigma=4.0), seeded())
    shift = (out - ramp)[:, 0, 16:48, 16:48] * 63
    assert shift.std().item() == pytest.approx(1.5, rel=0.03)
    near, far = (shift[..., 0] * shift[..., step] for step in (2, 20))
    assert near.mean() > 1.5  # neighbours shift together: of a variance of 2.25
    assert far.mean().abs() < 0.2  # far pixels do not


def test_one_strength_leaves_the_other_draws_alone():
    images = square(50)
    alone = centre(affine_elastic(images, params(translate=0.1), seeded()))
    both = centre(affine_elastic(images, params(translate=0.1, shear=1e-4), seeded()))
    assert torch.allclose(alone, both, atol=1e-2)


def test_autocast_does_not_coarsen_the_grid():
    images = square(4)
    plain = affine_elastic(images, params(**FULL), seeded())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(affine_elastic(images, params(**FULL), seeded()), plain)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_what_the_cpu_gives():
    images = square(4)
    out = affine_elastic(images.cuda(), params(**FULL), seeded())
    assert out.device.type == "cuda"
    assert torch.allclose(out.cpu(), affine_elastic(images, params(**FULL), seeded()), atol=1e-4)


@pytest.mark.parametrize(("key", "value"), [("degrees", -1), ("scale", 0.95), ("elastic_sigma", 0), ("translate", 2)])
def test_a_strength_out_of_bounds_is_refused_by_name(key: str, value: float):
    with pytest.raises(ValueError, match=f"augmentation.{key}"):
        params(**{key: value})
