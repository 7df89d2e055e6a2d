"""Training of a YOLO detector or segmenter by Ultralytics' own trainer, made exact, quiet and quick for few steps.

What differs from `yolo train`: bfloat16 on a CPU too (the losses in float32), a learning rate that moves at every step,
validation now and then instead of after every epoch, an average of the weights that suits few steps, every random
number from (seed, epoch), checkpoints in float32 that a training goes on from as if nothing had happened, and no file
written beside the data.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from cnn_core.detection.yolo import TASKS, load_network
from cnn_core.devices import Precision
from cnn_core.files import is_none
from cnn_core.params import Params, bounded
from cnn_core.yolo_data import DetectionData

PROJECT = Path(__file__).resolve().parent.parent
STEP_EVERY_S = 0.5  # how often `on_step` is called
OnStep = Callable[[dict[str, Any]], None]
OnEpoch = Callable[[dict[str, Any], Callable[[], dict[str, Any]]], None]
MEASURED = {
    "metrics/precision(B)": "precision",
    "metrics/recall(B)": "recall",
    "metrics/mAP50(B)": "mAP50",
    "metrics/mAP50-95(B)": "mAP50-95",
    "metrics/mAP50(M)": "mask_mAP50",
    "metrics/mAP50-95(M)": "mask_mAP50-95",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectorParams(Params):
    """The section ``train_detector``. Names are Ultralytics' own where it has one; https://docs.ultralytics.com/usage/cfg
    says more of each."""

    source: str  # a folder with a data.yaml, a data.yaml of Ultralytics, or a COCO JSON
    weights: str  # what it starts from: none, a .pt of Ultralytics, or a model folder
    model: str  # a yaml of Ultralytics (yolo11n.yaml, yolo11s-seg.yaml) or of one's own; weights = as they are
    imgsz: int = bounded(32)
    epochs: int = bounded(1)
    batch: int = bounded(2)
    nbs: int = bounded(1)  # images a step: gradients of nbs / batch batches are summed
    optimizer: Literal["SGD", "MuSGD", "Adam", "AdamW", "NAdam", "RAdam"]
    lr0: float = bounded(None, 1, above=0)
    lrf: float = bounded(0, 1)
    cos_lr: bool
    momentum: float = bounded(0, 1)
    weight_decay: float = bounded(0)
    warmup_epochs: float = bounded(0)
    warmup_bias_lr: float = bounded(0)
    ema_decay: float = bounded(0, 1)
    ema_tau: float = bounded(above=0)
    box: float = bounded(0)
    cls: float = bounded(0)
    dfl: float = bounded(0)
    freeze: int = bounded(0)
    precision: Precision
    val_every: int = bounded(1)
    patience: int = bounded(0)
    select: Literal["best", "last"]
    fraction: float = bounded(0, 1)
    seed: int = bounded(0)
    mosaic: float = bounded(0, 1)
    close_mosaic: int = bounded(0)
    mixup: float = bounded(0, 1)
    degrees: float = bounded(0, 180)
    translate: float = bounded(0, 1)
    scale: float = bounded(0, 1)
    shear: float = bounded(0, 90)
    fliplr: float = bounded(0, 1)
    flipud: float = bounded(0, 1)
    hsv_h: float = bounded(0, 1)
    hsv_s: float = bounded(0, 1)
    hsv_v: float = bounded(0, 1)
    multi_scale: float = bounded(0, 1)


# Ours, of which Ultralytics knows nothing.
_OWN = ("source", "weights", "model", "ema_decay", "ema_tau", "precision", "val_every", "select")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What a training is given beside its parameters."""

    data: DetectionData
    architecture: dict[str, Any]  # what `architecture` gives
    start: str  # a path: weights to begin with, or none
    folder: Path  # for Ultralytics' own files
    device: torch.device
    workers: int  # processes that prepare images; 0 = none, and an interrupted training goes on exactly

    @property
    def task(self) -> str:
        return task_of(self.architecture)

    def start_network(self) -> nn.Module | None:
        return None if is_none(self.start) else load_network(self.start).network


