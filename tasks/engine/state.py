"""Unfinished runs: the state that an interrupted stage goes on from, held by one process at a time.

A run's name follows from everything that its result depends on, so the same command finds its own interrupted run and
no other. The state is deleted when the outputs are in place.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cnn_core.files import file_names, file_sha256, is_none, sha256_files
from cnn_core.locks import last_change, try_lock
from cnn_core.params import read_yaml
from tasks.engine.runtime import ROOT, Runtime, main_checkout, state_folder

# What decides how a picture is read, or a number is computed.
LIBRARIES = (
    *("torch", "torchvision", "ultralytics", "openvino", "nncf", "onnxruntime", "onnxruntime-gpu", "tensorrt"),
    *("numpy", "scipy", "opencv-python", "opencv-python-headless", "pillow", "pycocotools"),
)
KEEP_DAYS = 14  # a run is deleted in which nothing has changed for so long
MARK = ".gridflow-run"  # the file that says a folder is an unfinished run of ours: it holds the run's name


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnfinishedRun:
    """A run in progress in ``storage/name``; ``storage`` is an absolute path or an fsspec URI."""

    name: str
    storage: str

    @property
    def folder(self) -> str:
        return f"{self.storage}/{self.name}"

    def delete(self) -> None:
        from fsspec.core import url_to_fs

        files, path = url_to_fs(self.folder)
        if files.exists(path):
            files.rm(path, recursive=True)


def key_of(stage: str, **parts: Any) -> str:
    """Hash a stage's parameters and inputs (plain values), its code, and the versions of the libraries that compute."""
    parts["libraries"] = library_versions()
    parts["code"] = sha256_files(ROOT, code_files(stage))
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def library_versions() -> dict[str, str]:
    """The versions of those of `LIBRARIES` that are installed."""
    versions = {}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def code_files(stage: str) -> list[str]:
    """List the files of code among the stage's ``deps``. Of a dep with a template in it, all of its folder count."""
    entry = read_yaml(ROOT / "dvc.yaml")["stages"][stage]
    files: set[str] = set()
    for dep in entry.get("do", entry)["deps"]:
        if dep.startswith(("tasks/", "cnn_core/")):
            path = dep.partition("${")[0].rpartition("/")[0] if "${" in dep else dep
            folder = (ROOT / path).is_dir()
            files |= {f"{path}/{name}" for name in file_names(ROOT / path)} if folder else {path}
    return sorted(files)


def input_sha256(path: str | Path) -> str:
    """Hash an input for `key_of`: a file, all files of a folder, or weights that are ``none``."""
    if is_none(path):
        return "none"
    return sha256_files(path) if Path(path).is_dir() else file_sha256(path)


@contextlib.contextmanager
def run_in_progress(runtime: Runtime, name: str) -> Iterator[UnfinishedRun]:
    """Hold the run ``name``, or ``name-2`` and so on while others hold it; delete it at the end.

    A block that ends with an error leaves the run, to be gone on with.
    """
    storage = state_folder(runtime)
    delete_old(storage)
    number = 1
    while True:
        run = UnfinishedRun(name=name if number == 1 else f"{name}-{number}", storage=storage)
        lock = try_lock(_lock_file(storage, run.name))
        if lock is not None:
            if _mark(run):
                break
            lock.close()
        number += 1
    try:
        yield run
        run.delete()
        Path(lock.name).unlink()
    finally:
        lock.close()


def _lock_file(storage: str, name: str) -> Path:
    """The lock of a run: in a local state folder, else in the main checkout."""
    folder = main_checkout() / ".gridflow/locks" if "://" in storage else Path(storage, ".locks")
    return folder / f"{name}.lock"


def _mark(run: UnfinishedRun) -> bool:
    """Make the run's folder, with our mark; False where somebody else's folder has its name."""
    if "://" in run.storage:
        return _mark_at_uri(run)
    folder = Path(run.folder)
    if _is_marked(folder):
        return True
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        return False
    (folder / MARK).write_text(run.name)
    return True


def _is_marked(folder: Path) -> bool:
    """Whether we made a folder, under the name that it bears now."""
    try:
        return not folder.is_symlink() and (folder / MARK).read_text() == folder.name
    except (OSError, ValueError):
        return False


def _mark_at_uri(run: UnfinishedRun) -> bool:
    from fsspec.core import url_to_fs

    files, folder = url_to_fs(run.folder)
    mark = f"{folder}/{MARK}"
    if files.exists(mark):
        return files.cat_file(mark) == run.name.encode()
    if files.exists(folder) and files.find(folder):
        return False
    files.makedirs(folder, exist_ok=True)
    files.pipe_file(mark, run.name.encode())
    return True


def _delete_old_at_uri(storage: str, older_than_s: float) -> Iterator[str]:
    from fsspec.core import url_to_fs

    files, parent = url_to_fs(storage)
    for mark in files.glob(f"{parent}/*/{MARK}"):
        folder = mark.rpartition("/")[0]
        name = folder.rpartition("/")[2]
        newest = max(files.modified(path).timestamp() for path in files.find(folder))
        if files.cat_file(mark) != name.encode() or time.time() - newest < older_than_s:
            continue
        if (lock := try_lock(_lock_file(storage, name))) is not None:
            with lock:
                files.rm(folder, recursive=True)
                Path(lock.name).unlink()
            yield name


def delete_old(storage: str, older_than_s: float = KEEP_DAYS * 86400) -> list[str]:
    """Delete runs that we marked, that nobody holds and in which nothing has changed for so long; their names."""
    if "://" in storage:
        return list(_delete_old_at_uri(storage, older_than_s))
    deleted = []
    for folder in old_runs(storage, older_than_s):
        if (lock := try_lock(_lock_file(storage, folder.name))) is not None:
            with lock:
                shutil.rmtree(folder, ignore_errors=True)
                Path(lock.name).unlink()
            deleted.append(folder.name)
    return deleted


def old_runs(storage: str, older_than_s: float) -> list[Path]:
    """The folders of local runs that we marked and in which nothing has changed for so long."""
    folders = [] if "://" in storage else [mark.parent for mark in Path(storage).glob(f"*/{MARK}")]
    return [one for one in folders if _is_marked(one) and time.time() - last_change(one) >= older_than_s]
