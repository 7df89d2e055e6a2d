"""Get data sets and official weights by name, and track them with DVC.

``gridflow fetch digits scenes alexnet yolo11n.pt``

This is the only part of Gridflow that uses the network. A run never does.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from cnn_core.downloads.common import FAILED, UNKNOWN
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
ULTRALYTICS = ".pt"  # the ending of the names of its weights; torchvision's names have none


def fetch(name: str, root: Path) -> Path:
    """Download a data set or a network's official weights, and track them with DVC.

    Returns:
        The new folder or file. It replaces what was there, in one move.

    Raises:
        ValueError: the name is unknown, the publisher refused or could not be reached, or a file is
            missing. What was there before stays.
    """
    return fetch_source(SOURCES[name], root) if name in SOURCES else fetch_weights(name, root)


def fetch_source(source: KaggleSource, root: Path) -> Path:
    """Download a data set from Kaggle to ``data/sources/<folder>``.

    Raises:
        ValueError: as `fetch`.
    """
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


def fetch_weights(name: str, root: Path, *, url: str | None = None) -> Path:
    """Download official weights.

    They are written to ``data/weights/<name>.pth`` (Ultralytics': ``data/weights/<name>``). A
    ``.json`` of the same stem beside them notes their origin and SHA-256. The download runs in a
    process of its own, because flows must not import torch. Its progress goes to standard error.

    Args:
        name: of torchvision's weights the name of their network, of Ultralytics' that of their file
            (yolo11n.pt).
        root: the checkout.
        url: another address to get the file from.

    Raises:
        ValueError: there are no official weights of this name, or the file could not be downloaded.
            The sentence says which file to put where. What was there before stays.
    """
    folder, is_ultralytics = Path("data", "weights"), name.endswith(ULTRALYTICS)
    module = "cnn_core.downloads.ultralytics" if is_ultralytics else "cnn_core.downloads.torchvision"
    command = [sys.executable, "-m", module, name, str(folder), *(["--url", url] if url else [])]
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode == FAILED:
        raise ValueError(done.stdout.strip())
    if done.returncode == UNKNOWN:
        raise ValueError(
            f"gridflow fetch gets {', '.join(SOURCES)}, Ultralytics' weights by the name of their file, such as "
            f"yolo11n.pt, and torchvision's weights by the name of their network; {done.stdout.strip()}"
        )
    if done.returncode:
        raise RuntimeError(f"the download of {name} broke (exit code {done.returncode}); its reason stands above")
    target = root / folder / (name if is_ultralytics else f"{name}.pth")
    track(target, root)
    return target


def track(path: Path, root: Path) -> None:
    """Let DVC track a file or folder.

    Its content goes to DVC's cache, and a small pointer beside it goes to git.

    Raises:
        ValueError: DVC refused; its reason is in the sentence.
    """
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "add", "--quiet", str(path.relative_to(root))]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"the data lies in {path}, but DVC does not track it: {done.stderr.strip()}")


def run_with(name: str, path: Path) -> str:
    """Give the command that runs the pipeline with what was fetched."""
    if name in SOURCES:
        return f"gridflow run --recipe real --set {SOURCES[name].parameter}={path}"
    if not name.endswith(ULTRALYTICS):
        return f"gridflow run --recipe real --set train.scenes.weights={path}"
    stage = "segment" if "sam" in name.lower() else "detect"
    return f"gridflow run --set {stage}.weights={path} --set {stage}.source=FOLDER {stage}"
