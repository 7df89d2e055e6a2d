"""Get data sets and official weights by name, and track them with DVC: ``gridflow fetch digits alexnet yolo11n.pt``.

This is the only part of Gridflow that uses the network. A run never does.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cnn_core.downloads.common import FAILED, UNKNOWN


@dataclass(frozen=True, kw_only=True)
class KaggleSource:
    """A Kaggle competition's files or a Kaggle dataset, and where they go."""

    kind: Literal["competition", "dataset"]
    handle: str  # as in Kaggle's address: digit-recognizer, owner/name
    folder: str  # its name in data/sources/
    parameter: str  # which names the folder in a run
    files: tuple[str, ...]  # files and folders that the download must bring


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
_CREDENTIALS = (
    "put kaggle.json (Kaggle > Settings > API > Create new token) "
    "into ~/.kaggle/, or set KAGGLE_USERNAME and KAGGLE_KEY"
)
_WHEN_REFUSED = {
    "competition": "accept the rules on the competition's page and check your credentials; ",
    "dataset": f"{_CREDENTIALS}; ",
}


def fetch(name: str, root: Path) -> Path:
    """Download a data set or a network's official weights, and track them with DVC.

    Returns:
        The new folder or file. It replaces what an earlier fetch brought, in one move.

    Raises:
        ValueError: the name is unknown, the publisher refused or could not be reached, or a file is missing. The
            sentence says which file to put where. Or a folder of a person's is there. What was there before stays.
    """
    return fetch_source(SOURCES[name], root) if name in SOURCES else fetch_weights(name, root)


def fetch_source(source: KaggleSource, root: Path) -> Path:
    """Download a data set from Kaggle to ``data/sources/<folder>``."""
    target = root / "data" / "sources" / source.folder
    refuse_foreign(target, root)
    partial = target.with_name(f".{source.folder}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _download(source, partial)
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    track(target, root)
    return target


def _download(source: KaggleSource, folder: Path) -> None:
    """Unpack a source into ``folder``, which need not exist and after an error is incomplete."""
    import kagglehub
    import requests
    from kagglehub.exceptions import UnauthenticatedError

    download_from = kagglehub.competition_download if source.kind == "competition" else kagglehub.dataset_download
    try:
        download_from(source.handle, output_dir=str(folder))
    except UnauthenticatedError:
        raise ValueError(f"Kaggle needs your credentials: {_CREDENTIALS}; {_by_hand(source)}") from None
    except requests.HTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        hint = _WHEN_REFUSED[source.kind] if status in (401, 403) else ""
        raise ValueError(f"Kaggle answered {status} for {source.handle}: {hint}{_by_hand(source)}") from error
    except requests.RequestException as error:
        raise ValueError(f"Kaggle could not be reached ({type(error).__name__}); {_by_hand(source)}") from error
    except (zipfile.BadZipFile, ValueError) as error:  # kagglehub's ValueError: an unknown type of archive
        raise ValueError(f"Kaggle's archive of {source.handle} is damaged ({error}); {_by_hand(source)}") from error
    if absent := [name for name in source.files if not (folder / name).exists()]:
        raise ValueError(f"Kaggle's {source.handle} came without {', '.join(absent)}; {_by_hand(source)}")
    shutil.rmtree(folder / ".complete", ignore_errors=True)  # kagglehub's marker


def _by_hand(source: KaggleSource) -> str:
    *first, last = source.files
    return (
        f"or download {', '.join(first)} and {last} of the {source.kind} {source.handle} by hand into "
        f"data/sources/{source.folder}/ and run with --set {source.parameter}=data/sources/{source.folder}"
    )


def fetch_weights(name: str, root: Path, *, url: str | None = None) -> Path:
    """Download official weights to ``data/weights/<name>.pth`` (Ultralytics': ``data/weights/<name>``).

    A ``.json`` of the same stem notes their origin and SHA-256. The download runs in a process of its own, because
    flows must not import torch. ``url`` is another address to get the file from.
    """
    folder, is_ultralytics = Path("data", "weights"), name.endswith(ULTRALYTICS)
    target = root / folder / (name if is_ultralytics else f"{name}.pth")
    refuse_foreign(target, root)
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
    track(target, root)
    return target


def refuse_foreign(path: Path, root: Path) -> None:
    """Refuse to replace what DVC does not have as it is.

    Raises:
        ValueError: something is there that no fetch brought, or that was changed since.
    """
    if not path.exists():
        return
    pointer = path.with_name(f"{path.name}.dvc")
    if pointer.is_file():
        command = [sys.executable, "-m", "dvc", "--wait-for-lock", "status", "--json", str(pointer.relative_to(root))]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        if done.returncode == 0 and json.loads(done.stdout) == {}:
            return
    raise ValueError(
        f"{path.relative_to(root)} is not as a fetch brought it, so it is not replaced. To keep it, move it to another "
        "name, or use it as it is; if it is not wanted, delete it. Nothing was fetched or deleted"
    )


def track(path: Path, root: Path) -> None:
    """Let DVC track a file or folder.

    Raises:
        ValueError: DVC refused.
    """
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "add", "--quiet", str(path.relative_to(root))]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"the data lies in {path}, but DVC does not track it: {done.stderr.strip()}")


def run_with(name: str, path: Path) -> str:
    """The command that runs the pipeline with what was fetched."""
    if name in SOURCES:
        return f"gridflow run --recipe real --set {SOURCES[name].parameter}={path}"
    if not name.endswith(ULTRALYTICS):
        return f"gridflow run --recipe real --set train.scenes.weights={path}"
    stage = "segment" if "sam" in name.lower() else "detect"
    return f"gridflow run --set {stage}.weights={path} --set {stage}.source=FOLDER {stage}"
