"""What a detector's training is given: parameters, files and callbacks; no torch is imported here."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cnn_core.detection.training.data import DetectionData
from cnn_core.detection.training.params import TrainDetectorParams
from cnn_core.detection.yolo import TASKS, load_network
from cnn_core.files import is_none

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


def arguments(params: TrainDetectorParams, job: Job) -> dict[str, Any]:
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
