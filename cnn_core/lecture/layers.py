"""The layers of a network, computed by functional.py: each can replace torch's layer of the same name.

They are torch's layers, with the same parameters, shapes and checkpoints, except for what `forward` does.
`readable` exchanges all layers of a network, which then learns the same, only slower.
"""

from __future__ import annotations

import copy

from torch import Tensor, nn

from cnn_core.lecture import functional


def _convolve(layer: nn.Conv1d | nn.Conv2d, inputs: Tensor) -> Tensor:
    return functional.cross_correlation(
        inputs,
        layer.weight,
        layer.bias,
        stride=layer.stride,
        padding=_numbers(layer.padding),
        dilation=layer.dilation,
        groups=layer.groups,
    )


class Conv1d(nn.Conv1d):
    def forward(self, inputs: Tensor) -> Tensor:
        return _convolve(self, inputs)


class Conv2d(nn.Conv2d):
    def forward(self, inputs: Tensor) -> Tensor:
        return _convolve(self, inputs)


class ConvTranspose2d(nn.ConvTranspose2d):
    def forward(self, inputs: Tensor, output_size: list[int] | None = None) -> Tensor:
        if self.groups != 1 or output_size is not None:
            raise ValueError("a readable transposed convolution has one group and no output_size")
        return functional.transposed_convolution2d(
            inputs,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=_numbers(self.padding),
            output_padding=self.output_padding,
            dilation=self.dilation,
        )


class MaxPool2d(nn.MaxPool2d):
    def forward(self, inputs: Tensor) -> Tensor:
        return functional.max_pool2d(inputs, self.kernel_size, stride=self.stride, padding=self.padding)


class AvgPool2d(nn.AvgPool2d):
    def forward(self, inputs: Tensor) -> Tensor:
        return functional.average_pool2d(inputs, self.kernel_size, stride=self.stride, padding=self.padding)


class Linear(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        return functional.fully_connected(inputs, self.weight, self.bias)


class ReLU(nn.ReLU):
    def forward(self, inputs: Tensor) -> Tensor:
        return functional.relu(inputs)


class Sigmoid(nn.Sigmoid):
    def forward(self, inputs: Tensor) -> Tensor:
        return functional.sigmoid(inputs)


class Tanh(nn.Tanh):
    def forward(self, inputs: Tensor) -> Tensor:
        return functional.tanh(inputs)


class Dropout(nn.Dropout):
    def forward(self, inputs: Tensor) -> Tensor:
        return functional.dropout(inputs, self.p) if self.training else inputs


class Dropout2d(nn.Dropout2d):
    def forward(self, inputs: Tensor) -> Tensor:
        return functional.channel_dropout(inputs, self.p) if self.training else inputs


class Maxout(nn.Module):
    """The greatest of every ``pieces`` neighbouring channels: (N, C pieces, …) -> (N, C, …). Torch has none."""

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces

    def forward(self, inputs: Tensor) -> Tensor:
        return functional.maxout(inputs, self.pieces)


READABLE: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: Conv1d,
    nn.Conv2d: Conv2d,
    nn.ConvTranspose2d: ConvTranspose2d,
    nn.MaxPool2d: MaxPool2d,
    nn.AvgPool2d: AvgPool2d,
    nn.Linear: Linear,
    nn.ReLU: ReLU,
    nn.Sigmoid: Sigmoid,
    nn.Tanh: Tanh,
    nn.Dropout: Dropout,
    nn.Dropout2d: Dropout2d,
}


def readable(network: nn.Module) -> nn.Module:
    """Return a copy of the network, with the same weights, whose layers compute by functional.py, if that has them.

    Raises:
        ValueError: a layer has a setting that functional.py leaves out (another padding mode, dilated pooling …).
    """
    network = copy.deepcopy(network)
    for name, layer in network.named_modules():
        if type(layer) in READABLE:
            _check(name, layer)
            layer.__class__ = READABLE[type(layer)]  # the same attributes and parameters, another forward
    return network


def _check(name: str, layer: nn.Module) -> None:
    usual = {
        "padding_mode": "zeros",
        "ceil_mode": False,
        "return_indices": False,
        "count_include_pad": True,
        "divisor_override": None,
    }
    if isinstance(layer, nn.MaxPool2d):
        usual["dilation"] = 1
    for setting, value in usual.items():
        if getattr(layer, setting, value) != value:
            raise ValueError(
                f"the layer {name} has {setting}={getattr(layer, setting)!r}, which cnn_core/lecture/functional.py "
                "leaves out for readability"
            )
    if isinstance(getattr(layer, "padding", 0), str):
        raise ValueError(f"the layer {name} has padding={layer.padding!r}: give it as a number")


def _numbers(padding: str | tuple[int, ...]) -> tuple[int, ...]:
    assert not isinstance(padding, str)  # `readable` refuses torch's words for it
    return padding
