"""The written-out operations against torch's own: values and gradients, in float64, for random shapes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cnn_core.lecture import functional

SHAPES = settings(max_examples=200, database=None, derandomize=True)
small = st.integers(1, 3)
seeds = st.integers(0, 2**31)


def draw(seed: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def agree(ours: Callable[..., Tensor], torchs: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Same values, and same gradients of a random weighting of them with respect to each input."""
    results = []
    for function in (ours, torchs):
        leaves = [each.clone().requires_grad_() for each in inputs]
        value = function(*leaves)
        weighting = torch.linspace(-1, 1, value.numel(), dtype=value.dtype).view(value.shape)
        results.append([value.detach(), *torch.autograd.grad((value * weighting).sum(), leaves)])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-10)


@st.composite
def convolutions(draw_: Callable, axes: int) -> tuple[tuple[int, ...], tuple[int, ...], dict]:
    """Shapes of inputs and kernels, and settings under which the kernel fits."""
    groups = draw_(st.integers(1, 2))
    kernel = draw_(st.tuples(*[small] * axes))
    each = {"stride": small, "padding": st.integers(0, 2), "dilation": st.integers(1, 2)}
    options = {name: draw_(st.tuples(*[numbers] * axes)) for name, numbers in each.items()}
    places = zip(kernel, options["dilation"], options["padding"], strict=True)
    least = [max(1, d * (k - 1) + 1 - 2 * p) for k, d, p in places]
    sides = tuple(side + draw_(st.integers(0, 4)) for side in least)
    channels, maps = draw_(small), draw_(small)
    inputs = (draw_(small), groups * channels, *sides)
    return inputs, (groups * maps, channels, *kernel), {**options, "groups": groups}


@SHAPES
@given(convolutions(2), seeds, st.booleans())
def test_cross_correlation2d(shapes: tuple, seed: int, biased: bool) -> None:
    inputs, kernels, options = shapes
    arrays = draw(seed, inputs, kernels, *([kernels[:1]] if biased else []))
    agree(
        lambda *xs: functional.cross_correlation(*xs, **options),
        lambda *xs: F.conv2d(*xs, **options),
        *arrays,
    )


@SHAPES
@given(convolutions(1), seeds, st.booleans())
def test_cross_correlation1d(shapes: tuple, seed: int, biased: bool) -> None:
    inputs, kernels, options = shapes
    options = {name: value if name == "groups" else value[0] for name, value in options.items()}
    arrays = draw(seed, inputs, kernels, *([kernels[:1]] if biased else []))
    agree(lambda *xs: functional.cross_correlation(*xs, **options), lambda *xs: F.conv1d(*xs, **options), *arrays)


@SHAPES
@given(small, small, small, st.integers(0, 2), st.integers(0, 4), seeds)
def test_convolution_is_cross_correlation_with_the_kernel_turned_round(
    channels: int, maps: int, size: int, padding: int, more: int, seed: int
) -> None:
    side = max(1, size - 2 * padding) + more
    images, kernels, bias = draw(seed, (2, channels, side, side + 1), (maps, channels, size, size), (maps,))
    agree(
        lambda *xs: functional.convolution(*xs, padding=padding),
        lambda x, k, b: F.conv2d(x, k.rot90(2, (2, 3)), b, padding=padding),
        images, kernels, bias,
    )  # fmt: skip


@SHAPES
@given(st.integers(1, 5), st.integers(1, 5), seeds)
def test_convolution1d_is_the_sum_of_the_definition(size: int, length: int, seed: int) -> None:
    series, kernel = draw(seed, (1, 1, length), (1, 1, size))
    full = functional.convolution(series, kernel, padding=size - 1)[0, 0]
    expected = [
        sum(series[0, 0, a] * kernel[0, 0, t - a] for a in range(length) if 0 <= t - a < size)
        for t in range(length + size - 1)
    ]
    torch.testing.assert_close(full, torch.stack([torch.as_tensor(each) for each in expected]))
    agree(
        lambda *xs: functional.convolution(*xs, padding=size - 1),
        lambda *xs: functional.convolution(*xs[::-1], padding=length - 1),  # it commutes
        series, kernel,
    )  # fmt: skip


@SHAPES
@given(small, small, small, small, seeds)
def test_channel_mixing(channels: int, maps: int, height: int, width: int, seed: int) -> None:
    arrays = draw(seed, (2, channels, height, width), (maps, channels), (maps,))
    agree(functional.channel_mixing, lambda x, w, b: F.conv2d(x, w[:, :, None, None], b), *arrays)


