"""Convolutions for more than classifying images: time series, and upsampling by transposed convolutions."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnn_core.seeds import generator, mixed_seed
from cnn_core.study.networks import CPU, Digits, size_of

LENGTH = 128  # samples of a series
WAVES = ("sine", "square", "sawtooth", "chirp")
NOISE = 0.35  # standard deviation of the noise that `spoilt` adds
N = TypeVar("N", bound=nn.Module)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Series:
    """Generated time series."""

    values: Tensor  # float32 (N, 1, 128)
    waves: Tensor  # int64 (N,), indices into `WAVES`
    periods: Tensor  # float32 (N,), the number of periods in each series


def series(count: int, seed: int) -> Series:
    """Generate series of four kinds of wave with random frequency, phase, height and offset, in noise."""
    draws = np.random.default_rng(mixed_seed(seed, "series"))
    waves, periods = draws.integers(0, len(WAVES), count), draws.uniform(2, 10, count)
    time = np.linspace(0, 1, LENGTH, endpoint=False)
    turns = periods[:, None] * time + draws.uniform(0, 1, (count, 1))
    chirped = turns + 0.6 * periods[:, None] * (time**2 - time)  # slow first, then fast, with the same periods
    sine, chirp = np.sin(2 * math.pi * turns), np.sin(2 * math.pi * chirped)
    shapes = np.stack([sine, np.sign(sine), 2 * (turns % 1) - 1, chirp])
    values = draws.uniform(0.5, 1.5, (count, 1)) * shapes[waves, np.arange(count)] + draws.normal(0, 0.3, (count, 1))
    values += draws.normal(0, 0.5, values.shape)
    return Series(
        values=torch.from_numpy(values).float()[:, None],
        waves=torch.from_numpy(waves),
        periods=torch.from_numpy(periods).float(),
    )


class TwoHeads(nn.Module):
    """A body with two heads on its features (N, D): logits of the wave (N, 4), and the number of periods (N,)."""

    def __init__(self, body: nn.Module, features: int) -> None:
        super().__init__()
        self.body, self.which, self.periods = body, nn.Linear(features, len(WAVES)), nn.Linear(features, 1)

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(values)
        return self.which(features), 6 + 4 * self.periods(features)[:, 0]  # so that the head learns values near 1


def series_cnn() -> TwoHeads:
    """Build a network of convolutions along time and an average over it, which ignores where a pattern lies."""
    layers: list[nn.Module] = []
    for channels, maps in ((1, 16), (16, 32), (32, 32)):
        layers += [nn.Conv1d(channels, maps, 7, stride=2, padding=3), nn.BatchNorm1d(maps), nn.ReLU()]
    return TwoHeads(nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten()), 32)


def series_mlp() -> TwoHeads:
    """Build an MLP with as many parameters as the CNN."""
    return TwoHeads(nn.Sequential(nn.Flatten(), nn.Linear(LENGTH, 72), nn.ReLU(), nn.Linear(72, 32), nn.ReLU()), 32)


def fit_series(make: Callable[[], TwoHeads], data: Series, *, draws: int, seed: int) -> TwoHeads:
    """Train both heads at once: cross-entropy of the wave, and smooth absolute error of the periods."""

    def loss(network: nn.Module, rows: Tensor) -> Tensor:
        waves, periods = network(data.values[rows])
        return F.cross_entropy(waves, data.waves[rows]) + F.smooth_l1_loss(periods, data.periods[rows])

    return _fit(make, len(data.waves), loss, draws=draws, seed=seed)


def series_rows(data: Series, unseen: Series, *, draws: int, repeats: int, seed: int) -> Iterator[dict[str, object]]:
    """Yield a row for each model and repeat: the accuracy of the wave, and the mean absolute error of the periods."""
    error_of_the_mean = (unseen.periods - data.periods.mean()).abs().mean().item()
    for name, make in (("1-D CNN", series_cnn), ("MLP", series_mlp)):
        for repeat in range(repeats):
            network = fit_series(make, data, draws=draws, seed=seed + repeat)
            with torch.no_grad():
                waves, periods = network(unseen.values)
            yield {
                "model": name,
                "repeat": repeat,
                "parameters": size_of(network),
                "accuracy": (waves.argmax(1) == unseen.waves).float().mean().item(),
                "error_periods": (periods - unseen.periods).abs().mean().item(),
                "error_of_the_mean": error_of_the_mean,
            }


def _doubling(channels: int, out: int) -> nn.ConvTranspose2d:
    """A transposed convolution that doubles the side."""
    return nn.ConvTranspose2d(channels, out, 3, stride=2, padding=1, output_padding=1)


class Upsampler(nn.Module):
    """Two strided convolutions down to 7 x 7, two transposed ones back up: (N, 1, 28, 28) -> logits of the pixels.

    In an autoencoder everything goes through the middle, ``code`` numbers. With ``skips`` it is a small U-Net
    (Ronneberger, Fischer and Brox, 2015), whose way up also sees the maps of the way down.
    """

    def __init__(self, *, skips: bool, code: int = 32) -> None:
        super().__init__()
        self.skips = skips
        self.down1 = nn.Sequential(nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.ReLU())
        self.down2 = nn.Sequential(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU())
        to_code = [nn.Flatten(), nn.Linear(32 * 49, code), nn.ReLU()]
        self.middle = nn.Sequential(*to_code, nn.Linear(code, 32 * 49), nn.ReLU(), nn.Unflatten(1, (32, 7, 7)))
        wider = 2 if skips else 1
        self.up1 = nn.Sequential(_doubling(32 * wider, 16), nn.ReLU())
        self.up2 = _doubling(16 * wider, 1)

    def forward(self, images: Tensor) -> Tensor:
        half = self.down1(images)
        quarter = self.down2(half)
        back = self.middle(quarter)
        if not self.skips:
            return self.up2(self.up1(back))
        return self.up2(torch.cat([self.up1(torch.cat([back, quarter], 1)), half], 1))


def spoilt(images: Tensor, *parts: object) -> Tensor:
    """Return images with noise added, float32 in 0..1; the seed follows from ``parts``."""
    noise = torch.randn(images.shape, generator=generator(CPU, "spoilt", *parts))
    return (images + NOISE * noise).clamp(0, 1)


def fit_upsampler(make: Callable[[], Upsampler], data: Digits, *, draws: int, seed: int) -> Upsampler:
    """Train a network to restore digits from their spoilt images."""
    count = itertools.count()

    def loss(network: nn.Module, rows: Tensor) -> Tensor:
        images = data.images[rows]
        return F.binary_cross_entropy_with_logits(network(spoilt(images, seed, next(count))), images)

    return _fit(make, len(data), loss, draws=draws, seed=seed)


def upsampling_rows(
    train: Digits, test: Digits, *, draws: int, repeats: int, seed: int
) -> Iterator[tuple[dict[str, object], nn.Module | None]]:
    """Yield a row for each model and repeat, and its network: the root mean square error of the restored pixels."""
    unseen = spoilt(test.images, "test")
    yield {"model": "the spoilt image itself", "repeat": 0, "parameters": 0, "error": _error(unseen, test.images)}, None
    for name, skips in (("autoencoder", False), ("U-Net", True)):
        for repeat in range(repeats):
            network = fit_upsampler(functools.partial(Upsampler, skips=skips), train, draws=draws, seed=seed + repeat)
            with torch.no_grad():
                error = _error(network(unseen).sigmoid(), test.images)
            yield {"model": name, "repeat": repeat, "parameters": size_of(network), "error": error}, network


def _error(images: Tensor, truth: Tensor) -> float:
    return (images - truth).square().mean().sqrt().item()


def _fit(make: Callable[[], N], size: int, loss: Callable[[nn.Module, Tensor], Tensor], *, draws: int, seed: int) -> N:
    """Train by AdamW with a one-cycle schedule on random batches of 64."""
    torch.manual_seed(mixed_seed(seed, "weights"))
    network, steps = make().train(), max(1, draws // 64)
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps, pct_start=0.2)
    order = generator(CPU, seed, "order")
    for _ in range(steps):
        step = loss(network, torch.randint(size, (64,), generator=order))
        optimizer.zero_grad()
        step.backward()
        optimizer.step()
        schedule.step()
    return network.eval()
