"""Start a stage's process in a group of its own, and end it with all its descendants."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

GRACE_S = 3.0  # from the request to end to the kill, for all processes of a run together


class Slots:
    """A semaphore with weights, so that stages side by side never ask for more than ``capacity`` cores."""

    def __init__(self, capacity: int) -> None:
        self._free = self._capacity = capacity
        self._changed = threading.Condition()

    @contextmanager
    def take(self, weight: int) -> Iterator[None]:
        weight = min(weight, self._capacity)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= weight)
            self._free -= weight
        try:
            yield
        finally:
            with self._changed:
                self._free += weight
                self._changed.notify_all()


class ProcessGroups:
    def __init__(self) -> None:
        self._running: dict[int, subprocess.Popen[str]] = {}
        self._lock = threading.Lock()
        self.ended = False

    def start(self, command: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> subprocess.Popen[str]:
        """Start the leader of a new session, with standard output and error in one text stream.

        Raises:
            InterruptedError: the run is ending, so nothing is started any more.
        """
        with self._lock:
            if self.ended:
                raise InterruptedError("the run was cancelled")
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
            self._running[process.pid] = process
        return process

    def forget(self, process: subprocess.Popen[str]) -> None:
        """Take out a process that has ended."""
        with self._lock:
            self._running.pop(process.pid, None)

    def end_all(self) -> None:
        """End every group that still runs, and refuse to start others."""
        with self._lock:
            self.ended = True
            running = list(self._running.values())
        end_trees(running)


def end_trees(leaders: Sequence[subprocess.Popen[str]]) -> None:
    """End process groups and every descendant of their leaders, those in sessions of their own (Ray's) included.

    All are asked to end. Those that still run after `GRACE_S` seconds are killed.
    """
    family: list[psutil.Process] = []
    for leader in leaders:
        with contextlib.suppress(psutil.NoSuchProcess):
            # Without the leader: psutil would take its exit status, and the Popen that waits for it would see 0.
            family += psutil.Process(leader.pid).children(recursive=True)
        _signal_group(leader, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S
    for leader in leaders:
        with contextlib.suppress(subprocess.TimeoutExpired):
            leader.wait(timeout=max(0.0, deadline - time.monotonic()))
    _, alive = psutil.wait_procs(family, timeout=max(0.0, deadline - time.monotonic()))
    for leader in leaders:
        _signal_group(leader, signal.SIGKILL)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=GRACE_S)


def _signal_group(leader: subprocess.Popen[str], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader.pid, number)
