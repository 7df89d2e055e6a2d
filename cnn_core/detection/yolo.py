"""Ultralytics behind an adapter: its settings kept apart from the user's, and its weights read.

Ultralytics is AGPL-3.0. It is imported by `cnn_core.detection`, `cnn_core.segmentation` and
`cnn_core.downloads` only, and only after `quiet`. Importing this module loads neither torch nor
Ultralytics.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from cnn_core import files
from cnn_core.files import file_sha256, read_json

if TYPE_CHECKING:
    from torch import nn

TASKS = ("detect", "segment")
# The last module of the networks whose predictions are read as they are meant. Others (RT-DETR's decoder, the heads of
# YOLO-World and YOLOE) give shares instead of pixels, or need words beside the picture.
HEADS = ("Detect", "Segment", "Segment26", "v10Detect")
TRACKERS = ("clearml", "comet", "dvc", "mlflow", "raytune", "tensorboard", "wandb")
ENGINES = (".pt", ".onnx", ".engine", ".torchscript", ".xml")  # files that a weights path may name

_ENVIRONMENT = {
    "YOLO_AUTOINSTALL": "false",  # or a missing package is installed in the middle of a run
    "YOLO_OFFLINE": "true",
    "YOLO_VERBOSE": "false",
    "NO_ALBUMENTATIONS_UPDATE": "1",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadedYolo:
    """A detector in float32, in evaluation mode, on the CPU, its normalisations not fused."""

    network: nn.Module
    names: dict[int, str]
    stride: int  # the sides of an input are multiples of it
    task: Literal["detect", "segment"]
    sha256: str  # of the file
    imgsz: int | None  # the side that it was trained with, where the file says so


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkInfo:
    """What is known of a network, whatever engine runs it."""

    names: dict[int, str]
    stride: int  # letterboxed sides are multiples of it
    task: str
    sha256: str
    imgsz: int | None  # the side that it was trained with; None where the weights do not say
    fixed: tuple[int, int] | None  # the only (height, width) that a static export takes
    channels: int  # of the images that it takes
    end2end: bool  # it chooses its boxes itself, without non-maximum suppression


def quiet(folder: str | Path) -> None:
    """Keep Ultralytics' settings in ``folder``; let it install, report, print and fetch nothing.

    Call it before anything imports Ultralytics; a second call in the same process changes nothing.
    Weights are then read without executing what they hold, unless ``ULTRALYTICS_SAFE_LOAD=false``
    is in the environment.
    """
    first = "ultralytics" not in sys.modules
    if first:
        config = Path(folder).absolute() / f"ultralytics-{os.getpid()}"  # processes cannot safely share its settings
        config.mkdir(parents=True, exist_ok=True)
        os.environ.update(_ENVIRONMENT, YOLO_CONFIG_DIR=str(config))
        os.environ.setdefault("ULTRALYTICS_SAFE_LOAD", "true")
    threads = os.environ.get("OMP_NUM_THREADS")
    import ultralytics
    from PIL import Image
    from ultralytics.utils import patches

    # Ultralytics replaces PIL's Image.open by one that answers "this is no image" with a search for
    # a package that reads HEIC. Put the original back.
    Image.open = patches._image_open
    if first and not threads:  # the import sets it to 1, which every process started from here would inherit
        os.environ.pop("OMP_NUM_THREADS", None)
    logging.getLogger("ultralytics").setLevel(logging.ERROR)
    settings = {"sync": False, "vscode_msg": False, "openvino_msg": False, **dict.fromkeys(TRACKERS, False)}
    if any(ultralytics.settings[key] != value for key, value in settings.items()):
        if first:
            ultralytics.settings.update(settings)  # in the file too, for processes that Ultralytics starts itself
        else:
            dict.update(ultralytics.settings, settings)


def weights_file(path: str | Path) -> Path:
    """Find the file that a weights parameter names (`files.weights_file`); it must end in one of `ENGINES`."""
    file = files.weights_file(path)
    if file.is_file() and file.suffix not in ENGINES:
        raise ValueError(f"{file} is no weights file: its name must end in {', '.join(ENGINES)}")
    return file


def load_network(path: str | Path) -> LoadedYolo:
    """Load the network of a model folder or of a ``.pt`` file of Ultralytics.

    Raises:
        ValueError: there is no such file, it cannot be read, it holds foreign code, or it neither
            detects nor segments.
    """
    file = weights_file(path)
    if file.suffix != ".pt":
        raise ValueError(f"{file} is an exported engine; here Ultralytics' own weights (.pt) are needed")
    network = _read(file)
    task = getattr(network, "task", None)
    if not isinstance(getattr(network, "names", None), dict | list | tuple) or not hasattr(network, "yaml"):
        raise ValueError(
            f"{file} holds a bare network ({type(network).__name__}) without its classes: save it as Ultralytics "
            "does, by YOLO.save"
        )
    if task not in (*TASKS, None):
        raise ValueError(f"{file} is a model for the task {task!r}; detectors are for {' or '.join(TASKS)}")
    check_head(type(network.model[-1]).__name__, file)
    if len(network.names) != (classes := int(network.model[-1].nc)):
        raise ValueError(f"{file} has {len(network.names)} names for the {classes} classes that it tells apart")
    side = network.args.get("imgsz") if isinstance(getattr(network, "args", None), dict) else None
    return LoadedYolo(
        network=network,
        names=_numbered(network.names),
        stride=int(network.stride.max()),
        task=cast(Literal["detect", "segment"], task),
        sha256=file_sha256(file),
        imgsz=int(max(side)) if isinstance(side, list | tuple) else int(side) if side else _card_side(path),
    )


def check_head(head: str, source: object) -> None:
    """Raise a ValueError for a network of another kind than `HEADS`, whatever its file is called."""
    if head not in HEADS:
        raise ValueError(
            f"{source} ends in {head}, and networks of this kind are not read here: take one that ends in "
            f"{', '.join(HEADS[:-1])} or {HEADS[-1]}, such as yolo11n"
        )


def input_channels(network: nn.Module) -> int:
    """How many channels a network's images have: those of its first convolution."""
    return int(next(weights for weights in network.parameters() if weights.ndim == 4).shape[1])


