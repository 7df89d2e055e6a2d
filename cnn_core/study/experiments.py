"""The lecture's claims as experiments on digits: each yields a table with one row for each measurement.

All networks are trained by `cnn_core.study.networks.fit` for the same number of draws and measured on
the same held-out digits. Rows with another ``repeat`` differ in the seed alone.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator

import pandas as pd
import torch
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from cnn_core.params import Params, bounded
from cnn_core.seeds import generator
from cnn_core.study.networks import (
    CPU,
    DISTORTED,
    SIDE,
    UNDISTORTED,
    Digits,
    accuracy,
    cnn,
    fit,
    linear,
    mlp,
    size_of,
    width_for,
)

Row = dict[str, object]
SIZES = (100, 300, 1000, 3000)
DEPTHS = (1, 2, 3, 4, 6, 8)
PIECES = 4  # kernels of a maxout unit
PARAMETERS = 8_000  # of every network in `depth` and `maxout`
MODELS: dict[str, Callable[[], nn.Module]] = {"CNN": lambda: cnn(width=20), "MLP": mlp, "linear": linear}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExperimentParams(Params):
    """A section of ``study``."""

    source: str  # an AUGMENTED set of digits
    train: int = bounded(10)  # at most so many training images
    test: int = bounded(10)  # at most so many test images
    draws: int = bounded(64)  # images that a network is shown, with repetition
    repeats: int = bounded(1, 20)
    seed: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shift:
    """A change of images."""

    apply: Callable[[Tensor, float], Tensor]  # float32 (N, 1, H, W) in 0..1 and a strength -> the same shape and range
    strengths: tuple[float, ...]  # from the first, which changes nothing, to the strongest
    unit: str  # of the strengths, for an axis


def _affine(images: Tensor, *, angle: float = 0.0, right: float = 0.0, scale: float = 1.0) -> Tensor:
    if (angle, right, scale) == (0.0, 0.0, 1.0):
        return images
    return functional.affine(images, angle, [right, 0.0], scale, [0.0, 0.0], interpolation=InterpolationMode.BILINEAR)


def _noise(images: Tensor, deviation: float) -> Tensor:
    noise = torch.randn(images.shape, generator=generator(CPU, "noise"))
    return (images + deviation * noise).clamp(0, 1)


def _blur(images: Tensor, sigma: float) -> Tensor:
    return images if sigma == 0 else functional.gaussian_blur(images, [9, 9], [sigma, sigma])


SHIFTS = {
    "translation": Shift(
        apply=lambda images, right: _affine(images, right=right),
        strengths=(0, 1, 2, 3, 4, 6),
        unit="pixels to the right",
    ),
    "rotation": Shift(
        apply=lambda images, angle: _affine(images, angle=angle), strengths=(0, 10, 20, 30, 45, 60), unit="degrees"
    ),
    "scale": Shift(
        apply=lambda images, scale: _affine(images, scale=scale),
        strengths=(1.0, 0.9, 0.8, 0.7, 0.6, 0.5),
        unit="of the size",
    ),
    "blur": Shift(apply=_blur, strengths=(0, 0.5, 1, 1.5, 2, 3), unit="pixels (sigma)"),
    "noise": Shift(apply=_noise, strengths=(0, 0.1, 0.2, 0.3, 0.4, 0.6), unit="standard deviation"),
    "contrast": Shift(
        apply=lambda images, share: images * share, strengths=(1.0, 0.8, 0.6, 0.4, 0.3, 0.2), unit="of the brightness"
    ),
}


def learning_curves(train: Digits, test: Digits, params: ExperimentParams) -> Iterator[Row]:
    """Measure accuracy over the number of training images, with the pixels in their places and permuted.

    The permutation takes away what the CNN assumes, that neighbours belong together, and takes nothing
    from the other models: there is no free lunch (Wolpert, 1996).
    """
    order = torch.randperm(SIDE * SIDE, generator=generator(CPU, params.seed, "permutation"))

    def permuted(images: Tensor) -> Tensor:
        return images.flatten(1)[:, order].view_as(images)

    for pixels, prepare in (("in their places", lambda images: images), ("permuted", permuted)):
        unseen = Digits(images=prepare(test.images), labels=test.labels)
        for name, make in MODELS.items():
            for size in sorted({min(size, len(train)) for size in SIZES}):
                for repeat in range(params.repeats):
                    subset = train[torch.randperm(len(train), generator=generator(CPU, repeat, "some"))[:size]]
                    fitted = fit(make, subset, draws=params.draws, seed=params.seed + repeat, prepare=prepare)
                    yield {
                        "model": name,
                        "pixels": pixels,
                        "images": size,
                        "repeat": repeat,
                        "accuracy": accuracy(fitted.network, unseen),
                    }


def depth(train: Digits, test: Digits, params: ExperimentParams) -> Iterator[Row]:
    """Measure networks of 1 to 8 convolutions, each as wide as the same number of parameters allows."""
    for convolutions in DEPTHS:
        builder = functools.partial(cnn, convolutions=convolutions)
        width = width_for(PARAMETERS, builder)
        for repeat in range(params.repeats):
            fitted = fit(functools.partial(builder, width=width), train, draws=params.draws, seed=params.seed + repeat)
            yield {
                "convolutions": convolutions,
                "width": width,
                "parameters": size_of(fitted.network),
                "repeat": repeat,
                "accuracy": accuracy(fitted.network, test),
                "seconds": round(fitted.seconds, 2),
            }


def dropout(train: Digits, test: Digits, params: ExperimentParams) -> Iterator[Row]:
    """Compare dropout with none, and with what it cheaply stands in for: bagging, five networks on resampled images.

    Breiman, "Bagging predictors" (1996); Srivastava et al. (2014).
    """
    for name, rate, members in (("none", 0.0, 1), ("dropout", 0.5, 1), ("bagging, 5 networks", 0.0, 5)):
        for repeat in range(params.repeats):
            networks, seconds = [], 0.0
            for member in range(members):
                seed = params.seed + 100 * repeat + member
                draws = generator(CPU, seed, "bag")
                rows = torch.randint(len(train), (len(train),), generator=draws) if members > 1 else slice(None)
                fitted = fit(functools.partial(mlp, dropout=rate), train[rows], draws=params.draws, seed=seed)
                networks.append(fitted.network)
                seconds += fitted.seconds
            yield {
                "kind": name,
                "repeat": repeat,
                "networks": members,
                "accuracy": accuracy(networks, test),
                "train_accuracy": accuracy(networks, train),
                "seconds": round(seconds, 2),
            }


def activations(train: Digits, test: Digits, params: ExperimentParams) -> Iterator[Row]:
    """Compare ReLU, tanh and sigmoid in six convolutions without batch norm, which would hide the difference."""
    for name in ("ReLU", "tanh", "sigmoid"):
        for repeat in range(params.repeats):
            make = functools.partial(cnn, width=24, convolutions=6, activation=name, normalise=False)
            fitted = fit(make, train, draws=params.draws, seed=params.seed + repeat, rate=2e-3)
            score = accuracy(fitted.network, test)
            for tenth, loss in enumerate(fitted.losses, start=1):
                yield {"activation": name, "repeat": repeat, "tenth": tenth, "loss": loss, "accuracy": score}


def maxout(train: Digits, test: Digits, params: ExperimentParams) -> Iterator[Row]:
    """Measure pooling over kernels, trained on digits turned by up to 90 degrees, at every angle.

    A maxout unit may respond to the same stroke in several directions.
    """
    turned = dataclasses.replace(UNDISTORTED, degrees=90.0)
    units = width_for(PARAMETERS, cnn)
    fewer = width_for(PARAMETERS, functools.partial(cnn, maxout=PIECES))
    kinds = {
        "ReLU": (units, 1),
        "maxout, as many parameters": (fewer, PIECES),
        "maxout, as many units": (units, PIECES),
    }
    for name, (width, pieces) in kinds.items():
        for repeat in range(params.repeats):
            make = functools.partial(cnn, width=width, maxout=pieces)
            fitted = fit(make, train, draws=params.draws, seed=params.seed + repeat, distort=turned)
            for angle in range(-90, 91, 15):
                rotated = Digits(images=SHIFTS["rotation"].apply(test.images, float(angle)), labels=test.labels)
                yield {
                    "kind": name,
                    "parameters": size_of(fitted.network),
                    "repeat": repeat,
                    "angle": angle,
                    "accuracy": accuracy(fitted.network, rotated),
                }


def invariance(train: Digits, test: Digits, params: ExperimentParams) -> Iterator[Row]:
    """Measure each model, trained with and without distortions, on digits that `SHIFTS` have changed."""
    for augmented, distort in ((False, UNDISTORTED), (True, DISTORTED)):
        for name, make in MODELS.items():
            for repeat in range(params.repeats):
                fitted = fit(make, train, draws=params.draws, seed=params.seed + repeat, distort=distort)
                for kind, shift in SHIFTS.items():
                    for strength in shift.strengths:
                        images = shift.apply(test.images, strength)
                        yield {
                            "model": name,
                            "augmented": augmented,
                            "repeat": repeat,
                            "change": kind,
                            "strength": strength,
                            "accuracy": accuracy(fitted.network, Digits(images=images, labels=test.labels)),
                        }


EXPERIMENTS: dict[str, Callable[[Digits, Digits, ExperimentParams], Iterator[Row]]] = {
    "learning_curves": learning_curves,
    "depth": depth,
    "dropout": dropout,
    "activations": activations,
    "maxout": maxout,
    "invariance": invariance,
}


def measure(
    name: str, train: Digits, test: Digits, params: ExperimentParams, on_row: Callable[[], None]
) -> pd.DataFrame:
    """Return the table of the experiment ``name``; ``on_row`` is called after each row."""
    rows = []
    for row in EXPERIMENTS[name](train, test, params):
        rows.append(row)
        on_row()
    return pd.DataFrame(rows)
