"""Learn a set's features without its labels, on Ray Train: data/augmented/<set> -> data/models/<set>-pretrained.

The network is to tell by how many right angles each image is turned (`Rotations`). For that it has to know what stands
upright in the image, which is worth knowing when the labels come.
"""

from __future__ import annotations

import numpy as np
import torch

from cnn_core.classification.augmentation.transforms import CLASSES_OF_ROTATIONS, Rotations
from cnn_core.classification.training.batches import Split
from cnn_core.classification.training.loop import TrainingSetup
from cnn_core.classification.training.params import TrainParams
from cnn_core.data.augmented import load_arrays
from cnn_core.params import load_section
from tasks.common import classifier_training as common
from tasks.common.classifier_training import ClassifierJob
from tasks.engine import events

MOST_VALIDATED = 500  # images of the validation part, each of which is asked about four times

PARAMS = TrainParams


def main(name: str) -> None:
    params = load_section(PARAMS, f"pretrain.{name}")
    if params.refit != "none" or params.augmentation["kind"] != "photo":
        raise ValueError(f"pretrain.{name} learns from photographs, once: refit is none, augmentation.kind is photo")
    folder = f"data/models/{name}-pretrained"
    common.train_set(
        "pretrain",
        name,
        params,
        load_setup,
        folder=folder,
        classes=CLASSES_OF_ROTATIONS,
        most_validated=MOST_VALIDATED,
    )


def load_setup(job: ClassifierJob, device: torch.device) -> TrainingSetup:
    return common.training_setup(
        job,
        device,
        splits=common.load_splits(job, device),
        val=all_rotations(load_arrays(job.data, "val").images[:MOST_VALIDATED], device),
        transform=Rotations(of=common.load_transform(job.params, job.data, len(CLASSES_OF_ROTATIONS))),
        classes=CLASSES_OF_ROTATIONS,
    )


def all_rotations(images: np.ndarray, device: torch.device) -> Split:
    """Turn uint8 images (N, C, H, H) by each of the four rotations, in the order of the classes."""
    turns = range(len(CLASSES_OF_ROTATIONS))
    rotated = np.concatenate([np.rot90(images, turn, (2, 3)) for turn in turns])
    return Split.from_arrays(rotated, np.repeat(turns, len(images)), device)


if __name__ == "__main__":
    events.run_stage(main)
