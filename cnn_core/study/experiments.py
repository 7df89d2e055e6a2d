"""The lecture's claims as experiments on digits: each gives a table, one row a measurement.

All networks are trained by `study_networks.fit` for the same number of draws and measured on the same held-out digits;
rows with another ``repeat`` differ in the seed alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import pandas as pd
import torch
from torch import Tensor, nn

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
from cnn_core.study.shifts import SHIFTS

Row = dict[str, object]
SIZES = (100, 300, 1000, 3000)
DEPTHS = (1, 2, 3, 4, 6, 8)
PIECES = 4  # kernels of a maxout unit
PARAMETERS = 8_000  # of every network in `depth` and `maxout`


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExperimentParams(Params):
    """A section of ``study``."""

    source: str  # an AUGMENTED set of digits
    train: int = bounded(10)  # images to learn from, at most
    test: int = bounded(10)  # images to measure on, at most
    draws: int = bounded(64)  # images that a network is shown, with repetition
    repeats: int = bounded(1, 20)
    seed: int


def learning_curves(train: Digits, test: Digits, params: ExperimentParams) -> Iterator[Row]:
    """Accuracy over the number of training images, as the images are and with all pixels exchanged by one permutation.

    The permutation takes away what the CNN presumes, that neighbours belong together, and nothing from the others: no
    free lunch (Wolpert, 1996).
    """
    order = torch.randperm(SIDE * SIDE, generator=generator(CPU, params.seed, "permutation"))

    def permuted(images: Tensor) -> Tensor:
        return images.flatten(1)[:, order].view_as(images)

    models: dict[str, Callable[[], nn.Module]] = {"CNN": lambda: cnn(width=20), "MLP": mlp, "linear": linear}
    for pixels, prepare in (("in their places", lambda images: images), ("permuted", permuted)):
        seen = Digits(images=prepare(test.images), labels=test.labels)
        for name, make in models.items():
            for size in sorted({min(size, len(train)) for size in SIZES}):
                for repeat in range(params.repeats):
                    some = train[torch.randperm(len(train), generator=generator(CPU, repeat, "some"))[:size]]
                    done = fit(make, some, draws=params.draws, seed=params.seed + repeat, prepare=prepare)
                    yield {
                        "model": name,
                        "pixels": pixels,
                        "images": size,
                        "repeat": repeat,
                        "accuracy": accuracy(done.network, seen),
                    }


def depth(train: Digits, test: Digits, params: ExperimentParams) -> Iterator[Row]:
    """The deeper the better? 1 to 8 convolutions, as wide as the same number of parameters allows."""
    for convolutions in DEPTHS:
        width = width_for(PARAMETERS, lambda wide, deep=convolutions: cnn(width=wide, convolutions=deep))  # type: ignore[misc]
        for repeat in range(params.repeats):
            make = lambda wide=width, deep=convolutions: cnn(width=wide, convolutions=deep)  # noqa: E731
            done = fit(make, train, draws=params.draws, seed=params.seed + repeat)
            yield {
                "convolutions": convolutions,
                "width": width,
                "parameters": size_of(done.network),
                "repeat": repeat,
                "accuracy": accuracy(done.network, test),
                "seconds": round(done.seconds, 2),
            }


def dropout(train: Digits, test: Digits, params: ExperimentParams) -> Iterator[Row]:
    """Dropout against none and against bagging, which it is a cheap stand-in for: five networks on resampled images.

    Breiman, "Bagging predictors" (1996); Srivastava et al. (2014).
    """
    for name, rate, members in (("none", 0.0, 1), ("dropout", 0.5, 1), ("bagging, 5 networks", 0.0, 5)):
        for repeat in range(params.repeats):
            networks, seconds = [], 0.0
            for member in range(members):
                seed = params.seed + 100 * repeat + member
                draws = generator(CPU, seed, "bag")
                rows = torch.randint(len(train), (len(train),), generator=draws) if members > 1 else slice(None)
                done = fit(lambda: mlp(dropout=rate), train[rows], draws=params.draws, seed=seed)  # noqa: B023
                networks.append(done.network)
                seconds += done.seconds
            yield {
                "kind": name,
                "repeat": repeat,
                "networks": members,
                "accuracy": accuracy(networks, test),
                "train_accuracy": accuracy(networks, train),
                "seconds": round(seconds, 2),
            }


def activations(train: Digits, test: Digits, params: ExperimentParams) -> Iterator[Row]:
    """ReLU, tanh and sigmoid in one network of six convolutions, without batch norm, which hides the difference."""
    for name in ("ReLU", "tanh", "sigmoid"):
        for repeat in range(params.repeats):
            make = lambda kind=name: cnn(width=24, convolutions=6, activation=kind, normalise=False)  # noqa: E731
            done = fit(make, train, draws=params.draws, seed=params.seed + repeat, rate=2e-3)
            score = accuracy(done.network, test)
            for tenth, loss in enumerate(done.losses, start=1):
                yield {"activation": name, "repeat": repeat, "tenth": tenth, "loss": loss, "accuracy": score}


def maxout(train: Digits, test: Digits, params: ExperimentParams) -> Iterator[Row]:
    """Pooling over kernels: with maxout a unit may answer to the same stroke in several directions.

    ReLU networks, and maxout networks with as many parameters and with as many units, learn from digits turned by up to
    90 degrees, and are measured at every angle.
    """
    turned = dataclasses.replace(UNDISTORTED, degrees=90.0)
    units = width_for(PARAMETERS, lambda wide: cnn(width=wide))
    fewer = width_for(PARAMETERS, lambda wide: cnn(width=wide, maxout=PIECES))
    kinds = {
        "ReLU": (units, 1),
        "maxout, as many parameters": (fewer, PIECES),
        "maxout, as many units": (units, PIECES),
    }
    for name, (width, pieces) in kinds.items():
        for repeat in range(params.repeats):
            make = lambda wide=width, k=pieces: cnn(width=wide, maxout=k)  # noqa: E731
            done = fit(make, train, draws=params.draws, seed=params.seed + repeat, distort=turned)
            for angle in range(-90, 91, 15):
                seen = Digits(images=SHIFTS["rotation"].apply(test.images, float(angle)), labels=test.labels)
                yield {
                    "kind": name,
                    "parameters": size_of(done.network),
                    "repeat": repeat,
                    "angle": angle,
                    "accuracy": accuracy(done.network, seen),
                }


def invariance(train: Digits, test: Digits, params: ExperimentParams) -> Iterator[Row]:
    """What each model still reads when the digits are moved, turned, scaled, blurred, noisy or faint, learned with and
    without distortions."""
    models: dict[str, Callable[[], nn.Module]] = {"CNN": lambda: cnn(width=20), "MLP": mlp, "linear": linear}
    for augmented, distort in ((False, UNDISTORTED), (True, DISTORTED)):
        for name, make in models.items():
            for repeat in range(params.repeats):
                done = fit(make, train, draws=params.draws, seed=params.seed + repeat, distort=distort)
                for kind, shift in SHIFTS.items():
                    for strength in shift.strengths:
                        images = shift.apply(test.images, strength)
                        yield {
                            "model": name,
                            "augmented": augmented,
                            "repeat": repeat,
                            "change": kind,
                            "strength": strength,
                            "accuracy": accuracy(done.network, Digits(images=images, labels=test.labels)),
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
    """The experiment's table; ``on_row`` is called after each row."""
    rows = []
    for row in EXPERIMENTS[name](train, test, params):
        rows.append(row)
        on_row()
    return pd.DataFrame(rows)
