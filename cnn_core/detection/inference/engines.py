"""What runs a YOLO network: PyTorch, OpenVINO, ONNX Runtime or TensorRT.

An engine takes letterboxed images as they are decoded (uint8, BGR) and gives Ultralytics' raw
predictions. All follow PyTorch in float32: same letterbox, same layout. Exports have free input
sizes, so that rectangles stay rectangles.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from cnn_core.detection.inference.exports import PACKAGES, Calibration, exported
from cnn_core.detection.inference.openvino_engine import OpenVinoEngine, Precision
from cnn_core.detection.params import Backend
from cnn_core.detection.yolo import TASKS, LoadedYolo, NetworkInfo, input_channels, load_network, weights_file
from cnn_core.files import file_sha256

UNKNOWN_SIDE = 640  # of weights that do not say what they were trained with
_X86 = ("x86_64", "AMD64")


class Engine(Protocol):
    """What runs a network."""

    info: NetworkInfo
    streams: int  # so many calls at the same time are fastest
    batch: int  # so many images a call are fastest
    name: str  # of the backend

    def __call__(self, images: np.ndarray) -> tuple[Tensor, Tensor | None]:
        """Run the network on uint8 (N, H, W, C), BGR.

        Returns:
            Raw predictions (N, 4 + classes + …, anchors), and a segmenter's prototypes.
        """


def open_engine(
    weights: str | Path,
    *,
    backend: Backend,
    precision: Precision,
    device: torch.device,
    threads: int,
    cache: str | Path,
    imgsz: int,
    calibration: Calibration | None = None,
) -> Engine:
    """Make the network at ``weights`` ready to run. Call `cnn_core.detection.yolo.quiet` first.

    Args:
        weights: a model folder or Ultralytics' .pt; or an exported engine, which runs as it is.
        threads: of the CPU, in all.
        cache: folder of exports; several processes may share it.
        imgsz: the longest side that an export plans for; 0 = what the weights were trained with.
        calibration: the images that int8 is calibrated with.

    Raises:
        ValueError: the weights are missing or no detector, or the backend or precision cannot be
            had here.
    """
    file = weights_file(weights)
    if file.suffix != ".pt":
        engine = _own_export(file, device, threads, precision)
        if engine.info.fixed and imgsz not in (0, *engine.info.fixed):
            height, width = engine.info.fixed
            raise ValueError(f"imgsz is {imgsz}, but {file} takes {width} x {height} pixels only: set imgsz to 0")
        return engine
    loaded = load_network(weights)
    info, half = _info(loaded), precision == "half"
    chosen = pick_backend(backend, device)
    check_backend(chosen, precision, device)
    if chosen == "torch":
        return UltralyticsEngine(loaded.network, info, device=device, half=half)
    side = -(-(imgsz or loaded.imgsz or UNKNOWN_SIDE) // 32) * 32
    folder = exported(loaded, chosen, precision, cache=Path(cache), max_side=side, calibration=calibration)
    if chosen == "openvino":
        return OpenVinoEngine(folder, info, threads=threads, precision=precision)
    model = next(folder.glob("*.onnx" if chosen == "onnx" else "*.engine"))
    return UltralyticsEngine(str(model), info, device=device, half=half)


def pick_backend(backend: Backend, device: torch.device) -> Backend:
    """Resolve ``auto`` to the fastest backend that is installed for this device."""
    if backend != "auto":
        return backend
    if device.type == "cuda":
        return "tensorrt" if _installed("tensorrt") else "torch"
    return "openvino" if platform.machine() in _X86 and _installed("openvino") else "torch"


def check_backend(backend: Backend, precision: Precision, device: torch.device) -> None:
    """Raise a ValueError where this backend cannot run, or not in this precision."""
    if backend != "torch" and not _installed(backend):
        raise ValueError(f"backend {backend} needs the package {PACKAGES[backend]}: install it, or set backend to auto")
    if backend == "tensorrt" and device.type != "cuda":
        raise ValueError("backend tensorrt needs an NVIDIA GPU: set backend to auto")
    if precision == "int8" and backend != "openvino":
        raise ValueError(f"int8 is for the backend openvino, not {backend}: set backend to openvino, or int8 to false")
    if precision == "half" and device.type == "cpu" and backend in ("torch", "onnx"):
        raise ValueError(f"half on a CPU is for the backend openvino, not {backend}: set half to false")


def _installed(backend: str) -> bool:
    return importlib.util.find_spec(PACKAGES[backend]) is not None


def _info(loaded: LoadedYolo) -> NetworkInfo:
    return NetworkInfo(
        names=loaded.names,
        stride=max(loaded.stride, 32),  # as Ultralytics rounds for PyTorch
        task=loaded.task,
        sha256=loaded.sha256,
        imgsz=loaded.imgsz,
        fixed=None,
        channels=input_channels(loaded.network),
        end2end=False,  # as Ultralytics predicts by default: a head that knows both ways uses NMS
    )


def _own_export(file: Path, device: torch.device, threads: int, precision: Precision) -> Engine:
    """Open somebody's own export, in the precision in which it was exported."""
    from ultralytics.nn.backends.base import BaseBackend

    class Metadata(BaseBackend):
        """Ultralytics' reader of an export's metadata, without the network."""

        def load_model(self, weight: str | Path | nn.Module) -> None: ...

        def forward(self, im: Tensor) -> Any:
            raise NotImplementedError

    file = file.parent if file.suffix == ".xml" else file
    values = BaseBackend.read_metadata(file)
    if not values:
        raise ValueError(f"{file} does not say what it is (Ultralytics' metadata): export it anew with `yolo export`")
    export: Any = Metadata("", torch.device("cpu"))
    export.apply_metadata(values)
    if export.task not in TASKS:
        raise ValueError(f"{file} is a model for the task {export.task!r}; detectors are for {' or '.join(TASKS)}")
    height, width = (export.imgsz * 2)[:2] if len(export.imgsz) == 1 else export.imgsz
    dynamic = bool(export.metadata.get("dynamic"))
    binary = next(file.glob("*.bin")) if file.is_dir() else file
    suppresses = bool(export.metadata.get("args", {}).get("nms"))
    info = NetworkInfo(
        names={int(number): str(name) for number, name in export.names.items()},
        stride=max(export.stride, 32),
        task=export.task,
        sha256=file_sha256(binary),
        imgsz=max(height, width),
        fixed=None if dynamic else (height, width),
        channels=export.channels,
        end2end=bool(export.end2end) or suppresses,
    )
    if file.is_dir() and not suppresses:
        return OpenVinoEngine(file, info, threads=threads, precision=precision, batch=None if dynamic else export.batch)
    return UltralyticsEngine(str(file), info, device=device, half=False)


class UltralyticsEngine:
    """PyTorch, ONNX Runtime and TensorRT, run by Ultralytics' own AutoBackend."""

    streams = 1

    def __init__(self, model: Any, info: NetworkInfo, *, device: torch.device, half: bool) -> None:
        from ultralytics.nn.autobackend import AutoBackend

        with torch.inference_mode(False):
            self.model = AutoBackend(model, device=device, fp16=half, verbose=False, end2end=info.end2end).eval()
        self.info, self.device = info, device
        self.batch = 32 if device.type == "cuda" else 4
        self.name = {"pt": "torch", "engine": "tensorrt"}.get(self.model.format, self.model.format)

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> tuple[Tensor, Tensor | None]:
        tensor = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2).contiguous()
        tensor = tensor.flip(1) if tensor.shape[1] == 3 else tensor
        tensor = (tensor.half() if self.model.fp16 else tensor.float()).div_(255)
        return _split(self.model(tensor), self.info.task)


def _split(predictions: Any, task: str) -> tuple[Tensor, Tensor | None]:
    first = predictions[0] if isinstance(predictions, list | tuple) else predictions
    if task != "segment":
        return first, None
    return first if isinstance(first, tuple) else (first, predictions[1])
