"""Clear away what killed runs left behind: processes, and entries in DVC's lock file.

The kernel holds DVC's repository lock and the project's locks, which end with their process. The rest is judged here.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import psutil
from prefect.runtime import flow_run

from cnn_core.locks import HOLD, is_held, sweep_held, try_lock, wait_for_lock
from flows.repository.git import git
from flows.repository.lock_file import mend_locks
from flows.repository.parameters import CANDIDATE

GUARD_S = 30.0  # the longest wait for DVC's lock of its lock file, which it holds for milliseconds
CLOCK_S = 2.0  # the difference between the start of a process and a file's time that is tolerated
END_S = 10.0  # the longest wait for killed processes
LOCKS = (f"runs/*/{HOLD}", "worktrees/*.lock", "state/.locks/*.lock", "locks/*.lock")  # below .gridflow
CLEANING = "cleaning.lock"  # below .gridflow: held while it is cleaned, and runs begin after that
KEPT_RUNS, KEPT_S = 20, 7 * 86400.0  # run folders: so many of the newest stay, and all of the last week
_HELD: list[IO[str]] = []  # the locks of this process's run folders, until it ends


def clear_leftovers(root: Path) -> list[str]:
    """End the processes of dead runs and remove locks that nobody holds; a sentence for each thing done."""
    ended = end_orphans(root)
    sweep_held(root, f"{CANDIDATE}*")
    sentences = [f"{len(ended)} processes of a run that was killed were ended"] if ended else []
    sentences += [f"a lock that nobody holds any more was removed: {entry}" for entry in sweep_rwlock(root)]
    return sentences + mend_locks(root)


def new_run_folder(root: Path) -> Path:
    """Make the folder for this run's events and failures, and delete old ones of earlier runs."""
    runs = root / ".gridflow" / "runs"
    folder = runs / str(flow_run.get_id() or "local")
    if (lock := try_lock(folder / HOLD)) is not None:  # else this run has it already
        _HELD.append(lock)
    wait_until_clean(root)
    sweep_held(runs, "*", older_than_s=KEPT_S, keep=KEPT_RUNS)
    return folder


def wait_until_clean(root: Path) -> None:
    """Wait while `gridflow clean` works; call it with a lock of `LOCKS` in hand, by which the next one sees the run."""
    with wait_for_lock(root / ".gridflow" / CLEANING):
        pass


def end_orphans(root: Path) -> list[psutil.Process]:
    """Kill the processes of stages whose flow was killed, so that it could not end them itself."""
    runs = root / ".gridflow" / "runs"

    def is_orphan(process: psutil.Process, folder: Path, runner: int) -> bool:
        return folder.is_relative_to(runs) and not _lives(runner, before=process.create_time() + CLOCK_S)

    return _kill(is_orphan)


def end_stage(folder: Path) -> list[psutil.Process]:
    """Kill what is left of the stage with this folder of events, also outside its process group or without a parent."""
    return _kill(lambda _process, events, _runner: events == folder)


def sweep_rwlock(root: Path) -> list[str]:
    """Remove the entries of ``.dvc/tmp/rwlock`` whose author has ended; their commands.

    DVC removes those whose process does not exist. An entry whose number another process has now (after a restart of a
    container, say) would block for ever, and so would a file that its writer's death left half written.
    """
    path = root / ".dvc" / "tmp" / "rwlock"
    if not path.exists():
        return []
    with _guard(path.with_name("rwlock.lock")) as locked:
        if not locked or not path.exists():
            return []
        try:
            entries, written = json.loads(path.read_text()), path.stat().st_mtime
        except json.JSONDecodeError:
            path.unlink()
            return ["a file of locks that was not written to its end"]
        removed: set[str] = set()

        def keep(info: Mapping[str, Any]) -> bool:
            if not _is_author(int(info["pid"]), str(info["cmd"]), root):
                removed.add(f"{info['cmd']} (process {info['pid']})")
                return False
            return True

        writers = {output: info for output, info in entries.get("write", {}).items() if keep(info)}
        readers = {output: list(filter(keep, infos)) for output, infos in entries.get("read", {}).items()}
        if removed:
            fresh = path.with_name("rwlock.fresh")
            readers = {output: infos for output, infos in readers.items() if infos}
            fresh.write_text(json.dumps({"write": writers, "read": readers}))
            os.utime(fresh, (written, written))
            fresh.replace(path)
        return sorted(removed)


