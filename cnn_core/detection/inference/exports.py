"""Exports of YOLO networks to OpenVINO, ONNX and TensorRT, made once by Ultralytics' exporter.

<cache>/<sha of the weights>-<library and version>-<precision>/   the export, with Ultralytics' metadata
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cnn_core.detection.yolo import LoadedYolo
from cnn_core.files import whole_folder

Calibration = Callable[[int], Sequence[np.ndarray]]  # a side -> letterboxed images, uint8 (H, W, C) BGR

PACKAGES = {"openvino": "openvino", "onnx": "onnxruntime", "tensorrt": "tensorrt"}
_FORMATS = {"openvino": "openvino", "onnx": "onnx", "tensorrt": "engine"}  # Ultralytics' names
_TENSORRT_BATCH = 32  # the most images of a forward pass, for which TensorRT plans


def exported(
    loaded: LoadedYolo,
    backend: str,
    precision: str,
    *,
    cache: Path,
    max_side: int,
    calibration: Calibration | None = None,
) -> Path:
    """Give the folder with the export; if it is not there, one process makes it while others wait.

    Raises:
        ValueError: int8 has no images to be calibrated with.
    """
    images = list(calibration(max_side)) if precision == "int8" and calibration else []
    if precision == "int8" and not images:
        raise ValueError("int8 needs images to be calibrated with, and there is none that can be read")
    library = PACKAGES[backend]
    parts = [loaded.sha256[:16], f"{library}-{importlib.metadata.version(library)}"]
    parts += [f"ultralytics-{importlib.metadata.version('ultralytics')}", precision]
    if images:
        parts.append(hashlib.sha256(b"".join(image.tobytes() for image in images)).hexdigest()[:8])
    if backend == "tensorrt":  # planned for one kind of GPU and for sizes up to this
        parts += [str(max_side), torch.cuda.get_device_name().replace(" ", "")]
    folder = cache / "-".join(parts)
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # let go with the file, so also when this process is killed
        if not folder.is_dir():
            with whole_folder(folder) as partial:
                _export(loaded, backend, precision, partial, max_side, images)
    return folder


def _export(
    loaded: LoadedYolo, backend: str, precision: str, folder: Path, max_side: int, images: list[np.ndarray]
) -> None:
    from ultralytics.engine.exporter import Exporter

    class Calibrated(Exporter):
        """Calibrates with our images, not with a data set of Ultralytics'."""

        def get_int8_calibration_dataloader(self, prefix: str = "") -> list[Tensor]:  # noqa: ARG002
            rgb = (np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1)) for image in images)
            return [torch.from_numpy(image) for image in rgb]

    settings: dict[str, Any] = {"format": _FORMATS[backend], "dynamic": True, "imgsz": max_side, "verbose": False}
    if precision == "int8":
        settings |= {"quantize": 8, "data": "calibration.yaml"}  # a name only: the images are here
    if backend == "tensorrt":
        settings |= {"batch": _TENSORRT_BATCH, "quantize": 16 if precision == "half" else 32, "device": 0}
    network: Any = loaded.network
    network.pt_path = str(folder / "model.pt")  # the exporter writes beside this path
    with warnings.catch_warnings(), _no_telemetry():
        warnings.simplefilter("ignore")
        Calibrated(overrides=settings)(model=network)
    for inner in [path for path in folder.iterdir() if path.is_dir()]:
        for file in inner.iterdir():
            shutil.move(file, folder / file.name)
        inner.rmdir()


@contextmanager
def _no_telemetry() -> Iterator[None]:
    """Silence OpenVINO's converter and NNCF, which report each use to Intel through one class."""
    try:
        from openvino_telemetry import Telemetry
    except ImportError:
        yield
        return
    methods = {name: getattr(Telemetry, name) for name in ("send_event", "start_session", "end_session")}
    for name in methods:
        setattr(Telemetry, name, lambda *_, **__: None)
    try:
        yield
    finally:
        for name, method in methods.items():
            setattr(Telemetry, name, method)
