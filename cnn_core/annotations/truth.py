"""The truth that detectors and segmenters are measured on, in any format that we read."""

from __future__ import annotations

from pathlib import Path

from cnn_core.annotations.coco import from_coco
from cnn_core.annotations.tables import Annotations, read_annotations
from cnn_core.annotations.yolo_labels import read_yolo


def read_truth(source: str | Path, split: str) -> Annotations:
    """Read a set of ours, a folder with a data.yaml, a data.yaml, or a COCO JSON, which is read whole.

    Raises:
        ValueError: nothing is there, it is none of these, or it has no such split.
    """
    path = Path(source)
    if path.suffix == ".json":
        return from_coco(path, split=split)
    if (path / "objects.parquet").is_file():
        return read_annotations(path, split)
    if not path.exists():
        raise ValueError(
            f"{path} does not exist: name a folder with a data.yaml, a data.yaml or a COCO JSON; the stage compose "
            "writes data/composed/numbers"
        )
    if path.is_dir() and not (path / "data.yaml").is_file():
        raise ValueError(f"{path} has no data.yaml: name a data set of Ultralytics, its data.yaml or a COCO JSON")
    return read_yolo(path / "data.yaml" if path.is_dir() else path, split)
