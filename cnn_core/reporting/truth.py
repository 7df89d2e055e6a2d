"""The images and the truth that a stage measured on, as far as they are still there when the page is written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnn_core.annotations.tables import Annotations
from cnn_core.annotations.truth import read_truth


def measured_split(root: Path, params: Mapping[str, Any]) -> Annotations | None:
    """Return the split that ``params`` name (``source``, ``split``), with the paths that its images have here.

    None where the parameters name no source or the source is gone.
    """
    source = root / str(params.get("source", ""))
    if "source" not in params or not source.exists():
        return None
    images, truth, classes = read_truth(source, params["split"])
    return images.assign(file=[str(locate(root, file)) for file in images["file"]]), truth, classes


def locate(root: Path, file: str) -> Path:
    """Return the path of a file whose name is relative to the working directory or else to ``root``."""
    path = Path(file)
    return path if path.exists() else root / path
