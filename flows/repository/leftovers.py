"""What killed runs leave behind, cleared away before the next one: processes, and entries in DVC's lock file.

DVC's repository lock and ours are held by the kernel and go with their process. The rest is judged here.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from prefect.runtime import flow_run

GUARD_S = 30.0  # DVC holds the guard of its lock file for milliseconds
CLOCK_S = 2.0  # by so much the start of a process and a file's time may differ
END_S = 10.0
KEPT_RUNS, KEPT_S = 20, 7 * 86400.0


def clear_leftovers(root: Path) -> list[str]:
    """End the processes of dead runs and drop locks that nobody holds; what was done, a sentence each."""
    ended = end_orphans(root)
    said = [f"{len(ended)} processes of a run that was killed were ended"] if ended else []
    return said + [f"a lock that nobody holds any more was removed: {what}" for what in sweep_rwlock(root)]


def new_run_folder(root: Path) -> Path:
    """A folder for this run's events and failures; of the earlier ones the newest stay, and those of last week."""
    runs = root / ".gridflow" / "runs"
    folder = runs / str(flow_run.get_id() or "local")
    folder.mkdir(parents=True, exist_ok=True)
    old = sorted(runs.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)[KEPT_RUNS:]
    for path in (path for path in old if time.time() - path.stat().st_mtime > KEPT_S):  # none of a run that lives
        shutil.rmtree(path, ignore_errors=True)
    return folder


def end_orphans(root: Path) -> list[psutil.Process]:
    """End the processes of stages whose flow is gone (killed, so that it could not end them itself)."""
    runs = root / ".gridflow" / "runs"

    def is_orphan(process: psutil.Process, folder: Path, runner: int) -> bool:
        return folder.is_relative_to(runs) and not _lives(runner, before=process.create_time() + CLOCK_S)

    return _end(is_orphan)


def end_stage(folder: Path) -> list[psutil.Process]:
    """End what is left of a stage by the folder of its events: also what left its process group or lost its parent."""
    return _end(lambda _process, of, _runner: of == folder)


def sweep_rwlock(root: Path) -> list[str]:
    """Drop the entries of ``.dvc/tmp/rwlock`` whose author is gone; their commands.

    DVC drops those of processes that do not exist. An entry whose number another process bears now (after a restart of
    a container, say) would block for ever; so would a file that its writer's death left half written.
    """
    path = root / ".dvc" / "tmp" / "rwlock"
    if not path.exists():
        return []
    with _guard(path.with_name("rwlock.lock")) as held:
        if not held or not path.exists():
            return []
        try:
            entries, written = json.loads(path.read_text()), path.stat().st_mtime
        except json.JSONDecodeError:
            path.unlink()
            return ["a file of locks that was not written to its end"]
        gone: set[str] = set()

        def keep(info: Mapping[str, Any]) -> bool:
            if not _is_author(int(info["pid"]), str(info["cmd"]), written):
                gone.add(f"{info['cmd']} (process {info['pid']})")
                return False
            return True

        writers = {of: info for of, info in entries.get("write", {}).items() if keep(info)}
        readers = {of: [info for info in infos if keep(info)] for of, infos in entries.get("read", {}).items()}
        if gone:
            fresh = path.with_name("rwlock.fresh")
            fresh.write_text(json.dumps({"write": writers, "read": {of: left for of, left in readers.items() if left}}))
            os.utime(fresh, (written, written))
            fresh.replace(path)
        return sorted(gone)


def _is_author(pid: int, command: str, written: float) -> bool:
    """Whether the process of that number is the one that wrote a lock entry, with ``command`` for its ``sys.argv``."""
    if not _lives(pid, before=written + CLOCK_S):
        return False
    try:
        running = psutil.Process(pid).cmdline()
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
    arguments = command.partition(" ")[2]
    is_dvc = any(Path(word).name == "dvc" for word in running[:3])  # python -m dvc …, python …/bin/dvc …
    return is_dvc or bool(arguments and " ".join(running).endswith(arguments))


def _lives(pid: int, *, before: float) -> bool:
    """Whether a process of that number lives that was started before the time given, so no later namesake."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= before
    except psutil.NoSuchProcess:
        return False


def _end(wanted: Callable[[psutil.Process, Path, int], bool]) -> list[psutil.Process]:
    """Kill the stages' processes that ``wanted(process, folder of events, number of the flow's process)`` names."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError, ValueError):
            told = process.environ()
            if "GRIDFLOW_RUN_DIR" not in told or "GRIDFLOW_RUNNER_PID" not in told or process.pid == os.getpid():
                continue
            if wanted(process, Path(told["GRIDFLOW_RUN_DIR"]), int(told["GRIDFLOW_RUNNER_PID"])):
                found.append(process)
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    deadline = time.monotonic() + END_S
    while any(map(_is_running, found)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def _is_running(process: psutil.Process) -> bool:
    """Unlike psutil's own waiting this leaves a child's exit status to the Popen that waits for it."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def _guard(path: Path) -> Iterator[bool]:
    """Hold the lock under which DVC edits its lock file; False when it is not to be had."""
    deadline = time.monotonic() + GUARD_S
    with path.open("a") as file:
        while True:
            if os.fstat(file.fileno()).st_nlink > 1:  # DVC's other kind of lock (core.hardlink_lock) holds it
                yield False
                return
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    yield False
                    return
                time.sleep(0.05)
        yield True
