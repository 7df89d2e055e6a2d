"""Which device computes, and in which precision."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterable, Iterator
from typing import Literal

import torch
from torch import Tensor

from cnn_core.params import Precision

ONE_THREAD = 2_000_000  # numbers that one thread goes over in some milliseconds

# glibc's mallopt(3): option -> value
_KEEP_FREED_MEMORY = {
    -4: 0,  # M_MMAP_MAX: no mapping of its own for a large block, which would go back to the system when it is freed
    -1: 2**31 - 1,  # M_TRIM_THRESHOLD: nor the end of the heap
    -2: 2**28,  # M_TOP_PAD: grow in large steps
    -8: 1,  # M_ARENA_MAX: one heap for all threads, or what one frees another cannot use
}


def keep_memory() -> None:
    """Keep memory that this process frees for its next use, instead of giving it back to the system.

    A training step on a CPU allocates and frees the same large tensors again and again. By default glibc maps each
    anew, and the system zeroes it page by page: of an AlexNet step that was nearly half (docs/benchmarks.md). The price
    is that the process stays as large as it once was. Without glibc it does nothing.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    for option, value in _KEEP_FREED_MEMORY.items():
        mallopt(option, value)


@contextlib.contextmanager
def as_many_threads_as_pay(tensors: Iterable[Tensor]) -> Iterator[None]:
    """One thread within the block where ``tensors`` are so few numbers that waking others on a CPU costs more.

    torch's fused optimizers share every single tensor out over all threads, however small it is (docs/benchmarks.md).
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
    """The GPU when there is one and it may be used, else the CPU.

    Raises:
        ValueError: a GPU is asked for and there is none.
    """
    available = use_gpu is not False and torch.cuda.is_available()
    if use_gpu is True and not available:
        raise ValueError("use_gpu is true but this machine has no CUDA device; set it to auto or false in runtime.yaml")
    return torch.device("cuda" if available else "cpu")


def autocast_dtype(precision: Precision, device: torch.device) -> torch.dtype | None:
    """The type that autocast computes in, or None for plain float32.

    ``auto`` takes bfloat16 only where the hardware multiplies it: elsewhere it is emulated and slower than float32.

    Raises:
        ValueError: bfloat16 is demanded of a CUDA device that cannot.
    """
    if precision == "float32":
        return None
    has_it = (
        torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else _cpu_multiplies_bf16()
    )
    if precision == "bfloat16" and not has_it and device.type == "cuda":
        raise ValueError("precision is bfloat16 but this GPU does not have it; set precision to auto or float32")
    return torch.bfloat16 if has_it or precision == "bfloat16" else None


def _cpu_multiplies_bf16() -> bool:
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # older torch does not say: float32
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
