"""A stage ends with what started it, and its temporary files lie in one folder, which ends with it."""

from __future__ import annotations

import contextlib
import getpass
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from cnn_core.locks import temporary_folder

EVERY_S = 1.0
SHELLS = ("sh", "bash", "dash", "zsh", "fish", "ksh")
STARTERS = ("python", "dvc")  # how the names of programs begin that may be DVC


def follow_starter() -> None:
    """End this stage's processes when the flow, or without a flow the DVC, that started it is gone.

    One that was killed could not end them itself, and its next run would meet a second copy of the stage.
    """
    runner = os.environ.get("GRIDFLOW_RUNNER_PID")
    if runner and "GRIDFLOW_RUN_DIR" in os.environ:
        _follow(lambda: _runs(int(runner)), lambda: os.killpg(os.getpgid(0), signal.SIGKILL))
    elif "DVC_ROOT" in os.environ:
        # Not the group: it is that of a person's shell or script.
        starters = _starters()
        _follow(lambda: bool(starters) and _starters() == starters, lambda: os.kill(os.getpid(), signal.SIGKILL))


@contextlib.contextmanager
def own_temporary_files() -> Iterator[None]:
    """Let all temporary files of the block, those of libraries too, lie in one folder, which is removed after it.

    If the process is killed, the next stage removes it.
    """
    before = tempfile.gettempdir()
    with contextlib.suppress(OSError, KeyError):  # a user without a name
        # torch.compile's kernels are worth keeping: they stay where torch has them by default.
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(before) / f"torchinductor_{getpass.getuser()}"))
    with temporary_folder() as folder:
        former = os.environ.get("TMPDIR")
        os.environ["TMPDIR"], tempfile.tempdir = str(folder), str(folder)
        try:
            yield
        finally:
            tempfile.tempdir = before
            os.environ.pop("TMPDIR") if former is None else os.environ.__setitem__("TMPDIR", former)


def _follow(lives: Callable[[], bool], end: Callable[[], None]) -> None:
    def watch() -> None:
        while lives():
            time.sleep(EVERY_S)
        for child in psutil.Process().children(recursive=True):  # also those that lead a session
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        end()

    threading.Thread(target=watch, daemon=True, name="follow-starter").start()


def _starters() -> list[int]:
    """DVC's process, and the shell between if there is one; empty when DVC has ended and another took this process."""
    numbers: list[int] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(os.getppid())
        while parent.name() in SHELLS and not numbers:
            numbers.append(parent.pid)
            parent = psutil.Process(parent.ppid())
        if _program(parent).startswith(STARTERS):
            return [*numbers, parent.pid]
    return []


def _program(process: psutil.Process) -> str:
    try:
        return Path(process.exe()).name.lower()
    except psutil.AccessDenied:  # another user's; in doubt it is DVC
        return STARTERS[0]


def _runs(pid: int) -> bool:
    """Whether a process runs; one that was killed and that its parent has not asked for does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
