"""Locks that end with their process, and folders that are removed by the next process when theirs was killed.

Only what bears a mark of ours is ever removed, and only while its lock is held by who removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

TEMPORARY = "gridflow-"  # how the names of our folders in the system's temporary folder begin
HOLD = ".gridflow-hold"  # the lock in a folder that we made, which is also our mark


def try_lock(path: Path) -> IO[str] | None:
    """The locked file, or None while another process holds it. Closing it or the end of the process unlocks it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino:
            return file
    except OSError:
        pass
    file.close()  # another holds it, or its holder has just unlinked it
    return None


def is_held(path: Path) -> bool:
    """Whether another process holds the lock at ``path``."""
    if (file := try_lock(path)) is None:
        return True
    file.close()
    return False


@contextlib.contextmanager
def wait_for_lock(path: Path) -> Iterator[None]:
    """Hold the lock at ``path``, however long another process holds it."""
    while (file := try_lock(path)) is None:
        time.sleep(0.2)
    with file:
        yield


def last_change(folder: Path) -> float:
    """The time of the newest content below a folder, in seconds since 1970."""
    times = [folder.lstat().st_mtime]
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # its owner removes it just now
            times.append(path.lstat().st_mtime)
    return max(times)


def sweep_held(parent: Path, pattern: str, *, older_than_s: float = 0.0, keep: int = 0) -> list[str]:
    """Remove folders of ours in ``parent`` that nobody holds; their names.

    Args:
        pattern: what their names match, as a glob.
        older_than_s: the least seconds since their newest content.
        keep: so many of the newest stay in any case.
    """
    ages: dict[Path, float] = {}
    for hold in parent.glob(f"{pattern}/{HOLD}"):
        with contextlib.suppress(OSError):  # its owner removes it just now
            if not hold.parent.is_symlink():
                ages[hold.parent] = time.time() - last_change(hold.parent)
    swept = []
    for folder in sorted(ages, key=lambda path: ages[path])[keep:]:
        with contextlib.suppress(OSError):  # another user's
            if ages[folder] >= older_than_s and (lock := try_lock(folder / HOLD)) is not None:
                with lock:
                    _remove(folder)
                swept.append(folder.name)
    return swept


@contextlib.contextmanager
def temporary_folder(parent: Path | None = None, prefix: str = TEMPORARY) -> Iterator[Path]:
    """A new folder in ``parent`` (default: the system's temporary folder), which is removed after the block.

    Those of the same prefix whose process was killed are removed first.
    """
    parent = parent or Path(tempfile.gettempdir())
    sweep_held(parent, f"{glob.escape(prefix)}*")
    lock = None
    while lock is None:  # another sweeps, in the moment between the two steps
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
        lock = try_lock(folder / HOLD)
    with lock:
        try:
            yield folder
        finally:
            _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a folder, its mark last: where this is cut short, the next sweep goes on with it."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != HOLD:
            with contextlib.suppress(OSError):
                path.unlink()
    shutil.rmtree(folder, ignore_errors=True)
