"""A network exported to OpenVINO, run on the CPU."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from cnn_core.detection.yolo import NetworkInfo

Precision = Literal["float32", "half", "int8"]


class OpenVinoEngine:
    """OpenVINO on the CPU: a stream for each core, one image in each stream.

    Two streams of one thread each process 1.3 times the images of two threads that share one stream
    (docs/benchmarks.md). The division by 255 and the change of layout are part of the network,
    where they cost next to nothing. The engine is called from several threads; `AsyncInferQueue`
    would do that too, but it can hang (Ultralytics issue 25923).
    """

    name = "openvino"

    def __init__(
        self, folder: Path, info: NetworkInfo, *, threads: int, precision: Precision, batch: int | None = None
    ) -> None:
        import openvino as ov

        self.info, self.streams, self.batch = info, max(1, threads), batch or 1
        model = _with_byte_input(next(folder.glob("*.xml")))
        quantised = any(node.get_type_name() == "FakeQuantize" for node in model.get_ops())
        settings: dict[str, Any] = {
            "NUM_STREAMS": self.streams,
            "INFERENCE_NUM_THREADS": self.streams,
            "ENABLE_CPU_PINNING": False,  # decoding shares the cores with it
            # The default is bfloat16 where the processor has it.
            "INFERENCE_PRECISION_HINT": ov.Type.bf16 if precision == "half" and _has_bfloat16() else ov.Type.f32,
        }
        self._compile = lambda network: ov.Core().compile_model(network, "CPU", settings)
        self._model = model
        # An int8 network with free input sizes crashes on processors with AMX (openvino issue
        # 37577), so it is compiled once for each size; any other network is compiled here, for all
        # sizes.
        self._static = quantised and info.fixed is None
        self._compiled: dict[tuple[int, ...] | None, Any] = {} if self._static else {None: self._compile(model)}
        self._compiling, self._requests = threading.Lock(), threading.local()
        self._first_call, self._called = threading.Lock(), False

    def __call__(self, images: np.ndarray) -> tuple[Tensor, Tensor | None]:
        """As `Engine`, but the very first call runs alone.

        In it OpenVINO's binding sets up statics. A second thread would wait for these and hold
        Python's lock, for which the first one waits: both for ever.
        """
        if self._called:
            return self._infer(images)
        with self._first_call:
            outputs = self._infer(images)
            self._called = True
            return outputs

    def _infer(self, images: np.ndarray) -> tuple[Tensor, Tensor | None]:
        request = self._request(images.shape)
        values = request.infer([np.ascontiguousarray(images)], share_inputs=True).values()
        outputs = [torch.from_numpy(np.array(value)) for value in values]
        return (outputs[0], outputs[1]) if self.info.task == "segment" else (outputs[0], None)

    def _request(self, shape: tuple[int, ...]) -> Any:
        """The calling thread's own request to the network for this input shape."""
        key = shape if self._static else None
        requests: dict[tuple[int, ...] | None, Any] = self._requests.__dict__.setdefault("by_shape", {})
        if key not in requests:
            with self._compiling:
                if key not in self._compiled:
                    model = self._model.clone()
                    model.reshape(list(shape))
                    self._compiled[key] = self._compile(model)
            requests[key] = self._compiled[key].create_infer_request()
        return requests[key]


def _with_byte_input(xml: Path) -> Any:
    """Read a network of float32 (N, C, H, W) RGB in 0..1, and let it take uint8 (N, H, W, C) BGR."""
    import openvino as ov
    from openvino.preprocess import ColorFormat, PrePostProcessor

    model = ov.Core().read_model(xml)
    colour = model.input().get_partial_shape()[1] == 3
    steps = PrePostProcessor(model)
    tensor = steps.input().tensor()
    tensor.set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    if colour:
        tensor.set_color_format(ColorFormat.BGR)
    steps.input().model().set_layout(ov.Layout("NCHW"))
    todo = steps.input().preprocess().convert_element_type(ov.Type.f32)
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
