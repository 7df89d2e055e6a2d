"""Unfinished runs: the state that an interrupted stage goes on from, held by one process at a time.

A run's name follows from everything that its result depends on, so the same command finds its own interrupted run and
no other. The state is deleted when the outputs are in place.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import importlib.metadata
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from cnn_core.files import file_names, file_sha256, is_none, sha256_files
from cnn_core.params import read_yaml
from tasks.engine.runtime import ROOT, Runtime, main_checkout, state_folder

# What decides how a picture is read, or a number is computed.
LIBRARIES = (
    *("torch", "torchvision", "ultralytics", "openvino", "nncf", "onnxruntime", "onnxruntime-gpu", "tensorrt"),
    *("numpy", "scipy", "opencv-python", "opencv-python-headless", "pillow", "pycocotools"),
)
KEEP_DAYS = 14  # a run that was interrupted longer ago is deleted


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
    _delete_old(storage)
    number = 1
    while True:
        run_name = name if number == 1 else f"{name}-{number}"
        lock = try_lock(_locks(storage) / f"{run_name}.lock")
        if lock is not None:
            break
        number += 1
    run = UnfinishedRun(name=run_name, storage=storage)
    try:
        yield run
        run.delete()
        Path(lock.name).unlink()
    finally:
        lock.close()


def _locks(storage: str) -> Path:
    """Return the locks' folder: beside a local state folder, else in the main checkout."""
    return (main_checkout() / ".gridflow" if "://" in storage else Path(storage).parent) / "locks"


def try_lock(path: Path) -> IO[str] | None:
    """Return the locked file, or None when another process holds it.

    Closing it or the end of the process unlocks it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino:
            return file
    except OSError:
        pass
    file.close()  # another holds it, or its holder has just unlinked it
    return None


def _delete_old(storage: str) -> None:
    if "://" in storage or not Path(storage).is_dir():
        return
    for folder in Path(storage).iterdir():
        if folder.is_dir() and time.time() - folder.stat().st_mtime > KEEP_DAYS * 86400:
            shutil.rmtree(folder, ignore_errors=True)
