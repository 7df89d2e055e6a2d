"""The device that computes, its threads and its precision."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from cnn_core.params import Precision

ONE_THREAD = 2_000_000  # numbers that one thread processes in some milliseconds


@contextlib.contextmanager
def as_many_threads_as_pay(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Use one thread within the block where ``tensors`` have so few numbers that waking the others costs more.

    torch's fused optimizers divide every tensor among all threads, however small it is (docs/benchmarks.md).
    """
    threads = torch.get_num_threads()
    if threads == 1 or sum(tensor.numel() for tensor in tensors) > ONE_THREAD:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def pick_device(use_gpu: bool | Literal["auto"]) -> torch.device:
    """The GPU when there is one and it may be used, else the CPU; ``True`` without a GPU is the user's error."""
    available = use_gpu is not False and torch.cuda.is_available()
    if use_gpu is True and not available:
        raise ValueError("use_gpu is true but this machine has no CUDA device; set it to auto or false in runtime.yaml")
    return torch.device("cuda" if available else "cpu")


def autocast_dtype(precision: Precision, device: torch.device) -> torch.dtype | None:
    """The type that autocast computes in, or None for plain float32.

    ``auto`` takes bfloat16 only where the hardware multiplies it; elsewhere it is emulated and slower than float32.

    Raises:
        ValueError: ``precision`` is bfloat16 and the CUDA device does not have it.
    """
    if precision == "float32":
        return None
    on_gpu = device.type == "cuda"
    supported = torch.cuda.is_bf16_supported(including_emulation=False) if on_gpu else _cpu_multiplies_bf16()
    if precision == "bfloat16" and not supported and on_gpu:
        raise ValueError("precision is bfloat16 but this GPU does not have it; set precision to auto or float32")
    return torch.bfloat16 if supported or precision == "bfloat16" else None


def _cpu_multiplies_bf16() -> bool:
    # Older versions of torch have no such function: float32.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
