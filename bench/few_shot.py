"""The gain from features learned without labels: ``python -m bench.few_shot [--per-class 20] [--seeds 5]``.

The scenes' network learns from a few labelled images of each class, once from random weights and once from the model
that the stage ``pretrain`` made from the images of the same set (without their labels), with the same budget. Both are
measured on the set's test part. It needs ``data/augmented/scenes`` and ``data/models/scenes-pretrained``, which
``make run`` makes.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cnn_core.classification.architectures import registry
from cnn_core.classification.augmentation.transforms import transform
from cnn_core.classification.training.batches import Split
from cnn_core.classification.training.initial_weights import load_initial
from cnn_core.classification.training.loop import TrainingSetup, train
from cnn_core.classification.training.params import TrainParams
from cnn_core.data.augmented import load_arrays, read_dataset
from cnn_core.files import NONE
from cnn_core.params import load_section
from tasks.engine.environment import keep_memory

STARTS = {"random weights": NONE, "pretrained": "data/models/scenes-pretrained"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--per-class", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=5, help="each with another choice of images")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--data", default="data/augmented/scenes")
    parser.add_argument("--weights", default=STARTS["pretrained"])
    arguments = parser.parse_args()
    keep_memory()
    params = few_shot_params(load_section(TrainParams, "train.scenes"), arguments.epochs)
    accuracies: dict[str, list[float]] = {name: [] for name in STARTS}
    for seed in range(arguments.seeds):
        for name, path in (STARTS | {"pretrained": arguments.weights}).items():
            value = accuracy(params, arguments.data, path, per_class=arguments.per_class, seed=seed)
            accuracies[name].append(value)
            print(f"seed {seed}, {name}: {value:.1%} of the test part", flush=True)
    for name, values in accuracies.items():
        print(f"{name}: mean {statistics.mean(values):.1%}, {min(values):.1%} to {max(values):.1%}")
    gains = [after - before for before, after in zip(*accuracies.values(), strict=True)]
    print(
        f"{arguments.per_class} labelled images a class: pretrained features bring {100 * statistics.mean(gains):+.1f} "
        f"points (mean of {len(gains)}), more in {sum(gain > 0 for gain in gains)} of them"
    )


def few_shot_params(params: TrainParams, epochs: int) -> TrainParams:
    """The set's own recipe, for a few images: more epochs, small batches, the last weights."""
    changes: dict[str, Any] = {
        "epochs": epochs,
        "epoch_images": 0,
        "batch_size": 24,
        "select": "last",
        "ema_decay": 0.0,
        "refit": "none",
    }
    return dataclasses.replace(params, **changes)


def accuracy(params: TrainParams, folder: str | Path, weights: str, *, per_class: int, seed: int) -> float:
    """The accuracy on the test part, after training from ``weights`` on ``per_class`` images of each class."""
    dataset = read_dataset(folder)
    classes, cpu = dataset["classes"], torch.device("cpu")
    images, labels = (load_arrays(folder, "train").images, load_arrays(folder, "train").labels)
    rng = np.random.default_rng(seed)
    chosen = np.concatenate(
        [rng.permutation(np.flatnonzero(labels[: dataset["originals"]] == c))[:per_class] for c in range(len(classes))]
    )
    test = load_arrays(folder, "test")
    size = params.image_size or dataset["shape"][-1]
    setup = TrainingSetup(
        train=Split.from_arrays(images[chosen], labels[chosen], cpu),
        val=Split.from_arrays(test.images, test.labels, cpu),  # measured only: the last epoch is kept
        refit=None,
        mean=tuple(dataset["mean"]),
        std=tuple(dataset["std"]),
        build=lambda: registry.build(params.model, len(classes), (dataset["shape"][0], size, size)),
        start=lambda network: load_initial(network, weights, classes=classes),
        transform=transform(params.augmentation, size=size, start_size=0, num_classes=len(classes)),
        device=cpu,
    )
    return train(dataclasses.replace(params, seed=seed), setup).best["val_accuracy"]


if __name__ == "__main__":
    main()
