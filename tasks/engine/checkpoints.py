"""Checkpoints, from which an interrupted training continues: written whole or not at all, read without pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

_CHECKPOINT = "checkpoint.pt"


def save_checkpoint(folder: str | Path, checkpoint: Mapping[str, Any]) -> None:
    """Write a training checkpoint (tensors, numbers, texts, lists and dicts only) into ``folder``."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{_CHECKPOINT}.partial"
    torch.save(dict(checkpoint), partial)
    partial.rename(folder / _CHECKPOINT)


def load_checkpoint(folder: str | Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote, onto the CPU; nothing in the file is executed.

    Raises:
        ValueError: there is none, or it is no checkpoint that `save_checkpoint` wrote.
    """
    path = Path(folder) / _CHECKPOINT
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; delete the folder to train from the start") from None
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as a training checkpoint ({type(error).__name__}); delete its folder to train "
            "from the start"
        ) from None
