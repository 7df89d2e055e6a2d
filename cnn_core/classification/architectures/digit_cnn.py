"""A convolutional network for small images of one character.

Blocks of (3x3 convolution, batch norm, ReLU) twice, then a 2x2 max pool and channel dropout, as in VGG (Simonyan and
Zisserman, 2015) with batch norm (Ioffe and Szegedy, 2015) and whole maps dropped (Tompson et al., 2015: neighbouring
pixels of a map are too much alike for plain dropout to hide anything). The head is dropout and one linear layer.
"""

from __future__ import annotations

import dataclasses
from itertools import pairwise

from torch import Tensor, nn

from cnn_core.params import Params, bounded


@dataclasses.dataclass(frozen=True, kw_only=True)
class DigitCNNParams(Params):
    """The size of the network and how much of it is dropped in training."""

    width: int = bounded(1, 1024)  # channels of the first block; doubled block by block
    depth: int = bounded(1, 6)  # blocks; each halves the image's sides
    channel_dropout: float = bounded(0, 0.9)  # chance of a whole map, after each block
    dropout: float = bounded(0, 0.9)  # chance of a feature, before the head


class DigitCNN(nn.Module):
    """Images (N, C, H, W), float and normalised, to class logits (N, num_classes).

    With width 16, depth 3 and 28x28 images of one channel::

        input      (N,  1, 28, 28)
        block 1    (N, 16, 28, 28) -> pool -> (N, 16, 14, 14)
        block 2    (N, 32, 14, 14) -> pool -> (N, 32,  7,  7)
        block 3    (N, 64,  7,  7) -> pool -> (N, 64,  3,  3) -> flattened (N, 576) -> logits (N, 10)

    Raises:
        ValueError: the image is too small to be halved ``depth`` times.
    """

    def __init__(self, *, params: DigitCNNParams, num_classes: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, width = shape
        if min(height, width) >> params.depth == 0:
            raise ValueError(f"depth {params.depth} halves a {height}x{width} image to nothing: lower model.depth")
        maps = [channels, *(params.width << index for index in range(params.depth))]
        self.blocks = nn.Sequential(*(conv_block(*pair, params.channel_dropout) for pair in pairwise(maps)))
        features = maps[-1] * (height >> params.depth) * (width >> params.depth)
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(params.dropout), nn.Linear(features, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.blocks(images))


def conv_block(channels: int, maps: int, channel_dropout: float) -> nn.Sequential:
    """A block: (N, channels, H, W) -> (N, maps, H // 2, W // 2)."""
    return nn.Sequential(
        *conv_bn_relu(channels, maps),
        *conv_bn_relu(maps, maps),
        nn.MaxPool2d(2),
        nn.Dropout2d(channel_dropout),
    )


def conv_bn_relu(channels: int, maps: int) -> list[nn.Module]:
    """Layers from (N, channels, H, W) to (N, maps, H, W), without a bias, which batch norm would subtract again."""
    convolution = nn.Conv2d(channels, maps, kernel_size=3, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return [convolution, nn.BatchNorm2d(maps), nn.ReLU(inplace=True)]
