"""What runs a YOLO network: PyTorch, OpenVINO, ONNX Runtime or TensorRT.

An engine takes letterboxed images as they are decoded (uint8, BGR) and gives Ultralytics' raw predictions. All follow
PyTorch in float32: same letterbox, same layout. Exports have free input sizes, so that rectangles stay rectangles.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import threading
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from cnn_core.detection.inference.exports import PACKAGES, Calibration, exported
from cnn_core.detection.yolo import LoadedYolo, NetworkInfo, load_network, weights_file
from cnn_core.files import file_sha256

Backend = Literal["auto", "torch", "openvino", "onnx", "tensorrt"]
Precision = Literal["float32", "half", "int8"]

UNKNOWN_SIDE = 640  # of weights that do not say what they were trained with
_X86 = ("x86_64", "AMD64")


class Engine(Protocol):
    """``streams`` calls may run at the same time, and pay; ``batch`` images at a time are best."""

    info: NetworkInfo
    streams: int
    batch: int
    name: str

    def __call__(self, images: np.ndarray) -> tuple[Tensor, Tensor | None]:
        """uint8 (N, H, W, C) BGR -> raw predictions (N, 4 + classes + …, anchors), and a segmenter's prototypes."""


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
    """The network at ``weights``, ready to run. `cnn_core.detection.yolo.quiet` has been called before.

    Args:
        weights: a model folder or Ultralytics' .pt; or an exported engine, which runs as what it is.
        threads: of the CPU, in all.
        cache: where exports are kept; several processes may share it.
        imgsz: the longest side of an input (0 = what the weights were trained with), for exports that plan for it.
        calibration: the images that int8 is calibrated with.

    Raises:
        ValueError: the weights are missing or no detector, or the backend or precision cannot be had here.
    """
    file = weights_file(weights)
    if file.suffix != ".pt":
        return _foreign(file, device, threads, precision)
    loaded = load_network(weights)
    chosen = pick_backend(backend, device)
    check(chosen, precision, device)
    if chosen == "torch":
        return Ultralytics(loaded.network, _info(loaded), device=device, half=precision == "half")
    side = -(-(imgsz or loaded.imgsz or UNKNOWN_SIDE) // 32) * 32
    folder = exported(loaded, chosen, precision, cache=Path(cache), max_side=side, calibration=calibration)
    if chosen == "openvino":
        return OpenVino(folder, _info(loaded), threads=threads, precision=precision)
    model = next(folder.glob("*.onnx" if chosen == "onnx" else "*.engine"))
    return Ultralytics(str(model), _info(loaded), device=device, half=precision == "half")


def pick_backend(backend: Backend, device: torch.device) -> Backend:
    """``auto``: the fastest that is installed for this device."""
    if backend != "auto":
        return backend
    if device.type == "cuda":
        return "tensorrt" if _installed("tensorrt") else "torch"
    return "openvino" if platform.machine() in _X86 and _installed("openvino") else "torch"


def check(backend: Backend, precision: Precision, device: torch.device) -> None:
    """
    Raises:
        ValueError: this backend cannot run here, or not in this precision.
    """
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
    network: Any = loaded.network
    return NetworkInfo(
        names=loaded.names,
        stride=max(loaded.stride, 32),  # as Ultralytics rounds for PyTorch
        task=loaded.task,
        sha256=loaded.sha256,
        imgsz=loaded.imgsz,
        fixed=None,
        channels=int(network.yaml.get("channels", 3)),
        end2end=False,  # as Ultralytics predicts by default: a head that knows both ways uses NMS
    )


def _foreign(file: Path, device: torch.device, threads: int, precision: Precision) -> Engine:
    """Somebody's own export, in the precision that it was exported in."""
    from ultralytics.nn.backends.base import BaseBackend

    file = file.parent if file.suffix == ".xml" else file
    data = BaseBackend.read_metadata(file)
    if not data:
        raise ValueError(f"{file} does not say what it is (Ultralytics' metadata): export it anew with `yolo export`")
    holder = type("Holder", (BaseBackend,), {"load_model": lambda *_: None, "forward": lambda *_: None})("", "cpu")
    holder.apply_metadata(data)
    if holder.task not in ("detect", "segment"):
        raise ValueError(f"{file} is a model for the task {holder.task!r}; detectors are for detect or segment")
    height, width = (holder.imgsz * 2)[:2] if len(holder.imgsz) == 1 else holder.imgsz
    dynamic = bool(holder.metadata.get("dynamic"))
    binary = next(file.glob("*.bin")) if file.is_dir() else file
    info = NetworkInfo(
        names={int(number): str(name) for number, name in holder.names.items()},
        stride=max(holder.stride, 32),
        task=holder.task,
        sha256=file_sha256(binary),
        imgsz=max(height, width),
        fixed=None if dynamic else (height, width),
        channels=holder.channels,
        end2end=bool(holder.end2end),
    )
    if file.is_dir() and not holder.metadata.get("args", {}).get("nms"):
        return OpenVino(file, info, threads=threads, precision=precision, batch=None if dynamic else holder.batch)
    return Ultralytics(str(file), info, device=device, half=False)


class Ultralytics:
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


class OpenVino:
    """OpenVINO on the CPU: one image in each stream, a stream a core.

    Two streams of one thread each made 1.3 times the images of two threads that share one (docs/benchmarks.md). The
    division by 255 and the change of layout are part of the network, where they cost next to nothing. Called from
    several threads; not by `AsyncInferQueue`, which can hang (Ultralytics issue 25923).
    """

    name = "openvino"

    def __init__(
        self, folder: Path, info: NetworkInfo, *, threads: int, precision: Precision, batch: int | None = None
    ) -> None:
        import openvino as ov

        self.info, self.streams, self.batch = info, max(1, threads), batch or 1
        model = _with_input_of_bytes(next(folder.glob("*.xml")))
        quantised = any(node.get_type_name() == "FakeQuantize" for node in model.get_ops())
        settings: dict[str, Any] = {
            "NUM_STREAMS": self.streams,
            "INFERENCE_NUM_THREADS": self.streams,
            "ENABLE_CPU_PINNING": False,  # decoding takes turns with it on the same cores
            # Its own default on a processor with bfloat16 is bfloat16.
            "INFERENCE_PRECISION_HINT": ov.Type.bf16 if precision == "half" and _has_bfloat16() else ov.Type.f32,
        }
        self._compile = lambda made: ov.Core().compile_model(made, "CPU", settings)
        self._model, self._shapes = model, {}
        # int8 networks with free sizes crash on processors with AMX (openvino issue 37577): one of each size there.
        self._static = quantised and info.fixed is None
        self._free = None if self._static else self._compile(model)
        self._lock, self._local = threading.Lock(), threading.local()
        self._first, self._tried = threading.Lock(), False

    def __call__(self, images: np.ndarray) -> tuple[Tensor, Tensor | None]:
        """See `Engine`. The very first call is made alone: OpenVINO's binding sets up statics in it, and a second
        thread that waits for these with Python's lock held would wait for ever, as would the first one for the lock."""
        if self._tried:
            return self._infer(images)
        with self._first:
            found = self._infer(images)
            self._tried = True
            return found

    def _infer(self, images: np.ndarray) -> tuple[Tensor, Tensor | None]:
        request = self._request(images.shape)
        found = request.infer([np.ascontiguousarray(images)], share_inputs=True)
        outputs = [torch.from_numpy(np.array(value)) for value in found.values()]
        return (outputs[0], outputs[1]) if self.info.task == "segment" else (outputs[0], None)

    def _request(self, shape: tuple[int, ...]) -> Any:
        """A thread's own, of the network for these sizes."""
        key = shape if self._static else None
        requests = self._local.__dict__.setdefault("requests", {})
        if key not in requests:
            requests[key] = self._compiled(shape).create_infer_request()
        return requests[key]

    def _compiled(self, shape: tuple[int, ...]) -> Any:
        if self._free is not None:
            return self._free
        with self._lock:
            if shape not in self._shapes:
                model = self._model.clone()
                model.reshape(list(shape))
                self._shapes[shape] = self._compile(model)
            return self._shapes[shape]


def _with_input_of_bytes(xml: Path) -> Any:
    """The network, taking uint8 (N, H, W, C) BGR instead of float32 (N, C, H, W) RGB in 0..1."""
    import openvino as ov
    from openvino.preprocess import ColorFormat, PrePostProcessor

    model = ov.Core().read_model(xml)
    colour = model.input().get_partial_shape()[1] == 3
    steps = PrePostProcessor(model)
    tensor, input_ = steps.input().tensor(), steps.input()
    tensor.set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    if colour:
        tensor.set_color_format(ColorFormat.BGR)
    input_.model().set_layout(ov.Layout("NCHW"))
    todo = input_.preprocess().convert_element_type(ov.Type.f32)
    if colour:
        todo = todo.convert_color(ColorFormat.RGB)
    todo.scale(255.0)
    return steps.build()


def _has_bfloat16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
