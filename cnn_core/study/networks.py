"""Small networks for the study's experiments, and one plain loop that trains any of them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnn_core.classification.augmentation.affine import affine_elastic
from cnn_core.classification.augmentation.params import GlyphAugmentationParams
from cnn_core.lecture.layers import Maxout
from cnn_core.seeds import generator, mixed_seed

SIDE, CLASSES = 28, 10
CPU = torch.device("cpu")
Activation = Literal["ReLU", "sigmoid", "tanh"]
_ACTIVATIONS = {"ReLU": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}
# Small turns, shifts and bends, as handwriting has them.
DISTORTED = GlyphAugmentationParams(
    degrees=12.0, translate=0.08, scale=0.12, shear=8.0, elastic_alpha=1.0, elastic_sigma=4.0, padding="zeros"
)
UNDISTORTED = dataclasses.replace(DISTORTED, degrees=0.0, translate=0.0, scale=0.0, shear=0.0, elastic_alpha=0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Digits:
    """Digits with their labels: ``images`` float32 (N, 1, 28, 28) in 0..1, ``labels`` int64 (N,)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice | Tensor) -> Digits:
        return Digits(images=self.images[rows], labels=self.labels[rows])


def cnn(
    *,
    width: int,
    convolutions: int = 3,
    activation: Activation = "ReLU",
    normalise: bool = True,
    dropout: float = 0.0,
    maxout: int = 1,
) -> nn.Sequential:
    """Build a CNN: (N, 1, 28, 28) -> logits (N, 10).

    It has 3 x 3 convolutions of equal width, two max-pools spread evenly among them, and a linear head
    on the averages over a grid of 3 x 3. With ``maxout`` a unit takes the greatest output of so many kernels.
    """
    layers: list[nn.Module] = []
    channels = 1
    pools = {round(convolutions / 3), round(2 * convolutions / 3)} if convolutions > 2 else {convolutions}
    for number in range(convolutions):
        layers.append(nn.Conv2d(channels, width * maxout, 3, padding=1, bias=not normalise))
        if normalise:
            layers.append(nn.BatchNorm2d(width * maxout))
        layers.append(Maxout(maxout) if maxout > 1 else _ACTIVATIONS[activation]())
        if number + 1 in pools:
            layers.append(nn.MaxPool2d(2))
        if dropout:
            layers.append(nn.Dropout2d(dropout / 2))
        channels = width
    head = [nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Dropout(dropout), nn.Linear(9 * width, CLASSES)]
    return nn.Sequential(*layers, *head)


def mlp(*, width: int = 256, dropout: float = 0.0) -> nn.Sequential:
    """Build an MLP with two hidden layers, the first of which sees every pixel: (N, 1, 28, 28) -> logits (N, 10)."""
    hidden = [nn.Linear(SIDE * SIDE, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, width // 2), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(width // 2, CLASSES))


def linear() -> nn.Sequential:
    """Build softmax regression, one matrix product: (N, 1, 28, 28) -> logits (N, 10)."""
    return nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, CLASSES))


def size_of(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def width_for(parameters: int, make: Callable[..., nn.Module]) -> int:
    """The width whose network has a number of parameters nearest to ``parameters``."""
    return min(range(2, 257), key=lambda width: abs(size_of(make(width=width)) - parameters))


@dataclasses.dataclass(frozen=True, kw_only=True)
class FittedNetwork:
    """A trained network, its mean training loss in each tenth of the training, and how long that took."""

    network: nn.Module
    losses: list[float]
    seconds: float


def fit(
    make: Callable[[], nn.Module],
    data: Digits,
    *,
    draws: int,
    seed: int,
    rate: float = 4e-3,
    batch: int = 64,
    distort: GlyphAugmentationParams = UNDISTORTED,
    prepare: Callable[[Tensor], Tensor] = lambda images: images,
) -> FittedNetwork:
    """Train a new network by AdamW with a one-cycle schedule.

    Args:
        draws: the number of images that the network is shown, whatever the size of the set.
        prepare: a change of the distorted images, such as a permutation of the pixels.
    """
    torch.manual_seed(mixed_seed(seed, "weights"))
    network = make().train()
    began, steps = time.perf_counter(), max(1, draws // batch)
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps, pct_start=0.2)
    shuffle, random = generator(CPU, seed, "order"), generator(CPU, seed, "distort")
    order, sums = torch.empty(0, dtype=torch.long), [0.0] * 10
    for step in range(steps):
        while len(order) < batch:
            order = torch.cat([order, torch.randperm(len(data), generator=shuffle)])
        rows, order = order[:batch], order[batch:]
        images = prepare(affine_elastic(data.images[rows], distort, random))
        loss = F.cross_entropy(network(images), data.labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        sums[10 * step // steps] += loss.item()
    counts = [sum(10 * step // steps == tenth for step in range(steps)) for tenth in range(10)]
    losses = [total / count for total, count in zip(sums, counts, strict=True) if count]
    return FittedNetwork(network=network.eval(), losses=losses, seconds=time.perf_counter() - began)


@torch.no_grad()
def probabilities(networks: nn.Module | Sequence[nn.Module], images: Tensor) -> Tensor:
    """The classes' probabilities, float32 (N, 10), averaged over the networks."""
    members = [networks] if isinstance(networks, nn.Module) else list(networks)
    batches = images.split(500)
    return torch.cat([torch.stack([each.eval()(batch).softmax(1) for each in members]).mean(0) for batch in batches])


def accuracy(networks: nn.Module | Sequence[nn.Module], data: Digits) -> float:
    return (probabilities(networks, data.images).argmax(1) == data.labels).float().mean().item()
