"""Training of a YOLO detector or segmenter by Ultralytics' own trainer, made exact, quiet and quick for few steps.

It differs from `yolo train` in this:

- bfloat16 on a CPU too, with the losses in float32;
- a learning rate that moves at every step;
- validation every ``val_every`` epochs instead of after each;
- an average of the weights that suits few steps;
- every random number from (seed, epoch);
- checkpoints in float32, from which a training continues as if it had never stopped;
- no file written beside the data.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from cnn_core.detection.training.job import DetectorJob, OnEpoch, OnStep, arguments


def check_start(job: DetectorJob) -> tuple[int, int]:
    """Count the network's tensors that the start weights fit, and all; a ValueError where it is less than half."""
    tensors = job.build_network().state_dict()
    network = job.start_network()
    if network is None:
        return 0, len(tensors)
    start = network.state_dict()
    fitting = [name for name, tensor in tensors.items() if name in start and start[name].shape == tensor.shape]
    if len(fitting) < len(tensors) / 2:
        raise ValueError(
            f"{job.start} fits {len(fitting)} of the {len(tensors)} tensors of {job.params.model}: set model to "
            "weights, which takes the architecture from there, or to the yaml that they were trained with"
        )
    return len(fitting), len(tensors)


def train(
    job: DetectorJob,
    *,
    folder: Path,
    device: torch.device,
    resume: Mapping[str, Any] | None = None,
    on_step: OnStep,
    on_epoch: OnEpoch,
) -> None:
    """Train to the end, from the checkpoint ``resume`` on where there is one.

    Args:
        on_step: called now and then with the epoch, the images done in it, the loss and the images per second.
        on_epoch: called after each epoch with its record and a function that makes the checkpoint. The training owns
            the checkpoint's tensors, so it must be stored before this returns.

    Raises:
        ValueError: the loss has become infinite or not a number.
    """
    if resume and resume["finished"]:
        return
    from cnn_core.detection.training.trainer import Detection, Segmentation

    trainer = {"detect": Detection, "segment": Segmentation}[job.task]
    trainer(job, folder=folder, device=device, resume=resume, on_step=on_step, on_epoch=on_epoch).train()


def final_weights(job: DetectorJob, checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    return checkpoint["best_weights"] if job.params.select == "best" else checkpoint["ema"]


def save_network(path: str | Path, job: DetectorJob, weights: Mapping[str, Tensor], *, imgsz: int) -> nn.Module:
    """Write a ``.pt`` that Ultralytics reads, in float32, and return the network."""
    import ultralytics

    network = job.build_network()
    network.load_state_dict(weights)
    args = {**arguments(job), "imgsz": imgsz, "device": None, "save_dir": None, "workers": 0}
    model = cast(Any, network)  # plain attributes of Ultralytics' networks
    model.names, model.args, model.task = dict(enumerate(job.data.names)), args, job.task
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


def sample_pictures(job: DetectorJob, *, across: int = 8, down: int = 3) -> tuple[list[np.ndarray], list[list[str]]]:
    """Return images as training draws them, with their boxes: uint8 rows (across, 3, imgsz, imgsz), and the classes."""
    from cnn_core.detection.training.dataset import augmented_images

    few = dataclasses.replace(job, data=dataclasses.replace(job.data, train=job.data.train[: across * down]))
    images, labels = augmented_images(few)
    captions = [", ".join(job.data.names[number] for number in numbers) for numbers in labels]
    starts = range(0, len(images), across)
    return [images[i : i + across] for i in starts], [captions[i : i + across] for i in starts]