def architecture(model: str, weights: str) -> dict[str, Any]:
    """The content of a network's yaml, its size written down: of ``model``, or of the network in ``weights``.

    Raises:
        ValueError: there is no such yaml, or it neither detects nor segments.
    """
    from ultralytics.nn.tasks import yaml_model_load

    if model == "weights":
        if is_none(weights):
            raise ValueError(f"model is weights, but weights is {weights}: name a yaml such as yolo11n.yaml")
        found = copy.deepcopy(load_network(weights).network.yaml)
    else:
        if Path(model).suffix not in (".yaml", ".yml") or "://" in model:
            raise ValueError(f"model is {model!r}: name a yaml such as yolo11n.yaml (or weights, and a .pt in weights)")
        own = PROJECT / model
        try:
            found = yaml_model_load(own if own.is_file() else Path(model))
        except Exception:
            raise ValueError(f"there is no model {model}, neither as a file nor among Ultralytics' own") from None
    found["yaml_file"] = Path(str(found.get("yaml_file", model))).name  # where it lies is nobody's business
    if task_of(found) not in TASKS:
        raise ValueError(f"{model} is for the task {task_of(found)!r}; here {' or '.join(TASKS)} is learned")
    return found


def task_of(architecture: Mapping[str, Any]) -> str:
    from ultralytics.nn.tasks import guess_model_task

    return str(guess_model_task(dict(architecture)))


def build(architecture: Mapping[str, Any], classes: int) -> nn.Module:
    """A network with random weights."""
    from ultralytics.nn.tasks import DetectionModel, SegmentationModel

    kind = {"detect": DetectionModel, "segment": SegmentationModel}[task_of(architecture)]
    return kind(copy.deepcopy(dict(architecture)), nc=classes, verbose=False)


def arguments(params: DetectorParams, job: Job) -> dict[str, Any]:
    """What Ultralytics' trainer is told."""
    theirs = {name: value for name, value in dataclasses.asdict(params).items() if name not in _OWN}
    return {
        **theirs,
        "task": job.task,
        "mode": "train",
        "model": job.architecture["yaml_file"],
        "save_dir": str(job.folder),
        "device": job.device,
        "workers": job.workers,
        "amp": False,  # `compute_in` does it
        "pretrained": False,
        "deterministic": False,
        "fraction": 1.0,  # taken off the list of images before
        "plots": False,
        "verbose": False,
    }


def check_start(params: DetectorParams, job: Job) -> tuple[int, int]:
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
    params: DetectorParams,
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
    from cnn_core.yolo_trainer import Detection, Segmentation

    trainer = {"detect": Detection, "segment": Segmentation}[job.task]
    trainer(params, job, resume=resume, on_step=on_step, on_epoch=on_epoch).train()


def kept_weights(params: DetectorParams, checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Of a finished training: the average's weights at the best epoch, or at the last."""
    return checkpoint["best_weights"] if params.select == "best" else checkpoint["ema"]


def save_network(
    path: str | Path, params: DetectorParams, job: Job, weights: Mapping[str, Tensor], *, imgsz: int
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
    params: DetectorParams, job: Job, *, across: int = 8, down: int = 3
) -> tuple[list[np.ndarray], list[list[str]]]:
    """Images as training draws them, their boxes drawn in: uint8 rows (across, 3, imgsz, imgsz), and their classes."""
    from cnn_core.yolo_dataset import drawn

    few = dataclasses.replace(job, data=dataclasses.replace(job.data, train=job.data.train[: across * down]))
    images, labels = drawn(params, few)
    captions = [", ".join(job.data.names[number] for number in numbers) for numbers in labels]
    starts = range(0, len(images), across)
    return [images[i : i + across] for i in starts], [captions[i : i + across] for i in starts]
