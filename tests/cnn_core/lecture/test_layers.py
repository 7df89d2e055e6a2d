"""Layers that compute by functional.py stand where torch's own stand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cnn_core.classification.architectures.digit_cnn import DigitCNN, DigitCNNParams
from cnn_core.lecture.layers import READABLE, Maxout, readable


def digit_cnn() -> DigitCNN:
    torch.manual_seed(0)
    params = DigitCNNParams(width=4, depth=2, channel_dropout=0.0, dropout=0.0)
    return DigitCNN(params=params, num_classes=10, shape=(1, 12, 12))


def losses(network: nn.Module, steps: int = 12) -> list[float]:
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.randn(32, 1, 12, 12, generator=generator), torch.arange(32) % 10
    optimizer, said = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9), []
    for _ in range(steps):
        loss = nn.functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        said.append(loss.item())
    return said


def test_the_digit_cnn_learns_the_same_with_either() -> None:
    theirs, ours = losses(digit_cnn()), losses(readable(digit_cnn()))
    assert theirs[-1] < 0.5 * theirs[0]
    assert ours == pytest.approx(theirs, rel=1e-3)


def test_every_layer_that_has_one_is_exchanged_and_the_original_left_alone() -> None:
    before = digit_cnn()
    after = readable(before)
    assert not any(type(layer) in READABLE for layer in after.modules())
    assert any(type(layer) in READABLE for layer in before.modules())
    torch.testing.assert_close(after.state_dict(), before.state_dict())
    next(iter(after.parameters())).data.zero_()
    assert next(iter(before.parameters())).abs().sum() > 0


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(2, 4, 3, stride=2, padding=1, dilation=2, groups=2),
        nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(1, 0), groups=2),
        nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1, output_padding=1),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.AvgPool2d(2, padding=1),
        nn.Linear(9, 4),
        nn.Sigmoid(),
        nn.Tanh(),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_layer_gives_what_torchs_gives(layer: nn.Module) -> None:
    shape = {nn.Conv1d: (2, 2, 9), nn.Linear: (2, 9)}.get(type(layer), (2, 2, 9, 9))
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(readable(layer)(inputs), layer(inputs))


def test_dropout_acts_in_training_only() -> None:
    network = readable(nn.Sequential(nn.Dropout(0.5), nn.Dropout2d(0.5)))
    ones = torch.ones(4, 8, 3, 3)
    assert (network(ones) == 0).any()
    torch.testing.assert_close(network.eval()(ones), ones)


def test_maxout_is_a_layer() -> None:
    torch.testing.assert_close(Maxout(3)(torch.arange(12.0).view(1, 6, 2)), torch.tensor([[[4.0, 5.0], [10.0, 11.0]]]))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(1, 1, 3, padding="same"),
        nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.MaxPool2d(2, dilation=2),
        nn.AvgPool2d(2, padding=1, count_include_pad=False),
    ],
)
def test_what_is_left_out_is_refused_by_name(layer: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"^the layer 0 has (padding|ceil_mode|dilation|count_include_pad)"):
        readable(nn.Sequential(layer))
