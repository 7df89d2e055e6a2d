"""Settings of the C library and of threads. Some are read when a process starts, so they go by its environment."""

from __future__ import annotations

import ctypes

# Threads of GNU's OpenMP wait for each other by spinning. A long spin makes them many times as slow once other work
# shares the cores; a short one is the compromise with no spin at all (docs/benchmarks.md).
THREADS = {"GOMP_SPINCOUNT": "10000"}

# glibc's allocator: (environment variable, option of mallopt(3), value).
_ALLOCATOR = (
    ("MALLOC_MMAP_MAX_", -4, 0),  # no mapping of its own for a large block: freeing it would return it to the system
    ("MALLOC_TRIM_THRESHOLD_", -1, 2**34),  # the end of the heap is not returned either
    ("MALLOC_TOP_PAD_", -2, 2**28),  # the heap grows in large steps
    ("MALLOC_ARENA_MAX", -8, 1),  # one heap for all threads, so that each can use what another has freed
)

# The same as `keep_memory`, for a process whose threads have heaps before its code is called.
ALLOCATOR = {variable: str(value) for variable, _, value in _ALLOCATOR}


def keep_memory() -> None:
    """Keep memory that this process frees for its next use, instead of returning it to the system.

    By default glibc maps a step's large tensors anew, and the system zeroes them page by page: of an AlexNet step
    that was nearly half (docs/benchmarks.md). The process stays as large as it once was. Without glibc it does nothing.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    for _, option, value in _ALLOCATOR:
        mallopt(option, min(value, 2**31 - 1))  # it takes an int
