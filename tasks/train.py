"""Train a classifier on Ray Train: data/augmented/<set> -> data/models/<set>."""

from __future__ import annotations

import torch

from cnn_core.classification.training.loop import TrainingSetup
from cnn_core.classification.training.params import TrainParams
from cnn_core.data.augmented import read_dataset
from cnn_core.params import load_section
from tasks.common import classifier_training as common
from tasks.common.classifier_training import ClassifierJob
from tasks.engine import events

PARAMS = TrainParams


def main(name: str) -> None:
    params = load_section(PARAMS, f"train.{name}")
    samples = f"data/plots/train-{name}-seen.png"
    common.train_set("train", name, params, load_setup, folder=f"data/models/{name}", samples=samples)


def load_setup(job: ClassifierJob, device: torch.device) -> TrainingSetup:
    """Load what is needed to learn the labels of the AUGMENTED set."""
    params, dataset = job.params, read_dataset(job.data)
    num_classes = len(dataset["classes"])
    splits = common.load_splits(job, device)
    train, refit = common.load_feeds(job, splits)
    weights = common.class_weights(splits["train"].labels.cpu().numpy(), num_classes, params.class_weights)
    return TrainingSetup(
        train=train,
        val=splits["val"],
        refit=refit,
        mean=tuple(dataset["mean"]),
        std=tuple(dataset["std"]),
        build=lambda: common.build(params, dataset, num_classes),
        start=common.start_from(job.start, dataset["classes"]),
        transform=common.load_transform(params, job.data, num_classes),
        class_weights=None if weights is None else weights.to(device),
        device=device,
        micro_batch=job.micro_batch,
        compiled=job.compiled,
    )


if __name__ == "__main__":
    events.run_stage(main)
