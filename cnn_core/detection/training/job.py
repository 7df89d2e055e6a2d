"""What a detector's training is given: parameters, files and callbacks; no torch is imported here."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from cnn_core.detection.training.data import DetectionData
from cnn_core.detection.yolo import TASKS, load_network
from cnn_core.devices import Precision
from cnn_core.files import is_none
from cnn_core.params import Params, bounded

PROJECT = Path(__file__).resolve().parents[3]


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
