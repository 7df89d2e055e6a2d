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
    params, dataset = job.params, read_dataset(job.data)
    classes = dataset["classes"]
    splits = common.load_splits(job, device)
    weights = common.class_weights(splits["train"].labels.cpu().numpy(), len(classes), params.class_weights)
    return common.training_setup(
        job,
        device,
        splits=splits,
        val=splits["val"],
        transform=common.load_transform(params, job.data, len(classes)),
        classes=classes,
        class_weights=None if weights is None else weights.to(device),
        multilabel=dataset.get("multilabel", False),
    )


if __name__ == "__main__":
    events.run_stage(main)
