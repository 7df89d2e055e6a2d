"""Gets torchvision's weights of a network by name into ``data/weights/`` and tracks them with DVC."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path


def fetch_weights(name: str, root: Path, *, others: Iterable[str] = (), url: str | None = None) -> Path:
    """``data/weights/<name>.pth``, tracked by DVC, with ``<name>.json`` beside it: its address and SHA-256.

    The download is a process of its own (flows must not import torch); its progress goes to standard error.

    Args:
        others: what else ``flows.fetch`` gets by name, for the sentence when torchvision has no such network.
        url: another place to get the file from.

    Raises:
        ValueError: torchvision has no network of this name, or the file could not be had: the sentence says which one
            to put where. What was there before stays.
    """
    from flows.fetch import track  # that module imports this one

    folder = Path("data", "weights")
    command = [sys.executable, "-m", "cnn_core.fetch_weights", name, str(folder), *(["--url", url] if url else [])]
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode == 3:
        raise ValueError(done.stdout.strip())
    if done.returncode == 4:
        known = [*others, "torchvision's weights by the name of their network"]
        raise ValueError(f"python -m flows.fetch gets {', '.join(known)}, which {done.stdout.strip()}")
    if done.returncode:
        raise RuntimeError(f"the download of {name} broke (exit status {done.returncode}); its reason stands above")
    target = root / folder / f"{name}.pth"
    track(target, root)
    return target
