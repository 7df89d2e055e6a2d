"""Training of a YOLO detector or segmenter by Ultralytics' own trainer, made exact, quiet and quick for few steps.

What differs from `yolo train`: bfloat16 on a CPU too (the losses in float32), a learning rate that moves at every step,
validation now and then instead of after every epoch, an average of the weights that suits few steps, every random
number from (seed, epoch), checkpoints in float32 that a training goes on from as if nothing had happened, and no file
written beside the data.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cnn_core.detection.training.job import Job, OnEpoch, OnStep, arguments, build
from cnn_core.detection.training.params import TrainDetectorParams


def check_start(params: TrainDetectorParams, job: Job) -> tuple[int, int]:
    """How many of the network's tensors the start takes over, and of how many.

    Raises:
        ValueError: they are less than half.
    """
    own = build(job.architecture, len(job.data.names)).state_dict()
    network = job.start_network()
    if network is None:
        return 0, len(own)
    given = network.state_dict()
    fitting = [name for name, tensor in own.items() if name in given and given[name].shape == tensor.shape]
    if len(fitting) < len(own) / 2:
        raise ValueError(
            f"{job.start} fits {len(fitting)} of the {len(own)} tensors of {params.model}: set model to weights, which "
            "takes the architecture from there, or to the yaml that they were trained with"
        )
    return len(fitting), len(own)


def train(
    params: TrainDetectorParams,
    job: Job,
    *,
    resume: Mapping[str, Any] | None = None,
    on_step: OnStep,
    on_epoch: OnEpoch,
) -> None:
    """Train to the end, from the checkpoint ``resume`` on where there is one.

    Args:
        on_step: now and then, with the epoch, the images done in it, the loss and the images per second.
        on_epoch: after each, with its record and a function that makes the checkpoint, which the training owns: to be
            stored before this returns.

    Raises:
        ValueError: the loss has become infinite or not a number.
    """
    if resume and resume["finished"]:
        return
    from cnn_core.detection.training.trainer import Detection, Segmentation

    trainer = {"detect": Detection, "segment": Segmentation}[job.task]
    trainer(params, job, resume=resume, on_step=on_step, on_epoch=on_epoch).train()


def kept_weights(params: TrainDetectorParams, checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Of a finished training: the average's weights at the best epoch, or at the last."""
    return checkpoint["best_weights"] if params.select == "best" else checkpoint["ema"]


def save_network(
    path: str | Path, params: TrainDetectorParams, job: Job, weights: Mapping[str, Tensor], *, imgsz: int
) -> nn.Module:
    """Write a ``.pt`` that Ultralytics reads, in float32, and give the network back."""
    import ultralytics

    network = build(job.architecture, len(job.data.names))
    network.load_state_dict(weights)
    network.names = dict(enumerate(job.data.names))
    args = {**arguments(params, job), "imgsz": imgsz, "device": None, "save_dir": None, "workers": 0}
    network.args, network.task = args, job.task
    content = {
        "epoch": -1,
        "model": network.eval().requires_grad_(False),
        "ema": None,
        "optimizer": None,
        "train_args": args,
        "version": ultralytics.__version__,
        "license": "AGPL-3.0 (https://ultralytics.com/license)",
    }
    torch.save(content, path)
    return network


def seen(
    params: TrainDetectorParams, job: Job, *, across: int = 8, down: int = 3
) -> tuple[list[np.ndarray], list[list[str]]]:
    """Images as training draws them, their boxes drawn in: uint8 rows (across, 3, imgsz, imgsz), and their classes."""
    from cnn_core.detection.training.dataset import drawn

    few = dataclasses.replace(job, data=dataclasses.replace(job.data, train=job.data.train[: across * down]))
    images, labels = drawn(params, few)
    captions = [", ".join(job.data.names[number] for number in numbers) for numbers in labels]
    starts = range(0, len(images), across)
    return [images[i : i + across] for i in starts], [captions[i : i + across] for i in starts]
