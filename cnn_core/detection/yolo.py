"""Ultralytics behind a few adapters: its settings kept away from the user's, weights read, predictions before NMS.

Ultralytics is AGPL-3.0. It is imported only here, in the ``yolo_*`` modules beside and in ``engines``, and only after
`quiet`.
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
    """A detector in float32, in evaluation mode, on the CPU, its normalisations not fused into the convolutions."""

    network: nn.Module
    names: dict[int, str]
    stride: int  # the sides of an input are multiples of it
    task: Literal["detect", "segment"]
    sha256: str  # of the file
    imgsz: int | None  # the side that it was trained with, where the file says so


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkInfo:
    """What is known of a network, whatever engine runs it.

    Attributes:
        stride: letterboxed sides are multiples of it.
        imgsz: the side that it was trained with; None where the weights do not say.
        fixed: the only (height, width) that a static export takes; None where sizes are free.
        channels: of the images that it takes.
        end2end: it chooses its boxes itself, without non-maximum suppression.
    """

    names: dict[int, str]
    stride: int
    task: str
    sha256: str
    imgsz: int | None
    fixed: tuple[int, int] | None
    channels: int
    end2end: bool


def quiet(folder: str | Path) -> None:
    """Make Ultralytics keep its settings in ``folder``, install nothing, ask no network, tell nobody and print nothing.

    To be called before anything imports Ultralytics; again in the same process it changes nothing. Weights are read
    without executing what they hold, unless ``ULTRALYTICS_SAFE_LOAD=false`` is in the environment.
    """
    first = "ultralytics" not in sys.modules
    if first:
        own = Path(folder).absolute() / f"ultralytics-{os.getpid()}"  # its file of settings is not safe to share
        own.mkdir(parents=True, exist_ok=True)
        os.environ.update(_ENVIRONMENT, YOLO_CONFIG_DIR=str(own))
        os.environ.setdefault("ULTRALYTICS_SAFE_LOAD", "true")
    threads = os.environ.get("OMP_NUM_THREADS")
    import ultralytics
    from PIL import Image
    from ultralytics.utils import patches

    # Its Image.open, put in everywhere, turns "this is no image" into a search for a package that reads HEIC.
    Image.open = patches._image_open
    if first and not threads:  # its import says 1, which every process started from here would take over
        os.environ.pop("OMP_NUM_THREADS", None)
    logging.getLogger("ultralytics").setLevel(logging.ERROR)
    wanted = {"sync": False, "vscode_msg": False, "openvino_msg": False, **dict.fromkeys(TRACKERS, False)}
    if any(ultralytics.settings[key] != value for key, value in wanted.items()):
        if first:
            ultralytics.settings.update(wanted)  # in the file too, for processes that Ultralytics itself starts
        else:
            dict.update(ultralytics.settings, wanted)


def weights_file(path: str | Path) -> Path:
    """Find the file that a weights parameter names, as `cnn_core.files.weights_file`, and check its ending.

    Raises:
        ValueError: nothing is there, or the file's name has another ending than one of `ENGINES`.
    """
    file = files.weights_file(path)
    if file.is_file() and file.suffix not in ENGINES:
        raise ValueError(f"{file} is no weights file: its name must end in {', '.join(ENGINES)}")
    return file


def load_network(path: str | Path) -> LoadedYolo:
    """The network of a model folder or a ``.pt`` file of Ultralytics.

    Raises:
        ValueError: there is none, it cannot be read, it holds foreign code, or it neither detects nor segments.
    """
    file = weights_file(path)
    if file.suffix != ".pt":
        raise ValueError(f"{file} is an exported engine; here Ultralytics' own weights (.pt) are needed")
    network = _read(file)
    task = getattr(network, "task", None)
    if task not in TASKS:
        raise ValueError(f"{file} is a model for the task {task!r}; detectors are for {' or '.join(TASKS)}")
    side = network.args.get("imgsz") if isinstance(getattr(network, "args", None), dict) else None
    return LoadedYolo(
        network=network,
        names={int(number): str(name) for number, name in _named(network.names).items()},
        stride=int(network.stride.max()),
        task=cast(Literal["detect", "segment"], task),
        sha256=file_sha256(file),
        imgsz=int(max(side)) if isinstance(side, list | tuple) else int(side) if side else _card_side(path),
    )


def _read(file: Path) -> Any:
    """Under a name of its own: Ultralytics takes a ``yolov5s.pt`` for a typing error and drops quotes from paths."""
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
    if zipfile.is_zipfile(file) and "outside the supported" in text:
        return (
            f"{file} holds more than Ultralytics' own networks and is not read, because that could execute foreign "
            "code; if you trust who made it, set ULTRALYTICS_SAFE_LOAD=false in the environment"
        )
    if "YOLOv5" in text:
        return f"{file} was trained with the old YOLOv5 code, which Ultralytics cannot load; use yolov5nu.pt or newer"
    return f"{file} cannot be read as weights of Ultralytics ({type(error).__name__}): cut short, or of another kind"


def _named(names: Any) -> dict[int, str]:
    return dict(enumerate(names)) if isinstance(names, list | tuple) else names


def _card_side(path: str | Path) -> int | None:
    if not (Path(path) / "model.json").is_file():
        return None
    return read_json(Path(path) / "model.json", made_by="train_detector").get("imgsz")
