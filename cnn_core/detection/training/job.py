"""What a detector's training gets: a job of plain values that another process can take, and its network."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from cnn_core.detection.training.data import DetectionData
from cnn_core.detection.training.params import TrainDetectorParams
from cnn_core.detection.yolo import TASKS, check_head, load_network
from cnn_core.files import is_none

if TYPE_CHECKING:
    from torch import nn

PROJECT = Path(__file__).resolve().parents[3]
OnStep = Callable[[dict[str, Any]], None]
OnEpoch = Callable[[dict[str, Any], Callable[[], dict[str, Any]]], None]

# The parameters that Ultralytics' trainer does not have.
_NOT_ULTRALYTICS = ("source", "weights", "model", "ema_decay", "ema_tau", "precision", "val_every", "select")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectorJob:
    """All that a detector's training needs of whoever starts it; paths are absolute."""

    params: TrainDetectorParams
    data: DetectionData
    architecture: dict[str, Any]  # of `architecture`
    start: str  # the weights to begin with, or none
    loaders: int  # processes that prepare images for a GPU; without them a training continues exactly

    @property
    def task(self) -> str:
        return task_of(self.architecture)

    @property
    def learned_files(self) -> list[str]:
        """The training images that are learned from."""
        return self.data.train[: max(1, round(self.params.fraction * len(self.data.train)))]

    def start_network(self) -> nn.Module | None:
        return None if is_none(self.start) else load_network(self.start).network

    def build_network(self) -> nn.Module:
        return build(self.architecture, len(self.data.names))


def architecture(model: str, weights: str) -> dict[str, Any]:
    """Read the yaml of ``model``, or of the network in ``weights``, with its size written out.

    Raises:
        ValueError: there is no such yaml, or it is of no network that learns here.
    """
    from ultralytics.nn.tasks import yaml_model_load

    if model == "weights":
        if is_none(weights):
            raise ValueError(f"model is weights, but weights is {weights}: name a yaml such as yolo11n.yaml")
        content = copy.deepcopy(cast(dict[str, Any], load_network(weights).network.yaml))
    else:
        if Path(model).suffix not in (".yaml", ".yml") or "://" in model:
            raise ValueError(f"model is {model!r}: name a yaml such as yolo11n.yaml (or weights, and a .pt in weights)")
        file = PROJECT / model
        try:
            content = yaml_model_load(file if file.is_file() else Path(model))
        except Exception:
            raise ValueError(f"there is no model {model}, neither as a file nor among Ultralytics' own") from None
    content["yaml_file"] = Path(str(content.get("yaml_file", model))).name  # model.json must not tell where it lies
    if task_of(content) not in (*TASKS, "None"):
        raise ValueError(f"{model} is for the task {task_of(content)!r}; here {' or '.join(TASKS)} is learned")
    check_head(str(content["head"][-1][-2]), model)
    if (channels := content.get("channels", 3)) != 3:
        raise ValueError(f"{model} takes images of {channels} channels, and pictures are read in three colours")
    return content


def task_of(architecture: Mapping[str, Any]) -> str:
    from ultralytics.nn.tasks import guess_model_task

    return str(guess_model_task(dict(architecture)))


def build(architecture: Mapping[str, Any], classes: int) -> nn.Module:
    """Return a network with random weights."""
    from ultralytics.nn.tasks import DetectionModel, SegmentationModel

    kind = {"detect": DetectionModel, "segment": SegmentationModel}[task_of(architecture)]
    return kind(copy.deepcopy(dict(architecture)), nc=classes, verbose=False)


def max_stride(network: nn.Module) -> int:
    """Return the stride of a YOLO's coarsest grid: the sides of an input are multiples of it."""
    return int(cast(Any, network).stride.max())


def arguments(job: DetectorJob) -> dict[str, Any]:
    """Return the settings of Ultralytics' trainer but for the folder, the device and the number of loaders."""
    values = dataclasses.asdict(job.params)
    return {
        **{name: value for name, value in values.items() if name not in _NOT_ULTRALYTICS},
        "task": job.task,
        "mode": "train",
        "model": job.architecture["yaml_file"],
        "amp": False,  # `compute_in` does it
        "pretrained": False,
        "deterministic": False,
        "fraction": 1.0,  # taken off the list of images before
        "plots": False,
        "verbose": False,
    }
