"""Learn a set's features without its labels, on Ray Train: data/augmented/<set> -> data/models/<set>-pretrained.

The network is to tell by how many right angles each image is turned (`Rotations`): to do so it has
to know what stands upright in it, which is worth knowing when the labels come.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from cnn_core.classification.augmentation.transforms import CLASSES_OF_ROTATIONS, Rotations
from cnn_core.classification.training.batches import Split
from cnn_core.classification.training.loop import TrainingSetup
from cnn_core.classification.training.params import TrainParams
from cnn_core.data.augmented import load_arrays, read_dataset
from cnn_core.params import from_mapping, load_section
from tasks.common import classifier_training
from tasks.engine import distributed, events

MOST_VALIDATED = 500  # images of the validation part, each of which is asked about four times


PARAMS = TrainParams


def main(name: str) -> None:
    params = load_section(PARAMS, f"pretrain.{name}")
    if params.refit != "none" or params.augmentation["kind"] != "photo":
        raise ValueError(f"pretrain.{name} learns from photographs, once: refit is none, augmentation.kind is photo")
    with classifier_training.fit_set("pretrain", name, params, work, classes=CLASSES_OF_ROTATIONS) as trained:
        folder = Path("data/models", f"{name}-pretrained")
        classifier_training.save_trained(folder, params, trained, classes=CLASSES_OF_ROTATIONS)
        classifier_training.write_curve(f"data/plots/pretrain-{name}.csv", trained.outcome)
        network = classifier_training.build(params, trained.dataset, len(CLASSES_OF_ROTATIONS))
        events.write_metrics(
            f"data/metrics/pretrain-{name}.json", classifier_training.training_metrics(trained, network)
        )


def work(config: dict[str, Any], rank: distributed.Rank) -> None:
    """What every training worker does; ``config`` is `learning.fit_set`'s."""
    params = from_mapping(TrainParams, config["params"], "pretrain")
    classifier_training.learn(params, load_task(params, config, rank.device), config, rank)


def load_task(params: TrainParams, config: dict[str, Any], device: torch.device) -> TrainingSetup:
    """The rotations of the AUGMENTED set at ``config["data"]`` are to be learned."""
    folder, num_classes = config["data"], len(CLASSES_OF_ROTATIONS)
    dataset = read_dataset(folder)
    return TrainingSetup(
        train=classifier_training.load_feeds(params, config, classifier_training.load_splits(config, device))[0],
        val=all_rotations(load_arrays(folder, "val").images[:MOST_VALIDATED], device),
        refit=None,
        mean=tuple(dataset["mean"]),
        std=tuple(dataset["std"]),
        build=lambda: classifier_training.build(params, dataset, num_classes),
        start=classifier_training.start_from(config["start"], CLASSES_OF_ROTATIONS),
        transform=Rotations(of=classifier_training.load_transform(params, folder, num_classes)),
        device=device,
        micro_batch=config["micro_batch"],
        compiled=config["compiled"],
    )


def all_rotations(images: np.ndarray, device: torch.device) -> Split:
    """uint8 images (N, C, H, H), each in its four rotations, in the order of the classes."""
    turns = range(len(CLASSES_OF_ROTATIONS))
    every = np.concatenate([np.rot90(images, turn, (2, 3)) for turn in turns])
    return Split.from_arrays(every, np.repeat(turns, len(images)), device)


if __name__ == "__main__":
    events.run_stage(main)
