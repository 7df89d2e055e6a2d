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
from cnn_core.reporting.images import figure, measured_split, painted, scene

IOUS = {"train_iou": "training", "val_iou": "validation"}  # columns of the learning curve -> the legend's names
BY_TRUTH = "truth"  # the column prompted_by of masks that true boxes prompted


def section(root: Path, name: str, values: Mapping[str, Any], limit: int) -> dict[str, Any]:
    """Gather what the page shows of one segmenter; a part whose files are missing is None."""
    plots, params = root / "data/plots", (values.get("evaluate_segmenter") or {}).get(name) or {}
    return {
        "name": name,
        "iou": charts.learning_chart(plots / f"train_segmenter-{name}.csv", IOUS, "mean IoU"),
        "calibration": calibration(plots / f"evaluate_segmenter-{name}-calibration.csv"),
        "sliders": sliders(root, name, params, limit),
        "seen": figure(plots / f"train_segmenter-{name}-seen.png"),
        "examples": figure(plots / f"evaluate_segmenter-{name}-examples.png"),
    }


def calibration(path: Path) -> charts.Spec | None:
    """Draw the actual IoU of masks over the IoU that the network predicts of them."""
    if not path.is_file() or (table := pd.read_csv(path)).empty:
        return None
    columns = ("predicted", "actual", "objects")
    rows = zip(*(table[column].tolist() for column in columns), strict=True)
    return charts.calibration([dict(zip(columns, row, strict=True)) for row in rows])


def sliders(root: Path, name: str, params: Mapping[str, Any], limit: int) -> list[dict[str, Any]]:
    """Return up to ``limit`` images spread from the worst to the best, each without and with its masks.

    The masks are those that the true boxes prompted. ``iou`` is the mean over the image's objects.
    """
    split, path = measured_split(root, params), root / f"data/predictions/{name}-test.parquet"
    if split is None or not path.is_file() or limit == 0:
        return []
    masks = read_objects(path)
    masks = masks[(masks["prompted_by"] == BY_TRUTH) & masks["rle"].notna()]
    quality = masks.groupby("image_id")["iou"].mean().sort_values(kind="stable")
    if quality.empty:
        return []
    step = max(1, (len(quality) - 1) // max(1, limit - 1))
    quality = quality.iloc[::step].head(limit)
    images = split[0].set_index("image_id")
    return [
        {"id": image_id, "iou": iou, **_layers(images.loc[image_id], masks[masks["image_id"] == image_id])}
        for image_id, iou in zip(quality.index.tolist(), quality.tolist(), strict=True)
    ]


def _layers(image: pd.Series, masks: pd.DataFrame) -> dict[str, Any]:
    path, size = Path(image["file"]), (int(image["height"]), int(image["width"]))
    decoded = [decode_mask(rle, *size) for rle in masks["rle"]]
    before, width, height = scene(path)
    after = painted(path, [(mask, class_colour(number)) for number, mask in enumerate(decoded)])
    return {"before": before, "after": after, "width": width, "height": height}
