"""The processor time, memory and GPU memory that all processes of a stage use, Ray's among them."""

from __future__ import annotations

import contextlib
import resource
import threading
from typing import Any, ClassVar

import psutil

EVERY_S = 2.0  # one measurement of some dozen processes takes about 10 ms


class Meter:
    """Measures this process and its descendants now and then."""

    running: ClassVar[Meter | None] = None  # the meter of this process

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._cpu: dict[tuple[int, float], float] = {}  # seconds of each process at its last measurement
        self._peak = self._gpu_peak = 0
        self._lock = threading.Lock()
        self._gpus = _gpus()

    @classmethod
    def begin(cls) -> None:
        cls.running = meter = cls()

        def watch() -> None:
            while True:
                meter.measure()
                threading.Event().wait(EVERY_S)

        threading.Thread(target=watch, daemon=True, name="meter").start()

    def measure(self) -> None:
        """Add up each process's private memory, and once the largest part that one shares."""
        private, shared = 0, 0
        with self._lock:
            for process in [self._process, *self._process.children(recursive=True)]:
                with contextlib.suppress(psutil.Error), process.oneshot():
                    memory, times = process.memory_info(), process.cpu_times()
                    common = getattr(memory, "shared", 0)  # known on Linux alone
                    private, shared = private + memory.rss - common, max(shared, common)
                    self._cpu[(process.pid, process.create_time())] = times.user + times.system
            self._peak = max(self._peak, private + shared)
            self._gpu_peak = max(self._gpu_peak, _gpu_memory(self._gpus))

    def summary(self) -> dict[str, Any]:
        """cpu_seconds and peak_memory_bytes of all processes; with GPUs also that of all who use them."""
        self.measure()
        ended = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        # Complete for children that ended, but without the grandchildren that Ray starts.
        cpu_seconds = sum(usage.ru_utime + usage.ru_stime for usage in ended)
        usage = {
            "cpu_seconds": round(max(cpu_seconds, sum(self._cpu.values())), 1),
            "peak_memory_bytes": max(self._peak, *(1024 * usage.ru_maxrss for usage in ended)),
        }
        return usage | ({"gpu_peak_memory_bytes": self._gpu_peak} if self._gpus else {})


def gpu_count() -> int:
    """Count the NVIDIA GPUs of this machine, those included that do not answer."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetCount()
    except Exception:  # no library, no driver, no permission
        return 0


def _gpus() -> list[Any]:
    try:
        import pynvml

        return [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(gpu_count())]
    except Exception:  # no library, no driver, no permission: then no GPU is reported
        return []


def _gpu_memory(gpus: list[Any]) -> int:
    if not gpus:
        return 0
    import pynvml

    return sum(int(pynvml.nvmlDeviceGetMemoryInfo(gpu).used) for gpu in gpus)
