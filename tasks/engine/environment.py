"""Settings of the C library and of the threads of a stage's processes, which change no result.

Some are read when a process starts, so they go by its environment: `flows` gives them to stages, a
stage to its child process and to Ray's workers.
"""

from __future__ import annotations

import ctypes

# Threads of GNU's OpenMP, which torch bundles, wait for each other by spinning. A long spin makes
# them many times as slow once other work shares the cores; a short one is the compromise with no
# spin at all (docs/benchmarks.md).
THREADS = {"GOMP_SPINCOUNT": "10000"}

# glibc's allocator: (environment variable, option of mallopt(3), value).
_ALLOCATOR = (
    ("MALLOC_MMAP_MAX_", -4, 0),  # no mapping of its own for a large block: freeing it would return it to the system
    ("MALLOC_TRIM_THRESHOLD_", -1, 2**34),  # the end of the heap is not returned either
    ("MALLOC_TOP_PAD_", -2, 2**28),  # the heap grows in large steps
    ("MALLOC_ARENA_MAX", -8, 1),  # one heap for all threads, so that each can use what another has freed
)

# The same as `keep_memory`, for a process whose threads have heaps of their own before its code is
# called.
ALLOCATOR = {variable: str(value) for variable, _, value in _ALLOCATOR}


def keep_memory() -> None:
    """Keep memory that this process frees for its next use, instead of returning it to the system.

    A training step on a CPU allocates and frees the same large tensors again and again. By default
    glibc maps each anew, and the system zeroes it page by page: of an AlexNet step that was nearly
    half (docs/benchmarks.md). The price is that the process stays as large as it once was. Without
    glibc it does nothing.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    for _, option, value in _ALLOCATOR:
        mallopt(option, min(value, 2**31 - 1))  # it takes an int
