"""What a stage takes of its machine: processor time, memory and GPU memory of all its processes, Ray's among them."""

from __future__ import annotations

import contextlib
import resource
import threading
from typing import Any, ClassVar

import psutil

EVERY_S = 2.0  # a look at some dozen processes takes about 10 ms


class Meter:
    """Looks now and then at this process and those that it has started; what lives between two looks is missed."""

    running: ClassVar[Meter | None] = None  # that of this process

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._cpu: dict[tuple[int, float], float] = {}  # of each process, when it was last seen
        self._peak = self._gpu_peak = 0
        self._lock = threading.Lock()
        self._gpus = _gpus()

    @classmethod
    def begin(cls) -> None:
        """Look at this process until it ends."""
        cls.running = meter = cls()

        def watch() -> None:
            while True:
                meter.look()
                threading.Event().wait(EVERY_S)

        threading.Thread(target=watch, daemon=True, name="meter").start()

    def look(self) -> None:
        """Memory is what each process has for itself, and once the largest part that one shares with others."""
        own, shared = 0, 0
        with self._lock:
            for process in [self._process, *self._process.children(recursive=True)]:
                with contextlib.suppress(psutil.Error), process.oneshot():
                    memory, times = process.memory_info(), process.cpu_times()
                    common = getattr(memory, "shared", 0)  # Linux alone tells it
                    own, shared = own + memory.rss - common, max(shared, common)
                    self._cpu[(process.pid, process.create_time())] = times.user + times.system
            self._peak = max(self._peak, own + shared)
            self._gpu_peak = max(self._gpu_peak, _in_use(self._gpus))

    def summary(self) -> dict[str, Any]:
        """cpu_seconds and peak_memory_bytes of all the stage's processes; on a machine with GPUs also
        gpu_peak_memory_bytes, which is all that was in use there, by others too."""
        self.look()
        ended = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        known = sum(usage.ru_utime + usage.ru_stime for usage in ended)  # to the end, but of no grandchildren of Ray's
        found = {
            "cpu_seconds": round(max(known, sum(self._cpu.values())), 1),
            "peak_memory_bytes": max(self._peak, *(1024 * usage.ru_maxrss for usage in ended)),
        }
        return found | ({"gpu_peak_memory_bytes": self._gpu_peak} if self._gpus else {})


def gpu_count() -> int:
    """NVIDIA GPUs of this machine, also of those that do not answer."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetCount()
    except Exception:  # no library, no driver, no permission
        return 0


def _gpus() -> list[Any]:
    """NVML's handles; none without its library or a driver."""
    try:
        import pynvml

        return [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(gpu_count())]
    except Exception:  # no library, no driver, no permission: then nothing is said of GPUs
        return []


def _in_use(gpus: list[Any]) -> int:
    if not gpus:
        return 0
    import pynvml

    return sum(int(pynvml.nvmlDeviceGetMemoryInfo(gpu).used) for gpu in gpus)
