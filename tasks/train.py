"""Train a classifier on Ray Train: data/augmented/<set> -> data/models/<set>."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from cnn_core.classification.training.loop import Task, TrainParams
from cnn_core.data.augmented import read_dataset
from cnn_core.params import from_mapping, load_section
from tasks.common import classifier_training as learning
from tasks.engine import distributed, events

PARAMS = TrainParams


def main(name: str) -> None:
    params = load_section(PARAMS, f"train.{name}")
    with learning.fit_set("train", name, params, work) as trained:
        classes = trained.dataset["classes"]
        learning.save_trained(Path("data/models", name), params, trained, classes=classes)
        learning.write_curve(f"data/plots/train-{name}.csv", trained.outcome)
        learning.show_seen(f"data/plots/train-{name}-seen.png", name, params)
        network = learning.build(params, trained.dataset, len(classes))
        events.write_metrics(f"data/metrics/train-{name}.json", learning.training_metrics(trained, network))


def work(config: dict[str, Any], rank: distributed.Rank) -> None:
    """What every training worker does; ``config`` is `learning.fit_set`'s."""
    params = from_mapping(TrainParams, config["params"], "train")
    learning.learn(params, load_task(params, config, rank.device), config, rank)


def load_task(params: TrainParams, config: dict[str, Any], device: torch.device) -> Task:
    """The labels of the AUGMENTED set at ``config["data"]`` are to be learned."""
    folder = config["data"]
    dataset = read_dataset(folder)
    num_classes = len(dataset["classes"])
    splits = learning.load_splits(config, device)
    feed, everything = learning.load_feeds(params, config, splits)
    weights = learning.class_weights(splits["train"].labels.cpu().numpy(), num_classes, params.class_weights)
    return Task(
        train=feed,
        val=splits["val"],
        refit=everything,
        mean=tuple(dataset["mean"]),
        std=tuple(dataset["std"]),
        build=lambda: learning.build(params, dataset, num_classes),
        start=learning.start_from(config["start"], dataset["classes"]),
        transform=learning.load_transform(params, folder, num_classes),
        class_weights=None if weights is None else weights.to(device),
        device=device,
        micro_batch=config["micro_batch"],
        compiled=config["compiled"],
    )


if __name__ == "__main__":
    events.run_stage(main)