def _read(file: Path) -> Any:
    """Read weights through a link: Ultralytics takes ``yolov5s.pt`` for a typing error, and drops quotes."""
    from ultralytics.nn.tasks import load_checkpoint

    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder, "weights.pt")
        link.symlink_to(file.absolute())
        try:
            network, _ = load_checkpoint(link)
        except Exception as error:
            raise ValueError(_unreadable(file, error)) from None
    return network


def _unreadable(file: Path, error: Exception) -> str:
    text = " ".join(str(error).split())
    if _is_state(file):
        return (
            f"{file} holds tensors only (a state dict), not the network that they belong to: save that as Ultralytics "
            "does, by YOLO.save"
        )
    if zipfile.is_zipfile(file) and "outside the supported" in text:
        return (
            f"{file} holds more than Ultralytics' own networks and is not read, because that could execute foreign "
            "code; if you trust who made it, set ULTRALYTICS_SAFE_LOAD=false in the environment"
        )
    if "YOLOv5" in text:
        return f"{file} was trained with the old YOLOv5 code, which Ultralytics cannot load; use yolov5nu.pt or newer"
    return f"{file} cannot be read as weights of Ultralytics ({type(error).__name__}): cut short, or of another kind"


def _is_state(file: Path) -> bool:
    import torch

    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception:
        return False
    return isinstance(content, dict) and bool(content) and all(map(torch.is_tensor, content.values()))


def _numbered(names: Any) -> dict[int, str]:
    pairs = names.items() if isinstance(names, dict) else enumerate(names)
    return {int(number): str(name) for number, name in pairs}


def _card_side(path: str | Path) -> int | None:
    if not (Path(path) / "model.json").is_file():
        return None
    return read_json(Path(path) / "model.json", made_by="train_detector").get("imgsz")
