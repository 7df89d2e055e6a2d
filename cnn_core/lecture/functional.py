"""The operations of a convolutional network, written out to be read: each in a few lines, with its equation.

They give what `torch.nn.functional` gives, in value and gradient, only slower
(tests/cnn_core/lecture/test_functional.py). V are the inputs, K the kernels and Z the outputs. Images
are (N, C, H, W) and time series (N, C, T): N samples of a mini-batch with C channels. A side of an
output is floor((side + 2 padding - dilation (kernel - 1) - 1) / stride) + 1.

All equations but those that name another source are in chapter 9 of Goodfellow, Bengio and Courville,
"Deep Learning" (MIT Press, 2016).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Sizes = int | Sequence[int]  # one for each spatial axis, or the same for all


def per_axis(size: Sizes, axes: int) -> tuple[int, ...]:
    """3 -> (3, 3), for two axes."""
    return (size,) * axes if isinstance(size, int) else tuple(size)


# Convolution


def pad(inputs: Tensor, padding: Sizes, value: float = 0.0) -> Tensor:
    """A border, of zeros mostly, around the spatial axes: (N, C, H, W) -> (N, C, H + 2 padding, W + 2 padding).

    Without it a convolution shrinks its input ("valid"); with dilation (kernel - 1) / 2 of it the size stays ("same").
    """
    sides = per_axis(padding, inputs.ndim - 2)
    shape = [*inputs.shape[:2], *(side + 2 * border for side, border in zip(inputs.shape[2:], sides, strict=True))]
    padded = inputs.new_full(shape, value)
    spatial = [slice(border, border + side) for side, border in zip(inputs.shape[2:], sides, strict=True)]
    inside: tuple[Any, ...] = (..., *spatial)
    padded[inside] = inputs
    return padded


def windows(inputs: Tensor, kernel: Sizes, stride: Sizes = 1, dilation: Sizes = 1) -> Tensor:
    """What each output sees of the input: (N, C, H, W) -> (N, C, out_H, out_W, kernel_H, kernel_W), without a copy.

    The window of output (i, j) holds V[c, i s + d m, j s + d n] at (m, n): it moves by the stride s, and its places
    lie d apart (dilation: Yu and Koltun, "Multi-scale context aggregation by dilated convolutions", ICLR 2016).
    """
    axes = inputs.ndim - 2
    sizes = zip(per_axis(kernel, axes), per_axis(stride, axes), per_axis(dilation, axes), strict=True)
    for axis, (size, step, apart) in enumerate(sizes, start=2):
        inputs = inputs.unfold(axis, apart * (size - 1) + 1, step)[..., ::apart]
    return inputs


def cross_correlation(
    inputs: Tensor,
    kernels: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Sizes = 1,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Tensor:
    """What is called convolution in a network: a kernel laid on the input at each place, and multiplied.

    Z[f, i, j] = sum over c, m, n of V[c, i s + d m, j s + d n] K[f, c, m, n] + b[f]        (equations 9.6 to 9.8)
    Z[f, t] = sum over c, m of V[c, t s + d m] K[f, c, m] + b[f]        (the same along one axis, as of a time series)

    The same few weights at each place (parameter sharing), a few inputs for each output (sparse interactions): so a
    shift of the input shifts the output (equivariance). With groups, each group of outputs sees its own group of
    input channels only; as many groups as channels is a depthwise convolution.

    Args:
        inputs: (N, C, H, W) or (N, C, T). kernels: (F, C / groups, kernel_H, kernel_W) or (F, C / groups, kernel).
        bias: (F,).

    Returns:
        (N, F, out_H, out_W) or (N, F, out_T).
    """
    axes = inputs.ndim - 2
    seen = windows(pad(inputs, padding), kernels.shape[2:], stride, dilation).flatten(-axes)  # k = all of (m, n)
    grouped = kernels.flatten(2).unflatten(0, (groups, -1))
    outputs = torch.einsum("bgc...k,gfck->bgf...", seen.unflatten(1, (groups, -1)), grouped).flatten(1, 2)
    return outputs if bias is None else outputs + bias.view(-1, *[1] * axes)


def convolution(inputs: Tensor, kernels: Tensor, bias: Tensor | None = None, *, padding: Sizes = 0) -> Tensor:
    """Convolution as mathematics has it: the kernel is turned round first.

    s(t) = sum over a of x(t - a) w(a)        (equation 9.3)
    Z[f, i, j] = sum over c, m, n of V[c, i - m, j - n] K[f, c, m, n]        (equation 9.5, which commutes)

    A network learns its kernels, so it may as well learn them turned round: hence cross-correlation in its place.
    Here (i, j) counts from the first place where the kernel lies completely on the padded input.
    """
    return cross_correlation(inputs, kernels.flip(*range(2, kernels.ndim)), bias, padding=padding)


def channel_mixing(inputs: Tensor, weights: Tensor, bias: Tensor | None = None) -> Tensor:
    """A 1 x 1 convolution: at each place the same matrix product over the channels.

    Z[f, i, j] = sum over c of V[c, i, j] W[f, c] + b[f]

    Inputs are (N, C, H, W), weights (F, C). Lin, Chen and Yan, "Network in network" (ICLR 2014).
    """
    outputs = torch.einsum("bcij,fc->bfij", inputs, weights)
    return outputs if bias is None else outputs + bias[:, None, None]


def transposed_convolution2d(
    inputs: Tensor,
    kernels: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    dilation: Sizes = 1,
) -> Tensor:
    """Upsampling: each input stamps the kernel, times itself, on the output, `stride` places from its neighbour's
    stamp.

    Z[f, i s + d m, j s + d n] += V[c, i, j] K[c, f, m, n]        (equation 9.13)

    As a linear map it is the transpose of `cross_correlation` with the same kernels, and so the gradient of that with
    respect to its input. It does not undo it.

    Args:
        inputs: (N, C, H, W). kernels: (C, F, kernel_H, kernel_W). bias: (F,).
        padding: rows and columns that are cut off at each border.
        output_padding: rows and columns added at the lower and right border, where several input sizes would have
            given the same output.

    Returns:
        (N, F, (H - 1) stride - 2 padding + dilation (kernel - 1) + output_padding + 1, the same of W).
    """
    (s_i, s_j), (d_i, d_j) = per_axis(stride, 2), per_axis(dilation, 2)
    (cut_i, cut_j), (more_i, more_j) = per_axis(padding, 2), per_axis(output_padding, 2)
    (height, width), (rows, columns) = inputs.shape[2:], kernels.shape[2:]
    reach_i, reach_j = (height - 1) * s_i + 1, (width - 1) * s_j + 1  # from the first to the last stamp's corner
    all_i, all_j = reach_i + d_i * (rows - 1) + more_i, reach_j + d_j * (columns - 1) + more_j
    outputs = inputs.new_zeros(len(inputs), kernels.shape[1], all_i, all_j)
    for m in range(rows):
        for n in range(columns):
            stamp = torch.einsum("bcij,cf->bfij", inputs, kernels[:, :, m, n])
            outputs[:, :, d_i * m : d_i * m + reach_i : s_i, d_j * n : d_j * n + reach_j : s_j] += stamp
    outputs = outputs[:, :, cut_i : all_i - cut_i, cut_j : all_j - cut_j]
    return outputs if bias is None else outputs + bias[:, None, None]


# Pooling


def max_pool2d(inputs: Tensor, kernel: Sizes, *, stride: Sizes | None = None, padding: Sizes = 0) -> Tensor:
    """The greatest value of each window: the outputs stay when the input moves a little (section 9.3).

    Z[c, i, j] = max over m, n of V[c, i s + m, j s + n]; the stride is the kernel's size, if not told otherwise.
    """
    padded = pad(inputs, padding, value=-torch.inf)  # never the greatest
    return windows(padded, kernel, kernel if stride is None else stride).flatten(-2).max(-1).values


def average_pool2d(inputs: Tensor, kernel: Sizes, *, stride: Sizes | None = None, padding: Sizes = 0) -> Tensor:
    """The mean of each window, padded zeros included: Z[c, i, j] = mean over m, n of V[c, i s + m, j s + n]."""
    return windows(pad(inputs, padding), kernel, kernel if stride is None else stride).mean((-2, -1))


def maxout(inputs: Tensor, pieces: int) -> Tensor:
    """Cross-channel pooling: of each `pieces` channels in a row the greatest value, at each place.

    Z[c, i, j] = max over k < pieces of V[c pieces + k, i, j]. Pooled over kernels that have learned the same thing
    turned, the output stays when the input turns (figure 9.9). Goodfellow et al., "Maxout networks" (ICML 2013).

    Args:
        inputs: (N, C pieces, …).
    """
    return inputs.unflatten(1, (-1, pieces)).max(2).values


# Activations


def relu(inputs: Tensor) -> Tensor:
    """max(0, x): its gradient is 1 wherever it is active, so it does not vanish through many layers.

    Glorot, Bordes and Bengio, "Deep sparse rectifier neural networks" (AISTATS 2011).
    """
    return torch.where(inputs > 0, inputs, 0.0)


def sigmoid(inputs: Tensor) -> Tensor:
    """1 / (1 + exp(-x)): between 0 and 1; its gradient is at most 1/4 and vanishes on both sides.

    As exp(-log(exp(0) + exp(-x))), which overflows nowhere.
    """
    return torch.exp(-torch.logaddexp(torch.zeros_like(inputs), -inputs))


def tanh(inputs: Tensor) -> Tensor:
    """(exp(x) - exp(-x)) / (exp(x) + exp(-x)) = 2 sigmoid(2 x) - 1: between -1 and 1, and like x around 0."""
    return 2 * sigmoid(2 * inputs) - 1


# Dropout


def dropout(inputs: Tensor, rate: float, *, generator: torch.Generator | None = None) -> Tensor:
    """In training: each unit is 0 with probability `rate`, by a mask of its own for each sample of the mini-batch.

    Those that stay are divided by 1 - rate, so that the mean is the same and nothing is to be done when the network
    is used. Each mask leaves a thinned network; the weights are shared by all of them. Srivastava et al., "Dropout: a
    simple way to prevent neural networks from overfitting" (JMLR 2014).
    """
    return _masked(inputs, inputs.shape, rate, generator)


def channel_dropout(inputs: Tensor, rate: float, *, generator: torch.Generator | None = None) -> Tensor:
    """As `dropout`, of whole channels: neighbours in an image say nearly the same, so a unit alone would not be missed.

    Each sample of (N, C, …) drops channels of its own. Tompson et al., "Efficient object localization using
    convolutional networks" (CVPR 2015).
    """
    return _masked(inputs, (*inputs.shape[:2], *[1] * (inputs.ndim - 2)), rate, generator)


def _masked(inputs: Tensor, shape: Sequence[int], rate: float, generator: torch.Generator | None) -> Tensor:
    if rate >= 1:
        return inputs * 0
    kept = torch.rand(tuple(shape), generator=generator, device=inputs.device) >= rate
    return inputs * kept / (1 - rate)


# The fully connected layer


def fully_connected(inputs: Tensor, weights: Tensor, bias: Tensor | None = None) -> Tensor:
    """A matrix product, in which each output sees every input by a weight of its own: z = W x + b.

    Args:
        inputs: (N, D). weights: (F, D). bias: (F,).
    """
    outputs = inputs @ weights.T
    return outputs if bias is None else outputs + bias
