"""Gets official weights by name into ``data/weights/`` and tracks them with DVC: of torchvision by the name of their
network, of Ultralytics by the name of their file (yolo11n.pt)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ULTRALYTICS = ".pt"  # what the names of its weights end in; torchvision's names have no ending


def fetch_weights(name: str, root: Path, *, others: Iterable[str] = (), url: str | None = None) -> Path:
    """``data/weights/<name>.pth`` (of Ultralytics ``data/weights/<name>``), tracked by DVC, with a ``.json`` of the
    same stem beside it: its origin and SHA-256.

    The download is a process of its own (flows must not import torch); its progress goes to standard error.

    Args:
        others: what else ``flows.fetch`` gets by name, for the sentence when nobody has such weights.
        url: another place to get the file from.

    Raises:
        ValueError: there are no official weights of this name, or the file could not be had: the sentence says which
            one to put where. What was there before stays.
    """
    from flows.fetch import track  # that module imports this one

    folder, ours = Path("data", "weights"), name.endswith(ULTRALYTICS)
    module = "cnn_core.downloads.ultralytics" if ours else "cnn_core.downloads.torchvision"
    command = [sys.executable, "-m", module, name, str(folder), *(["--url", url] if url else [])]
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode == 3:
        raise ValueError(done.stdout.strip())
    if done.returncode == 4:
        known = [*others, "Ultralytics' weights by the name of their file, such as yolo11n.pt"]
        known += ["torchvision's weights by the name of their network"]
        which = "and the weights" if ours else "which"
        raise ValueError(f"gridflow fetch gets {', '.join(known)}, {which} {done.stdout.strip()}")
    if done.returncode:
        raise RuntimeError(f"the download of {name} broke (exit status {done.returncode}); its reason stands above")
    target = root / folder / (name if ours else f"{name}.pth")
    track(target, root)
    return target


def how_to_run(name: str, path: Path) -> str:
    """The command that uses weights just fetched."""
    if not name.endswith(ULTRALYTICS):
        return f"gridflow run --recipe real --set train.scenes.weights={path}"
    stage = "segment" if "sam" in name.lower() else "detect"
    return f"gridflow run --set {stage}.weights={path} --set {stage}.source=FOLDER {stage}"
