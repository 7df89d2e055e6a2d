"""Train a classifier on Ray Train: data/augmented/<set> -> data/models/<set>."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from cnn_core.classification.training.loop import TrainingSetup
from cnn_core.classification.training.params import TrainParams
from cnn_core.data.augmented import read_dataset
from cnn_core.params import from_mapping, load_section
from tasks.common import classifier_training
from tasks.engine import distributed, events

PARAMS = TrainParams


def main(name: str) -> None:
    params = load_section(PARAMS, f"train.{name}")
    with classifier_training.fit_set("train", name, params, work) as trained:
        classes = trained.dataset["classes"]
        classifier_training.save_trained(Path("data/models", name), params, trained, classes=classes)
        classifier_training.write_curve(f"data/plots/train-{name}.csv", trained.outcome)
        classifier_training.show_seen(f"data/plots/train-{name}-seen.png", name, params)
        network = classifier_training.build(params, trained.dataset, len(classes))
        events.write_metrics(f"data/metrics/train-{name}.json", classifier_training.training_metrics(trained, network))


def work(config: dict[str, Any], rank: distributed.Rank) -> None:
    """What every training worker does; ``config`` is `learning.fit_set`'s."""
    params = from_mapping(TrainParams, config["params"], "train")
    classifier_training.learn(params, load_task(params, config, rank.device), config, rank)


def load_task(params: TrainParams, config: dict[str, Any], device: torch.device) -> TrainingSetup:
    """The labels of the AUGMENTED set at ``config["data"]`` are to be learned."""
    folder = config["data"]
    dataset = read_dataset(folder)
    num_classes = len(dataset["classes"])
    splits = classifier_training.load_splits(config, device)
    feed, everything = classifier_training.load_feeds(params, config, splits)
    weights = classifier_training.class_weights(splits["train"].labels.cpu().numpy(), num_classes, params.class_weights)
    return TrainingSetup(
        train=feed,
        val=splits["val"],
        refit=everything,
        mean=tuple(dataset["mean"]),
        std=tuple(dataset["std"]),
        build=lambda: classifier_training.build(params, dataset, num_classes),
        start=classifier_training.start_from(config["start"], dataset["classes"]),
        transform=classifier_training.load_transform(params, folder, num_classes),
        class_weights=None if weights is None else weights.to(device),
        device=device,
        micro_batch=config["micro_batch"],
        compiled=config["compiled"],
    )


if __name__ == "__main__":
    events.run_stage(main)
