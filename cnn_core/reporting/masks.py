"""The page's part on the segmenter: masks to slide over the pictures, and whether it knows how good they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from cnn_core.annotations.masks import decode_mask
from cnn_core.annotations.tables import read_objects
from cnn_core.drawing.colours import class_colour
from cnn_core.reporting import charts
from cnn_core.reporting.detection import known_truth
from cnn_core.reporting.images import figure, painted, scene

BY_TRUTH, BY_DETECTOR = "truth", "detector"


def section(root: Path, values: Mapping[str, Any], most: int) -> dict[str, Any]:
    """What the page shows of the segmenter; a part that is missing is None."""
    plots = root / "data/plots"
    return {
        "iou": learning(plots / "train_segmenter.csv"),
        "calibration": calibration(plots / "evaluate_segmenter-calibration.csv"),
        "sliders": sliders(root, values.get("evaluate_segmenter", {}), most),
        "seen": figure(plots / "train_segmenter-seen.png"),
        "examples": figure(plots / "evaluate_segmenter-examples.png"),
    }


def learning(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    rows = charts.series_rows(pd.read_csv(path), "epoch", {"train_iou": "training", "val_iou": "validation"})
    return charts.epoch_curves(rows, y="mean IoU") if rows else None


def calibration(path: Path) -> dict[str, Any] | None:
    """The IoU that the network predicts of its own masks, and the IoU that they have."""
    if not path.is_file() or (table := pd.read_csv(path)).empty:
        return None
    return charts.calibration(table[["predicted", "actual", "objects"]].to_dict("records"))


def sliders(root: Path, params: Mapping[str, Any], most: int) -> list[dict[str, Any]]:
    """Images spread from the worst to the best: as they are, and with their masks laid over.

    The masks are those by the true boxes. ``iou`` is the mean of the image's objects.
    """
    known, path = known_truth(root, params), root / "data/predictions/segmenter-test.parquet"
    if known is None or not path.is_file() or most == 0:
        return []
    images = known[0]
    masks = read_objects(path)
    masks = masks[(masks["prompted_by"] == BY_TRUTH) & masks["rle"].notna()]
    quality = masks.groupby("image_id")["iou"].mean().sort_values(kind="stable")
    if quality.empty:
        return []
    step = max(1, (len(quality) - 1) // max(1, most - 1))
    shown, by_id = quality.iloc[::step].head(most), images.set_index("image_id")
    return [_slider(by_id.loc[name], masks[masks["image_id"] == name], name, iou) for name, iou in shown.items()]


def _slider(image: pd.Series, masks: pd.DataFrame, name: str, iou: float) -> dict[str, Any]:
    size = (int(image["height"]), int(image["width"]))
    layers = [(decode_mask(row.rle, *size), class_colour(number)) for number, row in enumerate(masks.itertuples())]
    before, width, height = scene(Path(image["file"]))
    after = painted(Path(image["file"]), layers)
    return {"id": name, "before": before, "after": after, "width": width, "height": height, "iou": iou}
