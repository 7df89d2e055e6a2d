"""Gets data sets into ``data/sources/`` and weights into ``data/weights/`` by name, and tracks them with DVC.

``gridflow fetch digits scenes alexnet yolo11n.pt``

The only part of Gridflow that uses the network; a run never does.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from flows.fetch_weights import fetch_weights, how_to_run
from flows.kaggle import KaggleSource, download

SOURCES = {
    "digits": KaggleSource(
        kind="competition",
        handle="digit-recognizer",
        folder="digits-kaggle",
        parameter="ingest.digits.source",
        files=("train.csv", "test.csv"),
    ),
    "scenes": KaggleSource(
        kind="dataset",
        handle="puneet6060/intel-image-classification",
        folder="scenes-kaggle",
        parameter="ingest.scenes.source",
        files=("seg_train", "seg_test", "seg_pred"),
    ),
}


def fetch(name: str, root: Path) -> Path:
    """Download a data set (or a network's weights), put it in its place in one move and track it with DVC; what was
    there is replaced.

    Raises:
        ValueError: the name is unknown, Kaggle refused or could not be reached, or a file is missing. What was there
            before stays.
    """
    if name not in SOURCES:
        return fetch_weights(name, root, others=SOURCES)
    source = SOURCES[name]
    target = root / "data" / "sources" / source.folder
    partial = target.with_name(f".{source.folder}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        download(source, partial)
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    track(target, root)
    return target


def track(path: Path, root: Path) -> None:
    """``dvc add``: the data goes to DVC's cache, a small pointer beside it goes to git.

    Raises:
        ValueError: DVC refused; its reason is in the sentence.
    """
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "add", "--quiet", str(path.relative_to(root))]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"the data lies in {path}, but DVC does not track it: {done.stderr.strip()}")


def run_with(name: str, path: Path) -> str:
    """The command that uses what was fetched."""
    if name in SOURCES:
        return f"gridflow run --recipe real --set {SOURCES[name].parameter}={path}"
    return how_to_run(name, path)