@st.composite
def transposed(draw_: Callable) -> tuple[tuple[int, ...], tuple[int, ...], dict]:
    kernel, stride, dilation = (draw_(st.tuples(each, each)) for each in (small, small, st.integers(1, 2)))
    # torch wants the output padding below the stride or the dilation, and an output
    output_padding = tuple(draw_(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
    sides = draw_(st.tuples(small, small))
    whole = [(side - 1) * s + d * (k - 1) + o + 1 for side, s, d, k, o in
             zip(sides, stride, dilation, kernel, output_padding, strict=True)]  # fmt: skip
    padding = tuple(draw_(st.integers(0, min(2, (each - 1) // 2))) for each in whole)
    inputs = (draw_(small), draw_(small), *sides)
    kernels = (inputs[1], draw_(small), *kernel)
    options = {"stride": stride, "padding": padding, "output_padding": output_padding, "dilation": dilation}
    return inputs, kernels, options


@SHAPES
@given(transposed(), seeds)
def test_transposed_convolution2d(shapes: tuple, seed: int) -> None:
    inputs, kernels, options = shapes
    arrays = draw(seed, inputs, kernels, kernels[1:2])
    agree(
        lambda *xs: functional.transposed_convolution2d(*xs, **options),
        lambda *xs: F.conv_transpose2d(*xs, **options),
        *arrays,
    )


@SHAPES
@given(convolutions(2), seeds)
def test_transposed_convolution_is_the_gradient_of_cross_correlation(shapes: tuple, seed: int) -> None:
    inputs, kernels, options = shapes
    kernels = (kernels[0], inputs[1], *kernels[2:])
    options = {**options, "groups": 1}
    images, weights = draw(seed, inputs, kernels)
    images.requires_grad_()
    outputs = functional.cross_correlation(images, weights, **options)
    (above,) = draw(seed + 1, outputs.shape)
    (gradient,) = torch.autograd.grad(outputs, images, above)
    sides = zip(inputs[2:], outputs.shape[2:], kernels[2:], options["stride"], options["padding"], options["dilation"], strict=True)  # fmt: skip  # noqa: E501
    left = tuple(side + 2 * p - ((out - 1) * s + d * (k - 1) + 1) for side, out, k, s, p, d in sides)
    again = functional.transposed_convolution2d(
        above,
        weights,
        stride=options["stride"],
        padding=options["padding"],
        dilation=options["dilation"],
        output_padding=left,
    )
    torch.testing.assert_close(again, gradient)


@st.composite
def pools(draw_: Callable) -> tuple[tuple[int, ...], dict]:
    kernel, stride = draw_(st.tuples(small, small)), draw_(st.tuples(small, small))
    padding = tuple(draw_(st.integers(0, size // 2)) for size in kernel)
    sides = tuple(max(1, k - 2 * p) + draw_(st.integers(0, 5)) for k, p in zip(kernel, padding, strict=True))
    return (draw_(small), draw_(small), *sides), {
        "kernel": kernel,
        "stride": draw_(st.sampled_from([None, stride])),
        "padding": padding,
    }


@pytest.mark.parametrize("kind", ["max", "average"])
@SHAPES
@given(pools(), seeds)
def test_pooling(kind: str, shapes: tuple, seed: int) -> None:
    shape, options = shapes
    ours = {"max": functional.max_pool2d, "average": functional.average_pool2d}[kind]
    torchs = {"max": F.max_pool2d, "average": F.avg_pool2d}[kind]
    others = {"kernel_size": options["kernel"], "stride": options["stride"], "padding": options["padding"]}
    agree(lambda x: ours(x, **options), lambda x: torchs(x, **others), *draw(seed, shape))


@SHAPES
@given(small, small, small, small, seeds)
def test_maxout_is_a_max_pool_over_channels(channels: int, pieces: int, height: int, width: int, seed: int) -> None:
    (images,) = draw(seed, (2, channels * pieces, height, width))

    def torchs(x: Tensor) -> Tensor:
        return F.max_pool3d(x[:, None], (pieces, 1, 1))[:, 0]

    agree(lambda x: functional.maxout(x, pieces), torchs, images)


@pytest.mark.parametrize("name", ["relu", "sigmoid", "tanh"])
@SHAPES
@given(st.lists(small, min_size=1, max_size=4), st.sampled_from([1.0, 30.0, 1e4]), seeds)
def test_activations(name: str, shape: list[int], scale: float, seed: int) -> None:
    agree(getattr(functional, name), getattr(torch, name), *(scale * each for each in draw(seed, tuple(shape))))


def test_the_gradient_at_0_is_torchs_too() -> None:
    for name in ("relu", "sigmoid", "tanh"):
        agree(getattr(functional, name), getattr(torch, name), torch.zeros(3, dtype=torch.float64))


@SHAPES
@given(small, st.integers(1, 6), st.integers(1, 6), seeds)
def test_fully_connected(samples: int, features: int, outputs: int, seed: int) -> None:
    agree(functional.fully_connected, F.linear, *draw(seed, (samples, features), (outputs, features), (outputs,)))


@pytest.mark.parametrize("kind", ["dropout", "channel_dropout"])
@SHAPES
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.floats(0, 1), seeds)
def test_dropout_scales_what_it_keeps_and_kills_the_rest(
    kind: str, samples: int, channels: int, side: int, rate: float, seed: int
) -> None:
    ones = torch.ones(samples, channels, side, side, dtype=torch.float64, requires_grad=True)
    dropped = getattr(functional, kind)(ones, rate, generator=torch.Generator().manual_seed(seed))
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], torch.full_like(dropped[kept], 1 / (1 - rate) if rate < 1 else 0.0))
    (gradient,) = torch.autograd.grad(dropped.sum(), ones)
    torch.testing.assert_close(gradient, dropped.detach())  # the same mask on the way back
    if kind == "channel_dropout":
        assert (kept.flatten(2).all(2) | ~kept.flatten(2).any(2)).all()


@pytest.mark.parametrize("kind", ["dropout", "channel_dropout"])
def test_each_sample_has_a_mask_of_its_own_and_the_mean_stays(kind: str) -> None:
    ones = torch.ones(400, 64, 2, 2, dtype=torch.float64)
    for rate in (0.1, 0.5, 0.8):
        dropped = getattr(functional, kind)(ones, rate, generator=torch.Generator().manual_seed(0))
        share = (dropped == 0).double().mean().item()
        assert share == pytest.approx(rate, abs=0.02)
        assert dropped.mean().item() == pytest.approx(1, abs=0.05)
        assert len({sample.numpy().tobytes() for sample in dropped}) > 390