def _is_author(pid: int, command: str, root: Path) -> bool:
    """Whether the process of that number may have written a lock entry; ``command`` is the ``sys.argv`` of the entry.

    Times say nothing, because a clock may be set while DVC runs. In doubt it is the author: an entry that stays makes
    others wait, and one that is removed lets two write the same outputs.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        running = process.cmdline()
        arguments = command.partition(" ")[2]
        if arguments and " ".join(running).endswith(arguments):
            return True
        is_dvc = any(Path(word).name == "dvc" for word in running[:3])  # python -m dvc …, python …/bin/dvc …
        return is_dvc and Path(process.cwd()).is_relative_to(root.resolve())
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def _lives(pid: int, *, before: float) -> bool:
    """Whether a process of that number runs that was started before that time, so no later one of the same number."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= before
    except psutil.NoSuchProcess:
        return False


def _kill(condition: Callable[[psutil.Process, Path, int], bool]) -> list[psutil.Process]:
    """Kill the stages' processes for which ``condition(process, folder of events, flow's process number)`` is true."""
    matches = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError, ValueError):
            env = process.environ()
            if "GRIDFLOW_RUN_DIR" not in env or "GRIDFLOW_RUNNER_PID" not in env or process.pid == os.getpid():
                continue
            if condition(process, Path(env["GRIDFLOW_RUN_DIR"]), int(env["GRIDFLOW_RUNNER_PID"])):
                matches.append(process)
    for process in matches:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    deadline = time.monotonic() + END_S
    while any(map(_is_running, matches)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return matches


def _is_running(process: psutil.Process) -> bool:
    """Whether a process runs. Unlike psutil's waiting, this leaves a child's exit status to the Popen that waits."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def _guard(path: Path) -> Iterator[bool]:
    """Hold the lock under which DVC edits its lock file; False when it cannot be had."""
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


@contextmanager
def no_run_at_work(checkouts: Sequence[Path]) -> Iterator[None]:
    """Keep new runs of these checkouts waiting during the block.

    Raises:
        ValueError: a run, a stage or a command of DVC is at work in one of them.
    """
    with contextlib.ExitStack() as held:
        for root in checkouts:
            folder = root / ".gridflow"
            if folder.is_dir() or root == checkouts[0]:  # another project may be none of Gridflow's
                held.enter_context(wait_for_lock(folder / CLEANING))
            for lock in [path for pattern in LOCKS for path in folder.glob(pattern)]:
                if is_held(lock):
                    raise ValueError(f"a run is at work ({lock.relative_to(root)}): end it first. Nothing was removed")
            sweep_rwlock(root)
            if commands := _holders(root / ".dvc" / "tmp" / "rwlock"):
                raise ValueError(f"DVC is at work in {root} ({commands[0]}): wait for it. Nothing was removed")
        yield


def _holders(rwlock: Path) -> list[str]:
    """The commands that DVC's lock file names."""
    try:
        entries = json.loads(rwlock.read_text())
    except (OSError, json.JSONDecodeError):
        return []
    readers = [info for infos in entries.get("read", {}).values() for info in infos]
    return sorted({str(info["cmd"]) for info in [*entries.get("write", {}).values(), *readers]})


def clean(root: Path) -> None:
    """Remove `.gridflow`, which holds only what runs made.

    Raises:
        ValueError: a run is at work there.
    """
    with no_run_at_work([root]):
        shutil.rmtree(root / ".gridflow", ignore_errors=True)
    git(root, "worktree", "prune")
